"""demo: three people, a router, and what each of them gets to see."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from blindpost.app import Running, running
from blindpost.cli.common import errors_as_sentences, out, run, say_progress, stores_for
from blindpost.client import Client, Identity, Received, Refused, Store, grouped
from blindpost.config import LogLevel, Settings, Switch
from blindpost.core.database import Database
from blindpost.errors import BlindpostError
from blindpost.telemetry import configure_logging

NOON: Final = "The documents are behind the clock."
LATER: Final = "Welcome back! Call your sister."
COLD: Final = "You don't know me, but ..."
FORGED: Final = "Meet me at noon."
WAIT_S: Final = 20
PREVIEW_BYTES: Final = 8


class DemoFailed(BlindpostError):
    """The demonstration did not show what it promises."""


@dataclass
class Story:
    """What happened, for the table at the end."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def tell(self, act: str, people: str, tables: str) -> None:
        self.rows.append((act, people, tables))


@dataclass(frozen=True)
class Cast:
    """The people, and the operator's own way into the database."""

    alice: Client
    bob: Client
    carol: Client
    tables: Any


def demo() -> None:
    """Show it: three people, a router that starts from nothing, and a look into its tables.

    Everything runs on this machine, on an embedded PostgreSQL and Redis in a temporary directory, and is gone
    afterwards.

    Example:
      blindpost demo
    """
    with errors_as_sentences():
        configure_logging(json=False, level=LogLevel.ERROR)
        started = perf_counter()
        with _temporary_directory() as path:
            settings = _settings(path)
            with stores_for(settings) as ready:
                run(_play(ready))
        out.print(f"[dim]Done in {perf_counter() - started:.1f} s; nothing is left running.[/]")
        out.print("Next: [bold]./task serve[/], and in another terminal [bold]./task blindpost register --help[/]")


def _settings(path: Path) -> Settings:
    """Settings of its own, whatever is set for the router of this machine."""
    return Settings(
        data_dir=path,
        host="127.0.0.1",
        port=0,
        public_origin=None,
        tls_cert=None,
        tls_key=None,
        tls_at_proxy=False,
        rate_limits=Switch.OFF,
        database_url=None,
        migration_database_url=None,
        redis_url=None,
    )


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="blindpost-demo-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def _play(settings: Settings) -> None:
    out.print(Panel.fit("[bold]Blindpost[/]: a post office that cannot read the post", border_style="green"))
    async with running(settings) as router, AsyncExitStack() as stack:
        cast = await _gather(router, stack)
        story = Story()
        for act in (_in_real_time, _while_away, _refused, _tampered):
            await act(cast, story)
        _show(story)
        await _search_everything(cast)


async def _gather(router: Running, stack: AsyncExitStack) -> Cast:
    say_progress("Three people make their keys and register ...")
    people = [await stack.enter_async_context(_newcomer(router.origin, name)) for name in ("alice", "bob", "carol")]
    for client in people:
        await client.register()
    alice, bob, carol = people
    for other in (bob, carol):
        await other.request_contact("alice")
        await alice.accept(other.identity.username)
    number = await alice.safety_number("bob")
    if number != await bob.safety_number("alice"):
        raise DemoFailed("the safety numbers of Alice and Bob differ")
    _step("Alice, Bob and Carol are registered. Bob and Carol are Alice's contacts, not each other's.")
    _step("Alice and Bob compare their safety number by telephone, and it is the same:")
    out.print(f"    {grouped(number)}", style="cyan", markup=False)
    tables = await (await router.container.get(Database)).connect_raw()
    stack.push_async_callback(tables.close)
    return Cast(alice, bob, carol, tables)


def _newcomer(origin: str, name: str) -> Client:
    identity = Identity.generate(name)
    return Client(origin, identity, Store.in_memory(identity))


async def _in_real_time(cast: Cast, story: Story) -> None:
    waiting = asyncio.create_task(_next(cast.bob))
    await _until_waiting(cast, waiting)
    started = perf_counter()
    await cast.alice.send("bob", NOON)
    in_table = await _rows(cast)
    received = await waiting
    took = (perf_counter() - started) * 1000
    _expect(received.text == NOON, "Bob did not receive what Alice sent")
    await cast.bob.ack(received)
    after = await _rows(cast)
    _step(f"Bob was waiting: Alice's message reached him in {took:.0f} ms, and was erased when he had it.")
    story.tell(
        "1. In real time",
        f"Alice to Bob: “{NOON}”\nBob reads it {took:.0f} ms later",
        f"{in_table}\n[green]after his acknowledgement: {after}[/]",
    )


async def _while_away(cast: Cast, story: Story) -> None:
    await cast.carol.logout()
    await cast.alice.send("carol", LATER)
    in_table = await _rows(cast)
    received = await _next(cast.carol)
    _expect(received.text == LATER, "Carol did not find what was sent while she was away")
    await cast.carol.ack(received)
    _step("Carol was away: her message waited on disk, and she found it when she logged in.")
    story.tell(
        "2. While away", f"Alice to Carol, who is logged out: “{LATER}”\nCarol comes back and reads it", in_table
    )


async def _refused(cast: Cast, story: Story) -> None:
    stranger = (await cast.bob.search("carol"))[0]
    try:
        await cast.bob.send(stranger.id, COLD)
    except Refused as refusal:
        _expect(refusal.code == "not_a_contact", "Bob was refused for another reason")
    else:
        raise DemoFailed("Bob could write to Carol, who is not his contact")
    _step("Bob wrote to Carol, who is not his contact: the router refused.")
    story.tell("3. Refused", f"Bob to Carol: “{COLD}”\nrefused: not_a_contact", await _rows(cast))


async def _tampered(cast: Cast, story: Story) -> None:
    await cast.alice.send("bob", FORGED)
    await cast.tables.execute("UPDATE messages SET message = set_byte(message, 150, get_byte(message, 150) # 1)")
    in_table = await _rows(cast)
    received = await _next(cast.bob)
    _expect(received.problem is not None and received.data is None, "Bob did not notice that the message was changed")
    await cast.bob.ack(received)
    _step("Whoever runs the router flipped one bit of a message: Bob's client noticed, and showed nothing of it.")
    story.tell(
        "4. Tampered with",
        f"Alice to Bob: “{FORGED}”\nBob sees only: {received.problem}",
        f"{in_table}\n[red]one bit flipped by the operator[/]",
    )


async def _next(client: Client) -> Received:
    async with asyncio.timeout(WAIT_S):
        while not (received := await client.receive_once(WAIT_S)):
            pass
    return received[0]


async def _until_waiting(cast: Cast, waiting: "asyncio.Task[Received]") -> None:
    """Let Bob's poll be told of his new contact first, so that it really waits when Alice writes."""
    query = "SELECT contacts_version > contacts_told FROM users WHERE name = 'bob'"
    async with asyncio.timeout(WAIT_S):
        while not waiting.done() and await cast.tables.fetchval(query):  # noqa: ASYNC110 - known to PostgreSQL alone
            await asyncio.sleep(0.01)


async def _rows(cast: Cast) -> str:
    """Describe the rows of `messages` that still hold anything of a message."""
    rows = await cast.tables.fetch("SELECT message FROM messages WHERE message IS NOT NULL")
    if not rows:
        return "no ciphertext"
    return "\n".join(f"{row['message'][:PREVIEW_BYTES].hex(' ')} … ({len(row['message'])} bytes)" for row in rows)


def _expect(condition: bool, failure: str) -> None:
    if not condition:
        raise DemoFailed(failure)


def _step(text: str) -> None:
    out.print(Text.assemble(("  ✓ ", "bold green"), text))


def _show(story: Story) -> None:
    table = Table(title="The same moments, seen from two sides", title_style="bold", show_lines=True, expand=False)
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("What the people saw", style="cyan")
    table.add_column("What the server's tables held", style="yellow")
    for row in story.rows:
        table.add_row(*row)
    out.print()
    out.print(table)


async def _search_everything(cast: Cast) -> None:
    """Read every byte of every table, and look for what must not be there."""
    tables = [row[0] for row in await cast.tables.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    held = "\n".join(
        [str(row[0]) for name in tables for row in await cast.tables.fetch(f"SELECT t::text FROM {name} t")]  # noqa: S608
    )
    words = [NOON, LATER, COLD, FORGED]
    found = [word for word in words if word in held or word.encode().hex() in held]
    _expect(not found, "a plaintext was found in the server's tables")
    _step(f"All {len(tables)} tables of the server, {len(held):,} characters: none of the four messages is in them.")
    out.print(
        "    What the router does see: who is whose contact, who writes to whom, when, and in which size class.",
        style="dim",
    )
