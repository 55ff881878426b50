"""Wire objects of /auth."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from blindpost.protocol.limits import CHALLENGE_MAX_CHARS
from blindpost.services.models.common import Incoming, Outgoing, Pem, Signature, Timestamp, Username


class RegisterRequest(Incoming):
    username: Username
    ecdsa_public_key: Pem
    ecdh_public_key: Pem
    ecdh_signature: Signature


class Registered(Outgoing):
    id: UUID
    username: str


class ChallengeAnswer(Outgoing):
    challenge: str
    expires: Timestamp


class LoginRequest(Incoming):
    username: Username
    challenge: Annotated[str, Field(min_length=1, max_length=CHALLENGE_MAX_CHARS)]
    signature: Signature
    key_bound: bool = False
    """Whether the signature is over the challenge and the session's key, and not over the challenge alone."""


class Session(Outgoing):
    access_token: str
    token_type: str
    expires_in: int
    """Seconds."""


class TicketAnswer(Outgoing):
    ticket: str
    """Works once, in the query of /messages/ws or /messages/events."""
    expires_in: int
    """Seconds."""


class SessionSummary(Outgoing):
    id: UUID
    created_at: Timestamp
    expires_at: Timestamp
    is_current: bool
    """Whether it is the one that asks."""


class SessionsEnded(Outgoing):
    status: Literal["ok"] = "ok"
    ended: int
    """How many sessions were open, and are not any more."""


class PublicKeys(Outgoing):
    user_id: UUID
    ecdsa_public_key: str
    ecdh_public_key: str
    ecdh_signature: Signature


class Me(Outgoing):
    id: UUID
    username: str
    ecdsa_public_key: str
    ecdh_public_key: str
    ecdh_signature: Signature
    created_at: Timestamp


class EcdsaUpdate(Incoming):
    ecdsa_public_key: Pem
    ecdh_signature: Signature
    old_key_signature: Signature
    new_key_signature: Signature


class EcdhUpdate(Incoming):
    ecdh_public_key: Pem
    ecdh_signature: Signature


class DeleteAccount(Incoming):
    signature: Signature
