"""Wire objects of /contacts."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from blindpost.protocol.limits import USERNAME_PREFIX_PATTERN
from blindpost.services.models.common import Incoming, Outgoing, Timestamp


class ContactStatus(StrEnum):
    """Where a contact request stands."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Direction(StrEnum):
    """Whose pending requests."""

    RECEIVED = "received"
    SENT = "sent"


UsernamePrefix = Annotated[str, Field(pattern=USERNAME_PREFIX_PATTERN)]


class UserSummary(Outgoing):
    id: UUID
    username: str
    status: ContactStatus | None
    """Between the caller and this user."""


class Contact(Outgoing):
    id: UUID
    sender_id: UUID
    receiver_id: UUID
    status: ContactStatus
    created_at: Timestamp
    updated_at: Timestamp
    user_id: UUID
    """The other party."""
    username: str
    """The other party's."""


class ContactRequest(Incoming):
    receiver_id: UUID


class ContactDecision(Incoming):
    sender_id: UUID
