"""A relay between clients and a router that does to them what networks and proxies do."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from blindpost.app import Running
from sockets import CLOSE, frame

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD_MAX = 65_536


class Wire:
    """One connection through the relay."""

    def __init__(self, client: Streams) -> None:
        self.client = client
        self.server: Streams | None = None
        self.is_websocket = False

    def cut(self) -> None:
        """Break it without a word to either side."""
        self.client[1].transport.abort()
        if self.server is not None:
            self.server[1].transport.abort()

    def close(self, code: int | None) -> None:
        """Tell the client that the router closes, and break it."""
        self.client[1].write(frame(b"" if code is None else code.to_bytes(2, "big"), CLOSE, mask=None))


class Relay:
    """Passes bytes on. What it does with WebSockets is up to the test."""

    def __init__(self, listening: socket.socket | None = None) -> None:
        self._listening = listening or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.target = 0
        self.refusal: bytes | None = None
        """What answers a handshake in the router's place."""
        self.is_mute = False
        """Whether handshakes are taken and never answered."""
        self.requests: list[str] = []
        """The first line of each head, as far as it is the first on its connection, or asks for a WebSocket."""
        self.wires: set[Wire] = set()
        self.on_data: Callable[[Wire, bytes, bool], None] = lambda _wire, _data, _from_client: None
        """Told of what passes, before it does, and whether it comes from the client."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websockets(self) -> list[Wire]:
        return [wire for wire in self.wires if wire.is_websocket]

    def before(self, router: Running) -> None:
        """Stand before a router, whose public origin must be the relay's."""
        self.target = int(router.origin.rpartition(":")[2])

    def refuse(self, status: int, more: bytes = b"") -> None:
        """Answer handshakes in the way of a proxy that knows no WebSockets."""
        body = b'{"code": "proxied"}'
        self.refusal = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), more, body)

    def heal(self) -> None:
        """Let everything through again."""
        self.refusal, self.is_mute = None, False

    def cut(self) -> None:
        """Break all connections."""
        for wire in list(self.wires):
            wire.cut()

    def count(self, request: str) -> int:
        """Count requests whose first line begins so."""
        return sum(line.startswith(request) for line in self.requests)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        server = await asyncio.start_server(self._serve, sock=self._listening)
        try:
            yield self
        finally:
            server.close()
            for each in list(self._tasks):
                each.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        wire = Wire((reader, writer))
        self.wires.add(wire)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = await reader.readuntil(b"\r\n\r\n")
                self._note(head)
                wire.is_websocket = re.search(rb"\r\nupgrade: *websocket", head, re.IGNORECASE) is not None
                if wire.is_websocket and self.is_mute:
                    await reader.read()
                elif wire.is_websocket and self.refusal is not None:
                    writer.write(self.refusal)
                    await writer.drain()
                    await reader.read()
                else:
                    await self._pass_both(wire, head)
        finally:
            wire.cut()
            self.wires.discard(wire)
            self._tasks.discard(task)

    def _note(self, data: bytes) -> None:
        if found := re.match(rb"[A-Z]+ /\S*", data):
            self.requests.append(found[0].decode())

    async def _pass_both(self, wire: Wire, head: bytes) -> None:
        wire.server = await asyncio.open_connection("127.0.0.1", self.target)
        wire.server[1].write(head)
        ways = (
            asyncio.create_task(self._pass(wire, wire.client[0], wire.server[1], from_client=True)),
            asyncio.create_task(self._pass(wire, wire.server[0], wire.client[1], from_client=False)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(
        self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(HEAD_MAX):
                if from_client and not wire.is_websocket:
                    self._note(data)
                self.on_data(wire, data, from_client)
                writer.write(data)
                await writer.drain()
