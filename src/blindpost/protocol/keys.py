"""P-384 public keys and signatures, read strictly.

The general parsers of the field accept many spellings of one key (compressed points, text around the PEM,
several blocks) and explicit curve parameters. Here a key has exactly one DER form, of one length, with one
header, so that equal keys are equal bytes and a fingerprint names one key.
"""

import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature as BadSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindpost.protocol.encoding import b64decode, b64encode
from blindpost.protocol.limits import PEM_MAX_CHARS, SIGNATURE_MAX_BYTES

SPKI_HEADER: Final = bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200")
"""SEQUENCE { SEQUENCE { id-ecPublicKey, secp384r1 }, BIT STRING }: RFC 5480, section 2."""
UNCOMPRESSED: Final = b"\x04"
POINT_BYTES: Final = 97
DER_BYTES: Final = len(SPKI_HEADER) + POINT_BYTES
ECDSA_SHA384: Final = ec.ECDSA(hashes.SHA384())

_PEM: Final = re.compile(
    r"-----BEGIN PUBLIC KEY-----\r?\n((?:[A-Za-z0-9+/=]+\r?\n)+)-----END PUBLIC KEY-----(?:\r?\n)?"
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A point on P-384, as its 120 bytes of canonical SPKI DER. Build it with one of the two parsers."""

    der: bytes

    @classmethod
    def from_pem(cls, pem: str) -> "PublicKey":
        """Read exactly one PEM block of a P-384 SPKI; raises ValueError with a sentence for anything else."""
        if len(pem) > PEM_MAX_CHARS:
            raise ValueError(f"the key is longer than {PEM_MAX_CHARS} characters")
        match = _PEM.fullmatch(pem)
        if match is None:
            raise ValueError("the key is not exactly one PEM block of type PUBLIC KEY")
        return cls.from_der(b64decode(re.sub(r"[\r\n]", "", match[1])))

    @classmethod
    def from_der(cls, der: bytes) -> "PublicKey":
        """Read canonical SPKI DER (120 bytes); raises ValueError for anything else, points off the curve too."""
        if len(der) != DER_BYTES or not der.startswith(SPKI_HEADER + UNCOMPRESSED):
            raise ValueError("the key is not a P-384 public key with an uncompressed point")
        key = cls(der)
        key.load()
        return key

    @classmethod
    def of(cls, key: ec.EllipticCurvePublicKey) -> "PublicKey":
        """Wrap a key object of the cryptography library; raises ValueError if it is not on P-384."""
        return cls.from_der(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    @property
    def pem(self) -> str:
        """The key as PEM, in lines of 64 characters (RFC 7468)."""
        body = b64encode(self.der)
        lines = [body[start : start + 64] for start in range(0, len(body), 64)]
        return "\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""))

    def load(self) -> ec.EllipticCurvePublicKey:
        """Return the key object; raises ValueError for a point that is not on the curve."""
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), self.der[len(SPKI_HEADER) :])

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Tell whether this is an ECDSA signature with SHA-384 (FIPS 186-5) in canonical DER by this key.

        Both (r, s) and (r, n - s) verify, as the standard has it: so a signature is never used as an id.
        """
        if not _is_canonical(signature):
            return False
        try:
            self.load().verify(signature, data, ECDSA_SHA384)
        except BadSignature:
            return False
        return True


def _is_canonical(signature: bytes) -> bool:
    if len(signature) > SIGNATURE_MAX_BYTES:
        return False
    try:
        return encode_dss_signature(*decode_dss_signature(signature)) == signature
    except ValueError:
        return False
