"""Keys and signatures that one parser or another of the field would accept, and this router must not."""

import re
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from blindpost.protocol.keys import SPKI_HEADER, UNCOMPRESSED
from support import b64, new_key, public

SEQUENCE, INTEGER, BIT_STRING, OCTET_STRING = 0x30, 0x02, 0x03, 0x04
EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
PRIME_FIELD = bytes.fromhex("06072a8648ce3d0101")

# FIPS 186-5 / SEC 2: the parameters of P-384.
P = 2**384 - 2**128 - 2**96 + 2**32 - 1
B = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
BASE_X = 0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7
BASE_Y = 0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F
FIELD_BYTES = 48


def der(tag: int, *contents: bytes) -> bytes:
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def integer(value: int) -> bytes:
    return der(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def field(value: int) -> bytes:
    return value.to_bytes(FIELD_BYTES, "big")


def pem(data: bytes, label: str = "PUBLIC KEY") -> str:
    return f"-----BEGIN {label}-----\n{b64(data)}\n-----END {label}-----\n"


def _spki(point: bytes, parameters: bytes = bytes.fromhex("06052b81040022")) -> str:
    return pem(der(SEQUENCE, der(SEQUENCE, EC_PUBLIC_KEY, parameters), der(BIT_STRING, b"\x00", point)))


def _point() -> tuple[int, int]:
    numbers = new_key().public_key().public_numbers()
    return numbers.x, numbers.y


def _good() -> str:
    return public(new_key()).pem


def _compressed() -> str:
    x, y = _point()
    return _spki(bytes([2 + y % 2]) + field(x))


def _hybrid() -> str:
    x, y = _point()
    return _spki(bytes([6 + y % 2]) + field(x) + field(y))


def _off_the_curve() -> str:
    x, y = _point()
    return _spki(UNCOMPRESSED + field(x) + field(y ^ 1))


def _explicit_curve(order: int = ORDER) -> str:
    x, y = _point()
    parameters = der(
        SEQUENCE,
        integer(1),
        der(SEQUENCE, PRIME_FIELD, integer(P)),
        der(SEQUENCE, der(OCTET_STRING, field(P - 3)), der(OCTET_STRING, field(B))),
        der(OCTET_STRING, UNCOMPRESSED + field(BASE_X) + field(BASE_Y)),
        integer(order),
        integer(1),
    )
    return _spki(UNCOMPRESSED + field(x) + field(y), parameters)


def _other_kind(key: "rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey") -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _private(password: bytes = b"") -> str:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    return new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection).decode()


def _with_headers() -> str:
    return _good().replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1)


def _loose_base64() -> str:
    # 121 bytes end in one pad character less: trailing DER, and unused bits that are not zero.
    data = b64(public(new_key()).der + b"\x00")
    return f"-----BEGIN PUBLIC KEY-----\n{data[:-3]}B==\n-----END PUBLIC KEY-----\n"


BAD_KEYS: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "no PEM": lambda: "key",
    "bare base64": lambda: b64(public(new_key()).der),
    "compressed point": _compressed,
    "hybrid point": _hybrid,
    "infinity": lambda: _spki(b"\x00"),
    "infinity of full length": lambda: _spki(b"\x00" * 97),
    "origin": lambda: _spki(UNCOMPRESSED + bytes(96)),
    "off the curve": _off_the_curve,
    "coordinate over the prime": lambda: _spki(UNCOMPRESSED + field(P + 1) + field(BASE_Y)),
    "explicit curve parameters": _explicit_curve,
    "explicit curve of another order": lambda: _explicit_curve(ORDER - 2),
    "text before": lambda: "Alice's key\n" + _good(),
    "blank line before": lambda: "\n" + _good(),
    "two blocks": lambda: _good() + _good(),
    "text after": lambda: _good() + "junk",
    "blank lines after": lambda: _good() + "\n\n",
    "PEM headers": _with_headers,
    "other label": lambda: _good().replace("PUBLIC KEY", "EC PUBLIC KEY"),
    "certificate label": lambda: _good().replace("PUBLIC KEY", "CERTIFICATE"),
    "trailing DER": lambda: pem(public(new_key()).der + b"\x05\x00"),
    "truncated DER": lambda: pem(public(new_key()).der[:-1]),
    "length in long form": lambda: pem(b"\x30\x81\x76" + public(new_key()).der[2:]),
    "base64 with other bits": _loose_base64,
    "base64 with a space": lambda: re.sub(r"\n(.)", r"\n \1", _good(), count=1),
    "base64 of the web": lambda: pem(SPKI_HEADER + b"\x04" + b"\xff" * 96).replace("/", "_"),
    "private key": _private,
    "encrypted private key": lambda: _private(b"password"),
    "P-256": lambda: _other_kind(ec.generate_private_key(ec.SECP256R1())),
    "P-521": lambda: _other_kind(ec.generate_private_key(ec.SECP521R1())),
    "Brainpool": lambda: _other_kind(ec.generate_private_key(ec.BrainpoolP384R1())),
    "RSA": lambda: _other_kind(rsa.generate_private_key(65_537, 2_048)),
    "Ed25519": lambda: _other_kind(ed25519.Ed25519PrivateKey.generate()),
    "too long": lambda: _good() + "\n" * 1_024,
    "long without end": lambda: "-----BEGIN PUBLIC KEY-----\n" + "A" * 60_000,
    "OpenSSH": lambda: new_key().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
}


def other_signatures(signature: bytes) -> Iterable[tuple[str, bytes]]:
    """Write a good signature in ways that are not its one DER form."""
    r, s = decode_dss_signature(signature)
    body = signature[2:]
    yield "length in long form", b"\x30\x81" + signature[1:]
    yield "indefinite length", b"\x30\x80" + body + b"\x00\x00"
    yield "trailing byte", signature + b"\x00"
    yield "trailing byte inside", bytes([0x30, len(body) + 1]) + body + b"\x00"
    yield "leading zeros", der(SEQUENCE, der(INTEGER, b"\x00\x00" + field(r)), integer(s))
    yield "negative", der(SEQUENCE, der(INTEGER, b"\xff" + field(r)), integer(s))
    yield "raw", field(r) + field(s)
    yield "r + n", der(SEQUENCE, integer(r + ORDER), integer(s))
    yield "zeros", encode_dss_signature(0, 0)
    yield "zero s", encode_dss_signature(r, 0)
    yield "n", encode_dss_signature(ORDER, ORDER)
    yield "one", encode_dss_signature(1, 1)
    yield "r alone", der(SEQUENCE, integer(r))
    yield "three", der(SEQUENCE, integer(r), integer(s), integer(s))
    yield "other tag", b"\x31" + signature[1:]
    yield "truncated", signature[:-1]
    yield "one byte", b"\x00"
    yield "empty sequence", b"\x30\x00"


OTHER_SIGNATURES = [name for name, _ in other_signatures(encode_dss_signature(2**383 + 1, 2**383 + 1))]


def other_signature(signature: bytes, kind: str) -> bytes:
    return dict(other_signatures(signature))[kind]


def mirrored(signature: bytes) -> bytes:
    """Return (r, n - s), which verifies like (r, s)."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, ORDER - s)
