"""Requests signed by the session's own key: DPoP (RFC 9449), with a claim of ours for the body.

A proof is a compact JWS (RFC 7515) that names method, URL, time, an id of its own, the token it goes with and the
body. Its key is made for the session and shown first at login: a stolen token is of no use without it.

The claim `bd` is ours: base64url(SHA-256(body)), required whenever a request has a body.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from secrets import token_urlsafe
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature as BadSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from blindpost.protocol.encoding import b64url_decode, b64url_encode

TYPE: Final = "dpop+jwt"
PROOF_MAX_CHARS: Final = 8_192
"""Most of it is room for a long URL."""
HEADER_MAX_CHARS: Final = 1_024
"""A header is remembered, so that it is read once."""
ID_MAX_CHARS: Final = 128
_ID: Final = re.compile(rf"[ -~]{{1,{ID_MAX_CHARS}}}")
INTEGER_MAX_DIGITS: Final = 19
ID_BYTES: Final = 16
AGE_MAX_S: Final = 60
"""How old a proof may be: a slow network, a clock that is late."""
AHEAD_MAX_S: Final = 5
"""How far in the future. Little, because whoever lost the memory of proofs must refuse all that may be dated so."""
REMEMBERED_S: Final = 120
"""For how long a proof's id is remembered: longer than it could pass, by as much as nodes' clocks may differ."""
KEYS_REMEMBERED: Final = 8_192
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class InvalidProof(ValueError):
    """A proof that proves nothing; the message says why in a few words, and quotes nothing of it."""


class SignedRequest(NamedTuple):
    """What a proof is about."""

    method: str
    url: str
    """Scheme, host and path as sent, without query and fragment."""
    body: bytes = b""
    token: str | None = None
    """None at login, where there is no token yet."""


class Proof(NamedTuple):
    """A proof that was found good for its request."""

    thumbprint: str
    """Of the key (RFC 7638), base64url."""
    id: str
    issued_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class _Algorithm:
    """One of RFC 7518, section 3.4."""

    name: str
    curve_name: str
    curve: ec.EllipticCurve
    signature: ec.ECDSA
    size: int
    """Bytes of a coordinate, and of half a signature."""


_ALGORITHMS: Final = {
    each.name: each
    for each in (
        _Algorithm("ES256", "P-256", ec.SECP256R1(), ec.ECDSA(hashes.SHA256()), 32),
        _Algorithm("ES384", "P-384", ec.SECP384R1(), ec.ECDSA(hashes.SHA384()), 48),
    )
}
NAMES: Final = tuple(_ALGORITHMS)


class _Key(NamedTuple):
    """A public key as a proof's header shows it."""

    algorithm: _Algorithm
    public: ec.EllipticCurvePublicKey
    thumbprint: str

    def verifies(self, signature: bytes, data: bytes) -> bool:
        size = self.algorithm.size
        if len(signature) != 2 * size:
            return False
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        try:
            self.public.verify(encode_dss_signature(r, s), data, self.algorithm.signature)
        except BadSignature:
            return False
        return True


def check(proof: str, request: SignedRequest, now: float) -> Proof:
    """Check a proof as RFC 9449, section 4.3 says; raises InvalidProof.

    That its key is the token's, and that it comes for the first time, is for the caller to see to.
    """
    if len(proof) > PROOF_MAX_CHARS or not proof.isascii():
        raise InvalidProof("it is too long, or not ASCII")
    parts = proof.split(".")
    if len(parts) != len(("header", "claims", "signature")):
        raise InvalidProof("it is not a compact JWS")
    header, claims, signature = parts
    if len(header) > HEADER_MAX_CHARS:
        raise InvalidProof("its header is too long")
    key = _read_header(header)
    if not key.verifies(_decode(signature), f"{header}.{claims}".encode("ascii")):
        raise InvalidProof("its signature does not verify")
    said = _loads(_decode(claims))
    _demand_same(said, request)
    issued_at, proof_id = said.get("iat"), said.get("jti")
    if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
        raise InvalidProof("it has no time")
    if not -AHEAD_MAX_S <= now - issued_at <= AGE_MAX_S:
        raise InvalidProof("its time is not now: check this computer's clock")
    if not isinstance(proof_id, str) or _ID.fullmatch(proof_id) is None:
        raise InvalidProof("it has no id")
    return Proof(key.thumbprint, proof_id, issued_at)


def _demand_same(said: dict[str, Any], request: SignedRequest) -> None:
    """Let the claims be about this request and no other."""
    if said.get("htm") != request.method:
        raise InvalidProof("it is for another method")
    if not isinstance(said.get("htu"), str) or not _is_same_url(said["htu"], request.url):
        raise InvalidProof("it is for another URL")
    if (request.body or "bd" in said) and said.get("bd") != digest(request.body):
        raise InvalidProof("it is for another body")
    is_for_token = "ath" not in said if request.token is None else said.get("ath") == digest(request.token.encode())
    if not is_for_token:
        raise InvalidProof("it is for another token")


def _is_same_url(claimed: str, actual: str) -> bool:
    """Compare without query and fragment, as the RFC has it, and without regard to how an origin is spelt."""
    claimed = claimed.partition("#")[0].partition("?")[0]
    if claimed == actual:
        return True
    try:
        return _parts(claimed) == _parts(actual)
    except ValueError:
        return False


def _parts(url: str) -> tuple[str, str | None, int | None, str]:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("an origin has no user")
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme), parts.path


@lru_cache(KEYS_REMEMBERED)
def _read_header(header: str) -> _Key:
    """Read a header, which is the same text in every proof of a session: so it is read once."""
    said = _loads(_decode(header))
    if said.get("typ") != TYPE:
        raise InvalidProof("it is of another type")
    name, jwk = said.get("alg"), said.get("jwk")
    # The one list: no `none`, no symmetric algorithm, and nothing that the header could add.
    algorithm = _ALGORITHMS.get(name) if isinstance(name, str) else None
    if algorithm is None or "crit" in said:
        raise InvalidProof("its algorithm is neither ES256 nor ES384")
    if not isinstance(jwk, dict) or jwk.get("kty") != "EC" or jwk.get("crv") != algorithm.curve_name:
        raise InvalidProof("its key is not one of its algorithm")
    if "d" in jwk:
        raise InvalidProof("it holds a private key, which must never leave its owner")
    x, y = (_coordinate(jwk.get(name), algorithm.size) for name in ("x", "y"))
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(algorithm.curve, b"\x04" + x + y)
    except ValueError:
        raise InvalidProof("its key is not a point on the curve") from None
    return _Key(algorithm, public, _thumbprint(algorithm.curve_name, x, y))


def _coordinate(text: object, size: int) -> bytes:
    data = _decode(text) if isinstance(text, str) else b""
    if len(data) != size:
        raise InvalidProof("its key is not complete")
    return data


def _thumbprint(curve: str, x: bytes, y: bytes) -> str:
    """RFC 7638: the required members, in order, without spaces."""
    members = f'{{"crv":"{curve}","kty":"EC","x":"{b64url_encode(x)}","y":"{b64url_encode(y)}"}}'
    return digest(members.encode())


def digest(data: bytes) -> str:
    """Return base64url(SHA-256(data))."""
    return b64url_encode(sha256(data).digest())


def _decode(text: str) -> bytes:
    try:
        return b64url_decode(text)
    except ValueError:
        raise InvalidProof("it is not base64url") from None


def _loads(data: bytes) -> dict[str, Any]:
    """Read a JSON object in which no name stands twice: two readers must not read two things."""
    try:
        text = data.decode("utf-8")
        said = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise InvalidProof("it is not JSON") from None
    if not isinstance(said, dict):
        raise InvalidProof("it is not a JSON object")
    return said


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _integer(digits: str) -> int:
    # Longer ones have no float to be compared with a time.
    if len(digits) > INTEGER_MAX_DIGITS:
        raise ValueError("the integer is too long")
    return int(digits)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_integer)


class ProofKey:
    """A session's own key: made for it, held in memory, written nowhere."""

    def __init__(self, private: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._private = private or ec.generate_private_key(ec.SECP256R1())
        name = self._private.curve.name
        self._algorithm = next(each for each in _ALGORITHMS.values() if each.curve.name == name)
        numbers = self._private.public_key().public_numbers()
        x, y = (value.to_bytes(self._algorithm.size, "big") for value in (numbers.x, numbers.y))
        self.thumbprint = _thumbprint(self._algorithm.curve_name, x, y)
        jwk = {"kty": "EC", "crv": self._algorithm.curve_name, "x": b64url_encode(x), "y": b64url_encode(y)}
        self._header = _dumps({"typ": TYPE, "alg": self._algorithm.name, "jwk": jwk})

    def __repr__(self) -> str:
        return "<ProofKey>"

    def prove(self, request: SignedRequest, now: float) -> str:
        """Write a proof for one request, good once and for about a minute."""
        claims: dict[str, object] = {
            "jti": token_urlsafe(ID_BYTES),
            "htm": request.method,
            "htu": request.url,
            "iat": int(now),
        }
        if request.token is not None:
            claims["ath"] = digest(request.token.encode())
        if request.body:
            claims["bd"] = digest(request.body)
        data = f"{self._header}.{_dumps(claims)}"
        r, s = decode_dss_signature(self._private.sign(data.encode("ascii"), self._algorithm.signature))
        size = self._algorithm.size
        return f"{data}.{b64url_encode(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"


def _dumps(value: dict[str, Any]) -> str:
    return b64url_encode(json.dumps(value, separators=(",", ":")).encode())
