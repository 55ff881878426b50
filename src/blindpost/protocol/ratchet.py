"""The Double Ratchet with header encryption, on P-384 (Signal: "The Double Ratchet Algorithm", sections 3 and 4).

Each message has a key of its own, from a chain that only goes forward; each change of turn mixes a fresh Diffie-Hellman
secret in. So a state that is stolen opens nothing from before, and nothing after both sides took a turn. The header,
with the ratchet key and the counters, is encrypted too: who carries the messages cannot tell which belong together.

A state never changes: each step returns a new one, so that a message that does not open has no effect, and a caller
can put the new state on disk before it shows any effect.

    sealed = header (133) || body;   header = nonce (12) || AES-256-GCM(ratchet key (97) || u32be(PN) || u32be(N))
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blindpost.protocol.keys import DER_BYTES, POINT_BYTES, SPKI_HEADER, PublicKey
from blindpost.protocol.transcripts import transcript

ROOT_BYTES: Final = 48
CHAIN_BYTES: Final = 48
MESSAGE_KEY_BYTES: Final = 48
HEADER_KEY_BYTES: Final = 32
SCALAR_BYTES: Final = 48
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
AES_BYTES: Final = 32
COUNTER_BYTES: Final = 4
HEADER_BYTES: Final = NONCE_BYTES + POINT_BYTES + 2 * COUNTER_BYTES + TAG_BYTES
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES

SKIP_MAX: Final = 1_000
"""Messages passed over in one step: each costs a derivation, and a sender must not be able to ask for millions."""
SKIPPED_MAX: Final = 2_000
"""Keys kept for messages that have not come; the oldest go first."""
SKIPPED_CHAINS_MAX: Final = 32
"""Chains that such keys are of: each costs a try at every header that opens under no current key."""
NUMBER_MAX: Final = 2**32 - 1

_MESSAGE: Final = b"\x01"
_CHAIN: Final = b"\x02"


@dataclass(frozen=True, slots=True, repr=False)
class Chain:
    """Keys of the messages between two turns."""

    header_key: bytes
    key: bytes
    number: int
    """Of the next message."""


@dataclass(frozen=True, slots=True, repr=False)
class Skipped:
    """Keys of messages of one chain that have not come: number and message key."""

    header_key: bytes
    keys: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True, repr=False)
class Ratchet:
    """One side of a session. All of it is secret."""

    root: bytes
    mine: bytes
    """My ratchet key: its scalar."""
    public: PublicKey
    """Its public half: to derive it takes longer than all the rest of a message."""
    theirs: PublicKey | None
    """None until their first message, for the side that answers."""
    sending: Chain | None
    receiving: Chain | None
    next_sending_header_key: bytes
    next_receiving_header_key: bytes
    previous: int = 0
    """Messages in my last sending chain."""
    skipped: tuple[Skipped, ...] = ()
    """The oldest chain first."""

    @property
    def missing(self) -> int:
        """Messages that were sent before others that came, and have not come."""
        return sum(len(chain.keys) for chain in self.skipped)


class Secrets(NamedTuple):
    """What a handshake gives to a ratchet."""

    root: bytes
    initiator_header_key: bytes
    """Of the initiator's first chain."""
    responder_header_key: bytes
    """Of the responder's first chain."""


class Opened(NamedTuple):
    """A message, and the state to go on with."""

    ratchet: Ratchet
    plaintext: bytes
    missed: int
    """Messages found missing by this one: they were sent before it."""
    is_late: bool
    """Whether it was one of those."""


class _Header(NamedTuple):
    key: PublicKey
    previous: int
    number: int


def begin(secrets: Secrets, theirs: PublicKey, *, mine: bytes | None = None) -> Ratchet:
    """Return the state of the side that writes first: 48 + 32 + 32 bytes of secrets, and the other's signed prekey.

    `mine` fixes the ratchet key, for test vectors alone.
    """
    scalar = mine or new_scalar()
    root, chain, next_header_key = _turn(secrets.root, scalar, theirs)
    return Ratchet(
        root=root,
        mine=scalar,
        public=_public(scalar),
        theirs=theirs,
        sending=Chain(secrets.initiator_header_key, chain, 0),
        receiving=None,
        next_sending_header_key=next_header_key,
        next_receiving_header_key=secrets.responder_header_key,
    )


def answer(secrets: Secrets, mine: bytes) -> Ratchet:
    """Return the state of the side that was written to: `mine` is the scalar of its signed prekey."""
    return Ratchet(
        root=secrets.root,
        mine=mine,
        public=_public(mine),
        theirs=None,
        sending=None,
        receiving=None,
        next_sending_header_key=secrets.responder_header_key,
        next_receiving_header_key=secrets.initiator_header_key,
    )


def encrypt(
    ratchet: Ratchet, plaintext: bytes, associated: bytes, *, nonce: bytes | None = None
) -> tuple[Ratchet, bytes]:
    """Seal a message; raises ValueError if nothing came yet to the side that was written to.

    The new state must be on disk before the message leaves. If an old state is used again all the same (a backup was
    restored), keys are still used once: the header's nonce is random, and is the salt of the body's key.

    Args:
        ratchet: the state.
        plaintext: padded by the caller.
        associated: what both sides must agree on.
        nonce: the header's, for test vectors alone.
    """
    chain = ratchet.sending
    if chain is None or chain.number > NUMBER_MAX:
        raise ValueError("this session cannot send")
    message_key, chain_key = _advance(chain.key)
    numbers = ratchet.previous.to_bytes(COUNTER_BYTES, "big") + chain.number.to_bytes(COUNTER_BYTES, "big")
    nonce = nonce or secrets.token_bytes(NONCE_BYTES)
    header = nonce + AESGCM(chain.header_key).encrypt(nonce, ratchet.public.der[len(SPKI_HEADER) :] + numbers, None)
    body = _body_cipher(message_key, header)
    sealed = header + body.cipher.encrypt(body.nonce, plaintext, associated + header)
    return replace(ratchet, sending=Chain(chain.header_key, chain_key, chain.number + 1)), sealed


def decrypt(ratchet: Ratchet, sealed: bytes, associated: bytes, *, turn: bytes | None = None) -> Opened:
    """Open a message; raises ValueError, always with the same words, and the state given stays the one that counts.

    `turn` fixes the scalar of my next ratchet key, for test vectors alone.
    """
    try:
        return _decrypt(ratchet, sealed, associated, turn)
    except (ValueError, InvalidTag):
        raise ValueError("the message does not open") from None


def _decrypt(ratchet: Ratchet, sealed: bytes, associated: bytes, turn: bytes | None) -> Opened:
    header, body = sealed[:HEADER_BYTES], sealed[HEADER_BYTES:]
    associated += header
    late = _decrypt_late(ratchet, header, body, associated)
    if late is not None:
        return late
    read, is_turn = _read_header(ratchet, header)
    before = ratchet.missing
    stepped = ratchet
    if is_turn:
        stepped = _take_turn(_skip(stepped, read.previous), read.key, turn)
    stepped = _skip(stepped, read.number)
    chain = stepped.receiving
    if chain is None or chain.number != read.number:
        raise ValueError("the message was opened before")
    message_key, chain_key = _advance(chain.key)
    plaintext = _open_body(message_key, header, body, associated)
    stepped = replace(stepped, receiving=Chain(chain.header_key, chain_key, chain.number + 1))
    # Counted before old keys are dropped: those are missing as well.
    missed = stepped.missing - before
    return Opened(replace(stepped, skipped=_bounded(stepped.skipped)), plaintext, missed, is_late=False)


def _decrypt_late(ratchet: Ratchet, header: bytes, body: bytes, associated: bytes) -> Opened | None:
    """Open a message that was passed over; None if it is none."""
    for index, chain in enumerate(ratchet.skipped):
        read = _open_header(chain.header_key, header)
        if read is None:
            continue
        message_key = dict(chain.keys).get(read.number)
        if message_key is None:
            continue  # of the chain that goes on, or opened before
        plaintext = _open_body(message_key, header, body, associated)
        left = tuple(each for each in chain.keys if each[0] != read.number)
        kept = (Skipped(chain.header_key, left),) if left else ()
        skipped = (*ratchet.skipped[:index], *kept, *ratchet.skipped[index + 1 :])
        return Opened(replace(ratchet, skipped=skipped), plaintext, 0, is_late=True)
    return None


def _read_header(ratchet: Ratchet, header: bytes) -> tuple[_Header, bool]:
    """Return the header, and whether it begins a new turn; raises ValueError."""
    if ratchet.receiving is not None:
        read = _open_header(ratchet.receiving.header_key, header)
        if read is not None:
            return read, False
    read = _open_header(ratchet.next_receiving_header_key, header)
    if read is None:
        raise ValueError("no header key opens this")
    return read, True


def _open_header(key: bytes, header: bytes) -> _Header | None:
    try:
        content = AESGCM(key).decrypt(header[:NONCE_BYTES], header[NONCE_BYTES:], None)
    except InvalidTag:
        return None
    numbers = content[POINT_BYTES:]
    # The strict parser refuses points off the curve, so a private key meets no group but P-384's own.
    return _Header(
        PublicKey.from_der(SPKI_HEADER + content[:POINT_BYTES]),
        int.from_bytes(numbers[:COUNTER_BYTES], "big"),
        int.from_bytes(numbers[COUNTER_BYTES:], "big"),
    )


def _skip(ratchet: Ratchet, until: int) -> Ratchet:
    """Keep the keys of messages before a number that have not come; raises ValueError if they are too many."""
    chain = ratchet.receiving
    if chain is None or chain.number >= until:
        return ratchet
    if until - chain.number > SKIP_MAX:
        raise ValueError("too many messages are missing")
    keys, key = [], chain.key
    for number in range(chain.number, until):
        message_key, key = _advance(key)
        keys.append((number, message_key))
    receiving = Chain(chain.header_key, key, until)
    return replace(ratchet, receiving=receiving, skipped=_with(ratchet.skipped, chain.header_key, tuple(keys)))


def _with(skipped: tuple[Skipped, ...], header_key: bytes, keys: tuple[tuple[int, bytes], ...]) -> tuple[Skipped, ...]:
    if skipped and skipped[-1].header_key == header_key:
        return (*skipped[:-1], Skipped(header_key, skipped[-1].keys + keys))
    return (*skipped, Skipped(header_key, keys))


def _bounded(skipped: tuple[Skipped, ...]) -> tuple[Skipped, ...]:
    """Drop the oldest keys beyond the bounds."""
    skipped = skipped[-SKIPPED_CHAINS_MAX:]
    excess = sum(len(chain.keys) for chain in skipped) - SKIPPED_MAX
    while excess > 0:
        oldest = skipped[0]
        kept = (Skipped(oldest.header_key, oldest.keys[excess:]),) if len(oldest.keys) > excess else ()
        excess -= len(oldest.keys)
        skipped = (*kept, *skipped[1:])
    return skipped


def _take_turn(ratchet: Ratchet, theirs: PublicKey, turn: bytes | None) -> Ratchet:
    """Mix their new key in, then a new one of mine."""
    root, receiving, next_receiving = _turn(ratchet.root, ratchet.mine, theirs)
    mine = turn or new_scalar()
    root, sending, next_sending = _turn(root, mine, theirs)
    return replace(
        ratchet,
        root=root,
        mine=mine,
        public=_public(mine),
        theirs=theirs,
        previous=0 if ratchet.sending is None else ratchet.sending.number,
        sending=Chain(ratchet.next_sending_header_key, sending, 0),
        receiving=Chain(ratchet.next_receiving_header_key, receiving, 0),
        next_sending_header_key=next_sending,
        next_receiving_header_key=next_receiving,
    )


def _turn(root: bytes, mine: bytes, theirs: PublicKey) -> tuple[bytes, bytes, bytes]:
    """KDF_RK_HE: return the next root, a chain's first key, and the header key of the chain after it (RFC 5869)."""
    shared = private_key(mine).exchange(ec.ECDH(), theirs.load())
    length = ROOT_BYTES + CHAIN_BYTES + HEADER_KEY_BYTES
    derived = HKDF(hashes.SHA384(), length, salt=root, info=transcript("ratchet-turn")).derive(shared)
    return derived[:ROOT_BYTES], derived[ROOT_BYTES:-HEADER_KEY_BYTES], derived[-HEADER_KEY_BYTES:]


def _advance(chain_key: bytes) -> tuple[bytes, bytes]:
    """KDF_CK: return a message key and the next chain key (RFC 2104)."""
    return _hmac(chain_key, _MESSAGE), _hmac(chain_key, _CHAIN)


def _hmac(key: bytes, data: bytes) -> bytes:
    mac = hmac.HMAC(key, hashes.SHA384())
    mac.update(data)
    return mac.finalize()


class _BodyCipher(NamedTuple):
    cipher: AESGCM
    nonce: bytes


def _body_cipher(message_key: bytes, header: bytes) -> _BodyCipher:
    # The header has a random nonce in it, so key and nonce are new also for a message key that is used twice.
    info = transcript("ratchet-message")
    derived = HKDF(hashes.SHA384(), AES_BYTES + NONCE_BYTES, salt=header, info=info).derive(message_key)
    return _BodyCipher(AESGCM(derived[:AES_BYTES]), derived[AES_BYTES:])


def _open_body(message_key: bytes, header: bytes, body: bytes, associated: bytes) -> bytes:
    cipher = _body_cipher(message_key, header)
    return cipher.cipher.decrypt(cipher.nonce, body, associated)


def new_scalar() -> bytes:
    """Return a fresh private key: 48 bytes."""
    return ec.generate_private_key(ec.SECP384R1()).private_numbers().private_value.to_bytes(SCALAR_BYTES, "big")


def private_key(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the key object of a scalar; raises ValueError if it is zero, or not below the group's order."""
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP384R1())


def _public(scalar: bytes) -> PublicKey:
    return PublicKey.of(private_key(scalar).public_key())


def encode(ratchet: Ratchet) -> bytes:
    """Write a state: lengths are fixed, or lead what they count."""
    return b"".join(_encoded(ratchet))


def _encoded(ratchet: Ratchet) -> Iterator[bytes]:
    yield ratchet.root
    yield ratchet.mine
    yield ratchet.public.der
    yield _optional(None if ratchet.theirs is None else ratchet.theirs.der)
    yield _optional(_encoded_chain(ratchet.sending))
    yield _optional(_encoded_chain(ratchet.receiving))
    yield ratchet.next_sending_header_key
    yield ratchet.next_receiving_header_key
    yield _counter(ratchet.previous)
    yield _counter(len(ratchet.skipped))
    for skipped in ratchet.skipped:
        yield skipped.header_key
        yield _counter(len(skipped.keys))
        for number, key in skipped.keys:
            yield _counter(number)
            yield key


def _encoded_chain(chain: Chain | None) -> bytes | None:
    return None if chain is None else chain.header_key + chain.key + _counter(chain.number)


def _optional(data: bytes | None) -> bytes:
    return b"\x00" if data is None else b"\x01" + data


def _counter(number: int) -> bytes:
    # A chain that sent all that it may has a number beyond the last one.
    return min(number, NUMBER_MAX).to_bytes(COUNTER_BYTES, "big")


def decode(encoded: bytes) -> Ratchet:
    """Read a state; raises ValueError unless it is exactly what `encode` writes."""
    reader = _Reader(encoded)
    ratchet = Ratchet(
        root=reader.take(ROOT_BYTES),
        mine=reader.take(SCALAR_BYTES),
        public=PublicKey.from_der(reader.take(DER_BYTES)),
        theirs=reader.key(),
        sending=reader.chain(),
        receiving=reader.chain(),
        next_sending_header_key=reader.take(HEADER_KEY_BYTES),
        next_receiving_header_key=reader.take(HEADER_KEY_BYTES),
        previous=reader.counter(),
        skipped=tuple(reader.skipped() for _ in range(reader.counter())),
    )
    if not reader.is_done or encode(ratchet) != encoded:
        raise ValueError("not the state of a ratchet")
    return ratchet


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_done(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise ValueError("the state of a ratchet ends too soon")
        self._at += size
        return taken

    def counter(self) -> int:
        return int.from_bytes(self.take(COUNTER_BYTES), "big")

    def key(self) -> PublicKey | None:
        return PublicKey.from_der(self.take(DER_BYTES)) if self.take(1) == b"\x01" else None

    def chain(self) -> Chain | None:
        if self.take(1) != b"\x01":
            return None
        return Chain(self.take(HEADER_KEY_BYTES), self.take(CHAIN_BYTES), self.counter())

    def skipped(self) -> Skipped:
        header_key = self.take(HEADER_KEY_BYTES)
        keys = tuple((self.counter(), self.take(MESSAGE_KEY_BYTES)) for _ in range(self.counter()))
        return Skipped(header_key, keys)
