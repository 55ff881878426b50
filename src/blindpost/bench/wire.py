"""A client that costs next to nothing, so that the router is what is measured: HTTP/1.1 on a bare protocol."""

import asyncio
import base64
import json
import os
from collections.abc import Callable
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

from blindpost.client.transport import Sign

END: Final = b"\r\n\r\n"
FRAME_HEAD_MIN: Final = 2
TWO_BYTES: Final = 126
TEXT: Final = 0x81
PING: Final = 0x89


class Wire(asyncio.Protocol):
    """One kept-alive connection, one request at a time; answers must have a Content-Length."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, origin: str) -> Self:
        parts = urlsplit(origin)
        _, wire = await asyncio.get_running_loop().create_connection(cls, parts.hostname or "", parts.port or 0)
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(END)
        if head_end < 0 or self._answer is None:
            return
        head = self._buffer[:head_end].lower()
        start = head.index(b"content-length:") + 15
        length = int(head[start : head.find(b"\r\n", start) if b"\r\n" in head[start:] else head_end])
        end = head_end + len(END) + length
        if len(self._buffer) >= end:
            body, self._buffer = self._buffer[head_end + len(END) : end], self._buffer[end:]
            answer, self._answer = self._answer, None
            answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the router closed the connection"))

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send one request as bytes; returns status and body."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


def request(method: str, url: str, sign: Sign, body: Any = None) -> bytes:
    """Write a request with its headers, signed."""
    content = b"" if body is None else json.dumps(body).encode()
    bare, _, _ = url.partition("?")
    headers = {
        "Host": urlsplit(url).netloc,
        **sign(method, bare, content),
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
    }
    lines = (f"{method} {url[url.index('/', len('https://')) :]} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()))
    return "\r\n".join((*lines, "", "")).encode() + content


class StreamWire(asyncio.Protocol):
    """One WebSocket: whole texts go to a callable as they come. It checks nothing that the router answers for."""

    def __init__(self, on_text: Callable[[bytes], None]) -> None:
        self._on_text = on_text
        self._transport: asyncio.WriteTransport
        self._buffer = b""
        self._opened: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, origin: str, sign: Sign, on_text: Callable[[bytes], None]) -> Self:
        parts, loop = urlsplit(origin), asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: cls(on_text), parts.hostname or "", parts.port or 0)
        key = base64.b64encode(os.urandom(16)).decode()
        url = f"{origin}/messages/ws"
        headers = {
            "Host": parts.netloc,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            **sign("GET", url, b""),
        }
        lines = ("GET /messages/ws HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()))
        await wire.ask("\r\n".join((*lines, "", "")).encode())
        return wire

    async def ask(self, handshake: bytes) -> None:
        """Send the handshake, and wait for its answer; raises ConnectionError if it is no 101."""
        self._transport.write(handshake)
        if self._opened is not None:
            await self._opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        if self._opened is not None:
            head, end, data = data.partition(END)
            if not end:
                self._buffer = head
                return
            opened, self._opened = self._opened, None
            if b" 101 " in head:
                opened.set_result(None)
            else:
                opened.set_exception(ConnectionError(head.partition(b"\r\n")[0].decode()))
        self._buffer = self._take_frames(data)

    def _take_frames(self, data: bytes) -> bytes:
        start = 0
        while len(data) - start >= FRAME_HEAD_MIN:
            size, body = data[start + 1], start + FRAME_HEAD_MIN
            if size == TWO_BYTES:
                size, body = int.from_bytes(data[body : body + 2], "big"), body + 2
            elif size > TWO_BYTES:
                size, body = int.from_bytes(data[body : body + 8], "big"), body + 8
            if len(data) < body + size:
                break
            if data[start] == TEXT:
                self._on_text(data[body : body + size])
            elif data[start] == PING:
                self._transport.write(b"\x8a\x80" + bytes(4))
            start = body + size
        return data[start:]

    def send(self, text: bytes) -> None:
        """Send a text. The mask is zeros, which changes nothing for the router: it unmasks all the same."""
        size = len(text)
        head = bytes((TEXT, 128 | size)) if size < TWO_BYTES else bytes((TEXT, 254)) + size.to_bytes(2, "big")
        self._transport.write(head + b"\0\0\0\0" + text)

    def close(self) -> None:
        self._transport.abort()
