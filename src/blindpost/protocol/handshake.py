"""The beginning of a session with somebody who is away: PQXDH on P-384 and ML-KEM-1024.

After Signal's "The PQXDH Key Agreement Protocol": three or four Diffie-Hellman secrets and one of the KEM go into one
key, so it is safe while either of the two problems is hard. Here identity keys sign and ECDH keys agree, so nothing
tells the two uses apart by encoding tricks, and all public input of both sides is bound in by a hash.

    header = E (97) || id of the signed prekey (16) || of the one-time prekey, or zeros (16) || of the KEM key (16)
             || KEM ciphertext (1,568)
"""

from dataclasses import dataclass
from hashlib import sha256, sha384
from typing import Final, NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blindpost.protocol.kem import CIPHERTEXT_BYTES, KemPublicKey
from blindpost.protocol.keys import POINT_BYTES, SPKI_HEADER, PublicKey
from blindpost.protocol.ratchet import HEADER_KEY_BYTES, ROOT_BYTES, Secrets, private_key
from blindpost.protocol.transcripts import transcript

UUID_BYTES: Final = 16
HEADER_BYTES: Final = POINT_BYTES + 3 * UUID_BYTES + CIPHERTEXT_BYTES
NONE: Final = UUID(int=0)
"""Where there is no one-time prekey: no prekey has this id."""


@dataclass(frozen=True, slots=True)
class Party:
    """Who takes part. Both sides put in what they believe of each other; a difference gives another key."""

    user_id: UUID
    ecdsa: PublicKey
    """The identity key."""
    ecdh: PublicKey


class Offered(NamedTuple):
    """One P-384 prekey."""

    id: UUID
    key: PublicKey


class OfferedKem(NamedTuple):
    """One ML-KEM-1024 prekey."""

    id: UUID
    key: KemPublicKey


@dataclass(frozen=True, slots=True)
class Offer:
    """The keys that a session begins with. Their signatures were checked by whoever made this."""

    signed: Offered
    one_time: Offered | None
    kem: OfferedKem


@dataclass(frozen=True, slots=True, repr=False)
class Private:
    """The private halves of an offer: scalars of 48 bytes, a seed of 64."""

    signed: bytes
    one_time: bytes | None
    kem: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What the initiator sends along until the first answer."""

    ephemeral: PublicKey
    signed_id: UUID
    one_time_id: UUID | None
    kem_id: UUID
    kem_ciphertext: bytes

    def encode(self) -> bytes:
        """Return the header's 1,713 bytes."""
        ids = self.signed_id.bytes + (self.one_time_id or NONE).bytes + self.kem_id.bytes
        return self.ephemeral.der[len(SPKI_HEADER) :] + ids + self.kem_ciphertext

    @classmethod
    def decode(cls, encoded: bytes) -> "Header":
        """Read a header; raises ValueError for another length or a point off the curve."""
        if len(encoded) != HEADER_BYTES:
            raise ValueError("the header of a handshake has another length")
        point, rest = encoded[:POINT_BYTES], encoded[POINT_BYTES:]
        signed, one_time, kem = (UUID(bytes=rest[start : start + UUID_BYTES]) for start in (0, 16, 32))
        return cls(
            ephemeral=PublicKey.from_der(SPKI_HEADER + point),
            signed_id=signed,
            one_time_id=None if one_time == NONE else one_time,
            kem_id=kem,
            kem_ciphertext=rest[3 * UUID_BYTES :],
        )


@dataclass(frozen=True, slots=True, repr=False)
class Agreed:
    """What both sides have at the end."""

    header: bytes
    secrets: Secrets
    associated: bytes
    """SHA-384 over all public input: the associated data of every message of the session."""

    @property
    def session_id(self) -> bytes:
        """32 bytes that name the session on each side."""
        return session_id(self.header)


def session_id(header: bytes) -> bytes:
    """Return the name of the session that a header begins: 32 bytes."""
    return sha256(header).digest()


class Fresh(NamedTuple):
    """An initiator's secrets, fixed for test vectors alone."""

    ephemeral: bytes
    kem_secret: bytes
    kem_ciphertext: bytes


def initiate(
    me: Party, my_ecdh: ec.EllipticCurvePrivateKey, them: Party, offer: Offer, fresh: Fresh | None = None
) -> Agreed:
    """Begin a session with an offer of somebody's; raises ValueError for a key that is not one."""
    ephemeral = private_key(fresh.ephemeral) if fresh else ec.generate_private_key(ec.SECP384R1())
    kem_secret, ciphertext = fresh[1:] if fresh else offer.kem.key.load().encapsulate()
    one_time_id = None if offer.one_time is None else offer.one_time.id
    public = PublicKey.of(ephemeral.public_key())
    header = Header(public, offer.signed.id, one_time_id, offer.kem.id, ciphertext).encode()
    shared = [
        _exchange(my_ecdh, offer.signed.key),
        _exchange(ephemeral, them.ecdh),
        _exchange(ephemeral, offer.signed.key),
    ]
    if offer.one_time is not None:
        shared.append(_exchange(ephemeral, offer.one_time.key))
    return _agree(header, _associated(me, them, offer, header), [*shared, kem_secret])


def respond(header: Header, them: Party, me: Party, my_ecdh: ec.EllipticCurvePrivateKey, private: Private) -> Agreed:
    """Take up a session that somebody began with my offer; raises ValueError.

    Nothing shows yet whether the two sides agree: the first message opens, or it does not.
    """
    signed, kem = private_key(private.signed), MLKEM1024PrivateKey.from_seed_bytes(private.kem)
    one_time = None if private.one_time is None else private_key(private.one_time)
    if (one_time is None) != (header.one_time_id is None):
        raise ValueError("the one-time prekey is not there")
    shared = [
        _exchange(signed, them.ecdh),
        _exchange(my_ecdh, header.ephemeral),
        _exchange(signed, header.ephemeral),
    ]
    if one_time is not None:
        shared.append(_exchange(one_time, header.ephemeral))
    shared.append(kem.decapsulate(header.kem_ciphertext))
    offer = Offer(
        Offered(header.signed_id, PublicKey.of(signed.public_key())),
        None if one_time is None else Offered(header.one_time_id or NONE, PublicKey.of(one_time.public_key())),
        OfferedKem(header.kem_id, KemPublicKey(kem.public_key().public_bytes_raw())),
    )
    encoded = header.encode()
    return _agree(encoded, _associated(them, me, offer, encoded), shared)


def _exchange(mine: ec.EllipticCurvePrivateKey, theirs: PublicKey) -> bytes:
    return mine.exchange(ec.ECDH(), theirs.load())


def _associated(initiator: Party, responder: Party, offer: Offer, header: bytes) -> bytes:
    """Hash all that is public: who takes part, under which keys, with which prekeys, ephemeral key and ciphertext."""
    one_time = b"" if offer.one_time is None else offer.one_time.key.der
    parties = (
        field for each in (initiator, responder) for field in (each.user_id.bytes, each.ecdsa.der, each.ecdh.der)
    )
    return sha384(transcript("session", *parties, header, offer.signed.key.der, one_time, offer.kem.key.raw)).digest()


def _agree(header: bytes, associated: bytes, shared: list[bytes]) -> Agreed:
    """Derive the session's first keys (RFC 5869). The number of secrets follows from the header, which is bound in."""
    length = ROOT_BYTES + 2 * HEADER_KEY_BYTES
    info = transcript("session-keys", associated)
    derived = HKDF(hashes.SHA384(), length, salt=None, info=info).derive(b"".join(shared))
    root, keys = derived[:ROOT_BYTES], derived[ROOT_BYTES:]
    return Agreed(header, Secrets(root, keys[:HEADER_KEY_BYTES], keys[HEADER_KEY_BYTES:]), associated)
