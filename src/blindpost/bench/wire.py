"""A client that costs next to nothing, so that the router is what is measured: HTTP/1.1 on a bare protocol."""

import asyncio
import json
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

from blindpost.client.transport import Sign

END: Final = b"\r\n\r\n"


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
