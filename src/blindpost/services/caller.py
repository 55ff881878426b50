"""Who acts: always the session's user, never a field of a request."""

from typing import NamedTuple
from uuid import UUID


class Caller(NamedTuple):
    """An authenticated user in one of their sessions."""

    user_id: UUID
    session_id: UUID
