"""Ids as the hot path holds them: the driver's own UUIDs, which are read, written, compared and hashed in C.

They are equal to those of the standard library, hash alike, and are instances of the same type; reading one takes
0.2 µs and not 1.8, writing one 0.1 and not 0.5.
"""

from typing import cast
from uuid import UUID

from asyncpg.pgproto import pgproto


def uuid_of(text: str) -> UUID:
    """Read 32 hexadecimal digits; raises ValueError for another number of them. Dashes are passed over, wherever."""
    return cast("UUID", pgproto.UUID(text))
