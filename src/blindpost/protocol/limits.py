"""Sizes and lifetimes that the wire contract fixes. Settings may never widen them."""

from typing import Final

USERNAME_PATTERN: Final = r"^[A-Za-z0-9_]{3,50}$"
USERNAME_PREFIX_PATTERN: Final = r"^[A-Za-z0-9_]{3,50}$"

PEM_MAX_CHARS: Final = 1_024
SIGNATURE_MAX_BYTES: Final = 104
"""A DER ECDSA-Sig-Value over P-384: two INTEGERs of at most 49 bytes, their heads, and the SEQUENCE's."""
CHALLENGE_MAX_CHARS: Final = 512
CHALLENGE_LIFETIME_S: Final = 60

MESSAGE_MAX_BYTES: Final = 65_536
PAGE_MAX: Final = 500
PAGE_DEFAULT: Final = 100
POLL_MAX_S: Final = 60
POLL_DEFAULT_S: Final = 30
SEARCH_MAX: Final = 10
USER_IDS_MAX: Final = 100

BODY_MAX_BYTES: Final = 98_304
"""A full message in base64 is 87,384 characters; the rest is room for the other fields."""
