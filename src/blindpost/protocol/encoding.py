"""Strict base64 and base64url: one text for one byte string, so that what was compared is what was stored."""

import binascii
from typing import Final

_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def b64encode(data: bytes) -> str:
    """Encode as standard base64 with padding (RFC 4648, section 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def b64decode(text: str) -> bytes:
    """Decode standard base64; raises ValueError for anything but the one canonical form of some bytes."""
    try:
        data = binascii.a2b_base64(text)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not standard base64") from error
    # The decoder passes over much that is not base64: only the round trip is strict.
    if b64encode(data) != text:
        raise ValueError("base64 is not in its canonical form")
    return data


def b64url_encode(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515, section 2)."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_URL_SAFE).decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Decode base64url without padding; raises ValueError for anything but the one canonical form of some bytes."""
    try:
        # More padding than is missing is passed over.
        data = binascii.a2b_base64(text.encode("ascii").translate(_STANDARD) + b"==")
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64url") from error
    if b64url_encode(data) != text:
        raise ValueError("base64url is not in its canonical form")
    return data
