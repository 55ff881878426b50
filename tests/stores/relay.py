"""A relay that speaks TLS in front of a store which does not: those in the wheels are built without it."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from certificates import Pair

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SSL_REQUEST = bytes((0, 0, 0, 8, 4, 210, 22, 47))
"""What a PostgreSQL client says first when it wants TLS; the server answers S, and there TLS begins."""


def _context(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    return context


class TlsRelay:
    """Takes TLS off what comes, and passes it on. Only TLS is let through."""

    def __init__(self, port: int, pair: Pair, *, speaks_postgresql: bool = False) -> None:
        self._target = port
        self._context = _context(pair)
        self._speaks_postgresql = speaks_postgresql
        self.port = 0
        self.passed = 0
        """Connections that came to speak TLS."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if self._speaks_postgresql:
                if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
                    writer.close()
                    return
                writer.write(b"S")
                await writer.start_tls(self._context)
            self.passed += 1
            async with _opened(self._target) as inner:
                await _both((reader, writer), inner)
        writer.close()

    async def _run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        context = None if self._speaks_postgresql else self._context
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        mine = asyncio.current_task()
        others = [each for each in asyncio.all_tasks() if each is not mine]
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @contextmanager
    def running(self) -> Iterator["TlsRelay"]:
        """Relay on a thread of its own: a test's loop stands still while a router starts."""
        loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
        thread = threading.Thread(target=_finish, args=(loop, lambda: self._run(ready, stop)), name="relay")
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


def _finish(loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[None]]) -> None:
    loop.set_exception_handler(lambda _loop, _context: None)  # refused handshakes are what some tests are about
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()


@asynccontextmanager
async def _opened(port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _both(outer: Streams, inner: Streams) -> None:
    ways = [asyncio.create_task(_pass(outer[0], inner[1])), asyncio.create_task(_pass(inner[0], outer[1]))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in ways:
            each.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
