"""The command line."""

import sys
from typing import Annotated

import typer

from blindpost import __version__
from blindpost.cli import operator, people
from blindpost.cli.bench import bench
from blindpost.cli.demo import demo

app = typer.Typer(
    name="blindpost",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback must not show the values of locals: they hold keys
    rich_markup_mode="rich",
    help="A post office that cannot read the post: a router for end-to-end encrypted messages, and a client for it.",
    epilog="Begin with: blindpost demo",
)


def _version(*, value: bool) -> None:
    if value:
        typer.echo(f"blindpost {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """Options of the program itself."""


for router_command in (demo, operator.serve, operator.migrate, operator.doctor, bench):
    app.command(rich_help_panel="The router")(router_command)
for your_command in (people.register, people.send, people.receive):
    app.command(rich_help_panel="You")(your_command)
app.add_typer(people.contacts, name="contacts", rich_help_panel="You")


def main() -> None:
    """Run the program."""
    sys.exit(app())
