"""The published vectors of sessions: what is good is read and written again, what is bad fails as its result says."""

from typing import Any
from uuid import UUID

import pytest

from blindpost.protocol import handshake, ratchet, session
from blindpost.protocol.content import Content, Kind
from blindpost.protocol.encoding import b64decode
from blindpost.protocol.handshake import Agreed, Fresh, Header, Offer, Offered, OfferedKem, Party, Private
from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.ratchet import Ratchet, Secrets, private_key
from blindpost.protocol.session import Received, Session
from read_vectors import by_name, is_good, load


def of_hex(said: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(said[name])


def content_of(vector: dict[str, Any]) -> Content:
    said = UUID(vector["client_message_id"]), vector["sent_at_ms"], Kind(vector["kind"]), b64decode(vector["data"])
    return Content(*said, bytes.fromhex(vector["series"]), vector["number"])


@by_name("contents")
def test_contents(vector: dict[str, Any]) -> None:
    """Each content is read to its fields and written again, or refused."""
    encoded = b64decode(vector["encoded"])
    if not is_good(vector, "invalid_content"):
        with pytest.raises(ValueError, match=r"\w"):
            Content.decode(encoded)
        return
    assert Content.decode(encoded) == content_of(vector)
    assert content_of(vector).encode() == encoded


class Setting:
    """The two parties of a file, with the keys that they begin a session with."""

    def __init__(self, name: str) -> None:
        self._said = load(name)
        self.initiator, self.responder = self._party("initiator"), self._party("responder")

    def _party(self, side: str) -> Party:
        said = self._said[side]
        return Party(UUID(said["user_id"]), PublicKey.from_pem(said["ecdsa"]), PublicKey.from_pem(said["ecdh"]))

    def private(self, *, one_time: bool) -> Private:
        said = self._said["responder"]
        once = of_hex(said, "one_time_prekey_scalar") if one_time else None
        return Private(of_hex(said, "signed_prekey_scalar"), once, of_hex(said, "kem_prekey_seed"))

    def offer(self, *, one_time: bool) -> Offer:
        said, private = self._said["responder"], self.private(one_time=one_time)
        once = None
        if private.one_time is not None:
            once = Offered(UUID(said["one_time_prekey_id"]), public(private.one_time))
        return Offer(
            Offered(UUID(said["signed_prekey_id"]), public(private.signed)),
            once,
            OfferedKem(UUID(said["kem_prekey_id"]), KemPublicKey.from_bytes(b64decode(said["kem_prekey"]))),
        )

    def initiate(self, *, one_time: bool = True) -> Agreed:
        said, mine = self._said, private_key(of_hex(self._said["initiator"], "ecdh_scalar"))
        fresh = Fresh(of_hex(said, "ephemeral_scalar"), of_hex(said, "kem_secret"), b64decode(said["kem_ciphertext"]))
        return handshake.initiate(self.initiator, mine, self.responder, self.offer(one_time=one_time), fresh)

    def begin(self) -> Session:
        scalar = of_hex(self._said, "initiator_ratchet_scalar")
        offer = self.offer(one_time=True)
        return session.initiated(self.initiate(), self.initiator, self.responder, offer, mine=scalar)

    def respond(self, header: Header, *, one_time: bool) -> Agreed:
        mine = private_key(of_hex(self._said["responder"], "ecdh_scalar"))
        return handshake.respond(header, self.initiator, self.responder, mine, self.private(one_time=one_time))

    def take_up(self, header: Header, *, one_time: bool) -> Session:
        mine = private_key(of_hex(self._said["responder"], "ecdh_scalar"))
        return session.respond(header, self.initiator, self.responder, mine, self.private(one_time=one_time))


def public(scalar: bytes) -> PublicKey:
    return PublicKey.of(private_key(scalar).public_key())


@by_name("handshakes")
def test_handshakes(vector: dict[str, Any]) -> None:
    """Both sides derive the same keys and the first message opens, or the responder fails where the result says."""
    setting, one_time = Setting("handshakes"), vector["responder_has_one_time_prekey"]
    encoded, result = b64decode(vector["header"]), vector["result"]
    if result == "invalid_header":
        with pytest.raises(ValueError, match=r"\w"):
            Header.decode(encoded)
        return
    header = Header.decode(encoded)
    if result == "one_time_prekey_missing":
        with pytest.raises(ValueError, match="the one-time prekey is not there"):
            setting.respond(header, one_time=one_time)
        return
    demand_keys(setting.respond(header, one_time=one_time), vector)
    first, state = b64decode(vector["first_message"]), setting.take_up(header, one_time=one_time)
    if not is_good(vector, "cannot_decrypt"):
        with pytest.raises(ValueError, match=r"^the message cannot be decrypted$"):
            state.open(first)
        return
    assert state.open(first)
    begun = setting.initiate(one_time=one_time)
    assert begun.header == encoded
    demand_keys(begun, vector)


def demand_keys(agreed: Agreed, vector: dict[str, Any]) -> None:
    assert agreed.session_id.hex() == vector["session_id"]
    assert agreed.associated.hex() == vector["associated"]
    assert agreed.secrets.root.hex() == vector["root"]
    assert agreed.secrets.initiator_header_key.hex() == vector["initiator_header_key"]
    assert agreed.secrets.responder_header_key.hex() == vector["responder_header_key"]


@by_name("ratchets")
def test_ratchets(vector: dict[str, Any]) -> None:
    """Each step gives what its vector says; what is refused leaves the state as it was."""
    said = load("ratchets")
    secrets = Secrets(*(of_hex(said, name) for name in ("root", "initiator_header_key", "responder_header_key")))
    theirs, scalar = PublicKey.from_pem(said["responder_signed_prekey"]), of_hex(said, "initiator_ratchet_scalar")
    states = {
        "initiator": ratchet.begin(secrets, theirs, mine=scalar),
        "responder": ratchet.answer(secrets, of_hex(said, "responder_signed_prekey_scalar")),
    }
    assert vector["steps"]
    for step in vector["steps"]:
        states[step["side"]] = take(states[step["side"]], step)


def take(state: Ratchet, step: dict[str, Any]) -> Ratchet:
    """Return the state after a step."""
    if step["action"] == "seal_and_lose":
        for _ in range(step["count"]):
            state, _ = ratchet.encrypt(state, b"", b"")
        return state
    message, associated = b64decode(step["message"]), b64decode(step["associated"])
    if step["action"] == "seal":
        after, sealed = ratchet.encrypt(state, b64decode(step["plaintext"]), associated, nonce=of_hex(step, "nonce"))
        assert sealed == message
        return after
    assert step["action"] == "open"
    if not is_good(step, "cannot_decrypt"):
        with pytest.raises(ValueError, match=r"^the message does not open$"):
            ratchet.decrypt(state, message, associated)
        return state
    return opened(state, step, message, associated)


def opened(state: Ratchet, step: dict[str, Any], message: bytes, associated: bytes) -> Ratchet:
    turn = of_hex(step, "turn_scalar") if "turn_scalar" in step else None
    found = ratchet.decrypt(state, message, associated, turn=turn)
    assert found.plaintext == b64decode(step["plaintext"])
    assert (found.missed, found.is_late) == (step["missed"], step["is_late"])
    assert found.ratchet.mine == (turn or state.mine)
    return found.ratchet


@by_name("sessions")
def test_sessions(vector: dict[str, Any]) -> None:
    """Each message opens to its content, or fails in the one way there is."""
    setting = Setting("sessions")
    state = setting.begin() if vector["reader"] == "initiator" else None
    for before in vector["opened_before"]:
        state = receive(setting, state, b64decode(before["message"]), of_hex(before, "turn_scalar")).session
    message = b64decode(vector["message"])
    if not is_good(vector, "cannot_decrypt"):
        with pytest.raises(ValueError, match=r"^(the message cannot be decrypted|not a message of this version)$"):
            receive(setting, state, message)
        return
    assert receive(setting, state, message).content == content_of(vector)


def receive(setting: Setting, state: Session | None, message: bytes, turn: bytes | None = None) -> Received:
    """Open a message in the session that there is, else in the one that it begins."""
    if state is None:
        header = session.opening_of(message)
        assert header is not None
        state = setting.take_up(header, one_time=True)
    return state.open(message, turn=turn)
