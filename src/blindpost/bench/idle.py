"""Many who wait for news: what they take while there is none, and how soon one is told."""

import asyncio
import random
import resource
from collections.abc import Callable
from time import perf_counter
from typing import Final, Protocol

from blindpost.bench.costs import cpu, pss_kib
from blindpost.bench.errors import MeasurementError
from blindpost.bench.ground import Ground, Row, spread
from blindpost.bench.people import Pair, Person, Registry
from blindpost.bench.routers import Process
from blindpost.bench.talks import (
    ACK_FRAME,
    IDS,
    KIND,
    MESSAGE,
    MESSAGE_ID,
    OK,
    POLL_S,
    UUID_CHARS,
    new_message,
    open_websocket,
    send_frame,
)
from blindpost.bench.wire import EventsWire, HttpWire, Local, WebSocketWire
from blindpost.errors import StartError

OPEN_AT_ONCE: Final = 32
FIRST: Final = 64
"""They are open before the memory is read: what is made once is made for them."""
SENDERS: Final = 10
PORTS: Final = 20_000
"""Connections from one address to the router: there are some 28,000 ports."""
FILES_RESERVED: Final = 256
SETTLE_S: Final = 2.0
PATIENCE_S: Final = 30


class Sleeper(Protocol):
    """One who waits."""

    async def open(self, origin: str, local: Local) -> None:
        """Connect, and begin to wait."""

    def close(self) -> None:
        """Go."""


OnMessage = Callable[[], None]


class WebSocketSleeper:
    """One who waits at a WebSocket, and answers pings."""

    def __init__(self, person: Person, on_message: OnMessage) -> None:
        self._person = person
        self._on_message = on_message
        self._wire: WebSocketWire

    async def open(self, origin: str, local: Local) -> None:
        self._wire = await open_websocket(self._person, origin, self._told, local)

    def _told(self, data: bytes, start: int, _stop: int) -> None:
        if data[start + KIND] == MESSAGE:
            start += MESSAGE_ID
            self._wire.write(ACK_FRAME % data[start : start + UUID_CHARS])
            self._on_message()

    def close(self) -> None:
        self._wire.close()


class PollSleeper:
    """One who polls, and again when nothing came: half a minute each time."""

    def __init__(self, person: Person, on_message: OnMessage) -> None:
        self._person = person
        self._on_message = on_message
        self._wire: HttpWire

    async def open(self, origin: str, local: Local) -> None:
        self._asks = self._person.signer("GET", f"{origin}/messages/poll?timeout={POLL_S}").request
        self._acks = self._person.signer("POST", f"{origin}/messages/ack").request
        self._wire = await HttpWire.connect(origin, local)
        self._wire.on_answer = self._told
        self._wire.write(self._asks())

    def _told(self, status: int, body: bytes) -> None:
        if status != OK:
            raise MeasurementError(f"a poll was answered {status}: {body.decode()}")
        if body.startswith(b'{"has_messages":true'):
            self._on_message()
            self._wire.write(self._acks(b'{"message_ids":["%b"]}' % b'","'.join(IDS.findall(body))))
        else:
            self._wire.write(self._asks())

    def close(self) -> None:
        self._wire.close()


class EventsSleeper:
    """One who waits for events, and does not acknowledge them."""

    def __init__(self, person: Person, on_message: OnMessage) -> None:
        self._person = person
        self._on_message = on_message
        self._wire: EventsWire

    async def open(self, origin: str, local: Local) -> None:
        self._wire = await EventsWire.connect(origin, local)
        self._wire.on_events = self._told
        self._wire.write(self._person.signer("GET", f"{origin}/messages/events").request())

    def _told(self, data: bytes) -> None:
        if IDS.search(data):
            self._on_message()

    def close(self) -> None:
        self._wire.close()


SLEEPERS: Final[dict[str, Callable[[Person, OnMessage], Sleeper]]] = {
    "websocket": WebSocketSleeper,
    "poll": PollSleeper,
    "events": EventsSleeper,
}


async def measure(ground: Ground) -> list[Row]:
    """Measure each transport on a router of its own, whose memory nobody has used before."""
    counts = {"websocket": ground.plan.clients, "poll": ground.plan.polls, "events": ground.plan.polls}
    _allow_files(max(counts.values()))
    rows = []
    for transport in (each for each in ground.plan.transports if each in counts):
        async with ground.router() as router, ground.registry() as registry:
            rows.append(await _Crowd(ground, router, registry, transport, counts[transport]).measure())
    return rows


def _allow_files(count: int) -> None:
    """Let this process have so many connections, as a router lets itself; raises StartError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + FILES_RESERVED:
        raise StartError(
            f"{count:,} connections are more than the {hard:,} open files that this machine allows a process",
            f"raise the hard limit (ulimit -Hn), or use --clients {hard - FILES_RESERVED}",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Crowd:
    """Those who wait through one transport."""

    def __init__(self, ground: Ground, router: Process, registry: Registry, transport: str, count: int) -> None:
        self._ground = ground
        self._router = router
        self._registry = registry
        self._transport = transport
        self._count = count
        self._sleepers: list[Sleeper] = []
        self._woken: asyncio.Future[float] | None = None

    async def measure(self) -> Row:
        self._ground.tell(f"{self._count:,} idle clients, {self._transport}: making them")
        people = await self._registry.people(FIRST + self._count + SENDERS)
        senders, crowd = people[:SENDERS], people[SENDERS:]
        idle = crowd[FIRST:]
        await self._registry.befriend((senders[number % SENDERS], each) for number, each in enumerate(idle))
        try:
            await self._open(crowd[:FIRST])
            await asyncio.sleep(SETTLE_S)
            before = pss_kib(self._router.pid)
            await self._open(idle)
            await asyncio.sleep(SETTLE_S)
            kib = pss_kib(self._router.pid) - before
            used = await self._wait()
            times = await self._wake(senders, idle)
        finally:
            for each in self._sleepers:
                each.close()
        return {
            "transport": self._transport,
            "clients": self._count,
            "kib_each": kib / self._count,
            "router_kib": before + kib,
            "idle_seconds": self._ground.plan.idle_seconds,
            "idle_core_percent": used * 100,
            **spread("woken", times),
        }

    async def _open(self, people: list[Person]) -> None:
        for start in range(0, len(people), OPEN_AT_ONCE):
            some = [SLEEPERS[self._transport](each, self._wake_up) for each in people[start : start + OPEN_AT_ONCE]]
            local = f"127.0.0.{1 + len(self._sleepers) // PORTS}", 0
            self._sleepers += some
            await asyncio.gather(*(each.open(self._router.origin, local) for each in some))
            if start % 1_024 == 0 and start:
                self._ground.tell(f"{start:,} of {self._count:,} idle clients, {self._transport}")

    async def _wait(self) -> float:
        """Wait, and return what the router used of a core meanwhile."""
        seconds = self._ground.plan.idle_seconds
        self._ground.tell(f"{self._count:,} idle clients, {self._transport}: {seconds:g} s without news")
        before, began = cpu(self._router.pid), perf_counter()
        await asyncio.sleep(seconds)
        return (cpu(self._router.pid) - before).router / (perf_counter() - began)

    async def _wake(self, senders: list[Person], idle: list[Person]) -> list[float]:
        """Send to one after the other, chosen at random; returns the seconds from each send to its arrival."""
        self._ground.tell(f"{self._count:,} idle clients, {self._transport}: waking some")
        wires = [await open_websocket(each, self._router.origin, _ignore) for each in senders]
        await asyncio.sleep(self._ground.plan.settle)
        times = []
        try:
            for number in random.sample(range(len(idle)), min(self._ground.plan.wakes, len(idle))):
                self._woken = asyncio.get_running_loop().create_future()
                sender = number % SENDERS
                text = new_message(send_frame(Pair(senders[sender], idle[number])))
                began = perf_counter()
                wires[sender].write(text)
                async with asyncio.timeout(PATIENCE_S):
                    times.append(await self._woken - began)
        finally:
            for wire in wires:
                wire.close()
        return times

    def _wake_up(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(perf_counter())


def _ignore(_data: bytes, _start: int, _stop: int) -> None:
    """What a sender is answered is of no matter here."""
