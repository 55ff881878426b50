"""Frames of a WebSocket, as a client reads and writes them (spec/http.md, Streams): no field is trusted."""

from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field

from blindpost.client.errors import Refused, UntrustedAnswer
from blindpost.client.transport import parse, parse_json, refused
from blindpost.services.models.common import Outgoing
from blindpost.services.models.messages import Acknowledged, Message, SendRequest, Sent
from blindpost.services.models.stream import AckFrame, SendFrame


class SentFrame(Sent):
    """A message of mine is on disk."""

    client_message_id: UUID


class ReceiptFrame(Outgoing):
    """Messages of mine were acknowledged."""

    delivered: list[UUID]


class ContactFrame(Outgoing):
    """Something changed among the contacts."""


class ErrorFrame(Outgoing):
    """A refusal: of one send, if it names one."""

    code: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    retry_after: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    client_message_id: UUID | None = None

    @property
    def refusal(self) -> Refused:
        """The same, as a call over HTTP raises it."""
        return refused(self.status, self.code, self.detail, self.retry_after)


Frame = SentFrame | Acknowledged | Message | ReceiptFrame | ContactFrame | ErrorFrame

_KINDS: Final[dict[str, type[Frame]]] = {
    "sent": SentFrame,
    "acknowledged": Acknowledged,
    "message": Message,
    "receipt": ReceiptFrame,
    "contact": ContactFrame,
    "error": ErrorFrame,
}


def read(text: str) -> Frame | None:
    """Read what the router says; None for a type of a newer router's. Raises UntrustedAnswer."""
    members = parse_json(text)
    kind = members.get("type") if isinstance(members, dict) else None
    if not isinstance(kind, str):
        raise UntrustedAnswer("the server sent a frame without a type")
    model = _KINDS.get(kind)
    return None if model is None else parse(model, members)


def send(request: SendRequest) -> str:
    """Write a message that has an id of its own."""
    return SendFrame(type="send", **request.model_dump()).model_dump_json()


def ack(message_ids: Sequence[UUID]) -> str:
    """Write an acknowledgement."""
    return AckFrame(type="ack", message_ids=list(message_ids)).model_dump_json()
