"""Frames of a WebSocket that a client sends: the bodies of the calls, with a type."""

from typing import Literal
from uuid import UUID

from blindpost.services.models.messages import AckRequest, SendRequest


class SendFrame(SendRequest):
    type: Literal["send"]
    client_message_id: UUID
    """Answers name it, as they come in any order."""


class AckFrame(AckRequest):
    type: Literal["ack"]
