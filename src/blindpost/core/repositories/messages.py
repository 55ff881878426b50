"""Messages as their readers see them; core.writer stores and erases them."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Row,
    ScalarSelect,
    Select,
    TextClause,
    Uuid,
    all_,
    any_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.database import HINTS
from blindpost.core.hub import Hint, Kind, MessageRow
from blindpost.core.schema import messages, receipts, sessions, traces, users

PAGE_BYTES: Final = 4 * 1024 * 1024
STREAM_PAGE_BYTES: Final = 256 * 1024
"""A stream reads on as fast as its client takes."""


_FIELDS: Final = ("id", "sender_id", "recipient_id", "message", "timestamp")
"""Of a MessageRow, as far as the table has them."""


class Waiting(NamedTuple):
    """How much waits for one person, and how much of it is one sender's."""

    messages: int
    bytes: int
    own_messages: int
    own_bytes: int


def _inbox_statement(*, is_page_of_stream: bool = False) -> Select[Any]:
    size = func.octet_length(messages.c.message)
    rows = (
        select(
            *(messages.c[field] for field in _FIELDS),
            (func.sum(size).over(order_by=messages.c.id) - size).label("before"),
        )
        .where(messages.c.recipient_id == bindparam("user_id"))
        .order_by(messages.c.id)
        .limit(bindparam("limit"))
    )
    if is_page_of_stream:
        rows = rows.where(messages.c.id != all_(bindparam("given", type_=ARRAY(Uuid))))
    page_bytes = STREAM_PAGE_BYTES if is_page_of_stream else PAGE_BYTES
    waiting = rows.subquery()
    # The first message beyond the page is read too, without its ciphertext: it tells that there is more.
    message = case((waiting.c.before < page_bytes, waiting.c.message)).label("message")
    columns = [message if field == "message" else waiting.c[field] for field in _FIELDS]
    return select(*columns).order_by(waiting.c.id)


_CONTACT: Final = """
    SELECT c.id FROM contact_requests c
    WHERE LEAST(c.sender_id, c.receiver_id) = LEAST(:sender_id, :recipient_id)
    AND GREATEST(c.sender_id, c.receiver_id) = GREATEST(:sender_id, :recipient_id)
    AND c.status = 'accepted'
"""
_ANYBODY: Final = "SELECT u.id FROM users u WHERE u.id = :recipient_id"


def _waiting_statement(rule: str) -> TextClause:
    """Count for one whom the writer would let write, by the same rule; for anybody else there is no row.

    The count hangs on the row of the rule (LATERAL): for a stranger nothing is counted, not even in vain. Of a large
    message only the size is read, which stands in its row.
    """
    counted = """
        SELECT count(*) AS messages, coalesce(sum(octet_length(message)), 0) AS bytes,
            count(*) FILTER (WHERE sender_id = :sender_id) AS own_messages,
            coalesce(sum(octet_length(message)) FILTER (WHERE sender_id = :sender_id), 0) AS own_bytes
        FROM messages WHERE recipient_id = :recipient_id AND allowed.id IS NOT NULL
    """
    statement = text(f"SELECT counted.* FROM ({rule}) AS allowed CROSS JOIN LATERAL ({counted}) AS counted")  # noqa: S608 - constants of this program
    return statement.bindparams(bindparam("sender_id", type_=Uuid), bindparam("recipient_id", type_=Uuid))


# Built once, they are also compiled and prepared once: building them for each call took longer than running them.
_INBOX: Final = _inbox_statement()
_UNREAD: Final = _inbox_statement(is_page_of_stream=True)
_WAITING: Final = {True: _waiting_statement(_CONTACT), False: _waiting_statement(_ANYBODY)}


async def inbox(tx: AsyncConnection, user_id: UUID, limit: int) -> tuple[list[MessageRow], bool]:
    """Read what is unacknowledged, oldest first, and whether there is more.

    Never "what is newer than": ids may commit out of order. A page ends at `limit` messages or with the one that
    reaches PAGE_BYTES: what one request can make the process hold is bounded.
    """
    return _page((await tx.execute(_INBOX, {"user_id": user_id, "limit": limit + 1})).all(), limit)


async def unread(tx: AsyncConnection, user_id: UUID, limit: int, given: list[UUID]) -> tuple[list[MessageRow], bool]:
    """Read as `inbox` does, in smaller pages, and without what the connection was given before."""
    return _page((await tx.execute(_UNREAD, {"user_id": user_id, "limit": limit + 1, "given": given})).all(), limit)


def _page(rows: Sequence[Row[Any]], limit: int) -> tuple[list[MessageRow], bool]:
    page = [MessageRow(*tuple(row)) for row in rows[:limit] if row.message is not None]
    return page, len(page) < len(rows)


async def still_waiting(tx: AsyncConnection, user_id: UUID, ids: Iterable[UUID]) -> set[UUID]:
    """Tell which of these messages the user has not acknowledged."""
    statement = select(messages.c.id).where(messages.c.recipient_id == user_id, messages.c.id == _any_of(ids))
    return set((await tx.execute(statement)).scalars())


async def sessions_told(tx: AsyncConnection, session_ids: Iterable[UUID]) -> dict[UUID, bool]:
    """Tell for each session that is open whether it was told of all changes among the contacts."""
    statement = (
        select(sessions.c.id, users.c.contacts_version <= sessions.c.contacts_seen)
        .select_from(sessions.join(users, users.c.id == sessions.c.user_id))
        .where(sessions.c.id == _any_of(session_ids), sessions.c.expires_at > func.now())
    )
    return {row[0]: row[1] for row in await tx.execute(statement)}


async def take_receipts(tx: AsyncConnection, user_id: UUID, limit: int) -> list[UUID]:
    """Take the ids of delivered messages that the sender was not told of, in the order of sending.

    Two polls of one user must not wait for each other, nor be told the same twice: locked rows are passed over.
    """
    due = (
        select(receipts.c.message_id)
        .where(receipts.c.sender_id == user_id)
        .order_by(receipts.c.message_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = delete(receipts).where(receipts.c.sender_id == user_id, receipts.c.message_id.in_(due))
    return sorted((await tx.execute(statement.returning(receipts.c.message_id))).scalars())


async def take_contacts_changed(tx: AsyncConnection, user_id: UUID, session_id: UUID) -> bool:
    """Note that this session is told of all changes among the contacts so far; false if it knew them."""
    version = (
        await tx.execute(
            update(users)
            .where(users.c.id == user_id)
            .values(contacts_told=users.c.contacts_version)
            .returning(users.c.contacts_version)
        )
    ).scalar_one_or_none()
    statement = (
        update(sessions)
        .where(sessions.c.id == session_id, sessions.c.contacts_seen < version)
        .values(contacts_seen=version)
        .returning(sessions.c.id)
    )
    return (await tx.execute(statement)).first() is not None


async def waiting(tx: AsyncConnection, sender_id: UUID, recipient_id: UUID, *, require_contact: bool) -> Waiting | None:
    """Count what waits for the recipient; None if the sender may not write to them."""
    values = {"sender_id": sender_id, "recipient_id": recipient_id}
    row = (await tx.execute(_WAITING[require_contact], values)).first()
    return Waiting(*row) if row else None


async def stored(tx: AsyncConnection, sender_id: UUID, client_message_id: UUID) -> tuple[UUID, datetime] | None:
    """Find what a sender stored under an id of their own."""
    statement = select(traces.c.id, traces.c.timestamp).where(
        traces.c.sender_id == sender_id, traces.c.client_message_id == client_message_id
    )
    row = (await tx.execute(statement)).first()
    return (row.id, row.timestamp) if row else None


def _any_of(ids: Iterable[UUID]) -> ColumnElement[Any]:
    return any_(literal(list(ids), ARRAY(Uuid)))


async def statuses(tx: AsyncConnection, sender_id: UUID, ids: Iterable[UUID]) -> dict[UUID, str]:
    """Tell for each id that is the sender's whether it is queued, expired or delivered."""
    status = case(
        (messages.c.id.is_not(None), "queued"), (traces.c.expired_at.is_not(None), "expired"), else_="delivered"
    )
    statement = (
        select(traces.c.id, status)
        .select_from(traces.outerjoin(messages, messages.c.id == traces.c.id))
        .where(traces.c.sender_id == sender_id, traces.c.id.in_(list(ids)))
    )
    return {row[0]: row[1] for row in await tx.execute(statement)}


async def expire(tx: AsyncConnection, older_than_s: int, limit: int) -> int:
    """Delete messages that have waited so long, and note it in their traces; returns how many, at most `limit`.

    Whoever has locked one, to acknowledge it or to delete an account, goes first: it is passed over, in both tables.
    So this waits for nobody, and no two can wait for each other. Of one that is acknowledged meanwhile either the
    acknowledgement finds the row or this does, and the trace says what happened.
    """
    old = select(messages.c.id).where(messages.c.id < _id_of_then(older_than_s)).order_by(messages.c.id)
    held = old.limit(limit).with_for_update(skip_locked=True).cte("held")
    free = select(traces.c.id).join(held, held.c.id == traces.c.id)
    traced = free.with_for_update(of=traces, skip_locked=True).cte("traced")
    gone = delete(messages).where(messages.c.id == traced.c.id).returning(messages.c.id).cte("gone")
    noted = update(traces).where(traces.c.id == gone.c.id).values(expired_at=func.now()).returning(traces.c.id)
    return (await tx.execute(select(func.count()).select_from(noted.cte("noted")))).scalar_one()


class Walked(NamedTuple):
    """A step of a walk over the traces."""

    purged: int
    last: UUID | None
    """The last trace that was looked at; None if there are no more."""


async def purge_traces(tx: AsyncConnection, older_than_s: int, after: UUID, limit: int) -> Walked:
    """Look at the next `limit` traces of messages sent so long ago, and delete those that are of no use any more.

    Those of messages that still wait stay, and those of messages that expired within that time. A step looks at so
    many and no more, however many of them stay: with a search for as many to delete, each batch would pass again over
    all that wait.
    """
    ids = select(traces.c.id).where(traces.c.id > after, traces.c.id < _id_of_then(older_than_s))
    step = ids.order_by(traces.c.id).limit(limit).cte("step")
    then = func.now() - timedelta(seconds=older_than_s)
    over = (
        select(traces.c.id)
        .join(step, step.c.id == traces.c.id)
        .where(
            or_(traces.c.expired_at.is_(None), traces.c.expired_at < then),
            ~exists().where(messages.c.id == traces.c.id),
        )
        .with_for_update(of=traces, skip_locked=True)
    )
    last = select(step.c.id).order_by(step.c.id.desc()).limit(1).scalar_subquery()
    row = (await tx.execute(_forgetting(traces.c.id.in_(over)).add_columns(last))).one()
    return Walked(*row)


def _id_of_then(seconds_ago: int) -> ScalarSelect[UUID]:
    """Return what an id drawn so long ago would be: ids hold the time of sending (UUIDv7), and the keys their order.

    As a subquery it is computed once, and the index is entered with it.
    """
    return select(func.uuidv7(literal(timedelta(seconds=-seconds_ago)), type_=Uuid)).scalar_subquery()


async def remove_all_of(tx: AsyncConnection, user_id: UUID) -> None:
    """Delete what a user sent and what waits for them.

    After the user's own row, and their contacts', in the same transaction: only then is all here that the writer took.
    """
    waiting = delete(messages).where(messages.c.recipient_id == user_id).returning(messages.c.id)
    await _forget(tx, traces.c.id.in_(select(waiting.cte("waiting").c.id)))
    mine = delete(traces).where(traces.c.sender_id == user_id).returning(traces.c.id).cte("mine")
    await tx.execute(delete(messages).where(messages.c.id.in_(select(mine.c.id))))
    await tx.execute(delete(receipts).where(receipts.c.sender_id == user_id))


async def _forget(tx: AsyncConnection, which: ColumnElement[bool]) -> None:
    await tx.execute(_forgetting(which))


def _forgetting(which: ColumnElement[bool]) -> Select[Any]:
    """Delete traces, and the receipts that nobody was told of; counts the traces."""
    gone = delete(traces).where(which).returning(traces.c.sender_id, traces.c.id).cte("gone")
    told = delete(receipts).where(receipts.c.sender_id == gone.c.sender_id, receipts.c.message_id == gone.c.id)
    count = select(func.count()).select_from(gone).scalar_subquery()
    return select(count).add_cte(told.cte("told"))


def hint(tx: AsyncConnection, kind: Kind, user_ids: Collection[UUID]) -> None:
    """Have every process where somebody waits for these users look, when the transaction commits."""
    tx.info[HINTS].append(Hint(kind, user_ids))
