"""Wire objects of /messages."""

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from blindpost.protocol.limits import PAGE_DEFAULT, PAGE_MAX, POLL_DEFAULT_S, POLL_MAX_S
from blindpost.services.models.common import Ciphertext, Incoming, Outgoing, Timestamp


class MessageStatus(StrEnum):
    """What became of a message that the caller sent."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    EXPIRED = "expired"


class SendRequest(Incoming):
    recipient_id: UUID
    message: Ciphertext
    client_message_id: UUID | None = None


class Sent(Outgoing):
    id: UUID
    timestamp: Timestamp
    status: Literal["sent"] = "sent"


class Message(Outgoing):
    id: UUID
    sender_id: UUID
    recipient_id: UUID
    message: Ciphertext
    timestamp: Timestamp
    is_delivered: bool = False


class MessagePage(Outgoing):
    has_messages: bool
    has_more: bool
    messages: list[Message]


class PollAnswer(MessagePage):
    contacts_changed: bool
    delivered: list[UUID]
    """Messages that the caller sent, acknowledged since the caller was last told."""


class AcknowledgingPollAnswer(PollAnswer):
    acknowledged: list[UUID]
    """What this poll erased first."""


class AckRequest(Incoming):
    message_ids: Annotated[list[UUID], Field(min_length=1, max_length=PAGE_MAX)]


class PollRequest(Incoming):
    """A poll that first acknowledges what the last one gave."""

    message_ids: Annotated[list[UUID], Field(max_length=PAGE_MAX, default_factory=list)]
    timeout: Annotated[float, Field(strict=True, ge=0, le=POLL_MAX_S, allow_inf_nan=False)] = POLL_DEFAULT_S
    limit: Annotated[int, Field(strict=True, ge=1, le=PAGE_MAX)] = PAGE_DEFAULT


class Acknowledged(Outgoing):
    status: Literal["ok"] = "ok"
    acknowledged: list[UUID]
    """Those that were the caller's and still waiting."""
