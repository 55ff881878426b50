"""What the published vectors of sessions are made of: contents, handshakes, ratchets and whole messages."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256, sha384
from typing import Any, Final
from uuid import UUID

import pytest

from blindpost.protocol import handshake, ratchet, session
from blindpost.protocol.content import Content, Kind
from blindpost.protocol.encoding import b64encode
from blindpost.protocol.handshake import Agreed, Fresh, Offer, Offered, OfferedKem, Party
from blindpost.protocol.padding import pad
from blindpost.protocol.ratchet import Ratchet, Secrets
from blindpost.protocol.session import Session
from vector_keys import ALICE, BOB, KEM_CIPHERTEXT, KEM_PUBLIC, KEM_SECRET, KEM_SEED, PRIVATE, PUBLIC, SCALARS, Vector

INITIATOR: Final = Party(ALICE, PUBLIC["alice_ecdsa"], PUBLIC["alice_ecdh"])
RESPONDER: Final = Party(BOB, PUBLIC["bob_ecdsa"], PUBLIC["bob_ecdh"])
SIGNED_ID, ONE_TIME_ID, KEM_ID = UUID(int=1), UUID(int=2), UUID(int=3)
SERIES: Final = bytes.fromhex("a1b2c3d4e5f60718")
SENT: Final = Content(
    UUID("11111111-2222-4333-8444-555555555555"), 1_767_225_600_123, Kind.TEXT, "héllo".encode(), SERIES, 41
)
NOTICE: Final = replace(SENT, kind=Kind.LOST, series=bytes(8), number=0)
OPENING_BYTES: Final = session.VERSION_BYTES + handshake.HEADER_BYTES


def scalar(name: str) -> bytes:
    return sha384(name.encode()).digest()


def nonce(name: str) -> bytes:
    return sha256(name.encode()).digest()[: ratchet.NONCE_BYTES]


def session_files() -> dict[str, Any]:
    """Return what each file on sessions holds."""
    return {
        "contents": list(contents()),
        "handshakes": {**keys_of_both(), "vectors": list(handshakes())},
        "ratchets": ratchets(),
        "sessions": {**keys_of_both(), "vectors": list(sessions())},
    }


def contents() -> Iterator[Vector]:
    """Encoded contents; their fields, or invalid_content."""
    names = UUID(int=7).bytes + UUID(int=8).bytes
    for name, content in {
        "text": SENT,
        "empty text": replace(SENT, data=b""),
        "bytes": replace(SENT, kind=Kind.BYTES, data=b"\x00\xff"),
        "lost": replace(NOTICE, data=names),
        "lost, no ids": replace(NOTICE, data=b""),
        "lost, 64 ids": replace(NOTICE, data=bytes(64 * 16)),
        "the first time": replace(SENT, sent_at_ms=0),
        "the last time": replace(SENT, sent_at_ms=253_402_300_799_999),
        "the first of a series": replace(SENT, number=0),
        "the last number": replace(SENT, number=(1 << 53) - 1),
    }.items():
        yield {"name": name, "encoded": b64encode(content.encode()), "result": "ok", **fields(content)}
    for name, encoded in bad_contents().items():
        yield {"name": name, "encoded": b64encode(encoded), "result": "invalid_content"}


def fields(content: Content) -> Vector:
    return {
        "client_message_id": str(content.client_message_id),
        "sent_at_ms": content.sent_at_ms,
        "series": content.series.hex(),
        "number": content.number,
        "kind": content.kind.value,
        "data": b64encode(content.data),
    }


def bad_contents() -> dict[str, bytes]:
    head, uncounted = SENT.encode()[:40], SENT.encode()[:24] + bytes(16)
    return {
        "too short": head,
        "unknown kind 0": head + b"\x00",
        "unknown kind 4": head + b"\x04",
        "text that is not UTF-8": head + b"\x01\xff",
        "lost, not whole ids": uncounted + b"\x03" + bytes(15),
        "lost, 65 ids": uncounted + b"\x03" + bytes(65 * 16),
        "lost, counted": head + b"\x03" + bytes(16),
        "lost, in a series": uncounted[:31] + b"\x01" + uncounted[32:] + b"\x03" + bytes(16),
        "lost, with a number": uncounted[:39] + b"\x01\x03" + bytes(16),
        "time after the year 9999": head[:16] + (253_402_300_800_000).to_bytes(8, "big") + head[24:] + b"\x01",
        "number of 2^53": head[:32] + (1 << 53).to_bytes(8, "big") + b"\x01",
    }


def keys_of_both() -> Vector:
    """Return the keys that a session begins with, private halves too."""
    return {
        "initiator": party("alice", INITIATOR),
        "responder": party("bob", RESPONDER)
        | {
            "signed_prekey_id": str(SIGNED_ID),
            "signed_prekey_scalar": hexed("bob_signed_prekey"),
            "one_time_prekey_id": str(ONE_TIME_ID),
            "one_time_prekey_scalar": hexed("bob_one_time_prekey"),
            "kem_prekey_id": str(KEM_ID),
            "kem_prekey_seed": KEM_SEED.hex(),
            "kem_prekey": b64encode(KEM_PUBLIC.raw),
        },
        "ephemeral_scalar": scalar("ephemeral").hex(),
        "kem_secret": KEM_SECRET.hex(),
        "kem_ciphertext": b64encode(KEM_CIPHERTEXT),
        "initiator_ratchet_scalar": scalar("ratchet").hex(),
    }


def party(name: str, each: Party) -> Vector:
    return {
        "user_id": str(each.user_id),
        "ecdsa": each.ecdsa.pem,
        "ecdh": each.ecdh.pem,
        "ecdh_scalar": hexed(f"{name}_ecdh"),
    }


def hexed(name: str) -> str:
    return f"{SCALARS[name]:096x}"


def offer(*, one_time: bool) -> Offer:
    return Offer(
        Offered(SIGNED_ID, PUBLIC["bob_signed_prekey"]),
        Offered(ONE_TIME_ID, PUBLIC["bob_one_time_prekey"]) if one_time else None,
        OfferedKem(KEM_ID, KEM_PUBLIC),
    )


def agree(*, one_time: bool) -> Agreed:
    fresh = Fresh(scalar("ephemeral"), KEM_SECRET, KEM_CIPHERTEXT)
    return handshake.initiate(INITIATOR, PRIVATE["alice_ecdh"], RESPONDER, offer(one_time=one_time), fresh)


def begin(*, one_time: bool = True) -> Session:
    agreed = agree(one_time=one_time)
    return session.initiated(agreed, INITIATOR, RESPONDER, offer(one_time=one_time), mine=scalar("ratchet"))


def respond(header: bytes, *, has_one_time: bool) -> Agreed:
    one_time = SCALARS["bob_one_time_prekey"].to_bytes(48, "big") if has_one_time else None
    private = handshake.Private(SCALARS["bob_signed_prekey"].to_bytes(48, "big"), one_time, KEM_SEED)
    return handshake.respond(handshake.Header.decode(header), INITIATOR, RESPONDER, PRIVATE["bob_ecdh"], private)


def take_up(message: bytes) -> Session:
    agreed = respond(message[1:OPENING_BYTES], has_one_time=True)
    state = ratchet.answer(agreed.secrets, SCALARS["bob_signed_prekey"].to_bytes(48, "big"))
    return Session(agreed.session_id, agreed.associated, RESPONDER.ecdsa, INITIATOR.ecdsa, state, None)


def handshakes() -> Iterator[Vector]:
    """Headers to the responder: what both derive, or why the responder does not take the session up."""
    for one_time in (True, False):
        name = "with a one-time prekey" if one_time else "without a one-time prekey"
        _, message = begin(one_time=one_time).seal(SENT, nonce=nonce("opening"))
        yield _handshake(name, "ok", one_time, agree(one_time=one_time), message)
    good, message = agree(one_time=True), begin().seal(SENT, nonce=nonce("opening"))[1]
    header = good.header[:-1] + bytes((good.header[-1] ^ 1,))
    changed = message[:1] + header + message[OPENING_BYTES:]
    yield _handshake("KEM ciphertext changed", "cannot_decrypt", True, respond(header, has_one_time=True), changed)
    for name, result, has_one_time, bad in (
        (
            "point off the curve",
            "invalid_header",
            True,
            good.header[:96] + bytes((good.header[96] ^ 1,)) + good.header[97:],
        ),
        ("point compressed", "invalid_header", True, b"\x02" + good.header[1:]),
        ("a byte too few", "invalid_header", True, good.header[:-1]),
        ("a byte too many", "invalid_header", True, good.header + b"\x00"),
        ("the one-time prekey is not there", "one_time_prekey_missing", False, good.header),
    ):
        yield {"name": name, "responder_has_one_time_prekey": has_one_time, "header": b64encode(bad), "result": result}


def _handshake(name: str, result: str, one_time: bool, agreed: Agreed, message: bytes) -> Vector:  # noqa: FBT001
    return {
        "name": name,
        "responder_has_one_time_prekey": one_time,
        "header": b64encode(agreed.header),
        "result": result,
        "session_id": agreed.session_id.hex(),
        "associated": agreed.associated.hex(),
        "root": agreed.secrets.root.hex(),
        "initiator_header_key": agreed.secrets.initiator_header_key.hex(),
        "responder_header_key": agreed.secrets.responder_header_key.hex(),
        "first_message": b64encode(message),
    }


SECRETS: Final = Secrets(scalar("root"), sha256(b"initiator").digest(), sha256(b"responder").digest())
ASSOCIATED: Final = b"associated data"


def ratchets() -> Vector:
    runs = {
        "turns": turns,
        "late messages": late,
        "refused messages": refused,
        "too many missing": many,
        "too many missing at the end of a turn": many_before_a_turn,
        "1,000 missing of each of two chains": many_of_both,
        "2,001 kept keys": keys_beyond_the_bound,
        "33 chains of kept keys": chains_beyond_the_bound,
        "what a header says beside its number": headers,
    }
    vectors = []
    for name, run in runs.items():
        script = Script(name)
        run(script)
        vectors.append({"name": name, "result": "ok", "steps": script.steps})
    return {
        "root": SECRETS.root.hex(),
        "initiator_header_key": SECRETS.initiator_header_key.hex(),
        "responder_header_key": SECRETS.responder_header_key.hex(),
        "initiator_ratchet_scalar": scalar("ratchet").hex(),
        "responder_signed_prekey": PUBLIC["bob_signed_prekey"].pem,
        "responder_signed_prekey_scalar": hexed("bob_signed_prekey"),
        "vectors": vectors,
    }


class Script:
    """A run of steps: each works on the state that the one before left; what is refused changes nothing."""

    def __init__(self, name: str) -> None:
        self.name, self.steps = name, list[Vector]()
        begun = ratchet.begin(SECRETS, PUBLIC["bob_signed_prekey"], mine=scalar("ratchet"))
        answering = ratchet.answer(SECRETS, SCALARS["bob_signed_prekey"].to_bytes(48, "big"))
        self.states: dict[str, Ratchet] = {"initiator": begun, "responder": answering}

    def seal(self, side: str) -> bytes:
        number = len(self.steps)
        fixed, plaintext = nonce(f"{self.name} {number}"), f"message {number}".encode()
        self.states[side], message = ratchet.encrypt(self.states[side], plaintext, ASSOCIATED, nonce=fixed)
        self._add("seal", side, message, plaintext=b64encode(plaintext), nonce=fixed.hex(), result="ok")
        return message

    def open(self, side: str, message: bytes) -> None:
        before, turn = self.states[side], scalar(f"{self.name} {len(self.steps)}")
        opened = ratchet.decrypt(before, message, ASSOCIATED, turn=turn)
        self.states[side] = opened.ratchet
        told: dict[str, Any] = {"missed": opened.missed, "is_late": opened.is_late}
        taken: dict[str, Any] = {"turn_scalar": turn.hex()} if opened.ratchet.mine == turn else {}
        self._add("open", side, message, plaintext=b64encode(opened.plaintext), **taken, **told, result="ok")

    def refuse(self, side: str, message: bytes, why: str, associated: bytes = ASSOCIATED) -> None:
        with pytest.raises(ValueError, match="does not open"):
            ratchet.decrypt(self.states[side], message, associated)
        self._add("open", side, message, associated, why=why, result="cannot_decrypt")

    def lose(self, side: str, count: int) -> None:
        """Seal messages that go nowhere."""
        for _ in range(count):
            self.states[side], _ = ratchet.encrypt(self.states[side], b"", ASSOCIATED)
        self.steps.append({"side": side, "action": "seal_and_lose", "count": count, "result": "ok"})

    def exchange(self) -> None:
        """Let the responder answer, so that the initiator's next message begins a turn."""
        self.open("initiator", self.seal("responder"))

    def _add(self, action: str, side: str, message: bytes, associated: bytes = ASSOCIATED, **more: Any) -> None:
        step = {"side": side, "action": action, "associated": b64encode(associated), "message": b64encode(message)}
        self.steps.append(step | more)


def turns(run: Script) -> None:
    for side, other in (("initiator", "responder"), ("responder", "initiator")) * 3:
        for _ in range(2):
            run.open(other, run.seal(side))


def late(run: Script) -> None:
    first, second, third = (run.seal("initiator") for _ in range(3))
    run.open("responder", third)
    run.open("initiator", run.seal("responder"))
    run.open("responder", first)
    lost = run.seal("initiator")  # the last of the turn
    run.open("initiator", run.seal("responder"))
    run.open("responder", run.seal("initiator"))
    run.open("responder", second)
    run.open("initiator", run.seal("responder"))
    run.open("responder", run.seal("initiator"))
    run.open("responder", lost)
    run.refuse("responder", lost, "a late one repeated")


def refused(run: Script) -> None:
    first, second = run.seal("initiator"), run.seal("initiator")
    end = ratchet.HEADER_BYTES
    for why, message in {
        "nonce changed": bytes((first[0] ^ 1,)) + first[1:],
        "header changed": first[:50] + bytes((first[50] ^ 1,)) + first[51:],
        "body changed": first[:end] + bytes((first[end] ^ 1,)) + first[end + 1 :],
        "tag changed": first[:-1] + bytes((first[-1] ^ 1,)),
        "header of one with the body of another": first[:end] + second[end:],
        "header alone": first[:end],
        "empty": b"",
    }.items():
        run.refuse("responder", message, why)
    run.refuse("responder", first, "other associated data", b"other data")
    run.refuse("initiator", first, "own message")
    run.open("responder", first)
    run.refuse("responder", first, "repeated")
    run.open("responder", second)


def many(run: Script) -> None:
    first = run.seal("initiator")
    run.lose("initiator", 999)
    last, beyond = run.seal("initiator"), run.seal("initiator")
    run.refuse("responder", beyond, "1,001 are missing")
    run.open("responder", last)
    run.open("responder", beyond)
    run.open("responder", first)


def many_before_a_turn(run: Script) -> None:
    run.open("responder", run.seal("initiator"))
    run.lose("initiator", 1_000)
    last = run.seal("initiator")
    run.exchange()
    message = run.seal("initiator")
    run.refuse("responder", message, "1,001 are missing of the chain that ends")
    run.open("responder", last)
    run.open("responder", message)


def many_of_both(run: Script) -> None:
    run.open("responder", run.seal("initiator"))
    run.lose("initiator", 1_000)
    run.exchange()
    run.lose("initiator", 1_000)
    last, beyond = run.seal("initiator"), run.seal("initiator")
    run.refuse("responder", beyond, "1,001 are missing of the chain that begins")
    run.open("responder", last)
    run.open("responder", beyond)


def keys_beyond_the_bound(run: Script) -> None:
    """The oldest chain gives its lowest number up, and no other chain gives any."""
    run.open("responder", run.seal("initiator"))
    first, second = run.seal("initiator"), run.seal("initiator")
    run.lose("initiator", 998)
    run.exchange()
    run.open("responder", run.seal("initiator"))
    of_the_next = run.seal("initiator")
    run.lose("initiator", 999)
    run.open("responder", run.seal("initiator"))
    run.lose("initiator", 1)
    run.open("responder", run.seal("initiator"))
    run.refuse("responder", first, "its key was dropped")
    run.open("responder", second)
    run.open("responder", of_the_next)


def chains_beyond_the_bound(run: Script) -> None:
    """The chain that began to be kept first is given up whole."""
    lost = []
    for _ in range(33):
        lost.append(run.seal("initiator"))
        run.open("responder", run.seal("initiator"))
        run.exchange()
    run.refuse("responder", lost[0], "the keys of its chain were dropped")
    run.open("responder", lost[1])
    run.open("responder", lost[32])


def headers(run: Script) -> None:
    run.open("responder", run.seal("initiator"))
    state, other = run.states["initiator"], PUBLIC["one_time"]
    off = replace(other, der=other.der[:-1] + bytes((other.der[-1] ^ 1,)))
    run.refuse("responder", forged(run, public=off), "a point off the curve in a chain that is there")
    run.open("responder", forged(run, public=other, previous=7))
    run.lose("initiator", 1)
    run.open("responder", run.seal("initiator"))
    run.exchange()
    run.refuse("responder", forged(run, public=off), "a point off the curve that begins a turn")
    run.refuse("responder", forged(run, public=other), "a point that begins a turn and is not the sender's")
    # Three were opened of the chain that ends: a number below that has nothing to keep.
    assert (state.previous, run.states["initiator"].previous) == (0, 3)
    run.open("responder", forged(run, previous=1))
    run.lose("initiator", 1)
    run.open("responder", run.seal("initiator"))


def forged(run: Script, **other: Any) -> bytes:
    """Return what the initiator would send next if its header had something else in it."""
    fixed = nonce(f"{run.name} {len(run.steps)}")
    _, message = ratchet.encrypt(replace(run.states["initiator"], **other), b"forged", ASSOCIATED, nonce=fixed)
    return message


def sessions() -> Iterator[Vector]:
    """Whole messages to who has the private keys; their content, or cannot_decrypt."""
    state, opening = begin().seal(SENT, nonce=nonce("opening"))
    bob = take_up(opening).open(opening, turn=scalar("bob's turn")).session
    said = replace(SENT, client_message_id=UUID(int=9), kind=Kind.BYTES, data=bytes(400))
    _, answer = bob.seal(said, nonce=nonce("answer"))
    alice = state.open(answer, turn=scalar("alice's turn")).session
    first = [{"message": b64encode(opening), "turn_scalar": scalar("bob's turn").hex()}]
    yield _session("opening", "responder", [], opening) | {"result": "ok", **fields(SENT)}
    for length, size in ((159, "fills its bucket"), (160, "a byte more")):
        content = replace(SENT, kind=Kind.BYTES, data=bytes(length))
        _, message = begin().seal(content, nonce=nonce("opening"))
        yield _session(f"opening, {size}", "responder", [], message) | {"result": "ok", **fields(content)}
    larger = _sealed(pad(SENT.encode(), 1_200))
    yield _session("opening, padded further", "responder", [], larger) | {
        "padded_further": True,
        "result": "ok",
        **fields(SENT),
    }
    _, second = state.seal(SENT, nonce=nonce("second"))
    yield _session("second opening", "responder", first, second) | {"result": "ok", **fields(SENT)}
    yield _session("answer, next bucket", "initiator", [], answer) | {"result": "ok", **fields(said)}
    for name, content in {
        "following": SENT,
        "following, fills its bucket": replace(SENT, kind=Kind.BYTES, data=bytes(336)),
        "following, a byte more": replace(SENT, kind=Kind.BYTES, data=bytes(337)),
        "following, a notice": replace(NOTICE, data=UUID(int=7).bytes),
    }.items():
        yield _session(name, "responder", first, alice.seal(content, nonce=nonce("third"))[1]) | {
            "sender_turn_scalar": scalar("alice's turn").hex(),
            "result": "ok",
            **fields(content),
        }
    yield _session("opening repeated", "responder", first, opening) | {"result": "cannot_decrypt"}
    header = bytes((*opening[1 : OPENING_BYTES - 1], opening[OPENING_BYTES - 1] ^ 1))
    _, strange = replace(state, opening=header).seal(SENT, nonce=nonce("second"))
    yield _session("opening with another header", "responder", first, strange) | {"result": "cannot_decrypt"}
    for name, message in bad_messages(opening).items():
        yield _session(name, "responder", [], message) | {"result": "cannot_decrypt"}


def _session(name: str, reader: str, before: list[dict[str, str]], message: bytes) -> Vector:
    return {"name": name, "reader": reader, "opened_before": before, "message": b64encode(message)}


def bad_messages(good: bytes) -> dict[str, bytes]:
    padded = {f"content: {name}": pad(each, 1_200) for name, each in bad_contents().items()}
    padded |= {"padding without a mark": SENT.encode().ljust(1_200, b"\x00"), "padding alone": bytes(1_200)}
    return {
        "unknown version": b"\x04" + good[1:],
        "version 1": b"\x01" + good[1:],
        "not a bucket size": good + b"\x00",
        "cut": good[:-1],
        "next bucket with zeros": good + bytes(len(good)),
        "bucket too small for a handshake": good[:512],
        "tag changed": good[:-1] + bytes((good[-1] ^ 1,)),
        **{name: _sealed(each) for name, each in padded.items()},
    }


def _sealed(plaintext: bytes) -> bytes:
    """Return an opening message of a bucket's size with a plaintext as it is, filled up with zeros."""
    state = begin()
    prefix = session.OPENING + (state.opening or b"")
    size = 4_096 - len(prefix) - ratchet.OVERHEAD_BYTES
    associated = state.associated + prefix
    _, sealed = ratchet.encrypt(state.ratchet, plaintext.ljust(size, b"\x00"), associated, nonce=nonce("opening"))
    return prefix + sealed
