"""One encrypted message: what a recipient can open and nobody else can read, alter, re-address or sign.

    envelope  = version (1) || ephemeral point (97) || AES-256-GCM ciphertext and tag
    plaintext = pad( u8(length) || signature || content )
    content   = client_message_id (16) || u64be(sent_at, ms) || kind (1) || data

The key comes from an ECDH between a one-time key and the recipient's key, through HKDF with both parties bound
in. The sender's signature is inside: a stolen ciphertext proves to nobody who wrote it. It covers the
recipient and the one-time key, so a recipient cannot seal it again to somebody else (spec/protocol.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blindpost.protocol import transcripts
from blindpost.protocol.content import HEAD_BYTES, Content, Kind
from blindpost.protocol.keys import POINT_BYTES, SPKI_HEADER, PublicKey
from blindpost.protocol.limits import MESSAGE_MAX_BYTES, SIGNATURE_MAX_BYTES
from blindpost.protocol.padding import BUCKETS, bucket_for, pad, unpad

VERSION: Final = b"\x01"
HEADER_BYTES: Final = len(VERSION) + POINT_BYTES
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES + 1 + 1 + SIGNATURE_MAX_BYTES + HEAD_BYTES
"""All that is not data: head, tag, the padding's mark, the longest signature with its length, the content's head."""
DATA_MAX_BYTES: Final = MESSAGE_MAX_BYTES - OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Parties:
    """Who writes to whom, by ids and keys. Both sides put in what they believe; a difference does not decrypt."""

    sender_id: UUID
    sender_key: PublicKey
    """ECDSA: the sender's identity key."""
    recipient_id: UUID
    recipient_key: PublicKey
    """ECDH."""


def seal(
    content: Content,
    parties: Parties,
    sign: Callable[[bytes], bytes],
    *,
    ephemeral: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """Encrypt and sign one message; raises ValueError if the content does not fit or is not valid.

    Args:
        content: what to send.
        parties: sender and recipient.
        sign: the sender's identity key: ECDSA P-384 with SHA-384, DER, over the bytes given.
        ephemeral: the one-time key, for test vectors alone. A second use of one would reuse key and nonce.
    """
    _demand_fit(content)
    encoded = content.encode()
    secret = ephemeral or ec.generate_private_key(ec.SECP384R1())
    one_time = PublicKey.of(secret.public_key())
    signature = sign(_signed(parties, one_time, encoded))
    # The bucket is chosen for the longest signature: a DER length that varies by chance must not change the size.
    size = bucket_for(OVERHEAD_BYTES + len(content.data))
    padded = pad(bytes((len(signature),)) + signature + encoded, size - HEADER_BYTES - TAG_BYTES)
    header = VERSION + one_time.der[len(SPKI_HEADER) :]
    key, nonce = _key_and_nonce(secret, parties.recipient_key, parties, one_time)
    return header + AESGCM(key).encrypt(nonce, padded, header)


def open_envelope(envelope: bytes, parties: Parties, recipient: ec.EllipticCurvePrivateKey) -> Content:
    """Decrypt one message and check who wrote it, and to whom.

    Raises ValueError, always with the same words: which check failed is nobody's business.
    """
    try:
        return _open(envelope, parties, recipient)
    except (ValueError, InvalidTag):
        raise ValueError("the envelope cannot be decrypted") from None


def _open(envelope: bytes, parties: Parties, recipient: ec.EllipticCurvePrivateKey) -> Content:
    if len(envelope) not in BUCKETS or not envelope.startswith(VERSION):
        raise ValueError("not an envelope of this version")
    header, ciphertext = envelope[:HEADER_BYTES], envelope[HEADER_BYTES:]
    # The strict parser refuses points off the curve, so the private key meets no group but P-384's own.
    one_time = PublicKey.from_der(SPKI_HEADER + header[len(VERSION) :])
    key, nonce = _key_and_nonce(recipient, one_time, parties, one_time)
    plaintext = unpad(AESGCM(key).decrypt(nonce, ciphertext, header))
    signature, encoded = _split(plaintext)
    if not parties.sender_key.verifies(signature, _signed(parties, one_time, encoded)):
        raise ValueError("the signature is not the sender's")
    content = Content.decode(encoded)
    _demand_fit(content)
    return content


def _demand_fit(content: Content) -> None:
    if len(content.data) > DATA_MAX_BYTES:
        raise ValueError(f"a message holds at most {DATA_MAX_BYTES:,} bytes")
    if content.kind is Kind.LOST:
        raise ValueError("envelopes hold no notices")


def _split(plaintext: bytes) -> tuple[bytes, bytes]:
    if not plaintext:
        raise ValueError("the plaintext is empty")
    end = 1 + plaintext[0]
    return plaintext[1:end], plaintext[end:]


def _signed(parties: Parties, one_time: PublicKey, encoded: bytes) -> bytes:
    return transcripts.message(
        parties.sender_id, parties.recipient_id, parties.sender_key, parties.recipient_key, one_time, encoded
    )


def _key_and_nonce(
    mine: ec.EllipticCurvePrivateKey, theirs: PublicKey, parties: Parties, one_time: PublicKey
) -> tuple[bytes, bytes]:
    """Derive key and nonce (RFC 5869). The one-time key makes both unique, so a derived nonce is never repeated."""
    shared = mine.exchange(ec.ECDH(), theirs.load())
    info = transcripts.message_key(
        parties.sender_id, parties.recipient_id, parties.sender_key, parties.recipient_key, one_time
    )
    derived = HKDF(hashes.SHA384(), KEY_BYTES + NONCE_BYTES, salt=None, info=info).derive(shared)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]
