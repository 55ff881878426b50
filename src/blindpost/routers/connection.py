"""One connection, bounded: how long a request's head may be, how slowly it may come, how long an answer may stall.

uvicorn bounds none of these, and all of them come before any login: without the bounds one client could fill the
memory with a head that never ends, or take every descriptor with requests that never begin.
"""

import asyncio
import json
import resource
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blindpost.errors import InvalidRequest, Problem, TooLarge
from blindpost.routers.problems import MEDIA_TYPE, content_of
from blindpost.telemetry import CONNECTIONS_REFUSED

HEAD_MAX_BYTES: Final = 32_768
"""Five hundred ids in a query take 20,000."""
REQUEST_S = 30.0
"""From its first byte, or from the connection, until a request has arrived whole."""
STALL_S = 30.0
"""For a client to take up what waits to be sent."""
DESCRIPTORS_RESERVED: Final = 128
"""For the stores, the logs, and whoever must still be let in."""


class Connection(HttpToolsProtocol):
    """An HTTP/1.1 connection of uvicorn's, with bounds."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bytes_outside_bodies = 0
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self.connections) > descriptors - DESCRIPTORS_RESERVED:
            CONNECTIONS_REFUSED.inc()
            transport.abort()
            return
        self._begin_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_waiting()
        self._end_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes_outside_bodies += len(data)
        super().data_received(data)
        # Heads, trailers and the extensions of chunks: the application bounds nothing but bodies.
        if self._bytes_outside_bodies > HEAD_MAX_BYTES and not self.transport.is_closing():
            self._refuse(TooLarge("The head of the request is too long: at most 32,768 bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_waiting()

    def on_body(self, body: bytes) -> None:
        self._bytes_outside_bodies = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bytes_outside_bodies = 0
        self._end_waiting()
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_stall()
        self._stalled = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the library's words
        self._refuse(InvalidRequest("This is not an HTTP request that can be read."))

    def _refuse(self, problem: Problem) -> None:
        body = json.dumps(content_of(problem)).encode()
        head = (
            f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: {MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()

    def _begin_waiting(self) -> None:
        self._end_waiting()
        self._late = self.loop.call_later(REQUEST_S, self.transport.close)

    def _end_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
