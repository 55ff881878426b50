"""The safety number: sixty digits that two people compare, by voice or side by side, to rule out a router's lie."""

import hashlib
from functools import lru_cache
from typing import Final
from uuid import UUID

from blindpost.protocol.keys import PublicKey
from blindpost.protocol.transcripts import transcript

ITERATIONS: Final = 5_200
"""Each guess at a key with a chosen number costs this many hashes: 12 bits on top of the half's 99."""
HALF_BYTES: Final = 30
GROUP_DIGITS: Final = 5
GROUP_BYTES: Final = 5


def safety_number(one: tuple[UUID, PublicKey], other: tuple[UUID, PublicKey]) -> str:
    """Return the 60 digits for two people, each as user id and identity (ECDSA) key; the order does not matter.

    It covers identity keys alone: an ECDH key is signed by one, and may change without a new comparison.
    """
    return "".join(sorted((_half(*one), _half(*other))))


def grouped(number: str) -> str:
    """Write a safety number for people: groups of five digits."""
    return " ".join(number[start : start + GROUP_DIGITS] for start in range(0, len(number), GROUP_DIGITS))


@lru_cache(maxsize=1_024)
def _half(user_id: UUID, key: PublicKey) -> str:
    digest = hashlib.sha512(transcript("safety-number", user_id.bytes, key.der)).digest()
    for _ in range(ITERATIONS - 1):
        digest = hashlib.sha512(digest + key.der).digest()
    groups = (digest[start : start + GROUP_BYTES] for start in range(0, HALF_BYTES, GROUP_BYTES))
    # 2^40 / 10^5: the remainder is biased by less than one part in ten million.
    return "".join(f"{int.from_bytes(group, 'big') % 10**GROUP_DIGITS:05d}" for group in groups)
