"""The command line."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from blindpost import __version__
from blindpost.cli import account, chat, people

if TYPE_CHECKING:
    from collections.abc import Callable

PANEL_ROUTER = "The router"
PANEL_YOU = "You"


INTERRUPTED: Final = 130
"""What shells say of a program that Ctrl-C ended."""


def _version(*, value: bool) -> None:
    if value:
        typer.echo(f"blindpost {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """A post office that cannot read the post: a router for end-to-end encrypted messages, and a client for it."""


def program(first: str | None = None) -> typer.Typer:
    """Make the program; `first` is the command that will be run, if it is known.

    The router's half takes a second to import, and somebody who sends a message needs none of it.
    """
    app = typer.Typer(
        name="blindpost",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # a traceback must not show the values of locals: they hold keys
        rich_markup_mode="rich",
        epilog="Begin with: blindpost demo",
    )
    app.callback()(_options)
    mine: dict[str, Callable[..., None]] = {
        "register": people.register,
        "chat": chat.chat,
        "send": people.send,
        "receive": people.receive,
    }
    if first not in {*mine, "account", "contacts"}:
        from blindpost.cli import (  # noqa: PLC0415 - see above
            audit,
            backup,
            bench,
            certificate,
            demo,
            doctor,
            keys,
            operator,
            top,
        )

        for command in (demo.demo, operator.serve, operator.migrate, doctor.doctor, top.top, bench.bench):
            app.command(rich_help_panel=PANEL_ROUTER)(command)
        app.command("dev-certificate", rich_help_panel=PANEL_ROUTER)(certificate.dev_certificate)
        for name, each in (
            ("backup", backup.backup),
            ("verify-backup", backup.verify_backup),
            ("restore", backup.restore),
        ):
            app.command(name, rich_help_panel=PANEL_ROUTER)(each)
        for name, group in {"keys": keys.keys, "audit": audit.audit}.items():
            app.add_typer(group, name=name, rich_help_panel=PANEL_ROUTER)
    for name, each in mine.items():
        app.command(name, rich_help_panel=PANEL_YOU)(each)
    for name, group in {"contacts": people.contacts, "account": account.account}.items():
        app.add_typer(group, name=name, rich_help_panel=PANEL_YOU)
    return app


def main() -> None:
    """Run the program."""
    try:
        sys.exit(program(sys.argv[1] if len(sys.argv) > 1 else None)())
    except KeyboardInterrupt:  # while the program is still being read: from then on the commands see to it
        sys.exit(INTERRUPTED)
