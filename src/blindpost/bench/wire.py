"""Clients that cost next to nothing, so that the router is what is measured: HTTP/1.1 and WebSocket on bare protocols.

They check nothing that the router answers for: what they cannot read ends them.
"""

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Final, Self, cast
from urllib.parse import urlsplit

END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length: "
TEXT: Final = 0x81
PING: Final = 0x89
PONG: Final = b"\x8a\x80\0\0\0\0"
TWO_BYTES: Final = 126
HEAD_MAX: Final = 10
NO_MASK: Final = b"\0\0\0\0"
"""A mask of zeros changes nothing for the router: it unmasks all the same."""
OnText = Callable[[bytes, int, int], None]
"""Takes bytes, and where in them a text begins and ends."""
Local = tuple[str, int] | None
"""An address of this machine to connect from, where one has not enough ports."""


class _Wire(asyncio.Protocol):
    """A connection."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport
        self.write: Callable[[bytes], None]
        self._rest = b""
        self.on_lost: Callable[[], None] = _nothing
        """Called if the other end closes; not by `close`."""

    @classmethod
    async def connect(cls, origin: str, local: Local = None) -> Self:
        parts = urlsplit(origin)
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(cls, parts.hostname or "", parts.port or 0, local_addr=local)
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self.write = self._transport.write

    def connection_lost(self, error: Exception | None) -> None:
        del error
        on_lost, self.on_lost = self.on_lost, _nothing
        on_lost()

    def close(self) -> None:
        self.on_lost = _nothing
        self._transport.abort()


def _nothing(*_: object) -> None:
    pass


class HttpWire(_Wire):
    """A kept-alive connection, with one request at a time; answers must have a Content-Length."""

    def __init__(self) -> None:
        super().__init__()
        self.on_answer: Callable[[int, bytes], None] = _nothing
        """Takes status and body of each answer."""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        while data:
            head_end = data.find(END)
            if head_end < 0:
                break
            start = data.find(LENGTH, 0, head_end)
            if start < 0:  # in whatever case it is written
                start = data[:head_end].lower().index(LENGTH)
            start += len(LENGTH)
            body = head_end + len(END)
            stop = body + int(data[start : data.index(b"\r", start)])
            if len(data) < stop:
                break
            # What follows is kept before the answer is told: whoever is told may ask again.
            answer, data = data[:stop], data[stop:]
            self.on_answer(int(answer[9:12]), answer[body:])
        self._rest = data

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Make one request; returns status and body."""
        answered: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.on_answer = lambda status, body: answered.set_result((status, body))
        self.on_lost = lambda: answered.set_exception(ConnectionError("the router closed the connection"))
        self.write(request)
        try:
            return await answered
        finally:
            self.on_answer, self.on_lost = _nothing, _nothing


class EventsWire(_Wire):
    """Server-Sent Events: the bytes as they come, from the end of one event to the end of another."""

    def __init__(self) -> None:
        super().__init__()
        self.on_events: Callable[[bytes], None] = _nothing

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        # A chunk ends with CRLF, and what is in it with an empty line: no event is cut where both stand.
        end = data.rfind(b"\n\n\r\n")
        if end < 0:
            self._rest = data
            return
        self._rest = data[end + 4 :]
        self.on_events(data[:end])


class WebSocketWire(_Wire):
    """A WebSocket, whose frames are given as the bytes they came in, and where in them the text begins and ends."""

    def __init__(self) -> None:
        super().__init__()
        self.on_text: OnText = _nothing
        self._opened: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    async def open(self, request: bytes) -> None:
        """Send the handshake, and wait for its answer; raises ConnectionError if that is no 101."""
        opened = self._opened
        self.write(request)
        if opened is not None:
            await opened

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        start = self._take_head(data) if self._opened is not None else 0
        end = len(data)
        while end - start > 1:
            size, body = data[start + 1], start + 2
            if size == TWO_BYTES:
                size, body = int.from_bytes(data[body : body + 2], "big"), body + 2
            elif size > TWO_BYTES:
                size, body = int.from_bytes(data[body : body + 8], "big"), body + 8
            stop = body + size
            if stop > end:
                break
            kind, start = data[start], stop
            if kind == TEXT:
                self.on_text(data, body, stop)
            elif kind == PING:
                self.write(PONG)
        self._rest = data[start:] if start < end else b""

    def _take_head(self, data: bytes) -> int:
        head_end = data.find(END)
        opened = self._opened
        if head_end < 0 or opened is None:
            return 0
        self._opened = None
        if b" 101 " in data[:head_end]:
            opened.set_result(None)
        else:
            opened.set_exception(ConnectionError(data.decode("latin-1")))
        return head_end + len(END)


HANDSHAKE: Final = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n"
)


def handshake() -> bytes:
    """Write the header lines that ask for a WebSocket."""
    return HANDSHAKE % base64.b64encode(os.urandom(16))


def frame(text: bytes) -> bytes:
    """Write a text as a client's frame."""
    return frame_head(len(text)) + text


def frame_head(size: int) -> bytes:
    """Write what stands before a client's text of this size."""
    if size < TWO_BYTES:
        return bytes((TEXT, 0x80 | size)) + NO_MASK
    if size < 1 << 16:
        return bytes((TEXT, 0x80 | TWO_BYTES)) + size.to_bytes(2, "big") + NO_MASK
    return bytes((TEXT, 0xFF)) + size.to_bytes(8, "big") + NO_MASK
