"""What end-to-end encryption keeps between two messages: sessions with people, and private prekeys."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blindpost.client.errors import DamagedFile
from blindpost.client.records import Place, Records
from blindpost.protocol.content import LOST_MAX

SESSION: Final = "session"
PREKEY: Final = "prekey"
OPENED: Final = "opened"
UNOPENED: Final = "unopened"
NOTICE: Final = "notice"
"""Kinds of records."""
SESSION_ID_BYTES: Final = 32
UNOPENED_MAX: Final = 1_024

M = TypeVar("M", bound=BaseModel)


class Fixed(BaseModel):
    """What is kept as a record. It cannot change: a change would not be on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


def written(value: BaseModel) -> bytes:
    """Return the content of a record."""
    return value.model_dump_json().encode("utf-8")


def parsed(model: type[M], content: bytes) -> M:
    """Return what a record's content says; raises DamagedFile."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise DamagedFile("the store file was written by another version of this program") from error


class SavedSession(Fixed):
    """A session with one person, as its code wrote it: the store does not look into it."""

    id: bytes = Field(min_length=SESSION_ID_BYTES, max_length=SESSION_ID_BYTES)
    state: bytes = Field(repr=False)
    rank: int
    """Greater than that of all that a message opened in before. No time: clocks are set back."""
    is_closed: bool = False
    """Whether the other side is known to have lost it: what comes in it still opens, and nothing is written in it."""


class Sessions:
    """The sessions with each person. Use it within `Store.change`, together with what the session was used for."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def all_of(self, contact_id: UUID) -> tuple[SavedSession, ...]:
        """Return a person's sessions, the one that a message opened in last first."""
        found = [parsed(SavedSession, each.data) for each in self._records.of_owner(SESSION, contact_id.bytes)]
        return tuple(sorted(found, key=lambda each: each.rank, reverse=True))

    def put(self, contact_id: UUID, session: SavedSession) -> None:
        """Keep a session in place of what was kept under its id; how many a person has is the caller's to bound."""
        with self._records.change():
            self._records.put(Place(SESSION, contact_id.bytes, session.id), written(session))

    def remove(self, contact_id: UUID, session_id: bytes) -> None:
        """Drop a session, if it is there."""
        with self._records.change():
            self._records.remove(Place(SESSION, contact_id.bytes, session_id))

    def remove_all(self, contact_id: UUID) -> None:
        """Drop all sessions with a person."""
        with self._records.change():
            self._records.remove_all(SESSION, contact_id.bytes)


class SavedMessage(Fixed):
    """A message that was opened, and that the user has not taken: its key is gone, so it is nowhere else."""

    client_message_id: UUID
    content: bytes = Field(repr=False)
    missing: int


class OpenedMessages:
    """What was opened and not taken. It is kept in the change that keeps the session's new state."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def find(self, contact_id: UUID, digest: bytes) -> SavedMessage | None:
        """Return the message that a ciphertext of this person was, by its SHA-256."""
        # With the person: nobody's ciphertext may pass for somebody else's by being delivered in their name.
        found = self._records.of_second(OPENED, contact_id.bytes + digest)
        return parsed(SavedMessage, found[0].data) if found else None

    def put(self, contact_id: UUID, digest: bytes, message: SavedMessage) -> None:
        """Keep a message until it is taken."""
        with self._records.change():
            place = Place(OPENED, contact_id.bytes, message.client_message_id.bytes)
            self._records.put(place, written(message), second=contact_id.bytes + digest)

    def remove(self, contact_id: UUID, client_message_id: UUID) -> None:
        """Drop a message that was taken, if it is there."""
        with self._records.change():
            self._records.remove(Place(OPENED, contact_id.bytes, client_message_id.bytes))

    def remove_all(self, contact_id: UUID) -> None:
        """Drop all messages of a person."""
        with self._records.change():
            self._records.remove_all(OPENED, contact_id.bytes)


class SavedUnopened(Fixed):
    """A message that did not open, of which its sender is to be told."""

    contact_id: UUID
    message_id: UUID
    """The router's."""


class SavedNotice(Fixed):
    """When somebody was told last."""

    at_ms: int


class Unopened:
    """Messages that did not open, until their senders were told."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def add(self, contact_id: UUID, message_id: UUID) -> None:
        """Keep one; the newest LOST_MAX of each person, and UNOPENED_MAX in all, as a router can make any number."""
        with self._records.change():
            if len(self._records.rows(UNOPENED)) < UNOPENED_MAX:
                content = written(SavedUnopened(contact_id=contact_id, message_id=message_id))
                self._records.put(Place(UNOPENED, contact_id.bytes, message_id.bytes), content)
            of_theirs = self._records.of_owner(UNOPENED, contact_id.bytes)
            for each in of_theirs[:-LOST_MAX]:
                self.remove(contact_id, [parsed(SavedUnopened, each.data).message_id])

    def all(self) -> dict[UUID, list[UUID]]:
        """Return them by sender, oldest first."""
        found: dict[UUID, list[UUID]] = {}
        for row in self._records.rows(UNOPENED):
            each = parsed(SavedUnopened, self._records.opened(UNOPENED, row))
            found.setdefault(each.contact_id, []).append(each.message_id)
        return found

    def remove(self, contact_id: UUID, message_ids: Iterable[UUID]) -> None:
        """Drop those that were told, if they are there."""
        with self._records.change():
            for message_id in message_ids:
                self._records.remove(Place(UNOPENED, contact_id.bytes, message_id.bytes))

    def told_at_ms(self, contact_id: UUID) -> int | None:
        """Return when somebody was told last."""
        content = self._records.get(Place(NOTICE, b"", contact_id.bytes))
        return None if content is None else parsed(SavedNotice, content).at_ms

    def tell(self, contact_id: UUID, at_ms: int) -> None:
        """Note that somebody is being told."""
        with self._records.change():
            self._records.put(Place(NOTICE, b"", contact_id.bytes), written(SavedNotice(at_ms=at_ms)))

    def remove_all(self, contact_id: UUID) -> None:
        """Drop all of a person."""
        with self._records.change():
            self._records.remove_all(UNOPENED, contact_id.bytes)
            self._records.remove(Place(NOTICE, b"", contact_id.bytes))


class PrekeySort(StrEnum):
    """What a prekey is for."""

    SIGNED = "signed"
    ONE_TIME = "one_time"
    KEM_LAST_RESORT = "kem_last_resort"
    KEM_ONE_TIME = "kem_one_time"


class Prekey(Fixed):
    """The private half of a prekey."""

    id: UUID
    sort: PrekeySort
    secret: bytes = Field(repr=False)
    made_at_s: int
    """Unix seconds, as the next."""
    expires_s: int | None
    signer: bytes
    """The identity key that signed it, as DER: who begins a session with it takes that for mine."""
    published: bool
    """Whether a server may have it: it is in the file before it is offered to one."""


class Prekeys:
    """The private prekeys of this identity."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def put(self, prekey: Prekey) -> None:
        """Keep a prekey in place of what was kept under its id."""
        with self._records.change():
            self._records.put(_place(prekey.id), written(prekey))

    def get(self, prekey_id: UUID) -> Prekey | None:
        """Return the prekey of an id."""
        content = self._records.get(_place(prekey_id))
        return None if content is None else parsed(Prekey, content)

    def remove(self, prekey_id: UUID) -> None:
        """Drop a prekey, if it is there."""
        with self._records.change():
            self._records.remove(_place(prekey_id))

    def all(self) -> tuple[Prekey, ...]:
        """Return every prekey, oldest first."""
        return tuple(parsed(Prekey, each.data) for each in self._records.of_owner(PREKEY, b""))


def _place(prekey_id: UUID) -> Place:
    return Place(PREKEY, b"", prekey_id.bytes)
