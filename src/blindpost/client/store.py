"""What a client remembers: whose keys it trusts, what it has read, and what it has still to send.

One file beside the identity's, encrypted under a key that follows from the identity. It is written whole at each
change, before the change shows outside.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from blindpost.client.errors import DamagedFile, KeyChanged, OutboxFull, UntrustedAnswer
from blindpost.client.files import read_private, write_private
from blindpost.client.identity import Identity
from blindpost.protocol.encoding import b64decode, b64encode
from blindpost.protocol.envelope import Content
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
"""A router can invent people without end. Who is remembered is never dropped for somebody new."""
FORMER_MAX: Final = 64


def _key(value: object) -> object:
    return PublicKey.from_der(b64decode(value)) if isinstance(value, str) else value


Key = Annotated[PublicKey, BeforeValidator(_key), PlainSerializer(lambda key: b64encode(key.der))]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Contact(_Record):
    """One person, with the keys that are trusted for them."""

    user_id: UUID
    username: str
    ecdsa: Key
    ecdh: Key
    verified: bool = False
    """The user compared the safety number."""
    offered: tuple[Key, Key] | None = None
    """ECDSA and ECDH keys that the server gives now, if the user has not confirmed them."""
    former: list[Key] = Field(default_factory=list)
    """Replaced ECDH keys: the server may not go back to one of them."""
    read: dict[UUID, int] = Field(default_factory=dict)
    """Client message ids received, with their times of sending."""
    forgotten_until: int = -1
    """The latest time of sending, in ms, among the messages that are no longer in `read`."""


class Unsent(_Record):
    """A sealed message whose arrival is not certain. It is repeated as it is, never sealed again."""

    client_message_id: UUID
    recipient_id: UUID
    message: Ciphertext


class _State(_Record):
    contacts: dict[UUID, Contact] = Field(default_factory=dict)
    outbox: dict[UUID, Unsent] = Field(default_factory=dict)
    flagged: list[UUID] = Field(default_factory=list)
    """Ids of messages that could not be read and were shown as such."""


class UserKeys(NamedTuple):
    """What the server gave for a user, checked: it fits together and is signed. Trust is another question."""

    user_id: UUID
    username: str
    ecdsa: PublicKey
    ecdh: PublicKey


class ContactBook:
    """Trust on first use: the first keys seen are kept; another identity key needs the user's word."""

    def __init__(self, contacts: dict[UUID, Contact], identity: Identity) -> None:
        self._contacts = contacts
        self._identity = identity

    def get(self, user_id: UUID) -> Contact | None:
        """Return what is remembered of a user."""
        return self._contacts.get(user_id)

    def named(self, username: str) -> Contact | None:
        """Return the contact of a name; names differ by more than case."""
        matches = (known for known in self._contacts.values() if known.username.lower() == username.lower())
        return next(matches, None)

    def all(self) -> tuple[Contact, ...]:
        """Return everybody remembered."""
        return tuple(self._contacts.values())

    def number(self, contact: Contact, key: PublicKey | None = None) -> str:
        """Return the safety number with a contact, for the trusted identity key or another one."""
        mine = (self._identity.account, self._identity.ecdsa_key)
        return safety_number(mine, (contact.user_id, key or contact.ecdsa))

    def changed(self, contact: Contact) -> KeyChanged:
        """Return the error that tells of a contact's unconfirmed keys."""
        new = contact.ecdsa if contact.offered is None else contact.offered[0]
        old_number, new_number = self.number(contact), self.number(contact, new)
        return KeyChanged(contact.user_id, contact.username, old_number=old_number, new_number=new_number)

    def learn(self, keys: UserKeys) -> Contact:
        """Take in what the server says now; raises KeyChanged if only the user can accept it.

        Raises UntrustedAnswer for a new person when 4,096 are remembered.

        An ECDH key under the same identity key was signed by its owner, so it is accepted, unless it was replaced
        before: a router could otherwise bring a stolen one back.
        """
        known = self._contacts.get(keys.user_id)
        if known is None:
            if len(self._contacts) >= CONTACTS_MAX:
                raise UntrustedAnswer("the server names more people than a client remembers")
            known = Contact(user_id=keys.user_id, username=keys.username, ecdsa=keys.ecdsa, ecdh=keys.ecdh)
            self._contacts[keys.user_id] = known
        elif keys.ecdsa != known.ecdsa or keys.ecdh in known.former:
            known.offered = (keys.ecdsa, keys.ecdh)
            raise self.changed(known)
        self._accept(known, keys.ecdsa, keys.ecdh)
        return known

    def confirm(self, contact: Contact, number: str) -> bool:
        """Trust the keys offered if the number is theirs: keys that arrived after the user looked stay out."""
        if contact.offered is None or self.number(contact, contact.offered[0]) != number:
            return False
        ecdsa, ecdh = contact.offered
        if ecdsa != contact.ecdsa:
            contact.verified = False
        self._accept(contact, ecdsa, ecdh)
        return True

    def forget(self, user_id: UUID) -> None:
        """Drop a contact and its keys."""
        self._contacts.pop(user_id, None)

    @staticmethod
    def _accept(contact: Contact, ecdsa: PublicKey, ecdh: PublicKey) -> None:
        if ecdh != contact.ecdh:
            contact.former = [contact.ecdh, *(key for key in contact.former if key != ecdh)][:FORMER_MAX]
        contact.ecdsa, contact.ecdh, contact.offered = ecdsa, ecdh, None


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    identity: Identity

    def read(self) -> bytes:
        data = read_private(self.path, FILE_MAX_BYTES)
        body = data.removeprefix(MAGIC)
        if len(body) == len(data) or len(body) < SALT_BYTES:
            raise DamagedFile(f"{self.path} is not a store file")
        key, nonce = self._key_and_nonce(body[:SALT_BYTES])
        try:
            return AESGCM(key).decrypt(nonce, body[SALT_BYTES:], MAGIC)
        except InvalidTag:
            raise DamagedFile(f"{self.path} is damaged, or belongs to another identity") from None

    def write(self, content: bytes) -> None:
        salt = os.urandom(SALT_BYTES)
        key, nonce = self._key_and_nonce(salt)
        write_private(self.path, MAGIC + salt + AESGCM(key).encrypt(nonce, content, MAGIC))

    def _key_and_nonce(self, salt: bytes) -> tuple[bytes, bytes]:
        # A fresh salt for each write makes key and nonce new, so there is no bound on the number of writes.
        derived = self.identity.derive_key("store", salt, KEY_BYTES + NONCE_BYTES)
        return derived[:KEY_BYTES], derived[KEY_BYTES:]


class Store:
    """A client's memory. One client at a time uses it."""

    def __init__(self, identity: Identity, state: _State | None = None, path: Path | None = None) -> None:
        self._state = state or _State()
        self._file = None if path is None else _File(path, identity)
        self.contacts = ContactBook(self._state.contacts, identity)

    def __repr__(self) -> str:
        return f"<Store of {len(self._state.contacts)} contacts>"

    @classmethod
    def in_memory(cls, identity: Identity) -> Self:
        """Make a store that is gone with the process: trust on first use then begins anew each time."""
        return cls(identity)

    @classmethod
    def open(cls, path: Path, identity: Identity) -> Self:
        """Open a store file, or begin one; raises DamagedFile, ExposedFile or FileError."""
        if not path.exists():
            return cls(identity, path=path)
        try:
            return cls(identity, _State.model_validate_json(_File(path, identity).read()), path)
        except ValidationError as error:
            raise DamagedFile(f"{path} was written by another version of this program") from error

    def save(self) -> None:
        """Write the file, if there is one; raises FileError. It waits for the disk: some milliseconds."""
        if self._file is not None:
            self._file.write(self._state.model_dump_json().encode("utf-8"))

    @staticmethod
    def was_read(sender: Contact, content: Content) -> bool:
        """Tell whether the user had this message before. The id is the sender's own, under their signature."""
        return content.client_message_id in sender.read

    @staticmethod
    def mark_read(sender: Contact, client_message_id: UUID, sent_at_ms: int) -> None:
        """Remember a message, and forget the oldest beyond the bound, but not how old it was."""
        sender.read[client_message_id] = sent_at_ms
        while len(sender.read) > READ_MAX:
            oldest = min(sender.read, key=sender.read.__getitem__)
            sender.forgotten_until = max(sender.forgotten_until, sender.read.pop(oldest))

    def was_flagged(self, message_id: UUID) -> bool:
        """Tell whether the user was shown this unreadable message before."""
        return message_id in self._state.flagged

    def flag(self, message_id: UUID) -> None:
        """Remember that an unreadable message was shown."""
        if not self.was_flagged(message_id):
            self._state.flagged[:] = [message_id, *self._state.flagged][:FLAGGED_MAX]

    def enqueue(self, unsent: Unsent) -> None:
        """Keep a message until its arrival is certain; raises OutboxFull. It is on disk when this returns."""
        if len(self._state.outbox) >= OUTBOX_MAX:
            raise OutboxFull
        self._state.outbox[unsent.client_message_id] = unsent
        self.save()

    def settle(self, client_message_id: UUID) -> None:
        """Take a message out of the outbox: it arrived, or was refused."""
        self._state.outbox.pop(client_message_id, None)
        self.save()

    def unsent(self) -> tuple[Unsent, ...]:
        """Return what waits to be sent, oldest first."""
        return tuple(self._state.outbox.values())
