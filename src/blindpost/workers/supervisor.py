"""The supervisor: it holds the address, and the workers who answer there.

It touches neither the stores nor a client, so that there is little that could end it. Each worker has a listening
socket of its own (SO_REUSEPORT), which is the supervisor's: of one that has ended, those who connect meanwhile wait
in its queue for the next one, and are not refused.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import Final, Self

from prometheus_client.registry import CollectorRegistry

from blindpost.app import Served, at_port_of, bind, origin_of, running, serving_metrics
from blindpost.config import PREFIX, Settings
from blindpost.errors import ConfigurationError, StartError
from blindpost.telemetry import log, log_fault
from blindpost.tls import certificate_of, check_transport
from blindpost.workers.channel import Channel, Message
from blindpost.workers.metrics import AllWorkers, Family, Told
from blindpost.workers.worker import Plan

PROGRAM = (sys.executable, "-m", "blindpost.workers")
STEADY_S: Final = 10.0
"""A worker that has answered for this long did not end because it cannot work."""
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Before each new start of one that ended sooner, one after the other; then it is over."""
AGAIN_S: Final = 5.0
"""Until the next try of one that says why it cannot start: a store may be away, and those who run outlast that."""
STOP_S: Final = 20.0
"""What a worker needs at most to let its clients go, and to write what it took."""
METRICS_S: Final = 2.0


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Served]:
    """Serve HTTP inside the block, by as many processes as the settings say; raises ConfigurationError.

    One is this process. Of several, this one starts and watches them. Signals are the caller's business.
    """
    if settings.workers == 1:
        async with running(settings) as router:
            yield router
        return
    check_transport(settings)
    certificate_of(settings)
    async with AsyncExitStack() as stack:
        listeners = listen(settings.host, settings.port, settings.workers)
        for each in listeners:
            stack.enter_context(each)
        settings = at_port_of(listeners[0], settings)
        crew = Crew(settings.of_one_worker(), listeners)
        metrics = stack.enter_context(serving_metrics(settings, crew.metrics()))
        stack.push_async_callback(crew.stop)
        await crew.start()
        yield Served(origin_of(settings), metrics, crew.failed)


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Listen on one address for several workers; raises ConfigurationError, one sentence.

    On Linux with a socket for each, among which the kernel shares connections out evenly. With one socket for all, who
    is idle longest or wakes first gets most of them, and connections last for hours here.
    """
    if sys.platform != "linux":
        return [bind(host, port)] * count
    if port:
        bind(host, port).close()  # who shares a port shares it with any program of the same user: nobody may be there
    sockets = [bind(host, port, reuse_port=True)]
    try:
        while len(sockets) < count:
            sockets.append(bind(host, sockets[0].getsockname()[1], reuse_port=True))
    except ConfigurationError:
        for each in sockets:
            each.close()
        raise
    return sockets


class Worker:
    """One process, as long as it lives."""

    def __init__(self, process: "subprocess.Popen[bytes]", channel: Channel) -> None:
        self.pid = process.pid
        self._process = process
        self._channel = channel
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ready_at = float("inf")
        self._metrics: asyncio.Future[list[Family]] | None = None
        self._asking = asyncio.Lock()
        self._life = asyncio.create_task(self._live())

    @classmethod
    async def start(cls, plan: Plan) -> Self:
        """Start one; raises StartError."""
        ours, theirs = socket.socketpair()
        with theirs:
            channel = await Channel.open(ours)
            try:
                process = _spawn(theirs, plan.listener)
            except OSError as error:
                await channel.close()
                raise StartError(f"a worker cannot be started: {error.strerror}", "is there memory left?") from None
        # Nothing is awaited since it began, and until somebody holds it who will stop it.
        channel.say(plan.told())
        return cls(process, channel)

    async def ready(self) -> bool:
        """Wait until it answers; false if it ends before. Raises StartError if it says why."""
        return await asyncio.shield(self._ready)

    async def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        return await asyncio.shield(self._life)

    @property
    def is_ready(self) -> bool:
        return self._ready_at < float("inf")

    @property
    def was_steady(self) -> bool:
        """Tell whether it had answered for a while."""
        return monotonic() - self._ready_at >= STEADY_S

    async def metrics(self) -> list[Family]:
        """Ask for what it counts; none if it does not answer in time."""
        async with self._asking:
            if self._life.done() or not self.is_ready:
                return []
            self._metrics = asyncio.get_running_loop().create_future()
            self._channel.say({"ask": "metrics"})
            with suppress(TimeoutError):
                async with asyncio.timeout(METRICS_S):
                    return await self._metrics
            return []

    async def stop(self) -> int:
        """Let it end in order, or else at once; returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                return await self.ended()
        self._process.kill()
        return await self.ended()

    async def _live(self) -> int:
        while (message := await self._channel.hear()) is not None:
            self._take(message)
        code = await asyncio.to_thread(self._process.wait)
        await self._channel.close()
        if not self._ready.done():
            self._ready.set_result(False)
        if self._metrics is not None and not self._metrics.done():
            self._metrics.set_result([])
        return code

    def _take(self, message: Message) -> None:
        if "is_ready" in message:
            self._ready_at = monotonic()
            self._ready.set_result(True)
        elif "error" in message and not self._ready.done():
            self._ready.set_exception(StartError(message["error"], message["hint"]))
        elif "metrics" in message and self._metrics is not None and not self._metrics.done():
            self._metrics.set_result([Family(*each) for each in message["metrics"]])


def _spawn(channel: socket.socket, listener: int) -> "subprocess.Popen[bytes]":
    """Start a fresh interpreter. In a session of its own: Ctrl-C is for the supervisor, which stops it in order."""
    # Settings go over the channel alone: what is not in the environment cannot be read there.
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    return subprocess.Popen(  # noqa: S603 - our own program, no shell
        PROGRAM,
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        env=environment,
        pass_fds=[listener],
        start_new_session=True,
    )


class Place:
    """A socket that listens, and the worker who answers there at the moment."""

    def __init__(self, number: int, listener: socket.socket, settings: Settings) -> None:
        self.number = number
        self._plan = Plan(number, listener.fileno(), settings)
        self._worker: Worker | None = None
        self._starts = 0

    async def fill(self) -> bool:
        """Start a worker; false if it ended without a word before it answered. Raises StartError if it said why."""
        self._starts += 1
        self._worker = await Worker.start(self._plan)
        return await self._worker.ready()

    async def keep(self) -> None:
        """Put another in the place of a worker that has ended, again and again; returns when that is of no use."""
        early = 0
        while self._worker is not None:
            code = await self._worker.ended()
            early = 0 if self._worker.was_steady else early + 1
            log.warning("worker_ended", worker=self.number, pid=self._worker.pid, code=code, count=early)
            if early > len(PAUSES_S):
                return
            await asyncio.sleep(PAUSES_S[max(early - 1, 0)])
            await self._refill()

    async def _refill(self) -> None:
        while True:
            try:
                if await self.fill() and self._worker is not None:
                    log.info("worker_started", worker=self.number, pid=self._worker.pid)
                return
            except StartError as error:
                log.warning("worker_not_started", worker=self.number, error=str(error))
            await asyncio.sleep(AGAIN_S)

    async def told(self) -> Told:
        return Told(self._starts, [] if self._worker is None else await self._worker.metrics())

    async def empty(self) -> None:
        """End the worker in order, and put no other there."""
        if self._worker is None:
            return
        code = await self._worker.stop()
        if code != 0 and self._worker.is_ready:
            log.error("worker_ended", worker=self.number, pid=self._worker.pid, code=code)


class Crew:
    """All workers."""

    def __init__(self, settings: Settings, listeners: list[socket.socket]) -> None:
        self._listeners = listeners
        self._places = [Place(number, each, settings) for number, each in enumerate(listeners, 1)]
        self._keeping: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()
        """Set when a worker ended again and again as soon as it had started."""

    async def start(self) -> None:
        """Start all; raises StartError if one cannot.

        The first one alone: it checks the stores and migrates, and what is wrong with them is said once.
        """
        one, *others = self._places
        await _begin(one)
        await asyncio.gather(*(_begin(each) for each in others))
        self._keeping = [asyncio.create_task(each.keep()) for each in self._places]
        for task in self._keeping:
            task.add_done_callback(partial(_gave_up, self.failed))

    async def stop(self) -> None:
        """End all in order: they let their clients go, and write what they took."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        # The workers close theirs; while one of ours is open, whoever connects waits in a queue that nobody empties.
        for each in self._listeners:
            each.close()
        await asyncio.gather(*(each.empty() for each in self._places))

    def metrics(self) -> CollectorRegistry:
        """Return what all of them count, to be asked from another thread."""
        source = CollectorRegistry()
        source.register(AllWorkers(self._told))
        return source

    async def _told(self) -> Mapping[int, Told]:
        told = await asyncio.gather(*(each.told() for each in self._places))
        return {each.number: of_it for each, of_it in zip(self._places, told, strict=True)}


async def _begin(place: Place) -> None:
    if not await place.fill():
        raise StartError("a worker ended before it could answer", "the log says why; please report it")


def _gave_up(failed: asyncio.Event, task: "asyncio.Task[None]") -> None:
    if task.cancelled():
        return
    if (error := task.exception()) is not None:
        log_fault("supervisor_failed", error)
    failed.set()
