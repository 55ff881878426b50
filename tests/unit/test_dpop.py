"""Proofs (RFC 9449): one that was made for a request passes for it, and for nothing else."""

import base64
import json
import time
from collections.abc import Callable
from hmac import digest as hmac_digest
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol import dpop
from blindpost.protocol.dpop import InvalidProof, Proof, ProofKey, SignedRequest, check

NOW = 1_800_000_000.0
URL = "https://chat.example.org/messages/send"
REQUEST = SignedRequest("POST", URL, b'{"a":1}', "token")
KEY = ProofKey()
CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1}

# The example of RFC 9449, section 4.2, at a protected resource (section 7.1).
RFC_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_PROOF = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJ"
    "oRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
    "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRy"
    "ZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9."
    "2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RFC_THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(proof: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims."""
    header, claims, _ = proof.split(".")
    return json.loads(dpop._decode(header)), json.loads(dpop._decode(claims))


def forge(header: dict[str, Any], claims: dict[str, Any], key: ProofKey = KEY) -> str:
    """Sign anything with a session's key."""
    data = f"{b64u(json.dumps(header).encode())}.{b64u(json.dumps(claims).encode())}"
    return f"{data}.{b64u(raw_signature(key, data.encode()))}"


def raw_signature(key: ProofKey, data: bytes) -> bytes:
    algorithm = {"ES256": jwt.algorithms.ECAlgorithm.SHA256, "ES384": jwt.algorithms.ECAlgorithm.SHA384}
    return jwt.algorithms.ECAlgorithm(algorithm[key._algorithm.name]).sign(data, key._private)


def refused(proof: str, request: SignedRequest = REQUEST, now: float = NOW) -> str:
    """Demand a refusal that quotes nothing of the proof."""
    with pytest.raises(InvalidProof) as caught:
        check(proof, request, now)
    assert all(part not in str(caught.value) for part in proof.split(".") if len(part) > 8)
    return str(caught.value)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_a_proof_passes_for_its_request(curve: type[ec.EllipticCurve]) -> None:
    key = ProofKey(ec.generate_private_key(curve()))
    proof = check(key.prove(REQUEST, NOW), REQUEST, NOW)
    assert proof.thumbprint == key.thumbprint
    assert proof.issued_at == NOW
    assert len(proof.id) >= 20


def test_no_two_proofs_have_one_id() -> None:
    ids = {check(KEY.prove(REQUEST, NOW), REQUEST, NOW).id for _ in range(100)}
    assert len(ids) == 100


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_another_library_reads_our_proofs(curve: type[ec.EllipticCurve]) -> None:
    key = ProofKey(ec.generate_private_key(curve()))
    proof = key.prove(REQUEST, NOW)
    header = jwt.get_unverified_header(proof)
    assert header["typ"] == "dpop+jwt"
    public = jwt.PyJWK(header["jwk"], header["alg"]).key
    claims = jwt.decode(proof, public, algorithms=[header["alg"]], options={"verify_iat": False})
    assert claims.keys() == {"jti", "htm", "htu", "iat", "ath", "bd"}
    assert claims["htm"] == "POST"
    assert claims["htu"] == URL


@pytest.mark.parametrize("algorithm", CURVES)
def test_we_read_the_proofs_of_another_library(algorithm: str) -> None:
    private = ec.generate_private_key(CURVES[algorithm]())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key()))
    _, claims = parts(KEY.prove(REQUEST, NOW))
    proof = jwt.encode(
        claims, private, algorithm, headers={"typ": "dpop+jwt", "jwk": jwk | {"ext": True, "use": "sig"}}
    )
    assert check(proof, REQUEST, NOW).id == claims["jti"]


def test_the_example_of_the_rfc_passes() -> None:
    request = SignedRequest("GET", "https://resource.example.org/protectedresource", b"", RFC_TOKEN)
    proof = check(RFC_PROOF, request, 1_562_262_618)
    assert proof == Proof(RFC_THUMBPRINT, "e1j3V_bKic8-LAEB", 1_562_262_618)


@pytest.mark.parametrize(
    "other",
    [
        REQUEST._replace(method="PUT"),
        REQUEST._replace(method="post"),
        REQUEST._replace(url="https://chat.example.org/messages/ack"),
        REQUEST._replace(url="https://chat.example.org/messages/send/"),
        REQUEST._replace(url="https://chat.example.org/messages/Send"),
        REQUEST._replace(url="https://chat.example.org/messages%2Fsend"),
        REQUEST._replace(url="https://evil.example.org/messages/send"),
        REQUEST._replace(url="https://chat.example.org:8443/messages/send"),
        REQUEST._replace(url="http://chat.example.org/messages/send"),
        REQUEST._replace(body=b'{"a":2}'),
        REQUEST._replace(body=b""),
        REQUEST._replace(token="tokeN"),
        REQUEST._replace(token=None),
    ],
)
def test_a_proof_passes_for_no_other_request(other: SignedRequest) -> None:
    refused(KEY.prove(REQUEST, NOW), other)
    refused(KEY.prove(other, NOW))


@given(
    st.builds(
        SignedRequest,
        st.sampled_from(["GET", "POST", "PUT"]),
        st.sampled_from([URL, URL + "x"]),
        st.binary(max_size=3),
        st.none() | st.text(max_size=2),
    ),
    st.builds(
        SignedRequest,
        st.sampled_from(["GET", "POST", "PUT"]),
        st.sampled_from([URL, URL + "x"]),
        st.binary(max_size=3),
        st.none() | st.text(max_size=2),
    ),
)
def test_a_proof_passes_for_a_request_exactly_if_it_was_made_for_it(made: SignedRequest, tried: SignedRequest) -> None:
    proof = KEY.prove(made, NOW)
    if made == tried:
        assert check(proof, tried, NOW).thumbprint == KEY.thumbprint
    else:
        refused(proof, tried)


@pytest.mark.parametrize(
    "url", [URL, "https://CHAT.example.org:443/messages/send", URL + "?limit=1#x", "HTTPS" + URL[5:]]
)
def test_an_origin_may_be_spelt_in_any_way_and_the_query_is_passed_over(url: str) -> None:
    assert check(KEY.prove(REQUEST._replace(url=url), NOW), REQUEST, NOW)


@pytest.mark.parametrize(
    "url",
    [
        "https://chat.example.org:x/messages/send",
        "https://[/messages/send",
        "https://u@chat.example.org/messages/send",
        "",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    assert "URL" in refused(KEY.prove(REQUEST._replace(url=url), NOW))


@pytest.mark.parametrize(
    ("age", "passes"), [(0, True), (60, True), (61, False), (-5, True), (-6, False), (86_400, False)]
)
def test_a_proof_is_good_for_a_minute(age: int, passes: bool) -> None:  # noqa: FBT001
    proof = KEY.prove(REQUEST, NOW)
    if passes:
        assert check(proof, REQUEST, NOW + age).issued_at == NOW
    else:
        assert "time" in refused(proof, REQUEST, NOW + age)


@pytest.mark.parametrize("claim", ["jti", "htm", "htu", "iat", "ath", "bd"])
def test_a_proof_that_lacks_a_claim_is_refused(claim: str) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    assert check(forge(header, claims), REQUEST, NOW)
    del claims[claim]
    refused(forge(header, claims))


@pytest.mark.parametrize("value", [None, 1, True, [], {}, "", "x" * 129, "é", "\ud800"])
@pytest.mark.parametrize("claim", ["jti", "htm", "htu", "ath", "bd"])
def test_a_claim_of_another_kind_is_refused(claim: str, value: Any) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    refused(forge(header, claims | {claim: value}))


@pytest.mark.parametrize("value", [None, True, "now", [NOW], 10**18, -1, float("nan"), float("inf"), 1e308, 10**400])
def test_a_time_that_is_none_is_refused(value: Any) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    refused(forge(header, claims | {"iat": value}))


def test_a_time_may_have_a_fraction() -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    assert check(forge(header, claims | {"iat": NOW + 0.25}), REQUEST, NOW).issued_at == NOW + 0.25


def test_an_id_may_have_128_characters() -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    assert check(forge(header, claims | {"jti": "x" * 128}), REQUEST, NOW).id == "x" * 128


@pytest.mark.parametrize(
    "algorithm",
    [
        "none",
        "None",
        "HS256",
        "HS384",
        "RS256",
        "PS256",
        "EdDSA",
        "ES512",
        "ES256K",
        "ES384",
        "es256",
        "",
        None,
        1,
        ["ES256"],
    ],
)
def test_no_other_algorithm_passes_for_a_p256_key(algorithm: Any) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    refused(forge(header | {"alg": algorithm}, claims))
    unsigned = ".".join(b64u(json.dumps(each).encode()) for each in (header | {"alg": algorithm}, claims))
    refused(unsigned + ".")


def test_a_symmetric_signature_with_the_public_key_as_secret_is_refused() -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    data = f"{b64u(json.dumps(header | {'alg': 'HS256'}).encode())}.{b64u(json.dumps(claims).encode())}"
    refused(f"{data}.{b64u(hmac_digest(json.dumps(header['jwk']).encode(), data.encode(), 'sha256'))}")


def test_a_private_key_in_a_proof_is_refused() -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    d = b64u(KEY._private.private_numbers().private_value.to_bytes(32, "big"))
    for value in (d, "", None):
        assert "private" in refused(forge(header | {"jwk": header["jwk"] | {"d": value}}, claims))


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"typ": None},
        {"typ": "DPOP+JWT"},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"jwk": None},
        {"jwk": []},
        {"jwk": "key"},
    ],
)
def test_another_header_is_refused(change: dict[str, Any]) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    refused(forge(header | change, claims))


def _changed(**change: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda jwk: jwk | change


BAD_JWKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "kty": _changed(kty="RSA"),
    "kty of an octet key": _changed(kty="oct", k="AAAA"),
    "curve": _changed(crv="P-384"),
    "curve unknown": _changed(crv="P-256K"),
    "no x": lambda jwk: {name: value for name, value in jwk.items() if name != "x"},
    "x is a number": _changed(x=1),
    "x is short": _changed(x="AAAA"),
    "x is padded": lambda jwk: jwk | {"x": jwk["x"] + "="},
    "x has a leading zero": lambda jwk: jwk | {"x": b64u(b"\x00" + dpop._decode(jwk["x"]))},
    "off the curve": lambda jwk: jwk | {"y": jwk["x"]},
    "origin": _changed(x=b64u(bytes(32)), y=b64u(bytes(32))),
    "over the prime": _changed(x=b64u(b"\xff" * 32)),
}


@pytest.mark.parametrize("change", BAD_JWKS.values(), ids=BAD_JWKS)
def test_a_key_that_is_none_is_refused(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    refused(forge(header | {"jwk": change(header["jwk"])}, claims))


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "P-521"])
def test_a_proof_by_another_kind_of_key_is_refused(kind: str) -> None:
    _, claims = parts(KEY.prove(REQUEST, NOW))
    private: Any
    if kind == "rsa":
        private, name = rsa.generate_private_key(65_537, 2_048), "RS256"
    elif kind == "ed25519":
        private, name = ed25519.Ed25519PrivateKey.generate(), "EdDSA"
    else:
        private, name = ec.generate_private_key(ec.SECP521R1()), "ES512"
    jwk = jwt.get_algorithm_by_name(name).to_jwk(private.public_key(), as_dict=True)
    refused(jwt.encode(claims, private, name, headers={"typ": "dpop+jwt", "jwk": jwk}))


def test_a_key_that_did_not_sign_is_refused() -> None:
    header, claims, signature = KEY.prove(REQUEST, NOW).split(".")
    other = ProofKey().prove(REQUEST, NOW).split(".")
    for forged in ((other[0], claims, signature), (header, other[1], signature), (header, claims, other[2])):
        refused(".".join(forged))


def test_a_signature_has_one_spelling_of_one_length() -> None:
    header, claims, signature = KEY.prove(REQUEST, NOW).split(".")
    raw = dpop._decode(signature)
    half = len(raw) // 2
    der = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    for other in (der, raw[:-1], raw + b"\x00", b"\x00" + raw, bytes(64), raw[:half] + bytes(half), b"\xff" * 64, b""):
        refused(f"{header}.{claims}.{b64u(other)}")
    for spelling in (
        signature + "=",
        signature + "==",
        " " + signature,
        signature + "\n",
        signature.replace("-", "+") + "+",
    ):
        refused(f"{header}.{claims}.{spelling}")


def test_the_mirrored_signature_proves_the_same_and_has_the_same_id() -> None:
    """Both verify, as ECDSA has it: so the id, and never the signature, tells a replay."""
    header, claims, signature = KEY.prove(REQUEST, NOW).split(".")
    raw = dpop._decode(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    r, s = decode_dss_signature(der)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    twin = b64u(r.to_bytes(32, "big") + (order - s).to_bytes(32, "big"))
    assert twin != signature
    assert check(f"{header}.{claims}.{twin}", REQUEST, NOW) == check(f"{header}.{claims}.{signature}", REQUEST, NOW)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "...", "a.b", "a.b.c", "é.é.é", "x" * 9_000, "e30.e30.", "bnVsbA.bnVsbA.AA", "W10.W10.AA"]
)
def test_what_is_no_jws_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize(
    "claims",
    [
        b"[]",
        b"null",
        b"1",
        b'{"iat":1,"iat":2}',
        b"{",
        b"\xff",
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"iat":NaN}',
        b'{"iat":' + b"9" * 5_000 + b"}",
    ],
)
def test_claims_that_two_readers_could_read_in_two_ways_are_refused(claims: bytes) -> None:
    header = KEY.prove(REQUEST, NOW).split(".")[0]
    data = f"{header}.{b64u(claims)}"
    refused(f"{data}.{b64u(raw_signature(KEY, data.encode()))}")


def test_a_header_with_two_keys_is_refused() -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    other, _ = parts(ProofKey().prove(REQUEST, NOW))
    text = json.dumps(header)[:-1] + ', "jwk": ' + json.dumps(other["jwk"]) + "}"
    data = f"{b64u(text.encode())}.{b64u(json.dumps(claims).encode())}"
    refused(f"{data}.{b64u(raw_signature(KEY, data.encode()))}")


@given(st.binary(max_size=64), st.integers(0, 2))
def test_bytes_put_anywhere_into_a_proof_are_refused_or_change_nothing(noise: bytes, part: int) -> None:
    proof = KEY.prove(REQUEST, NOW).split(".")
    proof[part] += b64u(noise)
    if noise:
        refused(".".join(proof))


@given(st.text(max_size=200))
def test_any_text_is_a_proof_or_refused_and_nothing_else(text: str) -> None:
    with pytest.raises(InvalidProof):
        check(text, REQUEST, NOW)


def test_a_key_does_not_show_itself() -> None:
    assert repr(KEY) == "<ProofKey>"


def test_a_proof_made_now_is_of_now() -> None:
    assert check(KEY.prove(REQUEST, time.time()), REQUEST, time.time())


# The edges, each from both sides


@pytest.mark.parametrize(("length", "says"), [(8_192, "JWS"), (8_193, "too long")])
def test_a_proof_may_have_8192_characters(length: int, says: str) -> None:
    assert says in refused("x" * length)


def test_what_is_not_ascii_is_refused_as_such() -> None:
    assert "ASCII" in refused("é.é.é")


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_a_jws_has_three_parts(count: int) -> None:
    assert "JWS" in refused(".".join(["e30"] * count))


def test_true_is_no_time_not_even_in_the_first_second_of_1970() -> None:
    header, claims = parts(KEY.prove(REQUEST, 1))
    assert check(forge(header, claims), REQUEST, 1).issued_at == 1
    assert "no time" in refused(forge(header, claims | {"iat": True}), now=1)
    assert "no time" in refused(forge(header, claims | {"iat": False}), now=0)


@pytest.mark.parametrize(("proof_id", "passes"), [("x", True), ("", False), ("x" * 128, True), ("x" * 129, False)])
def test_an_id_has_1_to_128_characters(proof_id: str, passes: bool) -> None:  # noqa: FBT001
    header, claims = parts(KEY.prove(REQUEST, NOW))
    forged = forge(header, claims | {"jti": proof_id})
    if passes:
        assert check(forged, REQUEST, NOW).id == proof_id
    else:
        assert "no id" in refused(forged)


@pytest.mark.parametrize(
    ("claim", "says"),
    [("htm", "method"), ("htu", "URL"), ("bd", "body"), ("ath", "token"), ("iat", "time"), ("jti", "id")],
)
def test_the_refusal_says_which_claim_is_missing(claim: str, says: str) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    del claims[claim]
    assert says in refused(forge(header, claims))


@pytest.mark.parametrize(
    ("digits", "says"), [("1" + "0" * 18, "time"), ("1" + "0" * 19, "JSON"), ("-1" + "0" * 17, "time")]
)
def test_an_integer_has_at_most_19_digits(digits: str, says: str) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    text = json.dumps(claims).replace(str(int(NOW)), digits)
    data = f"{b64u(json.dumps(header).encode())}.{b64u(text.encode())}"
    assert says in refused(f"{data}.{b64u(raw_signature(KEY, data.encode()))}")


@pytest.mark.parametrize(
    ("claimed", "actual", "passes"),
    [
        ("http://a.example:80/x", "http://a.example/x", True),
        ("http://a.example:81/x", "http://a.example/x", False),
        ("http://a.example:443/x", "http://a.example/x", False),
        ("https://a.example:443/x", "https://a.example/x", True),
        ("https://a.example:80/x", "https://a.example/x", False),
        ("https://a.example:444/x", "https://a.example/x", False),
        ("https://a.example/x", "https://a.example:8443/x", False),
        ("https://u@a.example/x", "https://a.example/x", False),
        ("https://a.example/x#y?z", "https://a.example/x", True),
        ("https://a.example/x?y#z", "https://a.example/x", True),
        ("https://a.example/x;y", "https://a.example/x", False),
    ],
)
def test_an_origin_is_compared_with_its_default_port(claimed: str, actual: str, passes: bool) -> None:  # noqa: FBT001
    request = REQUEST._replace(url=actual)
    proof = KEY.prove(request._replace(url=claimed), NOW)
    if passes:
        assert check(proof, request, NOW)
    else:
        assert "URL" in refused(proof, request)


def test_a_request_has_no_body_and_no_token_unless_it_says_so() -> None:
    assert SignedRequest("GET", URL) == SignedRequest("GET", URL, b"", None)


def test_a_body_that_is_empty_needs_no_digest_and_may_have_the_right_one() -> None:
    header, claims = parts(KEY.prove(REQUEST._replace(body=b""), NOW))
    assert "bd" not in claims
    empty = REQUEST._replace(body=b"")
    assert check(forge(header, claims), empty, NOW)
    assert check(forge(header, claims | {"bd": dpop.digest(b"")}), empty, NOW)
    assert "body" in refused(forge(header, claims | {"bd": dpop.digest(b"x")}), empty)
    assert "body" in refused(forge(header, claims | {"bd": None}), empty)


def test_a_proof_is_remembered_for_longer_than_it_could_pass_though_clocks_differ() -> None:
    assert dpop.REMEMBERED_S == dpop.AGE_MAX_S + dpop.AHEAD_MAX_S + 55 == 120


def test_an_id_of_ours_has_128_bits() -> None:
    assert len(dpop._decode(check(KEY.prove(REQUEST, NOW), REQUEST, NOW).id)) == 16


def test_the_key_of_a_session_is_read_once() -> None:
    dpop._read_header.cache_clear()
    key = ProofKey()
    for _ in range(3):
        check(key.prove(REQUEST, NOW), REQUEST, NOW)
    assert dpop._read_header.cache_info()[:2] == (2, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"typ": "JWT"}, "type"),
        ({"alg": "none"}, "algorithm"),
        ({"alg": ["ES256"]}, "algorithm"),
        ({"alg": None}, "algorithm"),
        ({"crit": []}, "algorithm"),
        ({"jwk": []}, "key is not one of its algorithm"),
        ({"jwk": {"kty": "EC", "crv": "P-384"}}, "key is not one of its algorithm"),
        ({"jwk": {"kty": "RSA", "crv": "P-256"}}, "key is not one of its algorithm"),
        ({"jwk": {"kty": "EC", "crv": "P-256", "d": ""}}, "private key"),
        ({"jwk": {"kty": "EC", "crv": "P-256"}}, "not complete"),
        ({"jwk": {"kty": "EC", "crv": "P-256", "x": 1, "y": 2}}, "not complete"),
        ({"jwk": {"kty": "EC", "crv": "P-256", "x": "!", "y": "!"}}, "not base64url"),
        ({"jwk": {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}}, "curve"),
    ],
)
def test_the_refusal_says_what_is_wrong_with_the_header(change: dict[str, Any], says: str) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    assert says in refused(forge(header | change, claims))


def test_the_refusal_says_that_it_was_not_signed_or_is_not_json() -> None:
    header, claims, signature = KEY.prove(REQUEST, NOW).split(".")
    assert "verify" in refused(f"{header}.{claims}.{signature[:-2]}")
    assert "verify" in refused(f"{header}.{claims}.")
    assert "base64url" in refused(f"{header}.{claims}.!")
    assert "not JSON" in refused(f"{b64u(b'{')}.{claims}.{signature}")
    assert "object" in refused(f"{b64u(b'[]')}.{claims}.{signature}")


@pytest.mark.parametrize(
    ("part", "more"),
    [
        (0, '"typ":"dpop+jwt"'),
        (0, '"alg":"ES256"'),
        (0, '"x":1,"x":1'),
        (1, '"htm":"POST"'),
        (1, '"jti":"other"'),
        (1, '"x":{"y":1,"y":1}'),
    ],
)
def test_a_name_that_stands_twice_is_refused_whatever_it_says(part: int, more: str) -> None:
    texts = [json.dumps(each) for each in parts(KEY.prove(REQUEST, NOW))]
    texts[part] = f"{texts[part][:-1]},{more}}}"
    data = ".".join(b64u(text.encode()) for text in texts)
    assert "not JSON" in refused(f"{data}.{b64u(raw_signature(KEY, data.encode()))}")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1" * 20, '"\ud800"', "{", "01"])
def test_what_is_no_json_is_refused_also_where_nobody_looks(value: str) -> None:
    header, claims = parts(KEY.prove(REQUEST, NOW))
    text = json.dumps(claims)[:-1] + f', "x": {value}}}'
    data = f"{b64u(json.dumps(header).encode())}.{b64u(text.encode('utf-8', 'surrogatepass'))}"
    assert "not JSON" in refused(f"{data}.{b64u(raw_signature(KEY, data.encode()))}")


@pytest.mark.parametrize("algorithm", CURVES)
def test_a_session_uses_the_key_that_it_was_given(algorithm: str) -> None:
    private = ec.generate_private_key(CURVES[algorithm]())
    key = ProofKey(private)
    header, _ = parts(key.prove(REQUEST, NOW))
    assert header["alg"] == algorithm
    assert jwt.PyJWK(header["jwk"], algorithm).key.public_numbers() == private.public_key().public_numbers()


def test_a_proof_is_written_without_spaces() -> None:
    """It travels with every request."""
    assert not any(b" " in dpop._decode(part) for part in KEY.prove(REQUEST, NOW).split(".")[:2])
