"""What sessions cost the two who talk: handshake and messages, in processor time and in bytes. No router takes part."""

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Final
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey

from blindpost.bench.ground import Ground, Row
from blindpost.protocol import handshake, session, transcripts
from blindpost.protocol.content import Content, Kind
from blindpost.protocol.handshake import Offer, Offered, OfferedKem, Party, Private
from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import ECDSA_SHA384, PublicKey
from blindpost.protocol.ratchet import new_scalar, private_key
from blindpost.protocol.session import Session

TEXT: Final = b"See you at eight, at the usual place."
SHARE: Final = 16
"""Of a round's seconds, for each action."""


class _Person:
    """One party, with all its private keys."""

    def __init__(self) -> None:
        self.ecdh = new_scalar()
        self.party = Party(uuid4(), _public(new_scalar()), _public(self.ecdh))
        kem = MLKEM1024PrivateKey.generate()
        self.private = Private(new_scalar(), new_scalar(), kem.private_bytes_raw())
        self.offer = Offer(
            Offered(uuid4(), _public(self.private.signed)),
            Offered(uuid4(), _public(self.private.one_time or b"")),
            OfferedKem(uuid4(), KemPublicKey(kem.public_key().public_bytes_raw())),
        )

    def begin(self, other: "_Person") -> Session:
        return session.initiate(self.party, private_key(self.ecdh), other.party, other.offer)

    def take_up(self, other: "_Person", message: bytes) -> Session:
        header = session.opening_of(message)
        if header is None:
            raise AssertionError("a session begins with a handshake")
        return session.respond(header, other.party, self.party, private_key(self.ecdh), self.private)


@dataclass(frozen=True, slots=True)
class _Talk:
    """Two people, and messages in each place of their session."""

    alice: _Person
    bob: _Person
    first: bytes
    sending: Session
    receiving: Session
    same_turn: bytes
    asked: Session
    next_turn: bytes


async def measure(ground: Ground) -> list[Row]:
    """Do each action for a while, in turn."""
    talk = _talk()
    rows: list[Row] = []
    for number in range(ground.plan.rounds):
        ground.tell(f"sessions, round {number + 1} of {ground.plan.rounds}")
        rows += [
            {"name": name, "bytes": size, "cpu_us": _cpu_us(action, ground.plan.seconds / SHARE)}
            for name, (action, size) in _actions(talk).items()
        ]
    return rows


def _talk() -> _Talk:
    alice, bob = _Person(), _Person()
    sending, first = alice.begin(bob).seal(_content())
    receiving, answer = bob.take_up(alice, first).open(first).session.seal(_content())
    asked = sending
    sending, message = sending.open(answer).session.seal(_content())
    receiving = receiving.open(message).session
    sending, same_turn = sending.seal(_content())
    return _Talk(alice, bob, first, sending, receiving, same_turn, asked, answer)


def _actions(talk: _Talk) -> dict[str, tuple[Callable[[], object], int]]:
    """Return each action, and the bytes that it puts on the wire beyond the text, unpadded."""
    following = session.OVERHEAD_BYTES
    opening = handshake.HEADER_BYTES
    return {
        "prekey": (_prekey, 0),
        "kem_prekey": (_kem_prekey, 0),
        "initiate": (lambda: talk.alice.begin(talk.bob), opening),
        "respond": (lambda: talk.bob.take_up(talk.alice, talk.first), 0),
        "seal": (lambda: talk.sending.seal(_content()), following),
        "open": (lambda: talk.receiving.open(talk.same_turn), 0),
        "turn": (lambda: talk.asked.open(talk.next_turn), 0),
        "write": (lambda: session.encode(talk.sending), 0),
    }


def _cpu_us(action: Callable[[], object], seconds: float) -> float:
    count, began = 0, process_time()
    while process_time() < began + seconds or not count:
        action()
        count += 1
    return (process_time() - began) / count * 1e6


def _prekey() -> bytes:
    return private_key(_SIGNER).sign(transcripts.one_time_prekey(_NOBODY, uuid4(), _public(new_scalar())), ECDSA_SHA384)


def _kem_prekey() -> bytes:
    key = KemPublicKey(MLKEM1024PrivateKey.generate().public_key().public_bytes_raw())
    signed = transcripts.one_time_kem_prekey(_NOBODY, uuid4(), key)
    return private_key(_SIGNER).sign(signed, ECDSA_SHA384)


def _content() -> Content:
    return Content(uuid4(), 1_767_225_600_000, Kind.TEXT, TEXT)


def _public(scalar: bytes) -> PublicKey:
    return PublicKey.of(private_key(scalar).public_key())


_SIGNER: Final = new_scalar()
_NOBODY: Final = UUID(int=1)
