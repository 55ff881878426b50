"""What streams say, and what is said to them: the contract's objects as JSON text.

Written by hand where each message needs it: ids, times and base64 need no escape, and this takes a fifth of the time.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from pydantic import ValidationError

from blindpost.core.hub import MessageRow
from blindpost.core.writer import Stored
from blindpost.errors import InvalidJson, InvalidRequest, NotAuthenticated, Problem, ShuttingDown
from blindpost.protocol.encoding import b64encode
from blindpost.routers import usual
from blindpost.routers.problems import invalid
from blindpost.routers.strict import loads
from blindpost.services.models.common import rfc3339
from blindpost.services.models.stream import AckFrame, SendFrame

CONTACT: Final = b'{"type":"contact"}'

# Close codes: the hundreds say what to do.
LOG_IN: Final = 4100
GOING_AWAY: Final = 4200
TOO_SLOW: Final = 4201
SILENT: Final = 4202
LATER: Final = 4300

REASONS: Final = {
    LOG_IN: "session_ended",
    GOING_AWAY: "shutting_down",
    TOO_SLOW: "too_slow",
    SILENT: "silent",
    LATER: "unavailable",
}
COUNTED: Final = frozenset({*REASONS, 1000, 1002, 1003, 1007, 1009})


class Sending(NamedTuple):
    """A message that a client sends over a stream."""

    recipient_id: UUID
    message: bytes
    client_message_id: UUID
    text: str | None = None
    """The message in base64, if it is at hand."""


class Unreadable(Exception):
    """A frame that is refused. Without a problem, it is not even UTF-8."""

    def __init__(self, problem: Problem | None, client_message_id: UUID | None = None) -> None:
        self.problem = problem
        self.client_message_id = client_message_id
        super().__init__()


def read(frame: bytes) -> Sending | list[UUID]:
    """Return what a client sends, or the ids that it acknowledges; raises Unreadable."""
    try:
        text = frame.decode()
    except UnicodeDecodeError:
        raise Unreadable(None) from None
    if (found := usual.send(text, kind="send")) is not None and found.client_message_id is not None:
        return Sending(found.recipient_id, found.message, found.client_message_id, found.text)
    ids = usual.ack_frame(text)
    return _read(frame) if ids is None else ids


def _read(frame: bytes) -> Sending | list[UUID]:
    """Read a frame as strictly as a body."""
    try:
        members = loads(frame)
    except ValueError:
        raise Unreadable(InvalidJson("A frame is a JSON object in UTF-8.")) from None
    kind = members.get("type") if isinstance(members, dict) else None
    try:
        if kind == "send":
            send = SendFrame.model_validate(members)
            return Sending(send.recipient_id, send.message, send.client_message_id)
        if kind == "ack":
            return AckFrame.model_validate(members).message_ids
    except ValidationError as error:
        problem = invalid(error.errors(include_url=False, include_context=False))
        raise Unreadable(problem, _client_message_id(members)) from None
    raise Unreadable(InvalidRequest("type: must be send or ack."))


def _client_message_id(members: dict[str, Any]) -> UUID | None:
    try:
        return UUID(members.get("client_message_id"))
    except (AttributeError, TypeError, ValueError):
        return None


class _Newest:
    """The message that was written last: several streams of one person are given it one after the other."""

    __slots__ = ("row", "text")

    def __init__(self) -> None:
        self.row: MessageRow | None = None
        self.text = b""


_newest: Final = _Newest()
time: Final = lru_cache(maxsize=512)(rfc3339)


def message(row: MessageRow) -> bytes:
    """Write a message, as in a poll."""
    if _newest.row is not row:
        _newest.row, _newest.text = row, f'{{"type":"message",{members(*row)}}}'.encode("ascii")
    return _newest.text


def members(
    message_id: UUID, sender_id: UUID, recipient_id: UUID, data: bytes, timestamp: datetime, text: str | None = None
) -> str:
    """Write what a message has."""
    return (
        f'"id":"{message_id}","sender_id":"{sender_id}","recipient_id":"{recipient_id}",'
        f'"message":"{text or b64encode(data)}","timestamp":"{time(timestamp)}","is_delivered":false'
    )


def sent(client_message_id: UUID, stored: Stored) -> bytes:
    """Write that a message is on disk."""
    return (
        f'{{"type":"sent","client_message_id":"{client_message_id}","id":"{stored.id}",'
        f'"timestamp":"{time(stored.timestamp)}","status":"sent"}}'
    ).encode("ascii")


def acknowledged(message_ids: Iterable[UUID]) -> bytes:
    """Write what an acknowledgement erased."""
    return f'{{"type":"acknowledged","acknowledged":{ids(message_ids)}}}'.encode("ascii")


def receipt(message_ids: Iterable[UUID]) -> bytes:
    """Write which of one's messages were acknowledged."""
    return f'{{"type":"receipt","delivered":{ids(message_ids)}}}'.encode("ascii")


def error(problem: Problem, client_message_id: UUID | None = None) -> bytes:
    """Write a refusal: of one frame, if it names one."""
    members = {
        "type": "error",
        "code": problem.code,
        "status": problem.status,
        "detail": problem.detail,
        "client_message_id": None if client_message_id is None else str(client_message_id),
        "retry_after": problem.retry_after,
    }
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def close_code(problem: Problem) -> int:
    """Say with which code a stream ends that ends for this."""
    if isinstance(problem, NotAuthenticated):
        return LOG_IN
    return GOING_AWAY if isinstance(problem, ShuttingDown) else LATER


def ids(values: Iterable[UUID]) -> str:
    """Write a list of ids."""
    return '["' + '","'.join(map(str, values)) + '"]' if values else "[]"
