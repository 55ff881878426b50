"""Contact requests: one row for two people."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Uuid, and_, case, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.schema import contact_requests as requests
from blindpost.core.schema import users


class ContactRow(NamedTuple):
    """A contact request as one of its two parties sees it."""

    id: UUID
    sender_id: UUID
    receiver_id: UUID
    status: str
    created_at: datetime
    updated_at: datetime
    user_id: UUID
    username: str


class UserRow(NamedTuple):
    """A user as another one sees them."""

    id: UUID
    username: str
    status: str | None


def _between(me: UUID, other: ColumnElement[UUID]) -> ColumnElement[bool]:
    return and_(
        func.least(requests.c.sender_id, requests.c.receiver_id) == func.least(me, other),
        func.greatest(requests.c.sender_id, requests.c.receiver_id) == func.greatest(me, other),
    )


def _seen_by(me: UUID) -> Select[Any]:
    other = case((requests.c.sender_id == me, requests.c.receiver_id), else_=requests.c.sender_id)
    return (
        select(
            requests.c.id,
            requests.c.sender_id,
            requests.c.receiver_id,
            requests.c.status,
            requests.c.created_at,
            requests.c.updated_at,
            users.c.id.label("user_id"),
            users.c.name.label("username"),
        )
        .join(users, users.c.id == other)
        .where(or_(requests.c.sender_id == me, requests.c.receiver_id == me))
    )


async def accepted(tx: AsyncConnection, me: UUID) -> list[ContactRow]:
    statement = _seen_by(me).where(requests.c.status == "accepted").order_by(users.c.name_key)
    return [ContactRow(*row) for row in await tx.execute(statement)]


async def pending(tx: AsyncConnection, me: UUID, *, received: bool) -> list[ContactRow]:
    mine = requests.c.receiver_id == me if received else requests.c.sender_id == me
    statement = _seen_by(me).where(requests.c.status == "pending", mine).order_by(requests.c.created_at, requests.c.id)
    return [ContactRow(*row) for row in await tx.execute(statement)]


async def between(tx: AsyncConnection, me: UUID, other: UUID) -> ContactRow | None:
    row = (await tx.execute(_seen_by(me).where(users.c.id == other))).first()
    return ContactRow(*row) if row else None


async def are_contacts(tx: AsyncConnection, me: UUID, other: UUID) -> bool:
    """Tell whether two people have accepted each other."""
    pair = _between(me, literal(other, Uuid))
    statement = select(requests.c.id).where(pair, requests.c.status == "accepted")
    return (await tx.execute(statement)).first() is not None


async def ask(tx: AsyncConnection, me: UUID, other: UUID) -> bool:
    """Ask to be contacts; false if a request stands. Both users exist, and are locked by the caller.

    One statement under the pair's unique index, so that two requests that cross meet in one row:
    theirs pending becomes accepted; theirs that I rejected becomes a pending one of mine.
    """
    statement = upsert(requests).values(sender_id=me, receiver_id=other)
    crossed = and_(requests.c.status == "pending", requests.c.sender_id == other)
    reopened = and_(requests.c.status == "rejected", requests.c.sender_id == other)
    asked = statement.on_conflict_do_update(
        index_elements=[
            func.least(requests.c.sender_id, requests.c.receiver_id),
            func.greatest(requests.c.sender_id, requests.c.receiver_id),
        ],
        set_={
            "status": case((crossed, "accepted"), else_="pending"),
            "sender_id": case((crossed, requests.c.sender_id), else_=statement.excluded.sender_id),
            "receiver_id": case((crossed, requests.c.receiver_id), else_=statement.excluded.receiver_id),
            "updated_at": func.now(),
        },
        where=or_(crossed, reopened),
    ).returning(requests.c.id)
    return (await tx.execute(asked)).first() is not None


async def was_asked(tx: AsyncConnection, *, sender_id: UUID, receiver_id: UUID) -> bool:
    """Tell whether one asked the other, whatever became of it.

    Under the pair's index alone: one of a single person's would hold more the more people they asked.
    """
    pair = _between(receiver_id, literal(sender_id, Uuid))
    statement = select(requests.c.id).where(pair, requests.c.sender_id == sender_id)
    return (await tx.execute(statement)).first() is not None


async def decide(tx: AsyncConnection, *, sender_id: UUID, receiver_id: UUID, status: str) -> bool:
    """Accept or reject a pending request; false if there is none for this receiver."""
    statement = (
        update(requests)
        .where(
            requests.c.sender_id == sender_id,
            requests.c.receiver_id == receiver_id,
            requests.c.status == "pending",
        )
        .values(status=status, updated_at=func.now())
        .returning(requests.c.id)
    )
    return (await tx.execute(statement)).first() is not None


async def pending_counts(tx: AsyncConnection, *, sender_id: UUID, receiver_id: UUID) -> tuple[int, int]:
    """Count the requests of one and to the other that wait; both are locked by the caller."""
    counts = (
        select(func.count()).where(party == user_id, requests.c.status == "pending").scalar_subquery()
        for party, user_id in ((requests.c.sender_id, sender_id), (requests.c.receiver_id, receiver_id))
    )
    sent, received = (await tx.execute(select(*counts))).one()
    return sent, received


async def accepted_count(tx: AsyncConnection, user_id: UUID) -> int:
    """Count the contacts of one whom the caller has locked."""
    mine = or_(requests.c.sender_id == user_id, requests.c.receiver_id == user_id)
    statement = select(func.count()).where(mine, requests.c.status == "accepted")
    return (await tx.execute(statement)).scalar_one()


async def search(tx: AsyncConnection, me: UUID, prefix: str, limit: int) -> list[UserRow]:
    """Find others by the beginning of their name, in the order of names."""
    low = prefix.lower()
    # Names are ASCII and ordered as bytes: DEL is above all of their characters.
    condition = and_(users.c.name_key >= low, users.c.name_key < low + "\x7f", users.c.id != me)
    return await _users(tx, me, condition, limit)


async def users_by_ids(tx: AsyncConnection, me: UUID, ids: Iterable[UUID]) -> list[UserRow]:
    return await _users(tx, me, users.c.id.in_(list(ids)), None)


async def _users(tx: AsyncConnection, me: UUID, condition: ColumnElement[bool], limit: int | None) -> list[UserRow]:
    statement = (
        select(users.c.id, users.c.name, requests.c.status)
        .outerjoin(requests, _between(me, users.c.id))
        .where(condition)
        .order_by(users.c.name_key)
        .limit(limit)
    )
    return [UserRow(*row) for row in await tx.execute(statement)]


async def contact_ids(tx: AsyncConnection, me: UUID, *, accepted_only: bool) -> list[UUID]:
    """Everybody who stands in a request with this user: the accepted ones, or whatever its status."""
    other = case((requests.c.sender_id == me, requests.c.receiver_id), else_=requests.c.sender_id)
    statement = select(other).where(or_(requests.c.sender_id == me, requests.c.receiver_id == me))
    if accepted_only:
        statement = statement.where(requests.c.status == "accepted")
    return list((await tx.execute(statement)).scalars())
