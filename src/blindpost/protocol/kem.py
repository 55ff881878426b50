"""ML-KEM-1024 (FIPS 203): what keeps a session closed to a quantum computer."""

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PublicKey

PUBLIC_BYTES: Final = 1_568
CIPHERTEXT_BYTES: Final = 1_568
SECRET_BYTES: Final = 32
SEED_BYTES: Final = 64
"""The seed (d || z) that a private key follows from: FIPS 203, section 3.3."""


@dataclass(frozen=True, slots=True)
class KemPublicKey:
    """An encapsulation key, as its 1,568 bytes."""

    raw: bytes

    @classmethod
    def from_bytes(cls, raw: bytes) -> "KemPublicKey":
        """Read an encapsulation key, with the checks of FIPS 203, section 7.2; raises ValueError."""
        key = cls(raw)
        try:
            key.load()
        except ValueError:
            raise ValueError("the key is not an ML-KEM-1024 encapsulation key of 1,568 bytes") from None
        return key

    def load(self) -> MLKEM1024PublicKey:
        """Return the key object; raises ValueError for a wrong length or a coefficient out of range."""
        return MLKEM1024PublicKey.from_public_bytes(self.raw)
