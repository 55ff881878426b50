"""Writes spec/vectors/*.json from fixed keys: python tests/make_vectors.py. A test holds the files to this code.

The keys are published here, and protect nothing. Signatures are deterministic (RFC 6979), so that a run changes
no byte; any valid signature would do as well.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from blindpost.protocol import dpop, transcripts
from blindpost.protocol.challenge import Challenge
from blindpost.protocol.encoding import b64encode, b64url_encode
from blindpost.protocol.keys import SPKI_HEADER, PublicKey
from blindpost.protocol.padding import pad
from blindpost.protocol.safety_number import safety_number
from identity_vectors import identity_files
from login_vectors import login_file
from prekey_vectors import prekey_file
from public_key_vectors import public_key_file
from read_vectors import VECTORS
from session_vectors import session_files
from vector_keys import (
    ALICE,
    BOB,
    CAROL,
    KEM_PUBLIC,
    ORDER,
    PUBLIC,
    RFC6979,
    Vector,
    sign,
)

CHALLENGE: Final = Challenge("https://chat.example.org", "alice", b64url_encode(bytes(range(32))), 1_767_225_600)
Someone = tuple[UUID, PublicKey]


def build() -> dict[str, Any]:
    """Return what each file holds."""
    return {
        "keys": list(keys()),
        "signatures": list(signatures()),
        "transcripts": list(signed()),
        "challenges": list(challenges()),
        "logins": login_file(),
        "proofs": list(proofs()),
        "padding": list(paddings()),
        "prekeys": prekey_file(),
        "public_keys": public_key_file(),
        "identity_files": list(identity_files()),
        "safety_numbers": list(numbers()),
        **session_files(),
    }


def armour(der: bytes, label: str = "PUBLIC KEY") -> str:
    return f"-----BEGIN {label}-----\n{b64encode(der)}\n-----END {label}-----\n"


def with_point(point: bytes) -> str:
    bits = b"\x03" + bytes((len(point) + 1, 0)) + point
    algorithm = SPKI_HEADER[2:20]
    return armour(b"\x30" + bytes((len(algorithm) + len(bits),)) + algorithm + bits)


def keys() -> Iterator[Vector]:
    """PEM in; canonical DER, or invalid_key."""
    key = PUBLIC["alice_ecdsa"]
    point, body = key.der[len(SPKI_HEADER) :], "".join(key.pem.splitlines(keepends=True)[1:-1]).strip()
    for name, pem in {
        "canonical": key.pem,
        "no line end at the end": key.pem.rstrip("\n"),
        "CRLF": key.pem.replace("\n", "\r\n"),
        "CRLF and LF": key.pem.replace("\n", "\r\n", 2),
        "one long line": armour(key.der),
        "a character in each line": key.pem.replace(body, "\n".join(body.replace("\n", ""))),
    }.items():
        yield {"name": name, "pem": pem, "result": "ok", "der": b64encode(key.der)}
    for name, pem in {
        "compressed point": with_point(bytes((2 + (point[-1] & 1),)) + point[1:49]),
        "hybrid point": with_point(bytes((6 + (point[-1] & 1),)) + point[1:]),
        "point at infinity": with_point(b"\x00"),
        "all-zero point": armour(SPKI_HEADER + b"\x04" + bytes(96)),
        "point off the curve": armour(key.der[:-1] + bytes((key.der[-1] ^ 1,))),
        "text before": "x\n" + key.pem,
        "text after": key.pem + "x\n",
        "two blocks": key.pem * 2,
        "CR alone": key.pem.replace("\n", "\r"),
        "an empty line": key.pem.replace("\n", "\n\n", 2),
        "a space at the end of a line": key.pem.replace("\n", " \n", 2),
        "two line ends at the end": key.pem + "\n",
        "padding where none belongs": key.pem.replace("\n-----END", "=\n-----END"),
        "base64url": key.pem.replace("+", "-").replace("/", "_"),
        "PEM header": key.pem.replace("KEY-----\n", "KEY-----\nComment: x\n\n", 1),
        "another label": armour(key.der, "EC PUBLIC KEY"),
        "trailing DER": armour(key.der + b"\x00"),
        "another curve": armour(p256()),
        "over 1,024 characters": key.pem + "\n" * 1_024,
    }.items():
        yield {"name": name, "pem": pem, "result": "invalid_key"}


def p256() -> bytes:
    numbers = ec.derive_private_key(7, ec.SECP256R1()).public_key().public_numbers()
    head = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
    return head + b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def signatures() -> Iterator[Vector]:
    """Key, data and signature in; ok or invalid_signature."""
    data = b"data to be signed"
    good = sign("alice_ecdsa", data)
    r, s = decode_dss_signature(good)
    yield from _signature(data, "ok", {"canonical": good, "its twin (r, n - s)": encode_dss_signature(r, ORDER - s)})
    bad = {
        "BER long form": b"\x30\x81" + good[1:],
        "trailing byte": good + b"\x00",
        "r with a leading zero": b"\x30" + bytes((good[1] + 1,)) + b"\x02" + bytes((good[3] + 1, 0)) + good[4:],
        "negative r": b"\x30\x06\x02\x01\x80\x02\x01\x01",
        "r is zero": encode_dss_signature(0, s),
        "s plus the order": encode_dss_signature(r, s + ORDER),
        "raw r and s": r.to_bytes(48, "big") + s.to_bytes(48, "big"),
        "another key's": sign("mallory_ecdsa", data),
        "over other data": sign("alice_ecdsa", b"other data"),
        "empty": b"",
    }
    yield from _signature(data, "invalid_signature", bad)


def _signature(data: bytes, result: str, named: dict[str, bytes]) -> Iterator[Vector]:
    for name, signature in named.items():
        yield {
            "name": name,
            "key": PUBLIC["alice_ecdsa"].pem,
            "data": b64encode(data),
            "signature": b64encode(signature),
            "result": result,
        }


def signed() -> Iterator[Vector]:
    """Every transcript, with a signature over it by the key named."""
    alice, ecdh, following = PUBLIC["alice_ecdsa"], PUBLIC["alice_ecdh"], PUBLIC["alice_next_ecdsa"]
    rotation = transcripts.rotate_ecdsa(ALICE, alice, following)
    yield _signed("register", "alice_ecdsa", transcripts.register("alice", alice, ecdh))
    yield _signed("rotate-ecdsa", "alice_ecdsa", rotation)
    yield _signed("rotate-ecdsa, new key", "alice_next_ecdsa", rotation)
    thumbprint = dpop.ProofKey(SESSION_KEYS["ES256"][0]).thumbprint
    yield _signed("login", "alice_ecdsa", transcripts.login(str(CHALLENGE), thumbprint))
    yield _signed("delete-account", "alice_ecdsa", transcripts.delete_account(ALICE))
    prekey_id, expires_s, key = UUID(int=1), 1_767_225_600, PUBLIC["one_time"]
    for name, signed_bytes in {
        "signed-prekey": transcripts.signed_prekey(ALICE, prekey_id, expires_s, key),
        "one-time-prekey": transcripts.one_time_prekey(ALICE, prekey_id, key),
        "last-resort-kem-prekey": transcripts.last_resort_kem_prekey(ALICE, prekey_id, expires_s, KEM_PUBLIC),
        "one-time-kem-prekey": transcripts.one_time_kem_prekey(ALICE, prekey_id, KEM_PUBLIC),
    }.items():
        yield _signed(name, "alice_ecdsa", signed_bytes)
    yield from signed_otherwise(prekey_id, expires_s)


def signed_otherwise(prekey_id: UUID, expires_s: int) -> Iterator[Vector]:
    """What a signature of Alice's does not stand for."""
    alice, ecdh, following = PUBLIC["alice_ecdsa"], PUBLIC["alice_ecdh"], PUBLIC["alice_next_ecdsa"]
    rotation, key = transcripts.rotate_ecdsa(ALICE, alice, following), PUBLIC["one_time"]
    signed_prekey = transcripts.signed_prekey(ALICE, prekey_id, expires_s, key)
    for name, shown, signed_bytes in (
        (
            "register, another name",
            transcripts.register("alicia", alice, ecdh),
            transcripts.register("alice", alice, ecdh),
        ),
        (
            "register, another ECDH key",
            transcripts.register("alice", alice, key),
            transcripts.register("alice", alice, ecdh),
        ),
        ("rotate-ecdsa, another's account", transcripts.rotate_ecdsa(BOB, alice, following), rotation),
        ("rotate-ecdsa, back again", transcripts.rotate_ecdsa(ALICE, following, alice), rotation),
        ("delete-account, another's", transcripts.delete_account(BOB), transcripts.delete_account(ALICE)),
        (
            "login, another session's key",
            transcripts.login(str(CHALLENGE), "A" * 43),
            transcripts.login(str(CHALLENGE), "B" * 43),
        ),
        ("login, the challenge alone was signed", transcripts.login(str(CHALLENGE), "A" * 43), str(CHALLENGE).encode()),
        (
            "signed-prekey, another expiry",
            transcripts.signed_prekey(ALICE, prekey_id, expires_s + 1, key),
            signed_prekey,
        ),
        (
            "one-time-prekey, signed under another label",
            transcripts.one_time_prekey(ALICE, prekey_id, key),
            signed_prekey,
        ),
    ):
        yield _signed(name, "alice_ecdsa", shown, signed_bytes)


def _signed(name: str, signer: str, transcript: bytes, signed_bytes: bytes | None = None) -> Vector:
    return {
        "name": name,
        "transcript": b64encode(transcript),
        "key": PUBLIC[signer].pem,
        "signature": b64encode(sign(signer, signed_bytes or transcript)),
        "result": "invalid_signature" if signed_bytes else "ok",
    }


def challenges() -> Iterator[Vector]:
    """Text in; its fields, or invalid_challenge."""
    nonce, good = CHALLENGE.nonce, str(CHALLENGE)
    fields = asdict(CHALLENGE)
    yield {"name": "canonical", "text": good, "result": "ok", **fields}
    yield {
        "name": "expiry of zero",
        "text": good.replace("|1767225600", "|0"),
        "result": "ok",
        **fields | {"expiry": 0},
    }
    for name, text in {
        "another version": good.replace("/v1/", "/v2/"),
        "another purpose": good.replace("login", "register"),
        "a field too many": good + "|",
        "a field too few": good.rsplit("|", 1)[0],
        "leading zero in the expiry": good.replace("|1767225600", "|01767225600"),
        "sign in the expiry": good.replace("|1767225600", "|+1767225600"),
        "nonce of 31 bytes": good.replace(nonce, nonce[:-1]),
        "nonce with unused bits set": good.replace(nonce, nonce[:-1] + "9"),
        "nonce in the other alphabet": good.replace(nonce, "+" + nonce[1:]),
        "line end": good + "\n",
        "expiry of 11 digits": good.replace("|1767225600", "|17672256000"),
        "no expiry": good.replace("|1767225600", "|"),
        "digits of another script in the expiry": good.replace("|1767225600", "|\u0661767225600"),
        "over 512 characters": good.replace("alice", "a" * 512),
    }.items():
        yield {"name": name, "text": text, "result": "invalid_challenge"}


def paddings() -> Iterator[Vector]:
    """Padded bytes in hexadecimal; the data, or invalid_padding."""
    for name, data, size in (
        ("empty", b"", 4),
        ("ends in zeros", b"a\x00", 6),
        ("ends in a mark", b"\x80", 3),
        ("full", b"abc", 4),
    ):
        yield {"name": name, "padded": pad(data, size).hex(), "result": "ok", "data": data.hex()}
    for name, padded in {
        "no bytes": b"",
        "zeros alone": bytes(4),
        "no mark": b"abc\x00",
        "after the mark": b"\x80\x01",
    }.items():
        yield {"name": name, "padded": padded.hex(), "result": "invalid_padding"}


def numbers() -> Iterator[Vector]:
    """Two people in; sixty digits that are theirs, or another_number."""
    one, other = (ALICE, PUBLIC["alice_ecdsa"]), (BOB, PUBLIC["bob_ecdsa"])
    number = safety_number(one, other)
    for name, mine, theirs in (("alice and bob", one, other), ("bob and alice", other, one)):
        yield _number(name, mine, theirs, number, "ok")
    for name, theirs in {
        "another's key": (BOB, PUBLIC["mallory_ecdsa"]),
        "the ECDH key": (BOB, PUBLIC["bob_ecdh"]),
        "another's id": (CAROL, PUBLIC["bob_ecdsa"]),
    }.items():
        yield _number(name, one, theirs, number, "another_number")
    yield _number("the larger half first", one, other, number[30:] + number[:30], "another_number")


def _number(name: str, mine: Someone, theirs: Someone, number: str, result: str) -> Vector:
    sides = {
        side: {"user_id": str(user_id), "ecdsa": key.pem}
        for side, (user_id, key) in (("mine", mine), ("theirs", theirs))
    }
    return {"name": name, **sides, "number": number, "result": result}


PROOF_AT: Final = 1_767_225_600
SESSION_KEYS: Final = {
    "ES256": (ec.derive_private_key(0x5E5510, ec.SECP256R1()), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)),
    "ES384": (ec.derive_private_key(0x5E5510, ec.SECP384R1()), RFC6979),
}
REQUEST: Final = dpop.SignedRequest("POST", "https://chat.example.org/messages/send", b'{"a":1}', "a-token")


def proofs() -> Iterator[Vector]:
    """Signed requests: what is asked for, the proof shown with it, and what the router makes of it."""
    for algorithm in SESSION_KEYS:
        key = dpop.ProofKey(SESSION_KEYS[algorithm][0])
        claims = {
            "jti": "the-first",
            "htm": REQUEST.method,
            "htu": REQUEST.url,
            "iat": PROOF_AT,
            "ath": dpop.digest(b"a-token"),
            "bd": dpop.digest(REQUEST.body),
        }
        yield _proof_vector(f"a request, {algorithm}", REQUEST, _proof(algorithm, claims), key.thumbprint)
        login = REQUEST._replace(url="https://chat.example.org/auth/login", token=None)
        at_login = {name: value for name, value in claims.items() if name != "ath"} | {"htu": login.url}
        yield _proof_vector(f"a login, {algorithm}", login, _proof(algorithm, at_login), key.thumbprint)
        read = REQUEST._replace(method="GET", body=b"")
        at_read = {name: value for name, value in claims.items() if name != "bd"} | {"htm": "GET"}
        yield _proof_vector(f"a request without a body, {algorithm}", read, _proof(algorithm, at_read), key.thumbprint)
    good: dict[str, Any] = claims
    for name, change in good_claims().items():
        yield _proof_vector(name, REQUEST, _proof("ES256", good | change), _thumbprint("ES256"))
    without_body = REQUEST._replace(body=b"")
    of_nothing = _proof("ES256", good | {"bd": dpop.digest(b"")})
    yield _proof_vector("without a body, the digest of no bytes", without_body, of_nothing, _thumbprint("ES256"))
    yield _proof_vector("without a body, the digest of another", without_body, _proof("ES256", good))
    yield _proof_vector("without a body, null", without_body, _proof("ES256", good | {"bd": None}))
    yield _proof_vector("a token's digest without a token", REQUEST._replace(token=None), _proof("ES256", good))
    no_token = _proof("ES256", good | {"ath": None})
    yield _proof_vector("null without a token", REQUEST._replace(token=None), no_token)
    for name, change in bad_claims().items():
        yield _proof_vector(name, REQUEST, _proof("ES256", good | change))
    for name in good:
        lacking = {each: value for each, value in good.items() if each != name}
        yield _proof_vector(f"without {name}", REQUEST, _proof("ES256", lacking))
    header = dpop._loads(dpop._decode(dpop.ProofKey(SESSION_KEYS["ES256"][0])._header))
    for name, proof in misspelt(good, header).items():
        yield _proof_vector(name, REQUEST, proof)
    headers: dict[str, dict[str, Any]] = {
        "another type": {"typ": "JWT"},
        "no algorithm": {"alg": "none"},
        "a symmetric algorithm": {"alg": "HS256"},
        "another curve's algorithm": {"alg": "ES384"},
        "a critical extension": {"crit": ["b64"], "b64": True},
        "a private key": {"jwk": header["jwk"] | {"d": b64url_encode((0x5E5510).to_bytes(32, "big"))}},
    }
    for name, change in headers.items():
        yield _proof_vector(name, REQUEST, _proof("ES256", good, header | change))


def good_claims() -> dict[str, dict[str, Any]]:
    """Claims that are not as our client writes them, and good."""
    return {
        "a time with a fraction": {"iat": PROOF_AT - 0.5},
        "a time with a fraction of nothing": {"iat": float(PROOF_AT)},
        "60 seconds old": {"iat": PROOF_AT - 60},
        "5 seconds ahead": {"iat": PROOF_AT + 5},
        "an id of 128 characters": {"jti": "~ " * 64},
        "a claim that nobody knows": {"more": [None]},
        "query and fragment in the URL": {"htu": f"{REQUEST.url}?page=2#end"},
        "the origin spelt otherwise": {"htu": REQUEST.url.replace("https://chat.example", "HTTPS://Chat.Example")},
        "the default port in the URL": {"htu": REQUEST.url.replace(".org/", ".org:443/")},
    }


def bad_claims() -> dict[str, dict[str, Any]]:
    """Claims of which the router takes none for its request."""
    return {
        "another method": {"htm": "PUT"},
        "the method in lower case": {"htm": "post"},
        "another path": {"htu": "https://chat.example.org/messages/ack"},
        "the path spelt otherwise": {"htu": REQUEST.url.replace("send", "%73end")},
        "another origin": {"htu": "https://evil.example.org/messages/send"},
        "another scheme": {"htu": REQUEST.url.replace("https:", "http:")},
        "another port": {"htu": REQUEST.url.replace(".org/", ".org:444/")},
        "another body": {"bd": dpop.digest(b'{"a":2}')},
        "another token": {"ath": dpop.digest(b"another")},
        "61 seconds old": {"iat": PROOF_AT - 61},
        "6 seconds ahead": {"iat": PROOF_AT + 6},
        "a time as text": {"iat": str(PROOF_AT)},
        "true as a time": {"iat": True},
        "a number as its id": {"jti": 1},
        "an empty id": {"jti": ""},
        "an id of 129 characters": {"jti": "x" * 129},
        "a line end in its id": {"jti": "the\nfirst"},
        "a zero character in its id": {"jti": "the\0first"},
        "a delete character in its id": {"jti": "the\x7ffirst"},
        "an id that is not ASCII": {"jti": "thé-first"},
    }


def _thumbprint(algorithm: str) -> str:
    return dpop.ProofKey(SESSION_KEYS[algorithm][0]).thumbprint


def _proof(algorithm: str, claims: dict[str, Any], header: dict[str, Any] | None = None) -> str:
    encoded = dpop._dumps(header) if header else dpop.ProofKey(SESSION_KEYS[algorithm][0])._header
    return _jws(algorithm, f"{encoded}.{dpop._dumps(claims)}")


def _jws(algorithm: str, data: str) -> str:
    private, signature = SESSION_KEYS[algorithm]
    size = (private.curve.key_size + 7) // 8
    r, s = decode_dss_signature(private.sign(data.encode(), signature))
    return f"{data}.{b64url_encode(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"


def misspelt(claims: dict[str, Any], header: dict[str, Any]) -> dict[str, str]:
    """Proofs of good claims under a good key, written in a way that is not taken."""
    good, other = _proof("ES256", claims), ec.derive_private_key(7, ec.SECP256R1())
    head, body, signature = good.split(".")
    text = json.dumps(claims)
    raw = dpop._decode(signature)
    r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))

    def saying(said: str) -> str:
        return _jws("ES256", f"{head}.{b64url_encode(said.encode())}")

    return {
        "a claim twice": saying(text.replace("{", '{"jti": "the-other", ', 1)),
        "claims that are a list": saying(f"[{text}]"),
        "claims that are not JSON": saying(text[:-1]),
        "claims with a number that is none": saying(text.replace("{", '{"more": NaN, ', 1)),
        "base64url with padding": _jws("ES256", f"{head}.{body}=="),
        "another alphabet": f"{head}.{body}.{signature[:-1]}+",
        "a part too many": f"{good}.",
        "a part too few": f"{head}.{body}",
        "no signature": f"{head}.{body}.",
        "signature in DER": f"{head}.{body}.{b64url_encode(encode_dss_signature(r, s))}",
        "signature of 63 bytes": f"{head}.{body}.{b64url_encode(raw[:-1])}",
        "another key than the one that signed": f"{dpop.ProofKey(other)._header}.{body}.{signature}",
        "header over 1,024 characters": _proof("ES256", claims, header | {"more": "x" * 1_024}),
    }


def _proof_vector(name: str, request: dpop.SignedRequest, proof: str, thumbprint: str | None = None) -> Vector:
    asked = {"method": request.method, "url": request.url, "body": b64encode(request.body), "token": request.token}
    result = {"result": "ok", "thumbprint": thumbprint} if thumbprint else {"result": "invalid_proof"}
    return {"name": name, **asked, "now": PROOF_AT, "proof": proof, **result}


def text_of(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file_name, file_content in build().items():
        (VECTORS / f"{file_name}.json").write_text(text_of(file_content), encoding="utf-8")
