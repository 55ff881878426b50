"""What a client remembers: whose keys it trusts, what was said and read, what is still to send, and with which keys.

One file beside the identity's, encrypted under keys that follow from the identity. All that belongs together is changed
in one transaction, and is on disk before the change shows outside: after a crash no key is used twice, and nothing that
was acknowledged or promised is lost.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Generic, NamedTuple, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer

from blindpost.client.errors import (
    KeyChanged,
    OutboxFull,
    StillTrusted,
    UnknownContact,
    UntrustedAnswer,
    WrongServer,
)
from blindpost.client.history import History
from blindpost.client.identity import Identity
from blindpost.client.records import NONCE_BYTES, Place, Records, Row
from blindpost.client.saved import Fixed, OpenedMessages, Prekeys, Sessions, Unopened, parsed, written
from blindpost.protocol.content import SERIES_BYTES
from blindpost.protocol.encoding import b64decode, b64encode
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.safety_number import safety_number
from blindpost.services.models.common import Ciphertext

T = TypeVar("T", bound=BaseModel)

CONTACT: Final = "contact"
UNSENT: Final = "unsent"
FLAGGED: Final = "flagged"
SEEN: Final = "seen"
BEGUN: Final = "begun"
"""Kinds of records."""

BEGUN_MAX: Final = 4_096
"""Handshakes that a session was begun by, of each person; those with one-time keys cannot come again in any case."""
SEEN_MAX: Final = 1_024
"""Digests of decrypted ciphertexts kept for each person."""
READ_MAX: Final = 512
"""Messages remembered per contact; what is older than all of them is told to the user as a possible repeat."""
FLAGGED_MAX: Final = 1_024
OUTBOX_MAX: Final = 256
CONTACTS_MAX: Final = 4_096
"""People whom the user asked, accepted, wrote to, compared or confirmed."""
SERIES_MAX: Final = 8
STRANGERS_MAX: Final = 1_024
"""All others. A router can invent people without end: they share a room of their own, and who is remembered is never
dropped for somebody new, as that would make the next key of theirs a first one."""
FORMER_MAX: Final = 64


def _key(value: object) -> object:
    return PublicKey.from_der(b64decode(value)) if isinstance(value, str) else value


Key = Annotated[PublicKey, BeforeValidator(_key), PlainSerializer(lambda key: b64encode(key.der))]


class Contact(Fixed):
    """One person, with the keys that are trusted for them: a picture of a moment, changed by the ContactBook only."""

    user_id: UUID
    username: str
    ecdsa: Key
    ecdh: Key
    kept: bool = True
    """The user asked, accepted, wrote to, compared or confirmed them; a stranger only wrote."""
    verified: bool = False
    """The user compared the safety number."""
    offered: tuple[Key, Key] | None = None
    """ECDSA and ECDH keys that the server gave last, from a change on until the user confirms some. They may be the
    trusted ones again: a change that is taken back was a change."""
    former: tuple[Key, ...] = ()
    """Replaced ECDH keys: the server may not go back to one of them."""
    read: dict[UUID, int] = Field(default_factory=dict)
    """Client message ids received, with their times of sending."""
    series: bytes = b""
    """Of what was sent to them, and how many there are in it so far."""
    sent: int = 0
    heard: dict[str, int] = Field(default_factory=dict)
    """The highest number heard in each of their series, in hexadecimal; the newest last."""
    forgotten_until: int = -1
    """The latest time of sending, in ms, among the messages that are no longer in `read`."""

    def with_keys(self, ecdsa: PublicKey, ecdh: PublicKey) -> Self:
        """Return the contact with these keys trusted, and none offered. Another identity key is not verified."""
        # None of before another identity key: that one signs none of them, so the server cannot go back to one.
        former = self.former if ecdsa == self.ecdsa else ()
        if ecdh != self.ecdh and ecdsa == self.ecdsa:
            former = (self.ecdh, *(key for key in former if key != ecdh))[:FORMER_MAX]
        verified = self.verified and ecdsa == self.ecdsa
        changes = {"ecdsa": ecdsa, "ecdh": ecdh, "offered": None, "former": former, "verified": verified}
        return self.model_copy(update=changes)

    def told(self, ecdsa: PublicKey, ecdh: PublicKey) -> Self:
        """Return the contact after the server gave these keys: trusted, or offered for the user to confirm."""
        is_settled = self.offered is None and ecdsa == self.ecdsa and ecdh not in self.former
        return self.with_keys(ecdsa, ecdh) if is_settled else self.model_copy(update={"offered": (ecdsa, ecdh)})

    def having_read(self, client_message_id: UUID, sent_at_ms: int) -> Self:
        """Return the contact with a message remembered, and the oldest beyond the bound forgotten, but not its time."""
        read = self.read | {client_message_id: sent_at_ms}
        forgotten_until = self.forgotten_until
        while len(read) > READ_MAX:
            forgotten_until = max(forgotten_until, read.pop(min(read, key=read.__getitem__)))
        return self.model_copy(update={"read": read, "forgotten_until": forgotten_until})


class Unsent(Fixed):
    """A message whose arrival is not certain. Once it is sealed it is repeated as it is, never sealed again."""

    client_message_id: UUID
    recipient_id: UUID
    content: bytes | None = Field(default=None, repr=False)
    """What is to be sealed; None once it is."""
    message: Ciphertext | None = None
    """Sealed; None until it is."""
    sealed_for: Key | None = None
    """The recipient's identity key then."""

    def sealed(self, message: bytes, recipient: Contact) -> Self:
        """Return it as what may leave: the plain content goes."""
        return self.model_copy(update={"content": None, "message": message, "sealed_for": recipient.ecdsa})

    def may_go_to(self, recipient: Contact) -> bool:
        """Tell whether the identity key that its session was begun under is the one that is trusted now."""
        return self.sealed_for in {None, recipient.ecdsa}


@dataclass(slots=True)
class _Picture:
    """What is read as a whole, and kept: changed in `Store.change` only."""

    contacts: dict[UUID, Contact] = field(default_factory=dict)
    outbox: dict[UUID, Unsent] = field(default_factory=dict)

    def copied(self) -> "_Picture":
        """Return a copy that changes to this one leave alone: what it holds cannot change itself."""
        return _Picture(dict(self.contacts), dict(self.outbox))

    def restore(self, before: "_Picture") -> None:
        """Make this one again what it was: whoever has it, as an outer change does, goes on with it."""
        self.contacts, self.outbox = before.contacts, before.outbox


class UserKeys(NamedTuple):
    """What the server gave for a user, checked: it fits together and is signed. Trust is another question."""

    user_id: UUID
    username: str
    ecdsa: PublicKey
    ecdh: PublicKey


class ContactBook:
    """Trust on first use: the first keys seen are kept; another identity key needs the user's word.

    Every change is on disk when its method returns, made to what the file holds then.
    """

    def __init__(self, store: "Store", identity: Identity) -> None:
        self._store = store
        self._identity = identity

    def get(self, user_id: UUID) -> Contact | None:
        """Return what is remembered of a user at this moment."""
        return self._store.picture.contacts.get(user_id)

    def named(self, username: str) -> Contact | None:
        """Return the contact of a name; names differ by more than case."""
        matches = (known for known in self.all() if known.username.lower() == username.lower())
        return next(matches, None)

    def all(self) -> tuple[Contact, ...]:
        """Return everybody remembered."""
        return tuple(self._store.picture.contacts.values())

    def number(self, contact: Contact, key: PublicKey | None = None) -> str:
        """Return the safety number with a contact, for the trusted identity key or another one."""
        self._identity.reload()
        mine = (self._identity.account, self._identity.ecdsa_key)
        return safety_number(mine, (contact.user_id, key or contact.ecdsa))

    def changed(self, contact: Contact) -> KeyChanged:
        """Return the error that tells of a contact's unconfirmed keys."""
        new = contact.ecdsa if contact.offered is None else contact.offered[0]
        old_number, new_number = self.number(contact), self.number(contact, new)
        return KeyChanged(contact.user_id, contact.username, old_number=old_number, new_number=new_number)

    def learn(self, keys: UserKeys, *, keep: bool = False) -> Contact:
        """Take in what the server says now; raises KeyChanged if only the user can accept it.

        `keep` says that the user chose this person: others have less room (STRANGERS_MAX). Raises UntrustedAnswer
        for a new person when there is none, WrongServer for another name than before or another person of this name.

        An ECDH key under the same identity key was signed by its owner, so it is accepted, unless it was replaced
        before: a router could otherwise bring a stolen one back. A change not yet confirmed is remembered too: neither
        a restart nor the old keys, served again, must make it look settled.
        """
        with self._store.change() as picture:
            contact = self._learnt(picture.contacts, keys)
            contact = contact.model_copy(update={"kept": keep or (keys.user_id in picture.contacts and contact.kept)})
            _demand_room(picture.contacts, contact)
            picture.contacts[keys.user_id] = contact
        if contact.offered is not None:
            raise self.changed(contact)
        return contact

    def _learnt(self, contacts: dict[UUID, Contact], keys: UserKeys) -> Contact:
        known = contacts.get(keys.user_id)
        if known is None:
            if self.named(keys.username) is not None:
                # A name is one account's for ever: under another id the key would pass for a first one.
                raise WrongServer("the server gave one name to two users", _SAME_NAME)
            return Contact(user_id=keys.user_id, username=keys.username, ecdsa=keys.ecdsa, ecdh=keys.ecdh)
        if known.username != keys.username:
            # Two processes may have been shown two names before one of them pinned the keys.
            raise WrongServer("the server gave one user two names")
        return known.told(keys.ecdsa, keys.ecdh)

    def confirm(self, user_id: UUID, number: str) -> bool:
        """Trust the keys offered if the number is theirs: keys that arrived after the user looked stay out."""
        with self._store.change() as picture:
            contact = picture.contacts.get(user_id)
            if contact is None or contact.offered is None or self.number(contact, contact.offered[0]) != number:
                return False
            picture.contacts[user_id] = contact.with_keys(*contact.offered).model_copy(update={"kept": True})
        return True

    def verify(self, user_id: UUID, number: str) -> bool:
        """Note that the user compared the number, if it is that of the identity key trusted at this moment.

        Not while other keys are offered: another process may have been told of them since the user looked.
        """
        with self._store.change() as picture:
            contact = picture.contacts.get(user_id)
            if contact is None or contact.offered is not None or self.number(contact) != number:
                return False
            picture.contacts[user_id] = contact.model_copy(update={"verified": True, "kept": True})
        return True

    def count(self, user_id: UUID) -> tuple[bytes, int]:
        """Return the series and the number of the next message to somebody, and count it; raises UnknownContact."""
        with self._store.change() as picture:
            contact = picture.contacts.get(user_id)
            if contact is None:
                raise UnknownContact("nobody of that name or id is remembered")
            series = contact.series or os.urandom(SERIES_BYTES)
            picture.contacts[user_id] = contact.model_copy(update={"series": series, "sent": contact.sent + 1})
        return series, contact.sent

    def hear(self, user_id: UUID, series: bytes, number: int) -> int | None:
        """Note a message of somebody's, and return how many before it are missing since the last one.

        None if nothing of theirs was heard: what came before may have been read with a store that was lost.
        """
        with self._store.change() as picture:
            contact = picture.contacts.get(user_id)
            if contact is None:
                return None
            highest = contact.heard.get(series.hex(), -1)
            others = {each: number for each, number in contact.heard.items() if each != series.hex()}
            newest = dict([*others.items(), (series.hex(), max(highest, number))][-SERIES_MAX:])
            picture.contacts[user_id] = contact.model_copy(update={"heard": newest})
        return max(number - highest - 1, 0) if contact.heard else None

    def forget(self, user_id: UUID, *, sure: bool = False) -> None:
        """Drop a person with keys, sessions and history; raises UnknownContact, or StillTrusted if not `sure`.

        The word is needed where keys were compared, and where a change of keys waits to be confirmed: to forget would
        be to confirm it without a look.
        """
        with self._store.change() as picture:
            known = picture.contacts.get(user_id)
            if known is None:
                raise UnknownContact("nobody of that name or id is remembered", "There is nothing to forget.")
            if known.offered is not None and not sure:
                raise StillTrusted(known.username, f"{known.username} has keys that you have not confirmed")
            if known.verified and not sure:
                raise StillTrusted(known.username, f"you compared the safety number of {known.username}")
            del picture.contacts[user_id]
            self._store.drop_all_of(user_id)

    def forget_stranger(self, user_id: UUID) -> None:
        """Drop somebody whom the user never asked, accepted, wrote to, compared or confirmed."""
        with self._store.change() as picture:
            known = picture.contacts.get(user_id)
            if known is not None and not known.kept:
                del picture.contacts[user_id]
                self._store.drop_all_of(user_id)


_SAME_NAME: Final = "Compare the safety number by another way; forget the one you know only if you are sure."


def _demand_room(contacts: dict[UUID, Contact], contact: Contact) -> None:
    """Raise UntrustedAnswer if there are too many of this one's sort already."""
    before = contacts.get(contact.user_id)
    if before is not None and before.kept == contact.kept:
        return
    count = sum(each.kept == contact.kept for each in contacts.values())
    if count >= (CONTACTS_MAX if contact.kept else STRANGERS_MAX):
        raise UntrustedAnswer(
            "the server names more people than a client remembers",
            "Who is asked, accepted or written to has room of their own; forget those whom you do not know.",
        )


class _Reader(Generic[T]):
    """Reads all records of a kind; of those that it read before, only what was sealed anew since is opened again."""

    def __init__(self, records: Records, kind: str, model: type[T]) -> None:
        self._records = records
        self._kind = kind
        self._model = model
        self._known: dict[tuple[int, bytes], T] = {}
        """By position and nonce: each sealing takes another one."""

    def read(self) -> Iterable[T]:
        """Return all of them, oldest first; raises DamagedFile."""
        rows = self._records.rows(self._kind)
        self._known = {key: self._known.get(key) or self._opened(row) for row in rows for key in (_key_of(row),)}
        return self._known.values()

    def _opened(self, row: Row) -> T:
        return parsed(self._model, self._records.opened(self._kind, row))


def _key_of(row: Row) -> tuple[int, bytes]:
    return row.position, row.sealed[:NONCE_BYTES]


class Store:
    """A client's memory, for one thread. Several processes may use one file at the same time.

    All reading is of what the file holds now, and all changes are made in `change`. What it returns is a picture of
    that moment, and cannot be changed: a change to it would be lost, or would undo another process's.
    """

    def __init__(self, identity: Identity, path: Path | None = None) -> None:
        self._records = Records(path, identity)
        self._contacts = _Reader(self._records, CONTACT, Contact)
        self._outbox = _Reader(self._records, UNSENT, Unsent)
        self._picture = _Picture()
        self._version: tuple[int, int] | None = None
        """Of the file, as the picture shows it; None if it must be read again."""
        self._is_changing = False
        self.contacts = ContactBook(self, identity)
        self.sessions = Sessions(self._records)
        self.prekeys = Prekeys(self._records)
        self.opened = OpenedMessages(self._records)
        self.unopened = Unopened(self._records)
        self.history = History(self._records)

    def __repr__(self) -> str:
        return f"<Store of {len(self._picture.contacts)} contacts>"

    @classmethod
    def in_memory(cls, identity: Identity) -> Self:
        """Make a store that is gone with the process: trust on first use then begins anew each time."""
        return cls(identity)

    @classmethod
    def open(cls, path: Path, identity: Identity) -> Self:
        """Open a store file, or begin one at the first change; raises DamagedFile, ExposedFile or FileError."""
        store = cls(identity, path)
        store._refresh()
        return store

    def close(self) -> None:
        """Close the file. It is closed with the process, or with the last use of this, in any case."""
        self._records.close()

    @property
    def picture(self) -> _Picture:
        """The contacts and the outbox as they are now, for reading; raises FileError if they cannot be read."""
        if not self._is_changing:
            self._refresh()
        return self._picture

    @contextmanager
    def change(self) -> Iterator[_Picture]:
        """Change what is remembered: all of it is on disk at the end, or, after an exception, nothing.

        No other process changes the file meanwhile, so never await inside: it is a matter of milliseconds. A change
        within a change is a part of it; one that fails leaves nothing of itself. Raises FileError.
        """
        is_outer = not self._is_changing
        try:
            with self._records.change():
                if is_outer:
                    self._refresh()
                before = self._picture.copied()
                self._is_changing = True
                try:
                    yield self._picture
                    if is_outer:
                        self._write(before)
                except BaseException:
                    self._picture.restore(before)
                    raise
                finally:
                    self._is_changing = not is_outer
        except BaseException:
            # Memory must not know what the disk does not, and it may be unknown whether the disk has it.
            if is_outer:
                self._version = None
            raise

    def _refresh(self) -> None:
        """Take in what another process wrote."""
        if self._records.version() == self._version:
            return
        with self._records.moment():
            version = self._records.version()
            contacts = {contact.user_id: contact for contact in self._contacts.read()}
            outbox = {unsent.client_message_id: unsent for unsent in self._outbox.read()}
        self._picture, self._version = _Picture(contacts, outbox), version

    def _write(self, before: _Picture) -> None:
        """Write the records that differ, and no others."""
        self._write_all(CONTACT, before.contacts, self._picture.contacts)
        self._write_all(UNSENT, before.outbox, self._picture.outbox)

    def _write_all(self, kind: str, before: Mapping[UUID, BaseModel], after: Mapping[UUID, BaseModel]) -> None:
        for key in before.keys() - after.keys():
            self._records.remove(Place(kind, b"", key.bytes))
        for key, value in after.items():
            known = before.get(key)
            # Most are the very same object, and only those that are not are looked into.
            if value is not known and value != known:
                self._records.put(Place(kind, b"", key.bytes), written(value))

    def drop_all_of(self, contact_id: UUID) -> None:
        """Drop what belongs to a person who is forgotten: sessions, digests of what was decrypted, and history."""
        with self.change():
            self.sessions.remove_all(contact_id)
            self._records.remove_all(SEEN, contact_id.bytes)
            self._records.remove_all(BEGUN, contact_id.bytes)
            self.opened.remove_all(contact_id)
            self.unopened.remove_all(contact_id)
            self.history.clear(contact_id)

    def seen(self, contact_id: UUID, digest: bytes) -> bool:
        """Tell whether a ciphertext of this person was decrypted before, by its SHA-256."""
        return self._records.has(Place(SEEN, contact_id.bytes, digest))

    def mark_seen(self, contact_id: UUID, digest: bytes) -> None:
        """Remember that a ciphertext was decrypted; the newest SEEN_MAX of each person are kept."""
        with self.change():
            self._records.mark(Place(SEEN, contact_id.bytes, digest), SEEN_MAX)

    def began(self, contact_id: UUID, header: bytes) -> bool:
        """Tell whether a session was begun by this handshake."""
        return self._records.has(Place(BEGUN, contact_id.bytes, header))

    def mark_begun(self, contact_id: UUID, header: bytes) -> None:
        """Remember the handshake of a session; the newest BEGUN_MAX of each person are kept."""
        with self.change():
            self._records.mark(Place(BEGUN, contact_id.bytes, header), BEGUN_MAX)

    def was_read(self, sender_id: UUID, client_message_id: UUID) -> bool:
        """Tell whether the user had this message before. The id is the sender's own: the router cannot change it."""
        sender = self.contacts.get(sender_id)
        return sender is not None and client_message_id in sender.read

    def mark_read(self, sender_id: UUID, client_message_id: UUID, sent_at_ms: int) -> bool:
        """Remember a message, and forget the oldest beyond the bound; False if its sender is not remembered."""
        with self.change() as picture:
            sender = picture.contacts.get(sender_id)
            if sender is None:
                return False
            picture.contacts[sender_id] = sender.having_read(client_message_id, sent_at_ms)
            self.opened.remove(sender_id, client_message_id)
        return True

    def was_flagged(self, message_id: UUID) -> bool:
        """Tell whether the user was shown this unreadable message before."""
        return self._records.has(Place(FLAGGED, b"", message_id.bytes))

    def flag(self, message_id: UUID) -> None:
        """Remember that an unreadable message was shown; the newest FLAGGED_MAX are kept."""
        with self.change():
            self._records.mark(Place(FLAGGED, b"", message_id.bytes), FLAGGED_MAX)

    def enqueue(self, unsent: Unsent) -> None:
        """Keep a message until its arrival is certain; raises OutboxFull. It is on disk when this returns."""
        with self.change() as picture:
            if len(picture.outbox) >= OUTBOX_MAX:
                raise OutboxFull
            picture.outbox[unsent.client_message_id] = unsent

    def seal(self, sealed: Unsent) -> None:
        """Put a sealed message in the place of what was to be sealed, in the change that sealed it."""
        with self.change() as picture:
            picture.outbox[sealed.client_message_id] = sealed

    def settle(self, client_message_id: UUID) -> None:
        """Take a message out of the outbox: it arrived, or was refused. Another process may have done so."""
        with self.change() as picture:
            picture.outbox.pop(client_message_id, None)

    def waiting(self, client_message_id: UUID) -> Unsent | None:
        """Return a message that waits to be sent."""
        return self.picture.outbox.get(client_message_id)

    def unsent(self) -> tuple[Unsent, ...]:
        """Return what waits to be sent, oldest first."""
        return tuple(self.picture.outbox.values())
