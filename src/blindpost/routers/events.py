"""GET /messages/events: receiving as Server-Sent Events, for clients that have no WebSocket (spec/http.md)."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from blindpost.core.hub import MessageRow
from blindpost.errors import Problem
from blindpost.routers import frames
from blindpost.services.caller import Caller
from blindpost.services.messages import MessageService
from blindpost.telemetry import STREAM_CLOSES, STREAMS

HEARTBEAT_S: Final = 20.0
"""Proxies close what is silent for longer, and a write is how a client that vanished is noticed."""
BUFFER_MAX_BYTES: Final = 262_144
RETRY_MS: Final = 1_000

_OPEN: Final = STREAMS.labels("events")


class EventStream(Response):
    """One client's events, and the sink of its stream."""

    def __init__(self, service: MessageService, caller: Caller, address: str | None) -> None:
        self.status_code = 200
        self._buffer: list[bytes] = [b"retry: %d\n\n" % RETRY_MS]
        self._size = 0
        self._filled = asyncio.Event()
        self._filled.set()
        self._is_over = False
        self._stream = service.stream(caller, address, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write events until the client or the router goes."""
        del scope
        _OPEN.inc()
        gone = asyncio.create_task(_disconnected(receive))
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
            self._stream.start()
            while not gone.done() and not (self._is_over and not self._buffer):
                await self._write(send, gone)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._stream.close()
            _OPEN.dec()
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone

    async def _write(self, send: Send, gone: "asyncio.Task[None]") -> None:
        """Wait for something to write, and write it: at least a heartbeat."""
        filled = asyncio.ensure_future(self._filled.wait())
        await asyncio.wait({filled, gone}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
        filled.cancel()
        self._filled.clear()
        data, self._buffer, self._size = b"".join(self._buffer) or b":\n\n", [], 0
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._stream.resume()

    def _add(self, event: bytes) -> None:
        self._buffer.append(event)
        self._size += len(event)
        self._filled.set()

    @property
    def is_paused(self) -> bool:
        return self._size >= BUFFER_MAX_BYTES

    def messages(self, rows: Sequence[MessageRow]) -> None:
        for row in rows:
            self._add(b"event: message\nid: %s\ndata: %s\n\n" % (str(row.id).encode(), frames.message(row)))

    def delivered(self, message_ids: Sequence[UUID]) -> None:
        self._add(b"event: receipt\ndata: %s\n\n" % frames.receipt(message_ids))

    def contacts_changed(self) -> None:
        self._add(b"event: contact\ndata: %s\n\n" % frames.CONTACT)

    def ended(self, problem: Problem) -> None:
        code = frames.close_code(problem)
        STREAM_CLOSES.labels(str(code)).inc()
        self._is_over = True
        self._add(
            b'event: close\ndata: {"type":"close","code":%d,"reason":"%s"}\n\n' % (code, frames.REASONS[code].encode())
        )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
