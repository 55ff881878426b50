"""Puts a backup back, in one transaction: until it is committed, nothing has changed and no router can serve it.

What a backup says of the past must not undo what people rely on since: no session comes back, no one-time prekey is
given a second time, and everybody's client is told to look again (docs/decisions/0020-backups.md).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

import asyncpg
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.audit import Event
from blindpost.core.audit_chain import Entry, link
from blindpost.core.backup import LEFT_OUT, Tell, held, rows_of
from blindpost.core.backup_file import ANOTHER, Header, Manifest, Reader, Table
from blindpost.core.cache import SESSION_MEMORY_S
from blindpost.core.database import LOSSES, PASSING, Database, is_known, newest_revision, postgres_error, step_to
from blindpost.core.privileges import as_owner
from blindpost.core.repositories import audit, prekeys, users
from blindpost.errors import BackupDamaged, ConfigurationError, StartError

FORGETTING_S: Final = SESSION_MEMORY_S + 1
"""After this time a Redis that goes on running remembers no session as open."""

GOING_S: Final = 2.0
"""So long a connection that was just closed may still be listed."""
GOING_TRIES: Final = 20

_PRESENT: Final = text("""
SELECT relname FROM pg_class
WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'r' AND relname = ANY(:names)
""")
_COLUMNS: Final = text("""
SELECT a.attname FROM pg_attribute a
WHERE a.attrelid = to_regclass(quote_ident(:table)) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
""")
_OTHERS: Final = text("""
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename = :role AND pid <> pg_backend_pid() AND backend_type = 'client backend'
""")
_COUNT_ON: Final = text("""
SELECT format('SELECT setval(pg_get_serial_sequence(%1$L, %2$L), (SELECT COALESCE(max(%2$I), 0) + 1 FROM %1$I), false)',
    c.relname, a.attname)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = CAST(current_schema() AS regnamespace) AND c.relname = ANY(:names) AND a.attidentity <> ''
""")


async def restore(
    router: Database,
    owner_url: SecretStr | None,
    reader: Reader,
    tell: Tell,
    *,
    replace: bool = False,
    forgetting_s: float = 0,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Header, Manifest]:
    """Put a backup into a database that has nothing in it, or in the place of what is there.

    It is committed no sooner than `forgetting_s` after the last router was gone: a Redis that goes on running may
    remember sessions as open for so long. Raises ConfigurationError (BackupDamaged, StartError), and nothing has
    changed then.
    """
    if not is_known(reader.header.revision):
        raise ConfigurationError(
            f"the backup is of a newer schema ({reader.header.revision}) than this program knows",
            "restore it with the version of Blindpost that made it, or a later one",
        )
    try:
        async with as_owner(router, owner_url) as (owner, grant):
            async with router.reading() as connection:
                role = await connection.scalar(text("SELECT CAST(current_user AS text)"))
            for each in (router, owner):
                await each.close()  # what asked all this is no router
            async with owner.changing_schema() as tx:
                await _make_room(tx, replace=replace)
                await _demand_alone(tx, str(role))
                forgotten_at = asyncio.get_running_loop().time() + forgetting_s
                await tx.run_sync(step_to, reader.header.revision)
                manifest = await _load(tx, reader, tell)
                await tx.run_sync(step_to, "head")
                await _let_go_of_the_past(tx, reader.header)
                await tx.run_sync(grant)
                await _wait_until(forgotten_at, say)
    except (DBAPIError, asyncpg.PostgresError, *LOSSES) as error:
        raise _sentence(postgres_error(error) or error) from error
    return reader.header, manifest


def _sentence(cause: BaseException) -> ConfigurationError:
    """Say what went wrong without the driver's words, which quote rows."""
    if isinstance(cause, asyncpg.InsufficientPrivilegeError):
        return StartError(
            "the role of this database may not make and fill the tables",
            "set BLINDPOST_MIGRATION_DATABASE_URL to the role that owns them, or may create them",
        )
    if isinstance(cause, PASSING):
        # If it was lost in the commit itself, all of it may be there: then the repetition finds a database with rows.
        return StartError(
            "PostgreSQL went away, or has no room", "see that it runs, and repeat, at first without --replace"
        )
    return StartError(
        f"the backup cannot be put into this database: {type(cause).__name__}. Nothing was changed",
        "check the backup: blindpost verify-backup FILE; and that nothing but Blindpost has tables in this schema",
    )


async def _make_room(tx: AsyncConnection, *, replace: bool) -> None:
    """Take away the schema that is there; raises ConfigurationError if it holds something, unless told to."""
    present = set((await tx.scalars(_PRESENT, {"names": [*held(), *LEFT_OUT]})).all())
    if not replace and (table := await _first_filled(tx, present - LEFT_OUT.keys())):
        raise ConfigurationError(
            f"this database is not empty: there are rows in {table}, and nothing was changed",
            "back it up, and then add --replace to delete all that is in it",
        )
    if not present:
        return
    if "audit" in present:  # its triggers would keep it; whoever may drop the table may do this
        await tx.execute(text("ALTER TABLE audit DISABLE TRIGGER USER"))
    # Emptied first: the way down moves rows from table to table, and could fail for some of them.
    await tx.execute(text(f"TRUNCATE {', '.join(sorted(present))}"))
    await tx.run_sync(step_to, "base")


async def _first_filled(tx: AsyncConnection, tables: set[str]) -> str | None:
    """Name a table with rows; a router that was only started has none but the note of its migration."""
    for table in sorted(tables):
        but = " WHERE event <> 'schema_migrated'" if table == "audit" else ""
        if await tx.scalar(text(f"SELECT EXISTS (SELECT FROM {table}{but})")):  # noqa: S608 - a name of our own
            return table
    return None


async def _demand_alone(tx: AsyncConnection, role: str) -> None:
    """See that no router is connected; raises ConfigurationError.

    After the tables were taken away: who connects from here on waits for this transaction before it reads anything.
    """
    for attempt in count():
        await tx.execute(text("SELECT pg_stat_clear_snapshot()"))
        if not await tx.scalar(_OTHERS, {"role": role}):
            return
        if attempt == GOING_TRIES:
            raise ConfigurationError(
                "somebody is connected to this database as the router, and nothing was changed",
                "stop `serve` on all nodes, and whatever else uses its role",
            )
        await asyncio.sleep(GOING_S / GOING_TRIES)


async def _load(tx: AsyncConnection, reader: Reader, tell: Tell) -> Manifest:
    """Copy all tables in and compare the backup's sums; raises BackupDamaged."""
    await _demand_same_tables(tx, reader.header.tables)
    driver: Any = (await tx.get_raw_connection()).driver_connection
    rows: dict[str, int] = {}
    for table in reader.header.tables:
        try:
            pieces = _told(reader, table.name, tell)
            status = await driver.copy_to_table(table.name, source=pieces, columns=table.columns, format="binary")
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
            raise BackupDamaged(f"the backup is damaged: table {table.name} cannot be read", ANOTHER) from None
        rows[table.name] = rows_of(status)
    manifest = reader.finish()
    for name, expected in manifest.tables.items():
        if rows[name] != expected.rows:
            raise BackupDamaged(f"the backup is damaged: table {name} has not the rows that it had", ANOTHER)
    for statement in (await tx.scalars(_COUNT_ON, {"names": list(rows)})).all():
        await tx.execute(text(statement))
    return manifest


async def _demand_same_tables(tx: AsyncConnection, tables: list[Table]) -> None:
    """See that the backup has just what the schema of its revision has: it names nothing that we did not make."""
    wanted = set((await tx.scalars(_PRESENT, {"names": held()})).all())
    for table in tables:
        if table.name not in wanted or table.columns != (await tx.scalars(_COLUMNS, {"table": table.name})).all():
            raise BackupDamaged("the backup is damaged: its tables are not those of its schema", ANOTHER)
        wanted.remove(table.name)
    if wanted:
        raise BackupDamaged(f"the backup is damaged: table {min(wanted)} is missing", ANOTHER)


async def _told(reader: Reader, table: str, tell: Tell) -> AsyncIterator[bytes]:
    size = 0
    for piece in reader.pieces(table):
        size += len(piece)
        tell(table, size)
        yield piece


async def _let_go_of_the_past(tx: AsyncConnection, header: Header) -> None:
    """See that nothing of the backup is taken for the present, and note the restore in the audit.

    Sessions are not in a backup. One-time keys are not either, but this does not rely on who made it.
    """
    await prekeys.withdraw_all(tx)
    await users.touch_all_contacts(tx)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    events = [Event.DATABASE_RESTORED]
    if header.revision != newest_revision():
        events.insert(0, Event.SCHEMA_MIGRATED)
    await audit.lock(tx)
    await audit.append(tx, link(await audit.head(tx), [Entry(hour, event, None, None, 1) for event in events]))


async def _wait_until(time: float, say: Callable[[str], None]) -> None:
    left_s = time - asyncio.get_running_loop().time()
    if left_s > 0:
        say(f"Waiting {left_s:.0f} s, until Redis has forgotten which sessions were open ...")
        await asyncio.sleep(left_s)
