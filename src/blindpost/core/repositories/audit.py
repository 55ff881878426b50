"""The rows of the audit. Whoever appends or expires holds one lock, so that all nodes write one chain."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import case, delete, func, insert, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.audit_chain import BEGINNING, Head, Row
from blindpost.core.schema import audit

LOCK: Final = 0x6175646974
"""An advisory lock. A row lock would not do: it is the place after the last row that two nodes must not both take."""
EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)

# PostgreSQL knows times that Python does not. Whoever put one there shall be found, and not stop who looks.
_AT = case((audit.c.at.between(EARLIEST, LATEST), audit.c.at), else_=literal(EARLIEST)).label("at")
_ROW = select(*(_AT if field == "at" else audit.c[field] for field in Row._fields))


async def lock(tx: AsyncConnection) -> None:
    """Wait until nobody else appends, and keep it so until the transaction ends."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


async def snapshot(tx: AsyncConnection) -> None:
    """Let everything that follows in this transaction see one moment: as its first statement."""
    await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))


async def head(tx: AsyncConnection) -> Head:
    row = (await tx.execute(_ROW.order_by(audit.c.id.desc()).limit(1))).first()
    return BEGINNING if row is None else Head(row.id, row.hash, row.at)


async def first_id(tx: AsyncConnection) -> int | None:
    number: int | None = await tx.scalar(select(func.min(audit.c.id)))
    return number


async def hash_at(tx: AsyncConnection, row_id: int) -> bytes | None:
    found: bytes | None = await tx.scalar(select(audit.c.hash).where(audit.c.id == row_id))
    return found


async def append(tx: AsyncConnection, rows: Sequence[Row]) -> None:
    await tx.execute(insert(audit), [row._asdict() for row in rows])


async def last_expired(tx: AsyncConnection, keep_days: int, limit: int) -> int | None:
    """Find the last of the oldest rows, at most `limit`, which are all older than so many days; None if none is.

    A beginning, and never a row in the middle: one that is younger keeps those behind it.
    """
    oldest = select(audit.c.id, audit.c.at).order_by(audit.c.id).limit(limit).subquery()
    young = select(func.min(oldest.c.id)).where(oldest.c.at >= func.now() - func.make_interval(0, 0, 0, keep_days))
    kept = young.scalar_subquery()
    number: int | None = await tx.scalar(select(func.max(oldest.c.id)).where(kept.is_(None) | (oldest.c.id < kept)))
    return number


async def delete_to(tx: AsyncConnection, row_id: int) -> int:
    """Delete the beginning of the chain, and return how many rows; a trigger refuses what is younger than a week."""
    return (await tx.execute(delete(audit).where(audit.c.id <= row_id))).rowcount


async def after(tx: AsyncConnection, row_id: int | None, limit: int) -> list[Row]:
    """Read on behind a row, or from the beginning."""
    statement = _ROW if row_id is None else _ROW.where(audit.c.id > row_id)
    return [Row(*row) for row in await tx.execute(statement.order_by(audit.c.id).limit(limit))]


async def latest(tx: AsyncConnection, limit: int, subjects: Sequence[bytes] | None) -> list[Row]:
    """Read the newest rows, oldest first; of these subjects only, if some are given."""
    statement = _ROW if subjects is None else _ROW.where(audit.c.subject.in_(subjects))
    rows = [Row(*row) for row in await tx.execute(statement.order_by(audit.c.id.desc()).limit(limit))]
    return rows[::-1]
