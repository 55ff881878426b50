"""What streams say, and what is said to them: the contract's objects as JSON text.

Written and read by hand where each message needs it: ids, times and base64 need no escape, and this takes a fifth of
the time. What is read by hand is JSON as everybody's library writes it; all else goes the strict and slow way.
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from pydantic import ValidationError

from blindpost.core.hub import MessageRow
from blindpost.core.ids import uuid_of
from blindpost.core.writer import Stored
from blindpost.errors import InvalidJson, InvalidRequest, NotAuthenticated, Problem, ShuttingDown
from blindpost.protocol.encoding import b64decode, b64encode
from blindpost.protocol.limits import MESSAGE_MAX_BYTES, PAGE_MAX
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


class Send(NamedTuple):
    """A message that a client sends."""

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


_MEMBER: Final = r'"([a-z_]+)": ?"([^"\\]+)"'
_SEND: Final = re.compile(rf"\{{{_MEMBER}, ?{_MEMBER}, ?{_MEMBER}, ?{_MEMBER}\}}")
_ID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ACK: Final = re.compile(rf'\{{"type": ?"ack", ?"message_ids": ?\[("{_ID}"(?:, ?"{_ID}")*)\]\}}')
_EACH_ID: Final = re.compile(_ID)


def read(frame: bytes) -> Send | list[UUID]:
    """Return what a client sends, or the ids that it acknowledges; raises Unreadable.

    A frame in the usual form (4 µs where the strict way takes 19) has no escapes, no other members and no whitespace
    but a space after colons and commas: whatever else JSON allows is left to the strict way, whose answer for these
    is the same.
    """
    try:
        text = frame.decode()
    except UnicodeDecodeError:
        raise Unreadable(None) from None
    usual = _usual_send(text) or _usual_ack(text)
    return _read(frame) if usual is None else usual


def _usual_send(text: str) -> Send | None:
    if (found := _SEND.fullmatch(text)) is None:
        return None
    name, value, name_2, value_2, name_3, value_3, name_4, value_4 = found.groups()
    members = {name: value, name_2: value_2, name_3: value_3, name_4: value_4}
    if members.get("type") != "send":
        return None
    try:
        message = members["message"]
        recipient_id, client_message_id = uuid_of(members["recipient_id"]), uuid_of(members["client_message_id"])
        data = b64decode(message)
    except (KeyError, ValueError):
        return None
    # Four different members, ids in the one form that is written, and no more than fits.
    is_usual = str(recipient_id) == members["recipient_id"] and str(client_message_id) == members["client_message_id"]
    return Send(recipient_id, data, client_message_id, message) if is_usual and len(data) <= MESSAGE_MAX_BYTES else None


def _usual_ack(text: str) -> list[UUID] | None:
    if (found := _ACK.fullmatch(text)) is None:
        return None
    ids = _EACH_ID.findall(found[1])
    return [uuid_of(each) for each in ids] if len(ids) <= PAGE_MAX else None


def _read(frame: bytes) -> Send | list[UUID]:
    """Read a frame as strictly as a body."""
    try:
        members = loads(frame)
    except ValueError:
        raise Unreadable(InvalidJson("A frame is a JSON object in UTF-8.")) from None
    kind = members.get("type") if isinstance(members, dict) else None
    try:
        if kind == "send":
            send = SendFrame.model_validate(members)
            return Send(send.recipient_id, send.message, send.client_message_id)
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
_time: Final = lru_cache(maxsize=512)(rfc3339)


def message(row: MessageRow) -> bytes:
    """Write a message, as in a poll."""
    if _newest.row is not row:
        _newest.row, _newest.text = row, _message(*row)
    return _newest.text


def _message(
    message_id: UUID, sender_id: UUID, recipient_id: UUID, data: bytes, timestamp: datetime, text: str | None
) -> bytes:
    return (
        f'{{"type":"message","id":"{message_id}","sender_id":"{sender_id}","recipient_id":"{recipient_id}",'
        f'"message":"{text or b64encode(data)}","timestamp":"{_time(timestamp)}","is_delivered":false}}'
    ).encode("ascii")


def sent(client_message_id: UUID, stored: Stored) -> bytes:
    """Write that a message is on disk."""
    return (
        f'{{"type":"sent","client_message_id":"{client_message_id}","id":"{stored.id}",'
        f'"timestamp":"{_time(stored.timestamp)}","status":"sent"}}'
    ).encode("ascii")


def acknowledged(message_ids: Iterable[UUID]) -> bytes:
    """Write what an acknowledgement erased."""
    return f'{{"type":"acknowledged","acknowledged":{_ids(message_ids)}}}'.encode("ascii")


def receipt(message_ids: Iterable[UUID]) -> bytes:
    """Write which of one's messages were acknowledged."""
    return f'{{"type":"receipt","delivered":{_ids(message_ids)}}}'.encode("ascii")


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


def _ids(ids: Iterable[UUID]) -> str:
    return '["' + '","'.join(map(str, ids)) + '"]' if ids else "[]"
