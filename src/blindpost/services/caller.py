"""Who acts: always the session's user, never a field of a request."""

from typing import NamedTuple
from uuid import UUID


class Credentials(NamedTuple):
    """What a request shows for itself."""

    token: str | None
    is_bound: bool
    """Whether the token claims to be bound to a key (the scheme DPoP), or is a plain one (Bearer)."""
    proof: str | None
    method: str
    path: str
    """As sent, without the query."""
    body: bytes
    address: str
    """Where it came from; an IPv6 address as its /64."""


class Caller(NamedTuple):
    """An authenticated user in one of their sessions."""

    user_id: UUID
    session_id: UUID
