"""What is fuzzed: each parser with the one question that is asked of it, whatever it is given.

A target takes bytes, and raises unless the parser refused them in the documented way, or took them for what another
way of looking at them shows too. The seeds are where the mutations begin: good inputs, and all forgeries that we know.
"""

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import pydantic
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from fastapi import Request
from fastapi.exceptions import RequestValidationError

from blindpost.core import token_key
from blindpost.core.audit import HEAD_FILE, Audit, read_head, write_head
from blindpost.core.audit_chain import Head
from blindpost.core.database import Database
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.core.tokens import ALGORITHM, AUDIENCE, ISSUER, TYPE, Tokens
from blindpost.errors import ConfigurationError, NotAuthenticated
from blindpost.protocol import challenge, dpop, ratchet, session, transcripts
from blindpost.protocol.content import Content
from blindpost.protocol.encoding import b64decode, b64encode, b64url_decode, b64url_encode
from blindpost.protocol.kem import PUBLIC_BYTES as KEM_BYTES
from blindpost.protocol.keys import ECDSA_SHA384, PublicKey
from blindpost.protocol.padding import BUCKETS, bucket_for, pad, unpad
from blindpost.protocol.session import Session
from blindpost.routers import problems, strict
from blindpost.services.models import auth, contacts, messages, prekeys
from blindpost.services.models.common import Incoming
from forgeries import BAD_KEYS, OCTET_STRING, OTHER_SIGNATURES, SEQUENCE, der, integer, mirrored, other_signature
from forgeries import pem as forged_pem
from session_vectors import OPENING_BYTES, SENT, begin, scalar, take_up

Seeds = dict[str, Callable[[], bytes]]
Result = TypeVar("Result")

ME = ec.derive_private_key(11, ec.SECP384R1())
KEY = PublicKey.of(ME.public_key())
NODE: Final = ec.derive_private_key(0xB11D, ec.SECP256R1())
SESSION: Final = dpop.ProofKey(ec.derive_private_key(0xB12D, ec.SECP256R1()))
NOW: Final = 1_800_000_000
REQUEST: Final = dpop.SignedRequest("POST", "https://chat.example.org/messages/send", b'{"a":1}', "token")
DATA: Final = b"what was signed"
NONCE: Final = b64url_encode(bytes(range(32)))
BODIES: Final[dict[str, type[Incoming]]] = {
    model.__name__: model
    for model in (
        auth.RegisterRequest,
        auth.LoginRequest,
        auth.EcdsaUpdate,
        auth.EcdhUpdate,
        auth.DeleteAccount,
        contacts.ContactRequest,
        contacts.ContactDecision,
        prekeys.PrekeysUpload,
        prekeys.ClaimRequest,
        messages.SendRequest,
        messages.AckRequest,
        messages.PollRequest,
    )
}


class Target(NamedTuple):
    """One parser, the question, and where to begin."""

    run: Callable[[bytes], None]
    seeds: Seeds


def sign(data: bytes) -> bytes:
    return ME.sign(data, ECDSA_SHA384)


def _text(data: bytes) -> str:
    """Read bytes as text in which everything that a string of Python can hold comes up, lone surrogates too."""
    return data.decode("utf-8", "surrogateescape")


def _or_refused(errors: Any, parse: Callable[[], Result]) -> Result | None:
    try:
        return parse()
    except errors:
        return None


# Keys and signatures


def key_pem(data: bytes) -> None:
    pem = _text(data)
    key = _or_refused(ValueError, lambda: PublicKey.from_pem(pem))
    if key is None:
        return
    lines = pem.splitlines()
    assert (lines[0], lines[-1]) == ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----")
    assert "".join(lines[1:-1]) == b64encode(key.der)
    _is_the_key_that_others_read(key, load_pem_public_key(pem.encode()))


def key_der(data: bytes) -> None:
    key = _or_refused(ValueError, lambda: PublicKey.from_der(data))
    if key is not None:
        assert key.der == data
        _is_the_key_that_others_read(key, load_der_public_key(data))


def _is_the_key_that_others_read(key: PublicKey, read: Any) -> None:
    assert isinstance(read, ec.EllipticCurvePublicKey)
    assert isinstance(read.curve, ec.SECP384R1)
    assert read.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == key.der
    assert PublicKey.from_pem(key.pem) == PublicKey.from_der(key.der) == key


def signature(data: bytes) -> None:
    if KEY.verifies(data, DATA):
        assert encode_dss_signature(*decode_dss_signature(data)) == data
        ME.public_key().verify(data, DATA, ECDSA_SHA384)


def _key_seeds() -> Seeds:
    seeds: Seeds = {f"forged-{kind}": lambda make=make: make().encode()[:4_000] for kind, make in BAD_KEYS.items()}  # type: ignore[misc]
    seeds["good"] = KEY.pem.encode
    seeds["good-in-other-lines"] = lambda: KEY.pem.replace("\n", "\r\n").encode()
    seeds["good-without-last-line-end"] = lambda: KEY.pem.rstrip().encode()
    return seeds


def _signature_seeds() -> Seeds:
    seeds: Seeds = {f"forged-{kind}": lambda kind=kind: other_signature(sign(DATA), kind) for kind in OTHER_SIGNATURES}  # type: ignore[misc]
    return seeds | {"good": lambda: sign(DATA), "good-mirrored": lambda: mirrored(sign(DATA))}


# Text and bytes with one form


def a_challenge(data: bytes) -> None:
    text = _text(data)
    read = _or_refused(ValueError, lambda: challenge.Challenge.parse(text))
    if read is not None:
        assert str(read) == text
        assert re.fullmatch(r"blindpost/v1/login\|[^|]*\|[^|]*\|[\w-]{43}\|(?:0|[1-9][0-9]{0,9})", text, re.DOTALL)
        assert len(b64url_decode(read.nonce)) == challenge.NONCE_BYTES


def transcript(data: bytes) -> None:
    """Whatever the fields are, they can be read back: so no two lists of fields have one transcript."""
    label, *fields = data.split(b"\n")
    written = _or_refused(ValueError, lambda: transcripts.transcript(_text(label), *fields))
    if written is None:
        assert not re.fullmatch(rb"[a-z0-9-]+", label)
        return
    head, rest = written[: len(b"blindpost/v1/") + len(label) + 1], written[len(b"blindpost/v1/") + len(label) + 1 :]
    assert head == b"blindpost/v1/" + label + b"\x00"
    read = []
    while rest:
        size = int.from_bytes(rest[:4], "big")
        read.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    assert read == fields


def base64_text(data: bytes) -> None:
    text = _text(data)
    read = _or_refused(ValueError, lambda: b64decode(text))
    canonical = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"
    assert (read is not None) == bool(re.fullmatch(canonical, text))
    assert read is None or b64encode(read) == text


def base64url_text(data: bytes) -> None:
    text = _text(data)
    read = _or_refused(ValueError, lambda: b64url_decode(text))
    canonical = r"(?:[\w-]{4})*(?:[\w-][AQgw]|[\w-]{2}[AEIMQUYcgkosw048])?"
    assert (read is not None) == bool(re.fullmatch(canonical, text, re.ASCII))
    assert read is None or b64url_encode(read) == text


def padding(data: bytes) -> None:
    read = _or_refused(ValueError, lambda: unpad(data))
    assert (read is not None) == bool(re.fullmatch(rb".*\x80\x00*", data, re.DOTALL))
    assert read is None or pad(read, len(data)) == data


def _challenge_seeds() -> Seeds:
    good = f"{challenge.LABEL}|https://chat.example.org|alice|{NONCE}|1700000000"
    texts = {
        "good": good,
        "nobody": f"{challenge.LABEL}|||{NONCE}|0",
        "leading-zero": good.replace("|17", "|017"),
        "arabic-digits": good.replace("1700000000", "\u0661"),
        "field-more": good + "|x",
        "other-bits": good.replace(NONCE, NONCE[:-1] + "9"),
        "line-feed": good + "\n",
        "surrogate": good.replace("alice", "alice\udcff"),
        "transcript": "blindpost/v1/register\x00\x00\x00\x00\x05alice",
    }
    return {name: lambda text=text: text.encode("utf-8", "surrogateescape") for name, text in texts.items()}  # type: ignore[misc]


def _plain_seeds(**values: bytes) -> Seeds:
    return {name.replace("_", "-"): lambda value=value: value for name, value in values.items()}  # type: ignore[misc]


# Messages


def message(data: bytes) -> None:
    """Nothing opens but what was sealed, with or without a session that it is of; and there is one error."""
    for opened in (_opened, _taken_up):
        if opened(data) is not None:
            assert len(data) in BUCKETS
            assert opened(data[:-1]) is None


def content(data: bytes) -> None:
    """What a contact seals opens exactly if it is a content in its one form."""
    sender, _ = _both()
    room = bucket_for(len(session.FOLLOWING) + ratchet.OVERHEAD_BYTES + len(data) + 1) - len(session.FOLLOWING)
    padded = pad(data, room - ratchet.OVERHEAD_BYTES)
    _, sealed = ratchet.encrypt(sender.ratchet, padded, sender.associated + session.FOLLOWING)
    read = _or_refused(ValueError, lambda: Content.decode(data))
    assert _opened(session.FOLLOWING + sealed) == read
    assert read is None or read.encode() == data


@cache
def _both() -> tuple[Session, Session]:
    """Return two sides who have heard of each other, always the same: begun with the keys of the vectors."""
    alice, opening = begin().seal(SENT)
    bob = take_up(opening).open(opening, turn=scalar("bob's turn")).session
    bob, answer = bob.seal(SENT)
    return alice.open(answer, turn=scalar("alice's turn")).session, bob


def _opened(data: bytes) -> Content | None:
    """Open in a session."""
    try:
        return _both()[1].open(data).content
    except ValueError as error:
        if str(error) != "the message cannot be decrypted":
            raise AssertionError from error
        return None


def _taken_up(data: bytes) -> Content | None:
    """Open in the session that it begins, if it begins one with the prekeys that are there."""
    header = _or_refused(ValueError, lambda: session.opening_of(data))
    if header is None:
        return None
    assert data[1:OPENING_BYTES] == header.encode()
    state = _or_refused(ValueError, lambda: take_up(data))
    return None if state is None else _or_refused(ValueError, lambda: state.open(data).content)


def _message_seeds() -> Seeds:
    def opening() -> bytes:
        return begin().seal(SENT)[1]

    def following() -> bytes:
        return _both()[0].seal(SENT)[1]

    return {
        "opening": opening,
        "following": following,
        "version-1": lambda: b"\x01" + following()[1:],
        "other-version": lambda: b"\x04" + opening()[1:],
        "opening-as-following": lambda: session.FOLLOWING + opening()[1:],
        "not-a-point": lambda: opening()[:2] + bytes(96) + opening()[98:],
        "compressed-point": lambda: opening()[:1] + b"\x02" + opening()[2:],
        "too-small-for-a-handshake": lambda: opening()[:512],
        "cut": lambda: following()[:-1],
        "longer": lambda: following() + bytes(512),
    }


# Tokens


@cache
def _tokens() -> Tokens:
    """Make a node's own, with a key of ours; it knows all keys that there are, so it asks nobody."""
    directory = Path(tempfile.mkdtemp(prefix="bp-fuzz-"))
    (directory / token_key.KEY_FILE).touch(0o600)
    (directory / token_key.KEY_FILE).write_bytes(NODE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    database = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    tokens = Tokens(directory, database, Audit(database, Pseudonyms(database), directory, keep_days=7))
    tokens._public_keys = {tokens._key_id: NODE.public_key()}
    tokens._refreshed_at = float("inf")
    return tokens


def _at_once(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run what has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waits")


def token(data: bytes) -> None:
    _check_token(data.decode("latin-1"))


def token_signed(data: bytes) -> None:
    """Header and claims, a line each, under the node's good signature."""
    header, _, claims = data.partition(b"\n")
    signed = f"{b64url_encode(header)}.{b64url_encode(claims)}"
    raw = decode_dss_signature(NODE.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    _check_token(f"{signed}.{b64url_encode(b''.join(each.to_bytes(32, 'big') for each in raw))}")


def _check_token(text: str) -> None:
    tokens = _tokens()
    tokens._verified.clear()
    claims = _or_refused(NotAuthenticated, lambda: _at_once(tokens.check(text)))
    if claims is None:
        return
    header, said = (_read_object(b64url_decode(part)) for part in text.split(".")[:2])
    assert (header["alg"], header["typ"], header["kid"]) == (ALGORITHM, TYPE, tokens._key_id)
    assert said["iss"] == ISSUER
    assert said["aud"] == AUDIENCE or AUDIENCE in said["aud"]
    assert (UUID(said["sub"]), UUID(said["jti"])) == claims[:2]
    assert time.time() < claims.expires_at == int(said["exp"])
    assert claims.thumbprint == said.get("cnf", {}).get("jkt")


def _read_object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    assert isinstance(value, dict)
    return value


def _token_parts() -> tuple[dict[str, Any], dict[str, Any]]:
    who = {"sub": str(UUID(int=1)), "jti": str(UUID(int=2)), "cnf": {"jkt": SESSION.thumbprint}}
    when = {"iat": 1_700_000_000, "exp": 99_999_999_999}
    header = {"alg": ALGORITHM, "kid": _tokens()._key_id, "typ": TYPE}
    return header, {"iss": ISSUER, "aud": AUDIENCE} | who | when


def _lines(*objects: object) -> bytes:
    return b"\n".join(json.dumps(each).encode() for each in objects)


def _token_signed_seeds() -> Seeds:
    header, claims = _token_parts()
    return {
        "good": lambda: _lines(header, claims),
        "bearer": lambda: _lines(header, {name: value for name, value in claims.items() if name != "cnf"}),
        "no-algorithm": lambda: _lines(header | {"alg": "none"}, claims),
        "symmetric": lambda: _lines(header | {"alg": "HS256"}, claims),
        "own-key": lambda: _lines(header | {"jwk": {"kty": "EC"}}, claims),
        "critical": lambda: _lines(header | {"crit": ["b64"], "b64": False}, claims),
        "other-type": lambda: _lines(header | {"typ": "JWT"}, claims),
        "expired": lambda: _lines(header, claims | {"exp": 1}),
        "endless": lambda: _lines(header, claims).replace(b"99999999999", b"1e400"),
        "nested": lambda: _lines(header) + b"\n" + b"[" * 700,
    }


def _token_seeds() -> Seeds:
    def good() -> bytes:
        return _tokens().issue(UUID(int=1), UUID(int=2), 10**10, SESSION.thumbprint).encode()

    return {
        "good": good,
        "unsigned": lambda: good().rpartition(b".")[0] + b".",
        "other-header": lambda: b64url_encode(b'{"alg":"none"}').encode() + b"." + good().partition(b".")[2],
        "nested-header": lambda: b64url_encode(b"[" * 760).encode() + b"..",
    }


# Proofs


def proof(data: bytes) -> None:
    _check_proof(data.decode("latin-1"))


def proof_signed(data: bytes) -> None:
    """Header and claims, a line each, under the session key's good signature."""
    header, _, claims = data.partition(b"\n")
    signed = f"{b64url_encode(header)}.{b64url_encode(claims)}"
    raw = decode_dss_signature(SESSION._private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    _check_proof(f"{signed}.{b64url_encode(b''.join(each.to_bytes(32, 'big') for each in raw))}")


def _check_proof(text: str) -> None:
    found = _or_refused(dpop.InvalidProof, lambda: dpop.check(text, REQUEST, NOW))
    if found is None:
        return
    assert ".".join(b64url_encode(b64url_decode(part)) for part in text.split(".")) == text
    header, said = (
        json.loads(b64url_decode(part).decode(), object_pairs_hook=_each_once) for part in text.split(".")[:2]
    )
    assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
    assert not {"crit"} & header.keys()
    assert "d" not in header["jwk"]
    assert (said["htm"], said["bd"], said["ath"]) == ("POST", dpop.digest(REQUEST.body), dpop.digest(b"token"))
    assert (urlsplit(said["htu"]).hostname, urlsplit(said["htu"]).path) == ("chat.example.org", "/messages/send")
    assert type(said["iat"]) in {int, float}
    assert NOW - 60 <= said["iat"] <= NOW + 30
    assert re.fullmatch(r"[\x00-\x7f]{1,128}", said["jti"])
    assert found == dpop.Proof(SESSION.thumbprint, said["jti"], said["iat"])


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert all(count == 1 for count in Counter(name for name, _ in pairs).values())
    return dict(pairs)


def _proof_parts() -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = SESSION.prove(REQUEST, NOW).split(".")
    return _read_object(b64url_decode(header)), _read_object(b64url_decode(claims)) | {"jti": "one"}


def _proof_signed_seeds() -> Seeds:
    header, claims = _proof_parts()
    jwk = header["jwk"]
    return {
        "good": lambda: _lines(header, claims),
        "good-other-spelling": lambda: _lines(
            header, claims | {"htu": "HTTPS://Chat.example.org:443/messages/send?a#b"}
        ),
        "good-with-fraction": lambda: _lines(header, claims | {"iat": NOW + 0.5}),
        "no-algorithm": lambda: _lines(header | {"alg": "none"}, claims),
        "other-algorithm": lambda: _lines(header | {"alg": "ES384"}, claims),
        "other-type": lambda: _lines(header | {"typ": "JWT"}, claims),
        "critical": lambda: _lines(header | {"crit": []}, claims),
        "private-key": lambda: _lines(header | {"jwk": jwk | {"d": "AAAA"}}, claims),
        "origin": lambda: _lines(header | {"jwk": jwk | {"x": "A" * 43, "y": "A" * 43}}, claims),
        "octet-key": lambda: _lines(header | {"jwk": {"kty": "oct", "k": "AAAA"}}, claims),
        "two-keys": lambda: _lines(header)[:-1] + b',"jwk":{}}\n' + _lines(claims),
        "two-times": lambda: _lines(header, claims)[:-1] + b',"iat":1}',
        "not-a-number": lambda: _lines(header, claims | {"iat": float("nan")}),
        "huge-time": lambda: _lines(header, claims | {"iat": 10**400}),
        "infinite-time": lambda: _lines(header, claims).replace(str(NOW).encode(), b"1e400"),
        "surrogate": lambda: _lines(header, claims | {"jti": "\ud800", "htu": "https://\ud800/"}),
        "nested": lambda: _lines(header) + b"\n" + b'{"a":' * 1_000,
        "odd-url": lambda: _lines(header, claims | {"htu": "https://[/messages/send"}),
    }


def _proof_seeds() -> Seeds:
    def good() -> bytes:
        return SESSION.prove(REQUEST, NOW).encode()

    return {
        "good": good,
        "padded": lambda: good() + b"==",
        "unsigned": lambda: good().rpartition(b".")[0] + b".",
        "zeros": lambda: good().rpartition(b".")[0] + b"." + b"A" * 86,
        "der": lambda: good().rpartition(b".")[0] + b"." + b64url_encode(sign(DATA)).encode(),
        "nested-header": lambda: b64url_encode(b"[" * 3_000).encode() + b"..",
    }


# JSON and the bodies of requests


def strict_json(data: bytes) -> None:
    """What is read strictly says the same to everybody."""
    value = _or_refused(json.JSONDecodeError, lambda: strict.loads(data))
    if value is None:
        return
    text = data.decode("utf-8")
    with suppress(RecursionError):  # near to the interpreter's guard it is this test that goes deeper
        assert json.loads(text, object_pairs_hook=_each_once, parse_constant=_refused_constant) == value
    _is_clean(value)


def _refused_constant(constant: str) -> None:
    raise AssertionError(constant)


def _is_clean(value: object) -> None:
    """Demand it of every text and number, wherever it is."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, str):
            assert "\x00" not in each
            each.encode("utf-8")
        elif isinstance(each, float):
            assert isfinite(each)
        elif isinstance(each, int):
            assert -(2**63) <= each < 2**63


def body(data: bytes) -> None:
    """A body, behind a line with its model's name: it is valid, or a problem that can be written down."""
    name, _, text = data.partition(b"\n")
    model = BODIES[sorted(BODIES)[sum(name) % len(BODIES)] if _text(name) not in BODIES else _text(name)]
    try:
        value = strict.loads(text)
        read = model.model_validate(value)
    except json.JSONDecodeError:
        return
    except pydantic.ValidationError as error:
        refused = RequestValidationError([each | {"loc": ("body", *each["loc"])} for each in error.errors()])
        request = Request({"type": "http", problems.REQUEST_ID: problems.next_request_id()})
        answer = _at_once(problems._invalid(request, refused))
        assert answer.status_code in {400, 413}
        return
    said, written = json.loads(text), read.model_dump(mode="json")
    assert model.model_validate(written) == read
    for field, each in said.items():
        assert written[field] == each or isinstance(each, list | dict) or UUID(each) == UUID(written[field])


def _body_seeds() -> Seeds:
    name, other = str(UUID(int=1)), str(UUID(int=2))
    signed, pem = b64encode(sign(DATA)), KEY.pem
    challenge_text = _challenge_seeds()["good"]().decode()
    good: dict[str, dict[str, Any]] = {
        "RegisterRequest": {
            "username": "alice", "ecdsa_public_key": pem, "ecdh_public_key": pem, "ecdh_signature": signed,
        },
        "LoginRequest": {"username": "alice", "challenge": challenge_text, "signature": signed},
        "EcdsaUpdate": {
            "ecdsa_public_key": pem, "ecdh_signature": signed, "old_key_signature": signed, "new_key_signature": signed,
        },
        "EcdhUpdate": {"ecdh_public_key": pem, "ecdh_signature": signed},
        "DeleteAccount": {"signature": signed},
        "ContactRequest": {"receiver_id": name},
        "ContactDecision": {"sender_id": name},
        "PrekeysUpload": {
            "signed_prekey": {"id": name, "public_key": pem, "expires": "2031-05-17T09:00:00Z", "signature": signed},
            "last_resort_kem_prekey": None,
            "one_time_prekeys": [{"id": name, "public_key": pem, "signature": signed}],
            "one_time_kem_prekeys": [{"id": other, "public_key": b64encode(bytes(KEM_BYTES)), "signature": signed}],
        },
        "ClaimRequest": {"user_id": name},
        "SendRequest": {"recipient_id": name, "message": "AAAA", "client_message_id": other},
        "AckRequest": {"message_ids": [name, other]},
        "PollRequest": {"message_ids": [name, other], "timeout": 0.5, "limit": 7},
    }  # fmt: skip
    assert good.keys() == BODIES.keys()
    return {model: lambda model=model: f"{model}\n{json.dumps(good[model])}".encode() for model in BODIES}  # type: ignore[misc]


# Files of the node


@cache
def _directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="bp-fuzz-"))


def audit_head(data: bytes) -> None:
    (_directory() / HEAD_FILE).write_bytes(data)
    head = _or_refused(ConfigurationError, lambda: read_head(_directory()))
    if head is not None:
        write_head(_directory(), head)
        assert read_head(_directory()) == head


def key_file(data: bytes) -> None:
    path = _directory() / token_key.KEY_FILE
    path.touch(0o600)
    path.write_bytes(data)
    key = _or_refused(ConfigurationError, lambda: token_key.load_or_make(_directory()))
    if key is not None:
        assert isinstance(key.private.curve, ec.SECP256R1)
        again = token_key.rotate(_directory(), 60)
        assert token_key.load_or_make(_directory()).id == again.id != key.id


def _audit_head_seeds() -> Seeds:
    def good() -> bytes:
        write_head(_directory(), Head(7, bytes(32), datetime(2031, 5, 17, 9, tzinfo=UTC)))
        return (_directory() / HEAD_FILE).read_bytes()

    return {
        "good": good,
        "before-all-time": lambda: good().replace(b"2031-05-17T09:00:00+00:00", b"0001-01-01T00:00:00+23:59"),
        "without-zone": lambda: good().replace(b"+00:00", b""),
        "two-rows": lambda: good() * 2,
        "empty": lambda: b"",
    }


def _key_file_seeds() -> Seeds:
    def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    return {
        "good": lambda: pem(NODE),
        "retired": lambda: b"# retired " + b"0" * 32 + b" 999999999999\n" + pem(NODE),
        "other-curve": lambda: pem(ME),
        "public-key": KEY.pem.encode,
        "two-keys": lambda: pem(ME) + pem(NODE),
        "unknown-algorithm": lambda: _unknown_algorithm().encode(),
    }


def _unknown_algorithm() -> str:
    algorithm = der(SEQUENCE, bytes.fromhex("06032a0304"))
    return forged_pem(der(SEQUENCE, integer(0), algorithm, der(OCTET_STRING, b"x")), "PRIVATE KEY")


def _json_seeds() -> Seeds:
    return _plain_seeds(
        object=b'{"a":"b","c":[1,-1.5e3,true,null,{}]}',
        twice=b'{"a":1,"a":2}',
        twice_inside=b'{"a":{"b":1,"\\u0062":2}}',
        nul=b'{"a":"\\u0000"}',
        surrogate=b'{"a":"\\ud800"}',
        surrogate_in_a_list=b'{"message_ids":["\\ud800"]}',
        surrogate_as_name=b'{"\\udc00":1}',
        emoji=b'{"a":"\\ud83d\\udcee"}',
        not_a_number=b'{"a":NaN}',
        infinity=b'{"a":-Infinity}',
        huge=b'{"a":' + b"9" * 5_000 + b"}",
        largest=b'{"a":9223372036854775807,"b":-9223372036854775808}',
        too_large=b'{"a":9223372036854775808}',
        nested=b"[" * 5_000,
        mark=b"\xef\xbb\xbf{}",
        utf_16='{"a":1}'.encode("utf-16"),
        latin=b'{"a":"\xe9"}',
        control=b'{"a":"\n"}',
    )


TARGETS: Final[dict[str, Target]] = {
    "key_pem": Target(key_pem, _key_seeds()),
    "key_der": Target(key_der, {"good": lambda: KEY.der, "off-the-curve": lambda: KEY.der[:-1] + b"\x00"}),
    "signature": Target(signature, _signature_seeds()),
    "challenge": Target(a_challenge, _challenge_seeds()),
    "transcript": Target(transcript, _plain_seeds(good=b"x-1\n\nab", no_label=b"\nab", other_label=b"A\x00\na\x00b")),
    "base64": Target(base64_text, _plain_seeds(good=b"AAECAw==", other_bits=b"AB==", web=b"-_==", line=b"AAAA\n")),
    "base64url": Target(base64url_text, _plain_seeds(good=b"AAECAw", other_bits=b"AB", padded=b"AA==", plus=b"+/AA")),
    "padding": Target(padding, _plain_seeds(good=b"ab\x80\x00\x00", none=b"ab\x00", mark=b"\x80", two=b"\x80\x80")),
    "message": Target(message, _message_seeds()),
    "content": Target(
        content, _plain_seeds(good=SENT.encode(), short=b"x", surrogate=SENT.encode()[:25] + b"\xed\xa0\x80")
    ),
    "token": Target(token, _token_seeds()),
    "token_signed": Target(token_signed, _token_signed_seeds()),
    "proof": Target(proof, _proof_seeds()),
    "proof_signed": Target(proof_signed, _proof_signed_seeds()),
    "json": Target(strict_json, _json_seeds()),
    "body": Target(body, _body_seeds()),
    "audit_head": Target(audit_head, _audit_head_seeds()),
    "key_file": Target(key_file, _key_file_seeds()),
}
