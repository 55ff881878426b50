"""What waits in PostgreSQL, for the metrics: asked rarely, by an index, and by one process of all nodes.

Were it asked by each, each would tell the same figure, and a sum over them would be wrong. Which one it is, Redis
knows; of the others these metrics have no sample.
"""

import asyncio
from os import urandom
from typing import Final

from sqlalchemy import text

from blindpost.core.cache import Cache
from blindpost.core.database import Database
from blindpost.errors import Unavailable
from blindpost.telemetry import OBSERVED, log_fault

INTERVAL_S: Final = 15.0
LEASE_S: Final = 40
"""How long nobody looks when the process that did is gone."""
COUNTED_MAX: Final = 10_000
"""So many messages are counted one by one; of more, PostgreSQL's own estimate is told."""

BEGIN: Final = text("SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)")
# A table that was large may be read slowly while it is empty: by its index it never is.
LOOK: Final = text(f"""
SELECT (SELECT count(*) FROM (SELECT FROM messages ORDER BY id LIMIT {COUNTED_MAX}) AS first) AS counted,
    (SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'messages'::regclass) AS estimated,
    (SELECT extract(epoch FROM now() - timestamp) FROM messages ORDER BY id LIMIT 1) AS oldest_s,
    pg_notification_queue_usage() AS notify_usage
""")  # noqa: S608 - a constant of this program


class Observer:
    """Looks, as long as no other process does."""

    def __init__(self, database: Database, cache: Cache) -> None:
        self._database = database
        self._cache = cache
        self._name = urandom(8)

    async def run(self) -> None:
        """Look every now and then, until cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(INTERVAL_S)
        finally:
            OBSERVED.clear()

    async def look(self) -> None:
        """Tell what is found, or nothing: what was found before may not be so any more."""
        try:
            found = await find(self._database) if await self._cache.lead(self._name, LEASE_S) else {}
        except Unavailable:
            found = {}
        except Exception as error:  # noqa: BLE001 - no fault of this may end the router
            log_fault("observing_failed", error)
            found = {}
        OBSERVED.clear()
        OBSERVED.update(found)


async def find(database: Database) -> dict[str, float]:
    """Ask PostgreSQL; by the names of the metrics. Raises Unavailable."""
    async with database.transaction() as tx:
        await tx.execute(BEGIN)
        row = (await tx.execute(LOOK)).one()
    is_all = row.counted < COUNTED_MAX
    return {
        "blindpost_queued_messages": row.counted if is_all else max(row.counted, row.estimated or 0),
        "blindpost_oldest_message_seconds": max(0.0, float(row.oldest_s or 0)),
        "blindpost_notify_queue_ratio": row.notify_usage,
    }
