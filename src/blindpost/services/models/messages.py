"""Wire objects of /messages."""

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from blindpost.protocol.limits import PAGE_MAX
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


class AckRequest(Incoming):
    message_ids: Annotated[list[UUID], Field(min_length=1, max_length=PAGE_MAX)]


class Acknowledged(Outgoing):
    status: Literal["ok"] = "ok"
    acknowledged: list[UUID]
    """Those that were the caller's and still waiting."""
