"""Keys to begin sessions with. Whoever changes or claims somebody's has locked that user."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha384
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Table, case, cast, delete, func, or_, select, tuple_, update
from sqlalchemy import Date as DateType
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.schema import lasting_prekeys as lasting
from blindpost.core.schema import one_time_prekeys as one_time
from blindpost.core.schema import prekey_claims as claims

CLAIMED_KEPT_DAYS: Final = 30
"""So long a claimed id is remembered, and what is published again under it passed over."""
_TODAY: Final = cast(func.timezone("UTC", func.now()), DateType)
"""By the database's clock: all nodes count the same day."""


class Algorithm(StrEnum):
    """What a key is for."""

    P384 = "p384"
    ML_KEM_1024 = "ml-kem-1024"


class OneTimePrekey(NamedTuple):
    """A key that one session begins with."""

    id: UUID
    public_key: bytes
    signature: bytes

    @property
    def fingerprint(self) -> bytes:
        return sha384(self.public_key).digest()


class LastingPrekey(NamedTuple):
    """A key that many sessions begin with, until it expires."""

    id: UUID
    public_key: bytes
    signature: bytes
    expires_at: datetime


async def lasting_of(tx: AsyncConnection, user_id: UUID) -> dict[Algorithm, LastingPrekey]:
    """Read the keys that last and have not expired."""
    columns = (lasting.c[field] for field in LastingPrekey._fields)
    statement = select(lasting.c.algorithm, *columns).where(
        lasting.c.user_id == user_id, lasting.c.expires_at > func.now()
    )
    return {Algorithm(algorithm): LastingPrekey(*key) for algorithm, *key in await tx.execute(statement)}


async def replace_lasting(tx: AsyncConnection, user_id: UUID, algorithm: Algorithm, key: LastingPrekey) -> bool:
    """Put a key in the place of the one before; false if that one expires no earlier, and is another.

    The order of the expiries is what keeps a key that was replaced from coming back: its signature is public.
    """
    statement = upsert(lasting).values(user_id=user_id, algorithm=algorithm, **key._asdict())
    given = statement.excluded
    is_same = tuple_(lasting.c.id, lasting.c.public_key, lasting.c.expires_at) == tuple_(
        given.id, given.public_key, given.expires_at
    )
    statement = statement.on_conflict_do_update(
        index_elements=[lasting.c.user_id, lasting.c.algorithm],
        set_={field: given[field] for field in LastingPrekey._fields},
        where=or_(lasting.c.expires_at < given.expires_at, is_same),
    )
    return (await tx.execute(statement.returning(lasting.c.id))).first() is not None


async def add_one_time(tx: AsyncConnection, user_id: UUID, algorithm: Algorithm, keys: Sequence[OneTimePrekey]) -> bool:
    """Add keys, in their order, but for those that are or were here; false if one is so under another id, or key."""
    rows = [
        {"user_id": user_id, "algorithm": algorithm, "fingerprint": key.fingerprint, **key._asdict()} for key in keys
    ]
    await tx.execute(upsert(one_time).values(rows).on_conflict_do_nothing())
    named = {(key.id, key.fingerprint) for key in keys}
    statement = select(func.count()).where(
        one_time.c.user_id == user_id,
        one_time.c.algorithm == algorithm,
        tuple_(one_time.c.id, one_time.c.fingerprint).in_(named),
    )
    return (await tx.execute(statement)).scalar_one() == len(named)


async def withdraw_waiting(tx: AsyncConnection, user_id: UUID) -> None:
    """Remove the one-time keys that nobody claimed. What was claimed stays known, so that it is not given once more."""
    await tx.execute(delete(one_time).where(one_time.c.user_id == user_id, one_time.c.claimed_on.is_(None)))


async def withdraw_all(tx: AsyncConnection) -> None:
    """Take the key out of everybody's one-time keys, and remember their ids from today on, as if all were claimed.

    Deleted they would be forgotten, and given away once more when their owner, or who has the old upload, repeats it.
    """
    await tx.execute(update(one_time).values(claimed_on=_TODAY, public_key=None, signature=None))


async def waiting_counts(tx: AsyncConnection, user_id: UUID) -> Counter[Algorithm]:
    """Count the one-time keys of each algorithm that nobody claimed."""
    statement = (
        select(one_time.c.algorithm, func.count())
        .where(one_time.c.user_id == user_id, one_time.c.claimed_on.is_(None))
        .group_by(one_time.c.algorithm)
    )
    return Counter({Algorithm(algorithm): count for algorithm, count in await tx.execute(statement)})


async def take_one_time(tx: AsyncConnection, user_id: UUID, algorithm: Algorithm) -> OneTimePrekey | None:
    """Take the oldest one-time key, for ever; None if there is none."""
    oldest = (
        select(*(one_time.c[field] for field in OneTimePrekey._fields))
        .where(one_time.c.user_id == user_id, one_time.c.algorithm == algorithm, one_time.c.claimed_on.is_(None))
        .order_by(one_time.c.number)
        .limit(1)
        .cte("oldest")
    )
    statement = (
        update(one_time)
        .where(one_time.c.user_id == user_id, one_time.c.algorithm == algorithm, one_time.c.id == oldest.c.id)
        .values(claimed_on=_TODAY, public_key=None, signature=None)
        .returning(*oldest.c)
    )
    row = (await tx.execute(statement)).first()
    return OneTimePrekey(*row) if row else None


async def count_claim(tx: AsyncConnection, user_id: UUID, claimant_id: UUID, most: int) -> int | None:
    """Count one claim of a user's keys, and return which of today's it is; None, and no count, beyond so many."""
    statement = upsert(claims).values(user_id=user_id, claimant_id=claimant_id, day=_TODAY, count=1)
    is_first = claims.c.day < statement.excluded.day
    statement = statement.on_conflict_do_update(
        index_elements=[claims.c.user_id, claims.c.claimant_id],
        set_={"day": statement.excluded.day, "count": case((is_first, 1), else_=claims.c.count + 1)},
        where=or_(is_first, claims.c.count < most),
    )
    count: int | None = (await tx.execute(statement.returning(claims.c.count))).scalar_one_or_none()
    return count


async def remove_all_of(tx: AsyncConnection, user_id: UUID) -> None:
    """Delete a user's keys, and what is remembered of those that were claimed."""
    for table in (lasting, one_time):
        await tx.execute(delete(table).where(table.c.user_id == user_id))


async def purge_expired(tx: AsyncConnection, limit: int) -> int:
    """Delete keys that expired; returns how many, at most `limit`."""
    return await _purge(tx, lasting, lasting.c.expires_at < func.now(), limit)


async def purge_claimed(tx: AsyncConnection, limit: int) -> int:
    """Forget ids that were claimed long ago; returns how many, at most `limit`."""
    return await _purge(tx, one_time, one_time.c.claimed_on < _TODAY - CLAIMED_KEPT_DAYS, limit)


async def purge_counts(tx: AsyncConnection, limit: int) -> int:
    """Delete the counts of past days; returns how many, at most `limit`."""
    return await _purge(tx, claims, claims.c.day < _TODAY, limit)


async def _purge(tx: AsyncConnection, table: Table, is_old: ColumnElement[bool], limit: int) -> int:
    key: Any = tuple_(*table.primary_key.columns)
    old = select(*table.primary_key.columns).where(is_old).limit(limit).with_for_update(skip_locked=True)
    return (await tx.execute(delete(table).where(key.in_(old)))).rowcount
