"""The login challenge: text that says what it is for, so that a client can check it before it signs.

It names the purpose, the server's origin and the user, so that no other server can relay it, and no signature
over it can mean anything else.
"""

import re
from dataclasses import dataclass
from typing import Final

from blindpost.protocol.limits import CHALLENGE_MAX_CHARS

LABEL: Final = "blindpost/v1/login"
NONCE_BYTES: Final = 32
FIELDS: Final = 5

_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
"""32 bytes in base64url without padding; the last character carries four bits."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: `label|origin|username|nonce|expiry`."""

    origin: str
    username: str
    nonce: str
    expiry: int
    """Unix seconds."""

    def __str__(self) -> str:
        return "|".join((LABEL, self.origin, self.username, self.nonce, str(self.expiry)))

    @classmethod
    def parse(cls, text: str) -> "Challenge":
        """Read a challenge; raises ValueError unless it is exactly what `str()` would write."""
        if len(text) > CHALLENGE_MAX_CHARS:
            raise ValueError(f"the challenge is longer than {CHALLENGE_MAX_CHARS} characters")
        parts = text.split("|")
        if len(parts) != FIELDS or parts[0] != LABEL or _NONCE.fullmatch(parts[3]) is None:
            raise ValueError("not a login challenge of this protocol")
        if not (parts[4].isascii() and parts[4].isdigit()) or len(parts[4]) > len("9999999999"):
            raise ValueError("the challenge's expiry is not a time in seconds")
        challenge = cls(parts[1], parts[2], parts[3], int(parts[4]))
        if str(challenge) != text:
            raise ValueError("the challenge is not in its canonical form")
        return challenge
