"""What goes away by itself: every kind of row that has an end, and when that is.

Elsewhere end only: what Redis holds, by its time to live (`core/cache.py`, `core/limiter.py`); the audit, whose expiry
is a row of its own chain (`core/audit.py`); replaced keys of tokens, when a node next reads which are believed
(`core/tokens.py`); and what goes with an account or a session (`services/auth.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple
from uuid import UUID

from blindpost.core.database import Database, Transaction
from blindpost.core.pseudonyms import today
from blindpost.core.repositories import housekeeping, messages, prekeys, pseudonym_keys, users
from blindpost.errors import Unavailable
from blindpost.telemetry import PURGED, log_fault

INTERVAL_S: Final = 600
BATCH: Final = 1_000
"""Small enough to block no send."""
REST: Final = 4
"""Of five seconds of a purge one is work."""


class Batch(NamedTuple):
    """What one transaction did."""

    purged: int
    is_last: bool


Purge = Callable[[Transaction], Awaitable[Batch]]
Kinds = Mapping[str, Callable[[], Purge]]
"""How a round begins with each kind, by the name that its metric has."""


def kinds(message_lifetime_s: int, retry_window_s: int) -> Kinds:
    """List all that goes, in the order in which it does."""
    return {
        # First: a trace is looked at when it is known what became of its message.
        "messages": _until_none_is_left(lambda tx: messages.expire(tx, message_lifetime_s, BATCH)),
        "traces": lambda: _walk(retry_window_s),
        "sessions": _until_none_is_left(lambda tx: users.purge_sessions(tx, BATCH)),
        "lasting_prekeys": _until_none_is_left(lambda tx: prekeys.purge_expired(tx, BATCH)),
        "claimed_prekeys": _until_none_is_left(lambda tx: prekeys.purge_claimed(tx, BATCH)),
        "prekey_claims": _until_none_is_left(lambda tx: prekeys.purge_counts(tx, BATCH)),
        "pseudonym_keys": _until_none_is_left(lambda tx: pseudonym_keys.forget_before(tx, today())),
    }


async def keep_house(database: Database, kinds: Kinds) -> None:
    """Delete what has had its time, every ten minutes, until cancelled."""
    while True:
        for name, begin in kinds.items():
            await purge_all(database, name, begin())
        await asyncio.sleep(INTERVAL_S)


async def purge_all(database: Database, name: str, purge: Purge) -> None:
    """Purge in batches, each a transaction of its own, until there is no more; what fails is left for the next time.

    Nothing is done while another process does it. After each batch this rests for REST times as long as it took: so a
    backlog leaves most of a processor and of the disk to those who send, however slow these are.
    """
    clock = asyncio.get_running_loop().time
    try:
        while True:
            began = clock()
            async with database.transaction() as tx:
                if not await housekeeping.begin(tx):
                    return
                batch = await purge(tx)
            PURGED.labels(name).inc(batch.purged)
            if batch.is_last:
                return
            await asyncio.sleep((clock() - began) * REST)
    except Unavailable:
        return
    except Exception as error:  # noqa: BLE001 - housekeeping must not end for one fault
        log_fault("purge_failed", error)


def _until_none_is_left(purge: Callable[[Transaction], Awaitable[int]]) -> Callable[[], Purge]:
    """Repeat what deletes BATCH rows at most, as long as it finds as many."""

    async def batch(tx: Transaction) -> Batch:
        purged = await purge(tx)
        return Batch(purged, is_last=purged < BATCH)

    return lambda: batch


def _walk(retry_window_s: int) -> Purge:
    """Walk over all traces that are old enough, each batch from where the last one ended."""
    last: UUID | None = UUID(int=0)

    async def batch(tx: Transaction) -> Batch:
        nonlocal last
        purged, last = await messages.purge_traces(tx, retry_window_s, last or UUID(int=0), BATCH)
        return Batch(purged, is_last=last is None)

    return batch
