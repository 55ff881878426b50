"""What is done for every message is looked up by keys, whatever the statistics say."""

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.hub import NOTIFY_IDS_MAX
from blindpost.core.notify_bus import NotifyBus
from blindpost.core.own_connection import OwnConnection
from blindpost.core.reader import _LOOK
from blindpost.core.writer import _ACK, _ANYBODY, _CONTACT, _FIND, _INSERT
from blindpost.errors import Unavailable

if TYPE_CHECKING:
    import asyncpg

STATEMENTS = {
    "store": _INSERT.format(rule=_CONTACT, tell=NotifyBus.in_statement, ids_max=NOTIFY_IDS_MAX),
    "store from anybody": _INSERT.format(rule=_ANYBODY, tell=NotifyBus.in_statement, ids_max=NOTIFY_IDS_MAX),
    "find": _FIND,
    "acknowledge": _ACK.format(tell=NotifyBus.in_statement),
    "look": _LOOK,
}
TABLES = ("messages", "traces", "receipts", "contact_requests", "users", "sessions")
FILL = """
INSERT INTO traces SELECT uuidv7(), gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 2000);
INSERT INTO messages SELECT id, sender_id, gen_random_uuid(), now(), 'sealed' FROM traces;
INSERT INTO receipts SELECT gen_random_uuid(), id FROM traces;
ANALYZE;
"""


@pytest.fixture
async def connection(scratch: StoreUrls) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """The connection of a writer or a reader."""
    async with Database(str(scratch.database_url), pool_size=1) as database:
        await database.migrate()
        own = OwnConnection(database, loss=Unavailable)
        yield await own._connect()
        await own.close()


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_batch_reads_every_table_by_an_index_and_without_bitmaps(
    connection: "asyncpg.Connection[Any]", name: str, *, is_large: bool
) -> None:
    """Bitmaps would leave the entries of what is gone in the index, to be looked at again by every poll."""
    if is_large:
        await connection.execute(FILL)
    await connection.execute(f"PREPARE it AS {STATEMENTS[name]}")
    parameters = ", ".join("NULL" for _ in set(re.findall(r"\$[0-9]", STATEMENTS[name])))
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE it ({parameters})"))
    assert "Index" in plan
    assert "Bitmap" not in plan
    assert [table for table in TABLES if f"Seq Scan on {table}" in plan] == []
    assert "hashed SubPlan" not in plan
    if name.startswith("store"):
        assert "LockRows" in plan  # what guards messages in place of foreign keys
