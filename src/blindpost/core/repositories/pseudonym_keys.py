"""The keys of the days' pseudonyms."""

from datetime import date, timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.schema import pseudonym_keys


async def claim(tx: AsyncConnection, day: date, key: bytes) -> bytes:
    """Make this the day's key, unless it has one; returns the one that counts."""
    await tx.execute(upsert(pseudonym_keys).values(day=day, key=key).on_conflict_do_nothing())
    present: bytes = (await tx.execute(select(pseudonym_keys.c.key).where(pseudonym_keys.c.day == day))).scalar_one()
    return present


async def of_day(tx: AsyncConnection, day: date) -> bytes | None:
    key: bytes | None = await tx.scalar(select(pseudonym_keys.c.key).where(pseudonym_keys.c.day == day))
    return key


async def forget_before(tx: AsyncConnection, day: date) -> int:
    """Delete the keys that are older than the day before; returns how many."""
    return (await tx.execute(delete(pseudonym_keys).where(pseudonym_keys.c.day < day - timedelta(days=1)))).rowcount
