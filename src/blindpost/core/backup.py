"""Makes a backup: one moment of the database, without what must not come back, while the router goes on.

Not by pg_dump, whose archive is statements that a restore would run, and which takes all of a table or nothing of it
(docs/decisions/0020-backups.md).
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from typing import IO, Any, Final

import asyncpg

from blindpost import __version__
from blindpost.core.backup_file import Header, Manifest, Table, Writer
from blindpost.core.database import LOSSES, MIGRATION_LOCK, Database, is_known
from blindpost.core.schema import metadata
from blindpost.errors import ConfigurationError, StartError

LEFT_OUT: Final[Mapping[str, str]] = {
    "sessions": "nobody shall be logged in by a backup",
    "token_keys": "each node publishes its own at its start",
    "pseudonym_keys": "without them nobody can tell whom the audit of a backup is about",
    "secrets": "the same, in the first schema",
    "prekey_claims": "who began a session with whom today; tomorrow it would be deleted anyway",
}
"""Tables whose rows are not in a backup, with the reason."""

WITHHELD: Final[Mapping[str, Mapping[str, str]]] = {
    "one_time_prekeys": {
        "public_key": "NULL::bytea",
        "signature": "NULL::bytea",
        "claimed_on": "COALESCE(claimed_on, timezone('UTC', now())::date)",
    }
}
"""What is in a backup in the place of some columns. A one-time key that waits now may be given away tomorrow: so the
backup knows its id and digest, as of a claimed one, and does not have the key."""

_TABLES: Final = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND c.relname = ANY($1)
AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY c.relname ORDER BY c.relname
"""
_REFERENCES: Final = """
SELECT one.relname, other.relname FROM pg_constraint
JOIN pg_class one ON one.oid = conrelid JOIN pg_class other ON other.oid = confrelid
WHERE contype = 'f' AND one.relnamespace = current_schema()::regnamespace AND one.oid <> other.oid
"""

Tell = Callable[[str, int], None]
"""Is told of which table so many bytes have been written or read."""


def held() -> list[str]:
    """Name the tables whose rows are in a backup."""
    return sorted(metadata.tables.keys() - LEFT_OUT.keys())


async def make(database: Database, file: IO[bytes], tell: Tell) -> tuple[Header, Manifest]:
    """Write a backup of this moment; raises ConfigurationError. Nobody waits for it but migrations."""
    try:
        connection = await database.connect_patiently()
        try:
            # Before the transaction, whose first statement sets the moment: a table that another node changes meanwhile
            # would be neither the old nor the new one.
            await connection.execute("SELECT pg_advisory_lock_shared($1)", MIGRATION_LOCK)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                writer = Writer(file, header := await _describe(connection))
                for table in header.tables:
                    await _copy(connection, table, writer, tell)
                return header, writer.finish()
        finally:
            connection.terminate()  # at once, also in the middle of a copy that nobody wants any more
    except asyncpg.InsufficientPrivilegeError:
        raise ConfigurationError(
            "this role may not read all tables", "blindpost migrate grants the router's role what it needs"
        ) from None
    except LOSSES:
        raise StartError("PostgreSQL went away in the middle of it", "see that it runs, and begin again") from None


async def _describe(connection: "asyncpg.Connection[Any]") -> Header:
    revision = await _revision(connection)
    columns = {row[0]: row[1] for row in await connection.fetch(_TABLES, held())}
    references: dict[str, set[str]] = {name: set() for name in columns}
    for one, other in await connection.fetch(_REFERENCES):
        if one in columns and other in columns:
            references[one].add(other)
    order = TopologicalSorter(references).static_order()
    return Header(
        program=__version__,
        made_at=datetime.now(UTC).replace(microsecond=0),
        revision=revision,
        tables=[Table(name=name, columns=columns[name]) for name in order],
    )


async def _revision(connection: "asyncpg.Connection[Any]") -> str:
    try:
        revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        revision = None
    if revision is None:
        raise ConfigurationError("there is nothing to back up: this database has no schema yet", "blindpost migrate")
    if not is_known(revision):
        raise StartError(
            "the database's schema is newer than this program", "run the version of Blindpost that made it"
        )
    return str(revision)


async def _copy(connection: "asyncpg.Connection[Any]", table: Table, writer: Writer, tell: Tell) -> None:
    async def take(data: bytes) -> None:
        tell(table.name, writer.write(table.name, data))

    instead = WITHHELD.get(table.name, {})
    columns = ", ".join(instead.get(each, f'"{each}"') for each in table.columns)
    # Names out of our own schema, and expressions out of this file.
    query = f'SELECT {columns} FROM "{table.name}"'  # noqa: S608
    status = await connection.copy_from_query(query, output=take, format="binary")
    writer.end(table.name, rows_of(status))


def rows_of(status: str) -> int:
    """Read how many rows a COPY had, out of its answer: 'COPY 3'."""
    return int(status.split()[1])
