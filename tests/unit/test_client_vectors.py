"""The published vectors of what a client reads: its own file, a login challenge, another's prekeys."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from blindpost.client import DamagedFile, Identity, Scrypt, UntrustedAnswer, WrongKeys, WrongPassphrase, WrongServer
from blindpost.client.directory import Directory
from blindpost.client.retry import Retry
from blindpost.client.sealer import Sealer
from blindpost.client.session import Session
from blindpost.client.store import Contact, Store
from blindpost.client.transport import parse
from blindpost.protocol import transcripts
from blindpost.protocol.encoding import b64decode
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.ratchet import private_key
from blindpost.services.models.prekeys import Bundle
from read_vectors import by_name, load

LOGIN_ERRORS = {
    "invalid_challenge": (UntrustedAnswer, "not one of this protocol"),
    "another_origin": (WrongServer, "another address"),
    "another_name": (WrongServer, "another user"),
    "another_time": (UntrustedAnswer, "not of this minute"),
}
KEY_ERRORS = {
    "another_user": "another user's keys",
    "invalid_key": "not valid|did not sign",
    "invalid_signature": "their owner did not sign",
}
PREKEY_ERRORS = {
    "another_user": "another user's",
    "invalid_expiry": "expired",
    "invalid_key": r"key|curve",
    "invalid_signature": "not signed by its owner",
}
FILE_ERRORS = {"damaged_file": DamagedFile, "wrong_passphrase": WrongPassphrase}


def of_hex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


@by_name("identity_files")
def test_identity_files(vector: dict[str, Any], tmp_path: Path) -> None:
    """Each file opens to its identity, or fails as damaged or for its passphrase."""
    path, floor = tmp_path / "alice.identity", Scrypt(vector["floor_log2_n"])
    path.write_bytes(vector["file"].encode("ascii"))
    path.chmod(0o600)
    if vector["result"] != "ok":
        with pytest.raises(FILE_ERRORS[vector["result"]]):
            Identity.load(path, vector["passphrase"], floor=floor)
        return
    identity = Identity.load(path, vector["passphrase"], floor=floor)
    saved = identity._saved
    assert (saved.username, saved.origin) == (vector["username"], vector["origin"])
    assert saved.user_id == (None if vector["user_id"] is None else UUID(vector["user_id"]))
    for name in ("root", "ecdsa", "ecdh", "next_ecdsa", "next_ecdh"):
        assert getattr(saved, name) == of_hex(vector[name])
    assert [[key.hex(), until] for key, until in saved.retired] == vector["retired"]
    assert identity.ecdsa_key == PublicKey.of(private_key(bytes.fromhex(vector["ecdsa"])).public_key())


@by_name("logins")
def test_logins(vector: dict[str, Any]) -> None:
    """Each challenge is signed as the protocol has it, or by nobody."""
    transport: Any = SimpleNamespace(origin=vector["origin"])
    identity = Identity.generate(vector["username"])
    session = Session(transport, identity, Retry(), clock=lambda: vector["now"])
    if vector["result"] != "ok":
        error, words = LOGIN_ERRORS[vector["result"]]
        with pytest.raises(error, match=words):
            session._check(vector["challenge"])
        return
    session._check(vector["challenge"])
    said = load("logins")
    signed = transcripts.login(vector["challenge"], said["thumbprint"])
    assert signed == b64decode(vector["signed"])
    assert PublicKey.from_pem(said["ecdsa"]).verifies(b64decode(vector["signature"]), signed)


class Answering:
    """A session with a router that gives one answer."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def call(self, *_: object) -> Any:
        return self._answer


@by_name("public_keys")
async def test_public_keys(vector: dict[str, Any]) -> None:
    """Each answer holds the keys of the person who was asked for, or is refused."""
    said, session = load("public_keys"), cast("Session", Answering(vector["answer"]))
    user_id, nobody = UUID(said["user_id"]), SimpleNamespace(contacts={})
    directory = Directory(session, cast("Store", nobody))
    directory._names[user_id] = said["username"]
    if vector["result"] == "malformed":
        with pytest.raises(UntrustedAnswer):
            await directory._fetch(user_id)
        return
    if vector["result"] != "ok":
        with pytest.raises(WrongKeys, match=KEY_ERRORS[vector["result"]]):
            await directory._fetch(user_id)
        return
    keys = await directory._fetch(user_id)
    assert keys.ecdsa == PublicKey.from_pem(vector["answer"]["ecdsa_public_key"])
    assert keys.ecdh == PublicKey.from_pem(vector["answer"]["ecdh_public_key"])


@by_name("prekeys")
def test_prekeys(vector: dict[str, Any]) -> None:
    """A session begins with each bundle that its owner signed, and with no other."""
    said, nothing = load("prekeys"), cast("Any", None)
    key = PublicKey.from_pem(said["ecdsa"])
    owner = Contact(user_id=UUID(said["user_id"]), username="bob", ecdsa=key, ecdh=key)
    if vector["result"] == "malformed":
        with pytest.raises(UntrustedAnswer):
            parse(Bundle, vector["bundle"])
        return
    bundle = parse(Bundle, vector["bundle"])
    sealer = Sealer(nothing, nothing, nothing, nothing, clock=lambda: said["now"])
    if vector["result"] != "ok":
        with pytest.raises(ValueError, match=PREKEY_ERRORS[vector["result"]]):
            sealer._signed_offer(owner, bundle)
        with pytest.raises(WrongKeys):
            sealer._checked(owner, bundle)
        return
    offer = sealer._checked(owner, bundle)
    assert (offer.signed.id, offer.kem.id) == (bundle.signed_prekey.id, bundle.kem_prekey.id)
    assert (offer.one_time is None) == (bundle.one_time_prekey is None)
