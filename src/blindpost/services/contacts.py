"""Who may write to whom."""

from typing import Final
from uuid import UUID

from blindpost.core.database import Database, Transaction
from blindpost.core.hub import Kind
from blindpost.core.repositories import contacts, messages, users
from blindpost.errors import (
    Conflict,
    ContactRequestExists,
    InvalidRequest,
    NotFound,
    TooManyContacts,
    TooManyPending,
    UserNotFound,
)
from blindpost.protocol.limits import SEARCH_MAX
from blindpost.services.caller import Caller
from blindpost.services.models.contacts import Contact, ContactStatus, Direction, UserSummary

PENDING_MAX: Final = 1_000
"""Requests that wait: of one who asks, and of those to one who is asked."""
CONTACTS_MAX: Final = 4_096
NOT_ASKED: Final = "There is no contact request from this person to you."


class ContactService:
    """Contact requests and the people they join.

    How many contacts and waiting requests one can have is bounded, so that their lists need no pages. It is counted
    after the change, under the locks of both people, and what is too much is rolled back.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def search(self, caller: Caller, prefix: str) -> list[UserSummary]:
        async with self._database.reading() as connection:
            rows = await contacts.search(connection, caller.user_id, prefix, SEARCH_MAX)
        return [_summary(row) for row in rows]

    async def users_by_ids(self, caller: Caller, ids: list[UUID]) -> list[UserSummary]:
        async with self._database.reading() as connection:
            rows = await contacts.users_by_ids(connection, caller.user_id, ids)
        return [_summary(row) for row in rows]

    async def accepted(self, caller: Caller) -> list[Contact]:
        async with self._database.reading() as connection:
            return [_contact(row) for row in await contacts.accepted(connection, caller.user_id)]

    async def pending(self, caller: Caller, direction: Direction) -> list[Contact]:
        received = direction is Direction.RECEIVED
        async with self._database.reading() as connection:
            return [_contact(row) for row in await contacts.pending(connection, caller.user_id, received=received)]

    async def ask(self, caller: Caller, receiver_id: UUID) -> Contact:
        """Ask somebody to be a contact, or accept where they asked first.

        Raises InvalidRequest (oneself), UserNotFound, ContactRequestExists, TooManyPending, TooManyContacts. One
        who was rejected cannot ask again; the one who rejected can.
        """
        if receiver_id == caller.user_id:
            raise InvalidRequest("You cannot be a contact of your own: give somebody else's id.")
        async with self._database.transaction() as tx:
            # The locks' order comes first: everything that touches two people locks both, lower id first.
            if receiver_id not in await users.lock(tx, {caller.user_id, receiver_id}):
                raise UserNotFound
            if not await contacts.ask(tx, caller.user_id, receiver_id):
                raise ContactRequestExists
            return await _tell_both(tx, caller.user_id, receiver_id)

    async def decide(self, caller: Caller, sender_id: UUID, status: ContactStatus) -> Contact:
        """Accept or reject a request that the caller received; the same decision again changes nothing.

        Raises NotFound where there is no such request to this caller, Conflict where it was decided otherwise,
        TooManyContacts.
        """
        async with self._database.transaction() as tx:
            # Before anybody is locked: a stranger could make people wait, and tell by their own wait who is here.
            if not await contacts.was_asked(tx, sender_id=sender_id, receiver_id=caller.user_id):
                raise NotFound(NOT_ASKED)
            await users.lock(tx, {caller.user_id, sender_id})
            if await contacts.decide(tx, sender_id=sender_id, receiver_id=caller.user_id, status=status):
                return await _tell_both(tx, caller.user_id, sender_id)
            row = await contacts.between(tx, caller.user_id, sender_id)
        if row is None or row.receiver_id != caller.user_id:
            raise NotFound(NOT_ASKED)
        if row.status != status:
            raise Conflict(f"This contact request is {row.status} already.")
        return _contact(row)


async def _tell_both(tx: Transaction, me: UUID, other: UUID) -> Contact:
    """Count the change for both, hint at it when the transaction commits, and return it as `me` sees it.

    Raises TooManyPending, TooManyContacts.
    """
    await users.touch_contacts(tx, (me, other))
    messages.hint(tx, Kind.CONTACTS, (me, other))
    row = await contacts.between(tx, me, other)
    if row is None:
        raise NotFound
    await _demand_bounded(tx, row)
    return _contact(row)


async def _demand_bounded(tx: Transaction, row: contacts.ContactRow) -> None:
    """Refuse a request, or a contact, beyond what the two can have; raises TooManyPending, TooManyContacts."""
    if row.status == ContactStatus.PENDING:
        counts = await contacts.pending_counts(tx, sender_id=row.sender_id, receiver_id=row.receiver_id)
        if max(counts) > PENDING_MAX:
            raise TooManyPending
    if row.status == ContactStatus.ACCEPTED:
        for user_id in (row.sender_id, row.receiver_id):
            if await contacts.accepted_count(tx, user_id) > CONTACTS_MAX:
                raise TooManyContacts


def _contact(row: contacts.ContactRow) -> Contact:
    return Contact.model_validate(row._asdict())


def _summary(row: contacts.UserRow) -> UserSummary:
    return UserSummary.model_validate(row._asdict())
