"""What goes away by itself.

Traces of delivered messages, sessions and prekeys that expired, what is remembered of claims, keys of past days'
pseudonyms.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from blindpost.core.database import Database, Transaction
from blindpost.core.pseudonyms import today
from blindpost.core.repositories import messages, prekeys, pseudonym_keys, users
from blindpost.errors import Unavailable
from blindpost.telemetry import log_fault

INTERVAL_S: Final = 600
BATCH: Final = 1_000
"""Small enough to block no send."""

Purge = Callable[[Transaction], Awaitable[int]]


async def keep_house(database: Database, retry_window_s: int) -> None:
    """Delete what has had its time, every ten minutes, until cancelled."""

    async def forget_days(tx: Transaction) -> int:
        await pseudonym_keys.forget_before(tx, today())
        return 0

    purges: tuple[Purge, ...] = (
        lambda tx: messages.purge_delivered(tx, retry_window_s, BATCH),
        lambda tx: users.purge_sessions(tx, BATCH),
        lambda tx: prekeys.purge_expired(tx, BATCH),
        lambda tx: prekeys.purge_claimed(tx, BATCH),
        lambda tx: prekeys.purge_counts(tx, BATCH),
        forget_days,
    )
    while True:
        for purge in purges:
            await _all_of(database, purge)
        await asyncio.sleep(INTERVAL_S)


async def _all_of(database: Database, purge: Purge) -> None:
    """Purge in batches, each a transaction of its own, until there is no more; what fails is left for the next time."""
    try:
        purged = BATCH
        while purged == BATCH:
            async with database.transaction() as tx:
                purged = await purge(tx)
    except Unavailable:
        return
    except Exception as error:  # noqa: BLE001 - housekeeping must not end for one fault
        log_fault("purge_failed", error)
