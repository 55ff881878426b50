"""The client SDK: end-to-end encrypted messages through a router that is not trusted."""

from blindpost.client.client import Client, ContactsChanged, Delivered, Event, Sent
from blindpost.client.errors import (
    AlreadyOpened,
    CannotDecrypt,
    ClientError,
    DamagedFile,
    ExposedFile,
    FileError,
    HeldTooMany,
    KeyChanged,
    LoginRefused,
    MaybeRepeated,
    NoPrekeys,
    NotRegistered,
    OutboxFull,
    Refused,
    ReplacedKey,
    SealedToOldKey,
    StillTrusted,
    UnknownContact,
    Unreachable,
    UntrustedAnswer,
    WrongKeys,
    WrongName,
    WrongPassphrase,
    WrongServer,
)
from blindpost.client.history import Entry, EntryStatus, History
from blindpost.client.identity import Identity, Role
from blindpost.client.inbox import NotOpened, Received
from blindpost.client.retry import Retry
from blindpost.client.store import Contact, ContactBook, Store
from blindpost.client.transport import HttpTransport, Transport
from blindpost.client.vault import Scrypt
from blindpost.protocol.safety_number import grouped

__all__ = [
    "AlreadyOpened",
    "CannotDecrypt",
    "Client",
    "ClientError",
    "Contact",
    "ContactBook",
    "ContactsChanged",
    "DamagedFile",
    "Delivered",
    "Entry",
    "EntryStatus",
    "Event",
    "ExposedFile",
    "FileError",
    "HeldTooMany",
    "History",
    "HttpTransport",
    "Identity",
    "KeyChanged",
    "LoginRefused",
    "MaybeRepeated",
    "NoPrekeys",
    "NotOpened",
    "NotRegistered",
    "OutboxFull",
    "Received",
    "Refused",
    "ReplacedKey",
    "Retry",
    "Role",
    "Scrypt",
    "SealedToOldKey",
    "Sent",
    "StillTrusted",
    "Store",
    "Transport",
    "UnknownContact",
    "Unreachable",
    "UntrustedAnswer",
    "WrongKeys",
    "WrongName",
    "WrongPassphrase",
    "WrongServer",
    "grouped",
]
