"""Every byte string that is ever signed, each under a label of its own.

Domain separation keeps a signature made for one purpose from serving another; length prefixes keep one list
of fields from reading as a different one. No party signs bytes that another party alone chose.
"""

from typing import Final
from uuid import UUID

from blindpost.protocol.keys import PublicKey

PREFIX: Final = b"blindpost/v1/"


def transcript(label: str, *fields: bytes) -> bytes:
    """Return `prefix || label || 0x00 || (u32be(length) || field) ...`; raises ValueError for a bad label."""
    if not label or not label.isascii() or "\x00" in label:
        raise ValueError("a label is ASCII text without NUL")
    return b"".join((PREFIX, label.encode("ascii"), b"\x00", *(_prefixed(field) for field in fields)))


def _prefixed(field: bytes) -> bytes:
    return len(field).to_bytes(4, "big") + field


def register(username: str, ecdsa: PublicKey, ecdh: PublicKey) -> bytes:
    """Bind an ECDH key to a name and an identity key: what `ecdh_signature` covers."""
    return transcript("register", username.encode(), ecdsa.der, ecdh.der)


def rotate_ecdsa(user_id: UUID, old: PublicKey, new: PublicKey) -> bytes:
    """Replace an identity key: both keys sign it."""
    return transcript("rotate-ecdsa", user_id.bytes, old.der, new.der)


def delete_account(user_id: UUID) -> bytes:
    """Erase an account: the identity key signs it."""
    return transcript("delete-account", user_id.bytes)
