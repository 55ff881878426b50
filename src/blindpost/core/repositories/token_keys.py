"""The public halves of the keys that the nodes sign tokens with."""

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.schema import token_keys


async def publish(tx: AsyncConnection, key_id: str, public_key: bytes) -> None:
    await tx.execute(upsert(token_keys).values(id=key_id, public_key=public_key).on_conflict_do_nothing())


async def retire(tx: AsyncConnection, retired: Mapping[str, int]) -> None:
    """Set until when replaced keys are believed in, by id, in Unix seconds; never later than before."""
    for key_id, at in retired.items():
        ends = datetime.fromtimestamp(at, UTC)
        sooner = func.least(token_keys.c.retires_at, ends)
        await tx.execute(update(token_keys).where(token_keys.c.id == key_id).values(retires_at=sooner))


async def believed(tx: AsyncConnection) -> dict[str, bytes]:
    """Read the keys that count, and delete those whose time is over."""
    await tx.execute(delete(token_keys).where(token_keys.c.retires_at <= func.now()))
    counts = or_(token_keys.c.retires_at.is_(None), token_keys.c.retires_at > func.now())
    rows = await tx.execute(select(token_keys.c.id, token_keys.c.public_key).where(counts))
    return {row.id: row.public_key for row in rows}
