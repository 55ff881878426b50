"""What was said: the messages of both sides, in the order in which they became known here."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Self, TypedDict, Unpack
from uuid import UUID

from pydantic import Field

from blindpost.client.identity import Identity
from blindpost.client.records import Place, Record, Records
from blindpost.client.saved import Fixed, parsed, written
from blindpost.protocol.content import Kind

ENTRY: Final = "entry"
"""The kind of records."""
NEWEST: Final = (1 << 63) - 1
"""Above every position."""


class EntryStatus(StrEnum):
    """What became of a message: the first four are for mine, the others for theirs."""

    WAITING = "waiting"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    UNREAD = "unread"
    READ = "read"


_STATES: Final = {EntryStatus.SENT: 1, EntryStatus.UNREAD: 2}
"""States that are looked for, as the file shows them; all others are 0."""
NOT_OPENED: Final = "they could not open it: what they open messages with was lost. Write it again"
EXPIRED: Final = "it waited for too long, and the server dropped it"


class Entry(Fixed):
    """One message of a history."""

    client_message_id: UUID
    """By the sender, and unique among theirs."""
    contact_id: UUID
    """The other side."""
    is_mine: bool
    kind: Kind
    data: bytes = Field(repr=False)
    sent_at_ms: int
    """By the sender's clock."""
    message_id: UUID | None
    """The router's."""
    status: EntryStatus
    problem: str | None = None
    """A sentence on what is wrong with it."""
    missing: int = 0
    """How many messages should have come before it, and did not."""


class Changes(TypedDict, total=False):
    """What may change of an entry."""

    kind: Kind
    data: bytes
    sent_at_ms: int
    message_id: UUID | None
    status: EntryStatus
    problem: str | None
    missing: int


class History:
    """The messages with every person. Changes within a `Store.change` are a part of it."""

    def __init__(self, records: Records) -> None:
        self._records = records

    @classmethod
    def in_memory(cls, identity: Identity) -> Self:
        """Make one that is gone with the process."""
        return cls(Records(None, identity))

    def version(self) -> tuple[int, int]:
        """Return what differs once another process changed the file. It costs little to ask."""
        return self._records.version()

    def add(self, entry: Entry) -> bool:
        """Put a message at the end; False, and no change, if it is there already."""
        place = _place(entry.contact_id, entry.client_message_id, is_mine=entry.is_mine)
        with self._records.change():
            if self._records.has(place):
                return False
            self._write(entry)
        return True

    def find(self, contact_id: UUID, is_mine: bool, client_message_id: UUID) -> Entry | None:  # noqa: FBT001
        """Return a message."""
        content = self._records.get(_place(contact_id, client_message_id, is_mine=is_mine))
        return None if content is None else parsed(Entry, content)

    def page(self, contact_id: UUID, before: int | None, limit: int) -> list[tuple[int, Entry]]:
        """Return the last messages before a position (None: the end), with their positions, oldest first."""
        found = self._records.page(ENTRY, contact_id.bytes, NEWEST if before is None else before, limit)
        return [(record.position, _entry(record)) for record in reversed(found)]

    def update(
        self,
        contact_id: UUID,
        is_mine: bool,  # noqa: FBT001
        client_message_id: UUID,
        **changes: Unpack[Changes],
    ) -> bool:
        """Change a message; False if it is not there."""
        with self._records.change():
            entry = self.find(contact_id, is_mine, client_message_id)
            if entry is None:
                return False
            self._write(entry.model_copy(update=dict(changes)))
        return True

    def sent_as(self, message_ids: Iterable[UUID]) -> list[Entry]:
        """Return messages of mine by the router's ids; those that are not known are left out."""
        with self._records.moment():
            return [_entry(each) for id_ in message_ids for each in self._records.of_second(ENTRY, id_.bytes)]

    def delivered(self, message_ids: Iterable[UUID]) -> None:
        """Mark messages of mine, by the router's ids, as delivered, unless they are known to have failed."""
        with self._records.change():
            for each in self.sent_as(message_ids):
                if each.status is EntryStatus.SENT:
                    self._write(each.model_copy(update={"status": EntryStatus.DELIVERED}))

    def failed(self, message_ids: Iterable[UUID], problem: str, contact_id: UUID | None = None) -> None:
        """Mark messages of mine, by the router's ids, as failed: all of them, or those to one person."""
        with self._records.change():
            for each in self.sent_as(message_ids):
                if contact_id in {None, each.contact_id}:
                    self._write(each.model_copy(update={"status": EntryStatus.FAILED, "problem": problem}))

    def awaited(self) -> list[UUID]:
        """Return the router's ids of messages of mine that were sent, and are not known to have arrived."""
        sent = (_entry(each) for each in self._records.in_state(ENTRY, _STATES[EntryStatus.SENT]))
        return [each.message_id for each in sent if each.message_id is not None]

    def unread(self) -> dict[UUID, int]:
        """Return how many messages of each person were not read, for those with any."""
        counted = self._records.counts(ENTRY, _STATES[EntryStatus.UNREAD])
        return {_entry(first).contact_id: count for first, count in counted}

    def mark_read(self, contact_id: UUID) -> None:
        """Mark all messages of a person as read."""
        with self._records.change():
            for each in self._records.in_state(ENTRY, _STATES[EntryStatus.UNREAD], contact_id.bytes):
                self._write(_entry(each).model_copy(update={"status": EntryStatus.READ}))

    def clear(self, contact_id: UUID) -> None:
        """Remove all messages with a person."""
        with self._records.change():
            self._records.remove_all(ENTRY, contact_id.bytes)

    def _write(self, entry: Entry) -> None:
        place = _place(entry.contact_id, entry.client_message_id, is_mine=entry.is_mine)
        # Only mine are looked for by the router's id: it could give one of theirs the same.
        second = entry.message_id.bytes if entry.is_mine and entry.message_id is not None else None
        self._records.put(place, written(entry), state=_STATES.get(entry.status, 0), second=second)


def _place(contact_id: UUID, client_message_id: UUID, *, is_mine: bool) -> Place:
    return Place(ENTRY, contact_id.bytes, bytes((is_mine,)) + client_message_id.bytes)


def _entry(record: Record) -> Entry:
    return parsed(Entry, record.data)
