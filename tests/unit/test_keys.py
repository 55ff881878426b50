"""Public keys and signatures are read strictly: one spelling for one key, one for one signature."""

import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol.encoding import b64encode
from blindpost.protocol.keys import ECDSA_SHA384, SPKI_HEADER, PublicKey
from blindpost.protocol.limits import SIGNATURE_MAX_BYTES

ORDER = int("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", base=16)
FIELD = 2**384 - 2**128 - 2**96 + 2**32 - 1
PRIVATE = ec.derive_private_key(0xB11D, ec.SECP384R1())
KEY = PublicKey.of(PRIVATE.public_key())
PEM = KEY.pem
POINT = KEY.der[len(SPKI_HEADER) :]


def pem_of(der: bytes, kind: str = "PUBLIC KEY") -> str:
    return f"-----BEGIN {kind}-----\n{b64encode(der)}\n-----END {kind}-----\n"


def spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def with_point(point: bytes) -> str:
    """An SPKI of P-384 with any bytes as its point, lengths right."""
    algorithm = SPKI_HEADER[2:20]
    bits = b"\x03" + bytes((len(point) + 1,)) + b"\x00" + point
    return pem_of(b"\x30" + bytes((len(algorithm) + len(bits),)) + algorithm + bits)


def compressed() -> bytes:
    return PRIVATE.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def explicit_parameters() -> str:
    """Parameters spelt out instead of named, cut to their beginning: the header alone must be refused."""
    id_ec_public_key = bytes.fromhex("06072a8648ce3d0201")
    prime = b"\x02\x31\x00" + FIELD.to_bytes(48, "big")
    field_id = bytes.fromhex("06072a8648ce3d0101") + prime
    parameters = b"\x02\x01\x01\x30" + bytes((len(field_id),)) + field_id
    algorithm = id_ec_public_key + b"\x30" + bytes((len(parameters),)) + parameters
    body = b"\x30" + bytes((len(algorithm),)) + algorithm + b"\x03\x62\x00" + POINT
    return pem_of(b"\x30\x81" + bytes((len(body),)) + body)


BAD_KEYS: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "compressed point": lambda: with_point(compressed()),
    "hybrid point": lambda: with_point(bytes((6 + (POINT[-1] & 1),)) + POINT[1:]),
    "the point at infinity": lambda: with_point(b"\x00"),
    "infinity in full length": lambda: pem_of(SPKI_HEADER + bytes(97)),
    "a point off the curve": lambda: pem_of(KEY.der[:-1] + bytes((KEY.der[-1] ^ 1,))),
    "a coordinate beyond the field": lambda: pem_of(SPKI_HEADER + b"\x04" + FIELD.to_bytes(48, "big") + POINT[49:]),
    "a coordinate plus the field": lambda: pem_of(SPKI_HEADER + b"\x04" + b"\xff" * 96),
    "explicit parameters": explicit_parameters,
    "P-256": lambda: spki(ec.derive_private_key(7, ec.SECP256R1()).public_key()),
    "P-521": lambda: spki(ec.derive_private_key(7, ec.SECP521R1()).public_key()),
    "secp256k1": lambda: spki(ec.derive_private_key(7, ec.SECP256K1()).public_key()),
    "RSA": lambda: spki(rsa.generate_private_key(public_exponent=65_537, key_size=2048).public_key()),
    "a private key": lambda: PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    "text before": lambda: "hello\n" + PEM,
    "a line before": lambda: "\n" + PEM,
    "two blocks": lambda: PEM + PEM,
    "text after": lambda: PEM + "hello\n",
    "two line ends after": lambda: PEM + "\n",
    "PEM headers": lambda: PEM.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
    "trailing DER": lambda: pem_of(KEY.der + b"\x00"),
    "shorter DER": lambda: pem_of(KEY.der[:-1]),
    "another label": lambda: pem_of(KEY.der, "EC PUBLIC KEY"),
    "a character short": lambda: re.sub(".\n-----END", "\n-----END", PEM),
    "unused bits set": lambda: pem_of(KEY.der + b"\x00").replace("AA==", "AB=="),
    "spaces in the body": lambda: PEM.replace("MHYw", "MHYw "),
    "an empty body": lambda: "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
    "longer than 1,024 characters": lambda: PEM + "\n" * 1024,
    "a NUL at the end": lambda: PEM + "\x00",
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_refuses_every_other_spelling_of_a_key(name: str) -> None:
    """A key that is not one canonical P-384 PEM block is refused with a sentence."""
    with pytest.raises(ValueError, match=r"\w"):
        PublicKey.from_pem(BAD_KEYS[name]())


@pytest.mark.parametrize("pem", [PEM, PEM.rstrip("\n"), PEM.replace("\n", "\r\n"), pem_of(KEY.der)])
def test_reads_a_key_whatever_its_line_ends(pem: str) -> None:
    """Line ends and line length are the only freedom, and the key read is the same."""
    assert PublicKey.from_pem(pem) == KEY
    assert PublicKey.from_pem(pem).pem == PEM


@given(st.integers(min_value=1, max_value=ORDER - 1))
def test_every_key_survives_the_round_trip(scalar: int) -> None:
    """Every point of the group has one DER and one PEM form."""
    key = PublicKey.of(ec.derive_private_key(scalar, ec.SECP384R1()).public_key())
    assert PublicKey.from_pem(key.pem) == PublicKey.from_der(key.der) == key


@given(st.text(max_size=1200))
def test_no_text_makes_the_parser_fail_otherwise(text: str) -> None:
    """Whatever comes in, the only error is ValueError."""
    with pytest.raises(ValueError, match=r"\w"):
        PublicKey.from_pem(text)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail_otherwise(der: bytes) -> None:
    """Random bytes are no key."""
    with pytest.raises(ValueError, match=r"\w"):
        PublicKey.from_der(der)


def long_form(signature: bytes) -> bytes:
    return b"\x30\x81" + signature[1:]


def leading_zero(signature: bytes) -> bytes:
    length = signature[3]
    body = b"\x02" + bytes((length + 1,)) + b"\x00" + signature[4:]
    return b"\x30" + bytes((len(body),)) + body


def negative(signature: bytes) -> bytes:
    """R with its sign octet taken away, so that it reads as a negative number."""
    r, s = decode_dss_signature(signature)
    body = b"\x02\x30" + r.to_bytes(48, "big") + encode_dss_signature(1, s)[5:]
    return b"\x30" + bytes((len(body),)) + body


def signature_with_high_r() -> bytes:
    while True:
        signature = PRIVATE.sign(b"data", ECDSA_SHA384)
        if decode_dss_signature(signature)[0] >> 383:
            return signature


BAD_SIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "BER long form": long_form,
    "a leading zero": leading_zero,
    "trailing bytes": lambda signature: signature + b"\x00",
    "a negative number": negative,
    "cut": lambda signature: signature[:-1],
    "r is zero": lambda signature: encode_dss_signature(0, decode_dss_signature(signature)[1]),
    "s is zero": lambda signature: encode_dss_signature(decode_dss_signature(signature)[0], 0),
    "r plus the order": lambda signature: encode_dss_signature(
        decode_dss_signature(signature)[0] + ORDER, decode_dss_signature(signature)[1]
    ),
    "very long": lambda _: b"\x30" * 10_000,
    "raw r and s": lambda signature: b"".join(n.to_bytes(48, "big") for n in decode_dss_signature(signature)),
}


@pytest.mark.parametrize("name", BAD_SIGNATURES)
def test_refuses_every_other_spelling_of_a_signature(name: str) -> None:
    """Only canonical DER of a valid pair verifies; nothing else raises."""
    signature = signature_with_high_r()
    assert KEY.verifies(signature, b"data")
    assert not KEY.verifies(BAD_SIGNATURES[name](signature), b"data")


def test_the_twin_of_a_signature_verifies_too() -> None:
    """(r, n - s) is valid as the standard has it, so the bytes of a signature never serve as an id."""
    signature = PRIVATE.sign(b"data", ECDSA_SHA384)
    r, s = decode_dss_signature(signature)
    twin = encode_dss_signature(r, ORDER - s)
    assert twin != signature
    assert KEY.verifies(twin, b"data")


@given(st.binary(max_size=200))
def test_no_bytes_make_the_verifier_fail(signature: bytes) -> None:
    """A verifier answers no to random bytes; it never raises."""
    assert not KEY.verifies(signature, b"data")


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_signature_is_for_its_data_and_its_key(data: bytes, other: bytes) -> None:
    """A signature verifies over its own data and by its own key alone."""
    signature = PRIVATE.sign(data, ECDSA_SHA384)
    assert KEY.verifies(signature, data)
    assert KEY.verifies(signature, other) == (data == other)
    assert not PublicKey.of(ec.derive_private_key(2, ec.SECP384R1()).public_key()).verifies(signature, data)


@pytest.mark.parametrize(("length", "says"), [(1_024, "not exactly one PEM"), (1_025, "longer than 1024")])
def test_text_is_looked_at_up_to_1024_characters(length: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PublicKey.from_pem("x" * length)


@pytest.mark.parametrize("length", [119, 121])
def test_a_key_has_120_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="not a P-384 public key with"):
        PublicKey.from_der((KEY.der + b"\x00")[:length])


def test_the_longest_signature_verifies() -> None:
    """Both numbers with their highest bit set: 104 bytes."""
    signature = next(
        each for _ in range(1_000) if len(each := PRIVATE.sign(b"data", ECDSA_SHA384)) == SIGNATURE_MAX_BYTES
    )
    assert KEY.verifies(signature, b"data")


@pytest.mark.parametrize("place", range(len(SPKI_HEADER) + 1))
def test_every_byte_of_the_header_counts(place: int) -> None:
    """Also where the point behind it is good."""
    der = bytearray(KEY.der)
    der[place] ^= 1
    with pytest.raises(ValueError, match="not a P-384 public key with"):
        PublicKey.from_der(bytes(der))
