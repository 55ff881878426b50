"""What a client remembers: whose keys it trusts, what it has read, and what it has still to send.

One file beside the identity's, encrypted under a key that follows from the identity. It is written whole at each
change, before the change shows outside, by one process at a time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from blindpost.client.errors import (
    DamagedFile,
    KeyChanged,
    OutboxFull,
    StillTrusted,
    UnknownContact,
    UntrustedAnswer,
    WrongServer,
)
from blindpost.client.files import locked, peek_private, read_private, write_private
from blindpost.client.identity import Identity
from blindpost.protocol.encoding import b64decode, b64encode
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.safety_number import safety_number
from blindpost.services.models.common import Ciphertext

MAGIC: Final = b"blindpost-store/1\n"
FILE_MAX_BYTES: Final = 268_435_456
SALT_BYTES: Final = 32
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

READ_MAX: Final = 512
"""Messages remembered per contact; what is older than all of them is told to the user as a possible repeat."""
FLAGGED_MAX: Final = 1_024
OUTBOX_MAX: Final = 256
CONTACTS_MAX: Final = 4_096
"""People whom the user asked, accepted, wrote to, compared or confirmed."""
STRANGERS_MAX: Final = 1_024
"""All others. A router can invent people without end: they share a room of their own, and who is remembered is never
dropped for somebody new, as that would make the next key of theirs a first one."""
FORMER_MAX: Final = 64


def _key(value: object) -> object:
    return PublicKey.from_der(b64decode(value)) if isinstance(value, str) else value


Key = Annotated[PublicKey, BeforeValidator(_key), PlainSerializer(lambda key: b64encode(key.der))]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Fixed(_Record):
    model_config = ConfigDict(frozen=True)


class Contact(_Fixed):
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
    forgotten_until: int = -1
    """The latest time of sending, in ms, among the messages that are no longer in `read`."""

    def with_keys(self, ecdsa: PublicKey, ecdh: PublicKey) -> Self:
        """Return the contact with these keys trusted, and none offered. Another identity key is not verified."""
        former = self.former
        if ecdh != self.ecdh:
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


class Unsent(_Fixed):
    """A sealed message whose arrival is not certain. It is repeated as it is, never sealed again."""

    client_message_id: UUID
    recipient_id: UUID
    message: Ciphertext
    sealed_for: tuple[Key, Key] | None = None
    """The recipient's ECDSA and ECDH keys then."""

    def may_go_to(self, recipient: Contact) -> bool:
        """Tell whether the key it was sealed to is vouched for by the identity key that is trusted now.

        Under one identity key it is, also when replaced since: its owner still reads what was on its way.
        """
        return self.sealed_for is None or recipient.ecdsa == self.sealed_for[0] or recipient.ecdh == self.sealed_for[1]


class _State(_Record):
    contacts: dict[UUID, Contact] = Field(default_factory=dict)
    outbox: dict[UUID, Unsent] = Field(default_factory=dict)
    flagged: list[UUID] = Field(default_factory=list)
    """Ids of messages that could not be read and were shown as such."""

    def copied(self) -> Self:
        """Return a copy that changes to this one leave alone: what it holds cannot change itself."""
        copies = {"contacts": dict(self.contacts), "outbox": dict(self.outbox), "flagged": list(self.flagged)}
        return self.model_copy(update=copies)


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
        return self._store.state.contacts.get(user_id)

    def named(self, username: str) -> Contact | None:
        """Return the contact of a name; names differ by more than case."""
        matches = (known for known in self.all() if known.username.lower() == username.lower())
        return next(matches, None)

    def all(self) -> tuple[Contact, ...]:
        """Return everybody remembered."""
        return tuple(self._store.state.contacts.values())

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
        with self._store.change() as state:
            contact = self._learnt(state.contacts, keys)
            contact = contact.model_copy(update={"kept": keep or (keys.user_id in state.contacts and contact.kept)})
            _demand_room(state.contacts, contact)
            state.contacts[keys.user_id] = contact
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
        with self._store.change() as state:
            contact = state.contacts.get(user_id)
            if contact is None or contact.offered is None or self.number(contact, contact.offered[0]) != number:
                return False
            state.contacts[user_id] = contact.with_keys(*contact.offered).model_copy(update={"kept": True})
        return True

    def verify(self, user_id: UUID, number: str) -> bool:
        """Note that the user compared the number, if it is that of the identity key trusted at this moment.

        Not while other keys are offered: another process may have been told of them since the user looked.
        """
        with self._store.change() as state:
            contact = state.contacts.get(user_id)
            if contact is None or contact.offered is not None or self.number(contact) != number:
                return False
            state.contacts[user_id] = contact.model_copy(update={"verified": True, "kept": True})
        return True

    def forget(self, user_id: UUID, *, sure: bool = False) -> None:
        """Drop a person, their keys, and what was read of theirs; raises UnknownContact, or StillTrusted if not `sure`.

        The word is needed where keys were compared, and where a change of keys waits to be confirmed: to forget would
        be to confirm it without a look.
        """
        with self._store.change() as state:
            known = state.contacts.get(user_id)
            if known is None:
                raise UnknownContact("nobody of that name or id is remembered", "There is nothing to forget.")
            if known.offered is not None and not sure:
                raise StillTrusted(known.username, f"{known.username} has keys that you have not confirmed")
            if known.verified and not sure:
                raise StillTrusted(known.username, f"you compared the safety number of {known.username}")
            del state.contacts[user_id]

    def forget_stranger(self, user_id: UUID) -> None:
        """Drop somebody whom the user never asked, accepted, wrote to, compared or confirmed."""
        with self._store.change() as state:
            known = state.contacts.get(user_id)
            if known is not None and not known.kept:
                del state.contacts[user_id]


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


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    identity: Identity

    def version(self) -> bytes | None:
        """Return what no two writes have in common, or None if there is no file."""
        # Not the inode or the time: the one is used again, the other stands still for some milliseconds.
        head = peek_private(self.path, len(MAGIC) + SALT_BYTES)
        return None if head is None else head[len(MAGIC) :]

    def read(self) -> tuple[bytes, bytes]:
        """Return the version and the content."""
        data = read_private(self.path, FILE_MAX_BYTES)
        body = data.removeprefix(MAGIC)
        if len(body) == len(data) or len(body) < SALT_BYTES:
            raise DamagedFile(f"{self.path} is not a store file")
        key, nonce = self._key_and_nonce(body[:SALT_BYTES])
        try:
            return body[:SALT_BYTES], AESGCM(key).decrypt(nonce, body[SALT_BYTES:], MAGIC)
        except InvalidTag:
            raise DamagedFile(f"{self.path} is damaged, or belongs to another identity") from None

    def write(self, content: bytes) -> bytes:
        """Replace the file; return the version."""
        salt = os.urandom(SALT_BYTES)
        key, nonce = self._key_and_nonce(salt)
        write_private(self.path, MAGIC + salt + AESGCM(key).encrypt(nonce, content, MAGIC))
        return salt

    def _key_and_nonce(self, salt: bytes) -> tuple[bytes, bytes]:
        # A fresh salt for each write makes key and nonce new, so there is no bound on the number of writes.
        derived = self.identity.derive_key("store", salt, KEY_BYTES + NONCE_BYTES)
        return derived[:KEY_BYTES], derived[KEY_BYTES:]


class Store:
    """A client's memory. Several processes may use one file at the same time.

    All reading is of what the file holds now, and all changes are made in `change`. What it returns is a picture of
    that moment, and cannot be changed: a change to it would be lost, or would undo another process's.
    """

    def __init__(self, identity: Identity, path: Path | None = None) -> None:
        self._state = _State()
        self._file = None if path is None else _File(path, identity)
        self._version: bytes | None = None
        """The write that the state is of; None if it is of none."""
        self._content = b""
        """Its digest."""
        self._is_changing = False
        self.contacts = ContactBook(self, identity)

    def __repr__(self) -> str:
        return f"<Store of {len(self._state.contacts)} contacts>"

    @classmethod
    def in_memory(cls, identity: Identity) -> Self:
        """Make a store that is gone with the process: trust on first use then begins anew each time."""
        return cls(identity)

    @classmethod
    def open(cls, path: Path, identity: Identity) -> Self:
        """Open a store file, or begin one; raises DamagedFile, ExposedFile or FileError."""
        store = cls(identity, path)
        store._refresh()
        return store

    @property
    def state(self) -> _State:
        """What is remembered now, for reading; raises FileError if another process left a file that is damaged."""
        if not self._is_changing:
            self._refresh()
        return self._state

    @contextmanager
    def change(self) -> Iterator[_State]:
        """Change what is remembered: all of it is on disk at the end, or, after an exception, nothing.

        No other process changes the file meanwhile, so never await inside: it is a matter of milliseconds. A change
        within a change is a part of it. Raises FileError.
        """
        if self._is_changing:
            yield self._state
            return
        with nullcontext() if self._file is None else locked(self._file.path):
            self._refresh()
            before = self._state.copied()
            self._is_changing = True
            try:
                yield self._state
                self._write()
            except BaseException:
                # Memory must not know what the disk does not.
                self._state = before
                raise
            finally:
                self._is_changing = False

    def _refresh(self) -> None:
        """Take in what another process wrote. A file that is gone leaves what is known: it is worth keeping."""
        version = None if self._file is None else self._file.version()
        if self._file is None or version is None or version == self._version:
            return
        version, content = self._file.read()
        try:
            self._state = _State.model_validate_json(content)
        except ValidationError as error:
            raise DamagedFile(f"{self._file.path} was written by another version of this program") from error
        self._version, self._content = version, sha256(content).digest()

    def _write(self) -> None:
        if self._file is None:
            return
        content = self._state.model_dump_json().encode("utf-8")
        digest = sha256(content).digest()
        if digest != self._content or self._file.version() is None:
            self._version = self._file.write(content)
            self._content = digest

    def was_read(self, sender_id: UUID, client_message_id: UUID) -> bool:
        """Tell whether the user had this message before. The id is the sender's own, under their signature."""
        sender = self.contacts.get(sender_id)
        return sender is not None and client_message_id in sender.read

    def mark_read(self, sender_id: UUID, client_message_id: UUID, sent_at_ms: int) -> bool:
        """Remember a message, and forget the oldest beyond the bound; False if its sender is not remembered."""
        with self.change() as state:
            sender = state.contacts.get(sender_id)
            if sender is None:
                return False
            state.contacts[sender_id] = sender.having_read(client_message_id, sent_at_ms)
        return True

    def was_flagged(self, message_id: UUID) -> bool:
        """Tell whether the user was shown this unreadable message before."""
        return message_id in self.state.flagged

    def flag(self, message_id: UUID) -> None:
        """Remember that an unreadable message was shown."""
        with self.change() as state:
            if message_id not in state.flagged:
                state.flagged[:] = [message_id, *state.flagged][:FLAGGED_MAX]

    def enqueue(self, unsent: Unsent) -> None:
        """Keep a message until its arrival is certain; raises OutboxFull. It is on disk when this returns."""
        with self.change() as state:
            if len(state.outbox) >= OUTBOX_MAX:
                raise OutboxFull
            state.outbox[unsent.client_message_id] = unsent

    def settle(self, client_message_id: UUID) -> None:
        """Take a message out of the outbox: it arrived, or was refused. Another process may have done so."""
        with self.change() as state:
            state.outbox.pop(client_message_id, None)

    def unsent(self) -> tuple[Unsent, ...]:
        """Return what waits to be sent, oldest first."""
        return tuple(self.state.outbox.values())
