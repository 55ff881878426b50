"""Streams by hand: a WebSocket that can break every rule, and Server-Sent Events."""

import asyncio
import base64
import json
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from checks import success
from support import Person, b64

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
PATIENCE_S = 30
Frame = dict[str, Any]


class Closed(Exception):
    """The router closed the stream."""

    def __init__(self, code: int, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(code, reason)


class Refused(Exception):
    """The router answered a handshake in HTTP."""

    def __init__(self, status: int, headers: str, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.code = json.loads(body)["code"]
        super().__init__(status, self.code)


def frame(payload: bytes, opcode: int = TEXT, *, final: bool = True, mask: bytes | None = b"\x01\x02\x03\x04") -> bytes:
    """Write a frame, masked unless told otherwise."""
    size, masked = len(payload), 0 if mask is None else 128
    head = bytes([(128 if final else 0) | opcode])
    if size < 126:
        head += bytes([masked | size])
    elif size < 65_536:
        head += bytes([masked | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def handshake(path: str, headers: dict[str, str]) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    given = {"Host": "x", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    lines = (f"{name}: {value}" for name, value in (given | {"Sec-WebSocket-Key": key} | headers).items() if value)
    return "\r\n".join((f"GET {path} HTTP/1.1", *lines, "", "")).encode()


class Ws:
    """One WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._passed_over: deque[Frame] = deque()

    @classmethod
    async def connect(
        cls, origin: str, path: str, headers: dict[str, str], context: ssl.SSLContext | None = None
    ) -> "Ws":
        """Open one; raises Refused."""
        parts = urlsplit(origin)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        try:
            writer.write(handshake(path, headers))
            async with asyncio.timeout(PATIENCE_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status = int(head.split()[1])
            if status != 101:
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                raise Refused(status, head, await reader.readexactly(length))
            assert "extensions" not in head.lower()
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def say(self, **members: Any) -> None:
        self.write(frame(json.dumps(members).encode()))

    def send(self, other: Person, data: bytes = b"opaque", client_message_id: str | None = None) -> str:
        """Send a message, and return the id that its answer will name."""
        identifier = client_message_id or str(uuid4())
        self.say(type="send", recipient_id=other.id, message=b64(data), client_message_id=identifier)
        return identifier

    def ack(self, *ids: str) -> None:
        self.say(type="ack", message_ids=list(ids))

    async def raw(self) -> tuple[int, bytes]:
        """Read one frame; raises EOFError."""
        async with asyncio.timeout(PATIENCE_S):
            first, size = await self.reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            return first & 15, await self.reader.readexactly(size)

    async def any(self) -> Frame:
        """Read the next text, and answer pings; raises Closed."""
        while True:
            try:
                opcode, payload = await self.raw()
            except (EOFError, ConnectionError):
                raise Closed(1006) from None
            if opcode == CLOSE:
                self.write(frame(payload[:2], CLOSE))
                raise Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())
            if opcode == PING:
                self.write(frame(payload, PONG))
            if opcode == TEXT:
                found: Frame = json.loads(payload)
                return found

    async def next(self, kind: str) -> Frame:
        """Read up to the next frame of a kind; those of others stay for later calls. Raises Closed."""
        for each in self._passed_over:
            if each["type"] == kind:
                self._passed_over.remove(each)
                return each
        while (each := await self.any())["type"] != kind:
            self._passed_over.append(each)
        return each

    async def closed(self) -> int:
        """Read to the end, and return the code."""
        try:
            while True:
                await self.any()
        except Closed as closed:
            return closed.code

    async def vanish(self) -> None:
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def socket(someone: Person, origin: str, *, ticket: str | None = None, **headers: str) -> AsyncIterator[Ws]:
    """Open a WebSocket as somebody; raises Refused."""
    if ticket is None:
        path = "/messages/ws"
        headers = someone.signed("GET", (someone.origin or origin) + path) | headers
    else:
        path = f"/messages/ws?ticket={ticket}"
    ws = await Ws.connect(origin, path, headers)
    try:
        yield ws
    finally:
        await ws.vanish()


@asynccontextmanager
async def events(someone: Person) -> AsyncIterator[AsyncIterator[Frame]]:
    """Open Server-Sent Events as somebody."""
    async with someone.http.stream("GET", "/messages/events", auth=someone.auth) as answer:
        assert answer.status_code == 200

        async def read() -> AsyncIterator[Frame]:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

        yield read()


WAYS = ("poll", "events", "websocket")


class Reader(Protocol):
    """Somebody who receives, by whatever way."""

    async def next(self, kind: str) -> Frame:
        """Return the next frame of a kind; those of others stay for later calls. Raises Closed."""

    async def acknowledge(self, *ids: str) -> list[str]:
        """Acknowledge, and return what the router says was erased."""


class ByPoll:
    """What polls give, as the frames of a stream: each once."""

    def __init__(self, someone: Person) -> None:
        self._someone = someone
        self._given: set[str] = set()
        self._waiting: deque[Frame] = deque()

    async def next(self, kind: str) -> Frame:
        while True:
            for each in self._waiting:
                if each["type"] == kind:
                    self._waiting.remove(each)
                    return each
            await self._poll()

    async def _poll(self) -> None:
        answer = await self._someone.get("/messages/poll", timeout=0 if self._given else PATIENCE_S, limit=500)
        if answer.status_code == 401:
            raise Closed(4100)
        page = success(answer)
        new = [message for message in page["messages"] if message["id"] not in self._given]
        self._given.update(message["id"] for message in new)
        self._waiting.extend({"type": "message", **message} for message in new)
        if page["delivered"]:
            self._waiting.append({"type": "receipt", "delivered": page["delivered"]})
        if page["contacts_changed"]:
            self._waiting.append({"type": "contact"})

    async def acknowledge(self, *ids: str) -> list[str]:
        return await acknowledge(self._someone, *ids)


class ByEvents:
    """What Server-Sent Events give."""

    def __init__(self, someone: Person, stream: AsyncIterator[Frame]) -> None:
        self._someone = someone
        self._stream = stream
        self._passed_over: deque[Frame] = deque()

    async def next(self, kind: str) -> Frame:
        for each in self._passed_over:
            if each["type"] == kind:
                self._passed_over.remove(each)
                return each
        async with asyncio.timeout(PATIENCE_S):
            async for each in self._stream:
                if each["type"] == "close":
                    raise Closed(each["code"])
                if each["type"] == kind:
                    return each
                self._passed_over.append(each)
        raise Closed(1006)

    async def acknowledge(self, *ids: str) -> list[str]:
        return await acknowledge(self._someone, *ids)


class ByWebSocket:
    """What a WebSocket gives."""

    def __init__(self, ws: Ws) -> None:
        self._ws = ws

    async def next(self, kind: str) -> Frame:
        return await self._ws.next(kind)

    async def acknowledge(self, *ids: str) -> list[str]:
        self._ws.ack(*ids)
        erased: list[str] = (await self._ws.next("acknowledged"))["acknowledged"]
        return erased


async def acknowledge(someone: Person, *ids: str) -> list[str]:
    """Acknowledge by a call."""
    erased: list[str] = success(await someone.post("/messages/ack", message_ids=list(ids)))["acknowledged"]
    return erased


@asynccontextmanager
async def reading(way: str, someone: Person, origin: str) -> AsyncIterator[Reader]:
    """Receive as somebody, by one of WAYS."""
    if way == "poll":
        yield ByPoll(someone)
    elif way == "events":
        async with events(someone) as stream:
            yield ByEvents(someone, stream)
    else:
        async with socket(someone, origin) as ws:
            yield ByWebSocket(ws)
