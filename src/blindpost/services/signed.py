"""Keys and signatures that a request brings, read for the services; a bad one is a problem."""

from blindpost.errors import InvalidKey, InvalidSignature
from blindpost.protocol.keys import PublicKey


def read_key(pem: str) -> PublicKey:
    """Read a P-384 key; raises InvalidKey with the reason."""
    try:
        return PublicKey.from_pem(pem)
    except ValueError as error:
        raise InvalidKey(f"{InvalidKey.detail} Here, {error}.") from None


def demand_signature(key: PublicKey, signature: bytes, transcript: bytes) -> None:
    """Raise InvalidSignature unless the key signed the transcript."""
    if not key.verifies(signature, transcript):
        raise InvalidSignature
