"""audit verify, audit show: what happened to the router's accounts, and whether the record of it is whole."""

from collections.abc import Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from blindpost.cli.common import err, errors_as_sentences, fail, out, run, settings_from, stores_for
from blindpost.cli.operator import DataDir
from blindpost.core.audit import HEAD_FILE, SUBJECT, WORKER_DIRS, read_heads
from blindpost.core.audit import verify as walk_over
from blindpost.core.database import Database
from blindpost.core.embedded import running_database
from blindpost.core.pseudonyms import pseudonym, today
from blindpost.core.repositories import audit as rows
from blindpost.core.repositories import pseudonym_keys, users
from blindpost.errors import ConfigurationError, StoresInUse
from blindpost.printable import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from blindpost.config import Settings
    from blindpost.core.audit_chain import Fault, Head, Row, Walk

HASH_BYTES: Final = 32
SHOWN_MAX: Final = 10_000
SHORT: Final = 8
"""Digits of a pseudonym that are shown: enough to tell those of a table apart."""

audit = typer.Typer(no_args_is_help=True, help="Look at the security events, and check that none was changed.")


@audit.command()
def verify(
    expect: Annotated[
        str | None, typer.Option(metavar="HASH", help="A head that was written down: it must still be in the chain")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Check that the audit is whole: no row edited, taken out, moved, or cut off; ends with 1 if it is not.

    Every row is chained to the one before it. That the end is not cut off, and that not all of it was made anew, is
    seen by the last row that this node wrote (audit-head in its data directory; one for each worker), so run this
    on every node. Write the head down elsewhere, and give it to --expect later: then not even the nodes need to be
    believed.

    The router may run meanwhile, with embedded stores too.

    Examples:
      blindpost audit verify

      blindpost audit verify --expect 5e8fb2...

      BLINDPOST_DATABASE_URL=postgresql://bp@db/bp blindpost audit verify
    """
    with errors_as_sentences():
        expected = None if expect is None else _hash(expect)
        settings = settings_from(data_dir=data_dir)
        with _database_of(settings) as url:
            # The anchors first: a row that is written from here on is beyond both.
            anchors = read_heads(settings.data_dir)
            walk = run(_verify(url, anchors, expected))
        if walk.faults:
            _deplore(walk)
        _praise(walk)
        if not anchors and expected is None:
            err.print(
                f"There is no {HEAD_FILE} in {settings.data_dir}: rows cut off at the end would not be seen from here.",
                markup=False,
                soft_wrap=True,
            )


def _hash(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != HASH_BYTES:
        fail("this is not a hash of the audit", "it has 64 digits, as `blindpost audit verify` prints them")
    return value


async def _verify(url: str, anchors: "list[Head]", expected: bytes | None) -> "Walk":
    async with _opened(url) as database:
        return await walk_over(database, anchors, expected)


def _deplore(walk: "Walk") -> None:
    for fault in walk.faults:
        out.print(f"{_where(fault)}{fault.kind}: {fault.says}", markup=False, soft_wrap=True)
    fail(
        f"the audit is not whole: see the {'line' if len(walk.faults) == 1 else 'lines'} above",
        f"a restored backup can be the reason: then delete {HEAD_FILE} in the data directory and in its {WORKER_DIRS}*,"
        " and new ones begin; else, somebody has changed the database past the router",
    )


def _where(fault: "Fault") -> str:
    return "" if fault.row is None else f"row {fault.row}: "


def _praise(walk: "Walk") -> None:
    if walk.first is None or walk.last is None:
        out.print("The audit is whole: it has no rows yet.")
        return
    period = f"from {walk.first.at:%Y-%m-%d %H:%M} to {walk.last.at:%Y-%m-%d %H:%M} UTC"
    out.print(f"The audit is whole: {walk.count} rows, {period}.", soft_wrap=True)
    out.print(f"Its head is row {walk.last.id}: {walk.last.hash.hex()}", soft_wrap=True)


@audit.command()
def show(
    last: Annotated[int, typer.Option(help="How many rows, the newest", min=1, max=SHOWN_MAX)] = 20,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what concerns this user, today and yesterday (UTC)")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Show the newest events: when (by the hour), what, how often, and pseudonyms of whom and of where from.

    A pseudonym means something for a day. Its key is deleted a day later, so that --user finds nothing older: nobody
    can tell any more whose those rows are.

    The router may run meanwhile, with embedded stores too.

    Examples:
      blindpost audit show

      blindpost audit show --last 100

      blindpost audit show --user alice
    """
    with errors_as_sentences(), _database_of(settings_from(data_dir=data_dir)) as url:
        found = run(_latest(url, last, user))
        if not found:
            err.print("No events." if user is None else f"No events of {user} today or yesterday.", markup=False)
            return
        out.print(_table(found))


async def _latest(url: str, last: int, user: str | None) -> "list[Row]":
    async with _opened(url) as database:
        subjects = None if user is None else await _pseudonyms_of(database, user)
        async with database.reading() as connection:
            return await rows.latest(connection, last, subjects)


async def _pseudonyms_of(database: Database, name: str) -> list[bytes]:
    """Make the pseudonyms under which the last two days' events of somebody stand: by id, or only by name."""
    async with database.reading() as connection:
        found = await users.by_name(connection, name)
        days = [today() - timedelta(days=back) for back in range(2)]
        keys = [await pseudonym_keys.of_day(connection, day) for day in days]
    if found is None:
        raise ConfigurationError(
            "there is no user of this name", "a deleted user's events cannot be found: nothing leads to them any more"
        )
    return [pseudonym(key, SUBJECT, whom) for key in keys if key for whom in (str(found.id), found.name.lower())]


def _table(found: "list[Row]") -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("row", "hour (UTC)", "event", "count", "subject", "address"):
        table.add_column(name, justify="right" if name in {"row", "count"} else "left", no_wrap=True)
    for row in found:
        when = f"{row.at:%Y-%m-%d %H:%M}"
        event = Text(printable(row.event))
        table.add_row(str(row.id), when, event, str(row.count), _short(row.subject), _short(row.address))
    return table


def _short(value: bytes | None) -> str:
    return "-" if value is None else value.hex()[:SHORT]


@contextmanager
def _database_of(settings: "Settings") -> Iterator[str]:
    """Give the URL of the database: of the one that is set, else of the embedded one, whether or not it runs yet."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    if not (settings.data_dir / "postgres").exists():
        raise ConfigurationError(f"there is no database in {settings.data_dir}", "give the router's with --data-dir")
    with ExitStack() as stack:
        yield _started(settings, stack)


def _started(settings: "Settings", stack: ExitStack) -> str:
    try:
        url = stack.enter_context(stores_for(settings)).database_url
    except StoresInUse:
        if (running := running_database(settings.data_dir)) is None:
            raise
        return running
    return "" if url is None else url.get_secret_value()


@asynccontextmanager
async def _opened(url: str) -> "AsyncIterator[Database]":
    async with Database(url, pool_size=1) as database:
        await database.check_server()
        present, newest = await database.revisions()
        if present != newest:
            raise ConfigurationError(f"the schema is at {present or 'nothing'}, not at {newest}", "blindpost migrate")
        yield database
