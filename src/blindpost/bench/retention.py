"""What is left in the tables of messages that were sent and acknowledged, before and after PostgreSQL cleans up."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from itertools import cycle, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from blindpost.bench.ground import Ground, Row
from blindpost.bench.people import Pair
from blindpost.bench.talks import MESSAGE_BYTES
from blindpost.core.database import Database
from blindpost.core.hub import Hub
from blindpost.core.notify_bus import NotifyBus
from blindpost.core.writer import Ack, MessageWriter, NewMessage
from blindpost.protocol.limits import PAGE_MAX
from blindpost.services.housekeeping import kinds, purge_all

if TYPE_CHECKING:
    import asyncpg

TABLES: Final = ("messages", "traces", "receipts")
LIFETIME_S: Final = 30 * 86_400
SENDS_AT_ONCE: Final = 1_024
ACKS_AT_ONCE: Final = 4
_SIZES: Final = f"""
SELECT relname, pg_table_size(oid) / 1048576.0 AS mib, pg_indexes_size(oid) / 1048576.0 AS indexes_mib
FROM pg_class WHERE relname IN {TABLES}
"""  # noqa: S608 - constants of this program


async def measure(ground: Ground) -> list[Row]:
    """Send so many, acknowledge them, forget them, and look at the tables after each step."""
    async with ground.database("retention") as there, Database(there.database_url, pool_size=2) as database:
        await database.migrate()
        async with there.registry() as registry:
            pairs = await registry.pairs(ground.plan.crowd)
        superuser = await there.as_superuser()
        try:
            return await _steps(there, database, superuser, pairs)
        finally:
            await superuser.close()


async def _steps(
    ground: Ground, database: Database, superuser: "asyncpg.Connection[Any]", pairs: list[Pair]
) -> list[Row]:
    rows: list[Row] = []
    count = ground.plan.retained

    async def take(name: str, step: Awaitable[Any]) -> Any:
        ground.tell(f"retention: {count:,} messages, {name}")
        began = perf_counter()
        result = await step
        row: Row = {"step": name, "messages": count, "seconds": perf_counter() - began}
        for table, mib, indexes_mib in await superuser.fetch(_SIZES):
            row |= {f"{table}_mib": float(mib), f"{table}_indexes_mib": float(indexes_mib)}
        rows.append(row)
        return result

    for table in TABLES:  # it would come when it likes
        await superuser.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    async with _writer(database) as writer:
        ids = await take("sent", _send(writer, pairs, count))
        await take("acknowledged", _acknowledge(writer, ids))
    await take("vacuumed", _vacuum(superuser))
    await take("forgotten", purge_all(database, "traces", kinds(LIFETIME_S, retry_window_s=0)["traces"]()))
    await take("vacuumed again", _vacuum(superuser))
    return rows


async def _vacuum(superuser: "asyncpg.Connection[Any]") -> None:
    await superuser.execute(f"VACUUM {', '.join(TABLES)}", timeout=None)


@asynccontextmanager
async def _writer(database: Database) -> AsyncIterator[MessageWriter]:
    """Run the router's writer in this process; nobody listens here."""

    async def nobody(_: list[UUID]) -> Any:
        return {}

    limits = {"waiting_max": 1, "waiting_per_user_max": 1, "waiting_per_address_max": 1}
    hub = Hub(NotifyBus(database), nobody, nobody, sweep_interval_s=300, **limits)
    writer = MessageWriter(database, hub, require_contact=True)
    running = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        writer.close()
        await running


async def _send(writer: MessageWriter, pairs: list[Pair], count: int) -> dict[UUID, list[UUID]]:
    """Send so many, by all pairs in turn; returns the ids by recipient."""
    ids: dict[UUID, list[UUID]] = {pair.recipient.id: [] for pair in pairs}
    turns = islice(cycle(pairs), count)
    while batch := list(islice(turns, SENDS_AT_ONCE)):
        sends = [
            writer.send(NewMessage(pair.sender.id, pair.recipient.id, os.urandom(MESSAGE_BYTES), uuid4()))
            for pair in batch
        ]
        for pair, stored in zip(batch, await asyncio.gather(*sends), strict=True):
            ids[pair.recipient.id].append(stored.id)
    return ids


async def _acknowledge(writer: MessageWriter, ids: dict[UUID, list[UUID]]) -> None:
    """Acknowledge them page by page, as their recipients would when they come back."""
    pages = (
        Ack(recipient_id, mine[start : start + PAGE_MAX])
        for recipient_id, mine in ids.items()
        for start in range(0, len(mine), PAGE_MAX)
    )
    while batch := list(islice(pages, ACKS_AT_ONCE)):
        await asyncio.gather(*(writer.acknowledge(each) for each in batch))
