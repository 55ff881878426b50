"""What a run stands on: stores and routers as processes that may be harmed, and the one address in front of them."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fault import servers
from soak import node as node_program
from soak.node import BUG, CLOCK

TESTS = Path(__file__).parents[1]
START_S = 60.0
CHUNK = 65_536


class Node:
    """A router that comes back."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self.port: int | None = None
        """None while it is away."""
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; it ends by itself if its stores do not answer, and is started again then."""
        async with asyncio.timeout(START_S):
            while True:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    node_program.__file__,
                    env=os.environ | self._environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                assert self._process.stdout is not None
                if line := await self._process.stdout.readline():
                    self.port = int(line.split()[0].rpartition(b":")[2])
                    return
                await self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def end(self, how: signal.Signals) -> None:
        """End it, in order or at once; nobody is sent to it any more from the moment it is gone."""
        self.send(how)
        if self._process is not None:
            await self._process.wait()
        self.port = None


class Balancer:
    """One address for all routers: each connection goes to one of them. It can cut, delay, and lose answers."""

    def __init__(self, nodes: list[Node], chance: random.Random) -> None:
        self._nodes = nodes
        self._chance = chance
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay_s = 0.0
        self.loses_answers = 0.0
        """How likely a connection is to break just before an answer gets through it."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all connections."""
        for each in list(self._tasks):
            each.cancel()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Balancer"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port or 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        inner: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError, asyncio.CancelledError):
                inner_reader, inner = await self._connect()
                ways = (self._pass(reader, inner, is_answer=False), self._pass(inner_reader, writer, is_answer=True))
                passing = [asyncio.ensure_future(each) for each in ways]
                try:
                    await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in passing:
                        each.cancel()
                    await asyncio.gather(*passing, return_exceptions=True)
        finally:
            writer.transport.abort()
            if inner is not None:
                inner.transport.abort()
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to one that takes it: as proxies do, the next is tried if one does not."""
        ports = [each.port for each in self._nodes if each.port is not None]
        self._chance.shuffle(ports)
        for port in ports:
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        raise ConnectionRefusedError

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if is_answer and self.loses_answers and self._chance.random() < self.loses_answers:
                    return
                if self.delay_s:
                    await asyncio.sleep(self._chance.uniform(0, self.delay_s))
                writer.write(data)
                await writer.drain()


class Stage:
    """Everything that can be harmed."""

    def __init__(self, stores: servers.Handmade, directory: Path, nodes: int, seed: str, bug: str | None) -> None:
        self.stores = stores
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.clock = directory / "clock"
        self._directory = directory
        self._bug = bug
        self.nodes: list[Node] = []
        self.balancer = Balancer(self.nodes, self.chance)
        self._count = nodes

    def _environment(self, name: str) -> dict[str, str]:
        settings: dict[str, Any] = {
            "database_url": self.stores.urls.database_url,
            "redis_url": self.stores.urls.redis_url,
            "data_dir": self._directory / name,
            "port": 0,
            "public_origin": self.balancer.origin,
            "rate_limits": "off",
        }
        if self._bug == "wake-before-commit":
            settings["sweep_interval_s"] = 300
        own = {f"BLINDPOST_{key.upper()}": str(value) for key, value in settings.items()}
        bug = {} if self._bug is None else {BUG: self._bug}
        return own | bug | {CLOCK: str(self.clock), "PYTHONPATH": os.pathsep.join(map(str, (TESTS, *sys.path)))}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Stage"]:
        async with self.balancer.running():
            try:
                for index in range(self._count):
                    node = Node(f"node{index}", self._environment(f"node{index}"))
                    await node.start()
                    self.nodes.append(node)
                yield self
            finally:
                for node in self.nodes:
                    node.send(signal.SIGCONT)
                    await node.end(signal.SIGKILL)

    async def heal(self) -> None:
        """Make everything well again, whatever was done to it."""
        self.balancer.delay_s = self.balancer.loses_answers = 0.0
        self.clock.write_text("0")
        await asyncio.to_thread(self.stores.up)
        for node in self.nodes:
            node.send(signal.SIGCONT)
            if not node.alive:
                await node.end(signal.SIGKILL)
                await node.start()


Harm = Callable[[Stage], Awaitable[None]]
