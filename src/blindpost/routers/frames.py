"""What streams say: the contract's objects as JSON text, the same for WebSockets and for Server-Sent Events.

Written by hand where each message needs it: ids, times and base64 need no escape, and this takes a fifth of the time.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

from blindpost.core.hub import MessageRow
from blindpost.core.writer import Stored
from blindpost.errors import NotAuthenticated, Problem, ShuttingDown
from blindpost.protocol.encoding import b64encode
from blindpost.services.models.common import rfc3339

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


def _message(message_id: UUID, sender_id: UUID, recipient_id: UUID, data: bytes, timestamp: datetime) -> bytes:
    return (
        f'{{"type":"message","id":"{message_id}","sender_id":"{sender_id}","recipient_id":"{recipient_id}",'
        f'"message":"{b64encode(data)}","timestamp":"{_time(timestamp)}","is_delivered":false}}'
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
