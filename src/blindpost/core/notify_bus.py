"""The wake-up bus over PostgreSQL: a notification rides in the commit of what it hints at, and every node hears it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.database import LOSSES, Database
from blindpost.core.hub import (
    CHANNEL,
    HEARTBEAT_S,
    HEARTBEAT_TIMEOUT_S,
    ID_CHARS,
    KINDS,
    Ears,
    Hint,
    WakeUpBus,
    payloads,
)

_NOTIFY: Final = text("SELECT pg_notify(:channel, :payload)")


class NotifyBus(WakeUpBus):
    """One listening connection for the whole process, never in a transaction."""

    losses = (*LOSSES, asyncpg.PostgresError)
    refusal = "PostgreSQL does not let this program LISTEN", "connect without a pooling proxy"
    in_statement = f"pg_notify('{CHANNEL}', payload)"

    def __init__(self, database: Database) -> None:
        self._connect = database.connect_raw

    async def ride(self, tx: AsyncConnection, hints: Sequence[Hint]) -> None:
        for hint in hints:
            for payload in payloads(*hint):
                await tx.execute(_NOTIFY, {"channel": CHANNEL, "payload": payload})

    async def publish(self, hints: Sequence[Hint]) -> None:
        """Do nothing: it is done."""

    def attend(self, user_id: UUID) -> None:
        """Do nothing: all are heard of."""

    def leave(self, user_id: UUID) -> None:
        """Do nothing, as before."""

    def hears_of(self, user_id: UUID) -> bool:  # noqa: ARG002 - all are heard of
        return True

    async def listen(self, ears: Ears) -> None:
        connection = await self._connect()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(CHANNEL, lambda *said: _heard(ears, str(said[-1])))
            ears.is_listening()
            while not lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await lost.wait()
                if not lost.is_set():
                    await connection.fetchval("SELECT 1", timeout=HEARTBEAT_TIMEOUT_S)
        finally:
            connection.terminate()

    async def run(self) -> None:
        """Do nothing: nothing is owed."""

    async def close(self) -> None:
        """Do nothing: `listen` closes what it opens."""


def _heard(ears: Ears, payload: str) -> None:
    try:
        kind = KINDS[payload[:1]]
        if payload.startswith(ears.node_id.hex, 1):
            return  # our own: the writer has told everybody here
        user_ids = [UUID(hex=payload[start : start + ID_CHARS]) for start in range(1, len(payload), ID_CHARS)]
    except (KeyError, ValueError):  # a newer version's: whatever it means, looking does no harm
        ears.wake_all()
        return
    ears.wake(kind, user_ids)
