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

PREKEY_BATCH_MAX: Final = 25
"""One-time prekeys of a sort in one call: a body of 25 of each is 75,000 bytes."""
PREKEYS_MAX: Final = 100
"""One-time prekeys of a sort that wait for somebody: a KEM key with its signature takes 1,700 bytes."""
PREKEYS_LOW: Final = 20
"""With fewer of a sort left, their owner is told."""
PREKEY_LIFETIME_MAX_S: Final = 90 * 24 * 3_600
"""For signed prekeys and KEM keys of last resort: who was away for longer has to come before a session can begin."""

BODY_MAX_BYTES: Final = 98_304
"""A full message in base64 is 87,384 characters; the rest is room for the other fields."""
