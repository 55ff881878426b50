"""Two parties of a session for tests: their keys, and a post between them that does to messages what a router could."""

import random
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey

from blindpost.protocol import session
from blindpost.protocol.content import Content, Kind
from blindpost.protocol.handshake import Offer, Offered, OfferedKem, Party, Private
from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.ratchet import new_scalar, private_key
from blindpost.protocol.session import Session


def public(scalar: bytes) -> PublicKey:
    return PublicKey.of(private_key(scalar).public_key())


class Person:
    """Identity and prekeys of one party."""

    def __init__(self, number: int) -> None:
        self.ecdsa, self.ecdh = new_scalar(), new_scalar()
        self.party = Party(UUID(int=number), public(self.ecdsa), public(self.ecdh))
        kem = MLKEM1024PrivateKey.generate()
        self.private = Private(new_scalar(), new_scalar(), kem.private_bytes_raw())
        self.kem_public = KemPublicKey(kem.public_key().public_bytes_raw())

    def offer(self, *, one_time: bool = True) -> Offer:
        key = self.private.one_time if one_time else None
        return Offer(
            Offered(UUID(int=1), public(self.private.signed)),
            None if key is None else Offered(UUID(int=2), public(key)),
            OfferedKem(UUID(int=3), self.kem_public),
        )

    def begin(self, other: "Person", *, one_time: bool = True) -> Session:
        return session.initiate(self.party, private_key(self.ecdh), other.party, other.offer(one_time=one_time))

    def take_up(self, other: "Person", message: bytes) -> Session:
        header = session.opening_of(message)
        assert header is not None
        one_time = None if header.one_time_id is None else self.private.one_time
        private = Private(self.private.signed, one_time, self.private.kem)
        return session.respond(header, other.party, self.party, private_key(self.ecdh), private)


def text(number: int) -> Content:
    return Content(UUID(int=number), number, Kind.TEXT, str(number).encode())


@dataclass
class Side:
    """One party at work: its state in memory, the one on disk, and what it was given."""

    state: Session | None
    disk: bytes
    got: Counter[UUID] = field(default_factory=Counter)
    waiting: list[tuple[bytes, Content]] = field(default_factory=list)
    """What the post holds for this side."""


class Town:
    """Alice and Bob, and a post that drops, doubles and reorders; both crash and restart."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable chance
        self.people = (Person(101), Person(202))
        alice = self.people[0].begin(self.people[1])
        self.sides = (Side(alice, session.encode(alice)), Side(None, b""))
        self.number = 0
        self.done: Counter[str] = Counter()
        self.refused: list[tuple[int, bytes]] = []

    def step(self) -> None:
        """Do one random thing to one side."""
        index = self.random.randrange(2)
        side, other = self.sides[index], self.sides[1 - index]
        action = self.random.choices(
            ("send", "deliver", "drop", "double", "reorder", "crash", "tamper"), (40, 44, 2, 4, 6, 2, 2)
        )[0]
        self.done[action] += 1
        if action == "send":
            self._send(side, other)
        elif action == "crash":
            # What is not on disk is gone: as each step wrote before it showed, nothing that counts is.
            side.state = session.decode(side.disk) if side.disk else None
        elif side.waiting:
            self._post(action, index)

    def _send(self, side: Side, other: Side) -> None:
        if side.state is None:
            return
        self.number += 1
        content = text(self.number)
        state, message = side.state.seal(content)
        side.disk = session.encode(state)
        if self.random.random() < 0.02:
            side.state = session.decode(side.disk)  # killed between the disk and the wire: the outbox sends it later
        else:
            side.state = state
        other.waiting.append((message, content))

    def _post(self, action: str, index: int) -> None:
        side = self.sides[index]
        waiting = side.waiting
        if action == "drop":
            waiting.pop(self.random.randrange(len(waiting)))
        elif action == "double":
            waiting.insert(self.random.randrange(len(waiting) + 1), self.random.choice(waiting))
        elif action == "reorder":
            part = waiting[:20]
            self.random.shuffle(part)
            waiting[:20] = part
        elif action == "tamper":
            message = bytearray(self.random.choice(waiting)[0])
            message[self.random.randrange(len(message))] ^= 1 << self.random.randrange(8)
            self._must_refuse(index, bytes(message))
        else:
            self._deliver(index, *waiting.pop(0))

    def _deliver(self, index: int, message: bytes, sent: Content) -> None:
        side = self.sides[index]
        state = side.state or self.people[index].take_up(self.people[1 - index], message)
        try:
            received = state.open(message)
        except ValueError:
            # Only a message that was opened before: nothing else may be refused.
            assert side.got[sent.client_message_id] == 1
            self.done["refused repetition"] += 1
            return
        assert received.content == sent
        side.got[sent.client_message_id] += 1
        assert side.got[sent.client_message_id] == 1
        side.disk, side.state = session.encode(received.session), received.session
        self.done["late" if received.is_late else "opened"] += 1

    def _must_refuse(self, index: int, message: bytes) -> None:
        state = self.sides[index].state
        if state is None:
            return
        try:
            state.open(message)
        except ValueError:
            return
        raise AssertionError("an altered message was opened")
