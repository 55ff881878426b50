"""A session between two people: a handshake, then a ratchet, and how its messages look to the router.

    message = 02 || ratchet's header and body
            | 03 || handshake's header || ratchet's header and body      until the first answer

The body is padded so that the whole has one of eight sizes. Messages are authenticated by the session alone, so either
side could have made any of them: nobody can prove to a third person who wrote what (Signal's deniability).

Like the ratchet's, a session's state never changes: each step returns a new one.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.protocol import handshake, ratchet
from blindpost.protocol.content import HEAD_BYTES, Content
from blindpost.protocol.handshake import Agreed, Header, Offer, Party, Private
from blindpost.protocol.keys import DER_BYTES, PublicKey
from blindpost.protocol.limits import MESSAGE_MAX_BYTES
from blindpost.protocol.padding import BUCKETS, bucket_for, pad, unpad
from blindpost.protocol.ratchet import Ratchet

FOLLOWING: Final = b"\x02"
OPENING: Final = b"\x03"
VERSION_BYTES: Final = 1
ID_BYTES: Final = 32
ASSOCIATED_BYTES: Final = 48
OVERHEAD_BYTES: Final = VERSION_BYTES + ratchet.OVERHEAD_BYTES + HEAD_BYTES + 1
"""All that is not data, with the padding's mark."""
DATA_MAX_BYTES: Final = MESSAGE_MAX_BYTES - OVERHEAD_BYTES - handshake.HEADER_BYTES
"""What always fits: the handshake's header is not always there."""

_UNREADABLE: Final = "the message cannot be decrypted"


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """One side of a session. All of it is secret."""

    id: bytes
    associated: bytes
    my_ecdsa: PublicKey
    """The identity keys that it was begun under: it ends with either."""
    their_ecdsa: PublicKey
    ratchet: Ratchet
    opening: bytes | None
    """The handshake's header, as long as nothing came back: whoever has not seen it cannot read a word."""

    def seal(self, content: Content, *, nonce: bytes | None = None) -> tuple["Session", bytes]:
        """Encrypt a message; raises ValueError if it does not fit or is not valid.

        Put the new state on disk before the message leaves.
        """
        if len(content.data) > DATA_MAX_BYTES:
            raise ValueError(f"a message holds at most {DATA_MAX_BYTES:,} bytes")
        prefix = FOLLOWING if self.opening is None else OPENING + self.opening
        size = bucket_for(len(prefix) - VERSION_BYTES + OVERHEAD_BYTES + len(content.data))
        padded = pad(content.encode(), size - len(prefix) - ratchet.OVERHEAD_BYTES)
        state, sealed = ratchet.encrypt(self.ratchet, padded, self.associated + prefix, nonce=nonce)
        return replace(self, ratchet=state), prefix + sealed

    def open(self, message: bytes, *, turn: bytes | None = None) -> "Received":
        """Decrypt a message of this session; raises ValueError, always with the same words, and nothing has changed.

        Put the new state and the content on disk together, before the message is acknowledged.
        """
        try:
            return self._open(message, turn)
        except ValueError:
            raise ValueError(_UNREADABLE) from None

    def _open(self, message: bytes, turn: bytes | None) -> "Received":
        prefix, sealed = split(message)
        if prefix.startswith(OPENING) and handshake.session_id(prefix[VERSION_BYTES:]) != self.id:
            raise ValueError("the header is another session's")
        opened = ratchet.decrypt(self.ratchet, sealed, self.associated + prefix, turn=turn)
        content = Content.decode(unpad(opened.plaintext))
        # What came is of the ratchet that the handshake began, so they have the header.
        session = replace(self, ratchet=opened.ratchet, opening=None)
        return Received(session, content, opened.missed, opened.is_late)


class Received(NamedTuple):
    """A message, and the state to go on with."""

    session: Session
    content: Content
    missed: int
    """Messages found missing by this one: they were sent before it."""
    is_late: bool
    """Whether it was found missing before."""


def split(message: bytes) -> tuple[bytes, bytes]:
    """Return what leads a message in the clear, and the rest; raises ValueError."""
    if len(message) in BUCKETS:
        if message.startswith(FOLLOWING):
            return message[:VERSION_BYTES], message[VERSION_BYTES:]
        end = VERSION_BYTES + handshake.HEADER_BYTES
        if message.startswith(OPENING) and len(message) > end:
            return message[:end], message[end:]
    raise ValueError("not a message of this version")


def opening_of(message: bytes) -> Header | None:
    """Return the handshake's header that a message leads with, or None; raises ValueError if there is no such point."""
    prefix, _ = split(message)
    return Header.decode(prefix[VERSION_BYTES:]) if prefix.startswith(OPENING) else None


def initiate(me: Party, my_ecdh: ec.EllipticCurvePrivateKey, them: Party, offer: Offer) -> Session:
    """Begin a session with somebody who is away; raises ValueError for a key that is not one."""
    return initiated(handshake.initiate(me, my_ecdh, them, offer), me, them, offer)


def initiated(agreed: Agreed, me: Party, them: Party, offer: Offer, *, mine: bytes | None = None) -> Session:
    """Return the initiator's side of what was agreed. `mine` fixes the ratchet key, for test vectors alone."""
    state = ratchet.begin(agreed.secrets, offer.signed.key, mine=mine)
    return Session(agreed.session_id, agreed.associated, me.ecdsa, them.ecdsa, state, agreed.header)


def respond(header: Header, them: Party, me: Party, my_ecdh: ec.EllipticCurvePrivateKey, private: Private) -> Session:
    """Take up a session that somebody began; raises ValueError. Keep it only if its first message opens."""
    agreed = handshake.respond(header, them, me, my_ecdh, private)
    state = ratchet.answer(agreed.secrets, private.signed)
    return Session(agreed.session_id, agreed.associated, me.ecdsa, them.ecdsa, state, None)


def encode(session: Session) -> bytes:
    """Write a session's state."""
    opening = b"\x00" if session.opening is None else b"\x01" + session.opening
    keys = session.my_ecdsa.der + session.their_ecdsa.der
    return session.id + session.associated + keys + opening + ratchet.encode(session.ratchet)


def decode(encoded: bytes) -> Session:
    """Read a session's state; raises ValueError unless it is what `encode` writes."""
    fields = []
    for size in (ID_BYTES, ASSOCIATED_BYTES, DER_BYTES, DER_BYTES, 1):
        fields.append(encoded[:size])
        encoded = encoded[size:]
    if fields[4] not in {b"\x00", b"\x01"}:
        raise ValueError("not the state of a session")
    end = handshake.HEADER_BYTES if fields[4] == b"\x01" else 0
    return Session(
        id=fields[0],
        associated=fields[1],
        my_ecdsa=PublicKey.from_der(fields[2]),
        their_ecdsa=PublicKey.from_der(fields[3]),
        ratchet=ratchet.decode(encoded[end:]),
        opening=encoded[:end] or None,
    )
