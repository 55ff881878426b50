"""Routers in processes of their own, polls without a client library, and a relay that breaks what runs through it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from blindpost.core.embedded import StoreUrls
from support import Person

NODE = """
import asyncio, signal
from blindpost.app import running
from blindpost.config import load_settings

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with running(load_settings()) as router:
        print(router.origin, router.metrics, flush=True)
        await stop.wait()

asyncio.run(main())
"""


class Node:
    """A router that can be killed without killing the test."""

    def __init__(self, urls: StoreUrls, data_dir: Path, **more: object) -> None:
        given = {
            "database_url": urls.database_url,
            "redis_url": urls.redis_url,
            "data_dir": data_dir,
            "port": 0,
            "rate_limits": "off",
        }
        own = {f"BLINDPOST_{name.upper()}": str(value) for name, value in (given | more).items()}
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE], env=os.environ | own, stdout=subprocess.PIPE, text=True
        )
        self.origin = self.metrics = ""

    async def ready(self) -> "Node":
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line, f"the node ended with {self.process.wait(10)}"
        self.origin, self.metrics = line.split()
        return self

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(how)
        self.process.communicate(timeout=40)
        return self.process.returncode


@asynccontextmanager
async def node(urls: StoreUrls, data_dir: Path, **more: object) -> AsyncIterator[Node]:
    each = Node(urls, data_dir, **more)
    try:
        yield await each.ready()
    finally:
        each.end()


class RawPoll:
    """A waiting poll over one plain connection: a thousand of them cost the test little."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, origin: str, person: Person, timeout_s: float = 60) -> "RawPoll":
        reader, writer = await asyncio.open_connection(urlsplit(origin).hostname, urlsplit(origin).port)
        signed = person.signed("GET", f"{origin}/messages/poll")
        head = (
            f"GET /messages/poll?timeout={timeout_s} HTTP/1.1",
            "Host: test",
            *(f"{name}: {value}" for name, value in signed.items()),
        )
        writer.write("\r\n".join((*head, "", "")).encode())
        await writer.drain()
        return cls(reader, writer)

    async def answer(self, seconds: float = 60) -> tuple[int, dict[str, Any]]:
        """Return status and body."""
        async with asyncio.timeout(seconds):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            body = json.loads(await self._reader.readexactly(length))
        await self.vanish()
        return int(head.split()[1]), body

    async def vanish(self) -> None:
        """Close the connection without a word."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()


Hook = Callable[[bytes, bool], Awaitable[bytes | None]]
"""Takes what passes and whether it comes from the client; returns what goes on, or None to cut the connection."""


class Relay:
    """A TCP relay in front of a server; what passes goes through a hook, made anew for each connection."""

    def __init__(self, host: str, port: int, make_hook: Callable[[], Hook]) -> None:
        self.target = (host, port)
        """Where new connections go; a test may change it."""
        self._make_hook = make_hook
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            inner_reader, inner_writer = await self._connect()
            hook = self._make_hook()
            ways = (
                asyncio.ensure_future(_pass(reader, inner_writer, hook, from_client=True)),
                asyncio.ensure_future(_pass(inner_reader, writer, hook, from_client=False)),
            )
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in ways:
                    each.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                inner_writer.transport.abort()
        writer.transport.abort()
        self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.target)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for each in list(self._tasks):
                each.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hook: Hook, *, from_client: bool) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            onward = await hook(data, from_client)
            if onward is None:
                return
            writer.write(onward)
            await writer.drain()
