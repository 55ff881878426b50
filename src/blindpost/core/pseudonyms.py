"""Names for people and addresses that mean something for one day, and then nothing to anybody.

Each day has a random key of its own, which all nodes share through PostgreSQL and which is deleted a day later. What
is left of an older pseudonym can be linked to nobody, not even by whoever holds the whole database.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime
from hashlib import blake2b
from secrets import token_bytes
from typing import Final

from blindpost.core.database import Database
from blindpost.core.repositories import pseudonym_keys

KEY_BYTES: Final = 32
NO_DAY: Final = date.max
"""The key of the hints is kept under it: it is never yesterday."""
PSEUDONYM_BYTES: Final = 16


def today() -> date:
    """Return the day in UTC, as all nodes count it."""
    return datetime.now(UTC).date()


class Pseudonyms:
    """Makes the pseudonyms of the present day."""

    def __init__(self, database: Database, today: Callable[[], date] = today) -> None:
        self._database = database
        self._today = today
        self._day = date.min
        self._key = b""
        self._turn = asyncio.Lock()

    async def of(self, *whom: str) -> bytes:
        """Return 16 bytes (keyed BLAKE2b) that stand for somebody until midnight UTC; raises Unavailable."""
        day = self._today()
        if day != self._day:
            async with self._turn:
                if day != self._day:
                    self._key = await self._key_of(day)
                    self._day = day
        return pseudonym(self._key, *whom)

    async def _key_of(self, day: date) -> bytes:
        async with self._database.transaction() as tx:
            key = await pseudonym_keys.claim(tx, day, token_bytes(KEY_BYTES))
            await pseudonym_keys.forget_before(tx, day)
        return key


async def key_of_hints(database: Database) -> bytes:
    """Return the key under which hints name people, the same for all nodes and for ever; raises Unavailable.

    Not a day's: at midnight nodes would not understand each other, for as long as their clocks differ. Nothing that
    is named by it is kept anywhere.
    """
    async with database.transaction() as tx:
        return await pseudonym_keys.claim(tx, NO_DAY, token_bytes(KEY_BYTES))


def pseudonym(key: bytes, *whom: str) -> bytes:
    """Return the 16 bytes that stand for somebody under one day's key."""
    text = "\x00".join(whom)
    return blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=PSEUDONYM_BYTES).digest()
