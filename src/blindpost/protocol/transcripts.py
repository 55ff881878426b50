"""Every byte string that is ever signed, each under a label of its own.

Domain separation keeps a signature made for one purpose from serving another; length prefixes keep one list
of fields from reading as a different one. No party signs bytes that another party alone chose. The one signed
text that is no transcript, the login challenge, has a `|` where a transcript's label ends, so the two never meet.
"""

import re
from typing import Final
from uuid import UUID

from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import PublicKey

PREFIX: Final = b"blindpost/v1/"
_LABEL: Final = re.compile(r"[a-z0-9-]+")


def transcript(label: str, *fields: bytes) -> bytes:
    """Return `prefix || label || 0x00 || (u32be(length) || field) ...`; raises ValueError for a bad label."""
    if _LABEL.fullmatch(label) is None:
        raise ValueError("a label is made of lower-case letters, digits and hyphens")
    return b"".join((PREFIX, label.encode("ascii"), b"\x00", *(_prefixed(field) for field in fields)))


def _prefixed(field: bytes) -> bytes:
    return len(field).to_bytes(4, "big") + field


def register(username: str, ecdsa: PublicKey, ecdh: PublicKey) -> bytes:
    """Bind an ECDH key to a name and an identity key: what `ecdh_signature` covers."""
    return transcript("register", username.encode(), ecdsa.der, ecdh.der)


def rotate_ecdsa(user_id: UUID, old: PublicKey, new: PublicKey) -> bytes:
    """Replace an identity key: both keys sign it."""
    return transcript("rotate-ecdsa", user_id.bytes, old.der, new.der)


def login(challenge: str, thumbprint: str) -> bytes:
    """What opens a session for one key and no other: the challenge, and the key's thumbprint (RFC 7638)."""
    return transcript("login", challenge.encode(), thumbprint.encode())


def delete_account(user_id: UUID) -> bytes:
    """Erase an account: the identity key signs it."""
    return transcript("delete-account", user_id.bytes)


def signed_prekey(user_id: UUID, prekey_id: UUID, expires_s: int, key: PublicKey) -> bytes:
    """Offer a key to begin sessions with, many times, until a time: Unix seconds."""
    return transcript("signed-prekey", user_id.bytes, prekey_id.bytes, _seconds(expires_s), key.der)


def one_time_prekey(user_id: UUID, prekey_id: UUID, key: PublicKey) -> bytes:
    """Offer a key to begin one session with."""
    return transcript("one-time-prekey", user_id.bytes, prekey_id.bytes, key.der)


def last_resort_kem_prekey(user_id: UUID, prekey_id: UUID, expires_s: int, key: KemPublicKey) -> bytes:
    """Offer a KEM key for when the one-time ones are used up, until a time: Unix seconds."""
    return transcript("last-resort-kem-prekey", user_id.bytes, prekey_id.bytes, _seconds(expires_s), key.raw)


def one_time_kem_prekey(user_id: UUID, prekey_id: UUID, key: KemPublicKey) -> bytes:
    """Offer a KEM key to begin one session with."""
    return transcript("one-time-kem-prekey", user_id.bytes, prekey_id.bytes, key.raw)


def _seconds(time_s: int) -> bytes:
    return time_s.to_bytes(8, "big")
