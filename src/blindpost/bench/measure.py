"""The measurements."""

import asyncio
import json
import os
import statistics
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final
from uuid import uuid4

import httpx

from blindpost.bench.people import MESSAGE_BYTES, Pair
from blindpost.bench.routers import Process, cpu_seconds, postgres_cpu_seconds, resident_kib
from blindpost.bench.wire import StreamWire, Wire
from blindpost.protocol.encoding import b64encode

CREATED: Final = 201
OK: Final = 200
SETTLE_S: Final = 60
WARM_UP_S: Final = 0.5
OPEN_AT_ONCE: Final = 64
AWAITED: Final = tuple(b'{"type":"%b"' % each for each in (b"sent", b"message", b"acknowledged"))
"""What a message is answered with, before its sender sends the next."""


@dataclass(frozen=True, slots=True)
class Sends:
    """One round of sends, or of other requests."""

    per_second: float
    router_cpu: float
    """CPU seconds of the router per 1,000 requests."""
    postgres_cpu: float
    """CPU seconds of PostgreSQL per 1,000 requests."""
    per_transaction: float


async def sends(router: Process, pairs: list[Pair], seconds: float) -> Sends:
    """Let every pair's sender send one message after the other."""
    return await _load(router, [partial(pair.send, router.origin) for pair in pairs], seconds)


async def empty_polls(router: Process, pairs: list[Pair], seconds: float) -> Sends:
    """Let every pair's recipient ask again and again for what there is not."""
    return await _load(router, [partial(pair.poll, router.origin, 0) for pair in pairs], seconds)


async def _load(router: Process, makers: list[Callable[[], bytes]], seconds: float) -> Sends:
    """Make requests for a while, one after the other on a connection for each maker."""
    async with _wires(router, len(makers)) as wires:
        batches = await _batches(router)
        before = cpu_seconds(router.pid), postgres_cpu_seconds()
        started = perf_counter()
        counts = await asyncio.gather(
            *(_call_until(wire, make, started + seconds) for wire, make in zip(wires, makers, strict=True))
        )
        took = perf_counter() - started
        after = cpu_seconds(router.pid), postgres_cpu_seconds()
        flushed = await _batches(router)
    count = sum(counts)
    transactions, items = flushed[0] - batches[0], flushed[1] - batches[1]
    return Sends(
        count / took,
        (after[0] - before[0]) / count * 1000,
        (after[1] - before[1]) / count * 1000,
        items / transactions if transactions else 0,
    )


async def _call_until(wire: Wire, make: Callable[[], bytes], end: float) -> int:
    count = 0
    while perf_counter() < end:
        status, body = await wire.exchange(make())
        if status not in {OK, CREATED}:
            raise RuntimeError(f"a request was answered {status}: {body!r}")
        count += 1
    return count


async def _batches(router: Process) -> tuple[float, float]:
    """Read how many transactions the writer made, and how many messages were in them."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(router.metrics)).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("blindpost_batch_size"))
    count, total = (values.get(f'blindpost_batch_size_{each}{{kind="send"}}', "0") for each in ("count", "sum"))
    return float(count), float(total)


@asynccontextmanager
async def _wires(router: Process, count: int) -> AsyncIterator[list[Wire]]:
    wires = [await Wire.open(router.origin) for _ in range(count)]
    try:
        yield wires
    finally:
        for wire in wires:
            wire.close()


@dataclass(frozen=True, slots=True)
class Latency:
    """From the beginning of a send to the answer of the poll that waited for it, in ms."""

    p50: float
    p99: float
    count: int


async def latency(router: Process, pair: Pair, count: int, progress: Callable[[], None]) -> Latency:
    """Send one message at a time to a recipient whose poll waits."""
    times: list[float] = []
    async with _wires(router, 2) as (sender, recipient):
        while len(times) < count:
            waiting = asyncio.create_task(recipient.exchange(pair.poll(router.origin, 30)))
            await _until_waiting(router, 1)
            message = pair.send(router.origin)
            started = perf_counter()
            sent = asyncio.create_task(sender.exchange(message))
            _, body = await waiting
            times.append((perf_counter() - started) * 1000)
            await sent
            await recipient.exchange(pair.ack(router.origin, [each["id"] for each in json.loads(body)["messages"]]))
            progress()
    quantiles = statistics.quantiles(times, n=100)
    return Latency(quantiles[49], quantiles[98], len(times))


async def _until_waiting(router: Process, count: int) -> None:
    """Wait until that many polls wait in the router, as it counts them itself."""
    async with asyncio.timeout(SETTLE_S), httpx.AsyncClient() as http:
        while True:
            text = (await http.get(router.metrics)).text
            if any(line == f"blindpost_waiting {float(count)}" for line in text.splitlines()):
                return
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Many polls that wait."""

    count: int
    kib_each: float
    connections: int
    """PostgreSQL connections of everybody."""
    wake_ms: float
    """From the first send until all of them had answered."""


async def waiting(
    router: Process, pairs: list[Pair], count: int, count_connections: Callable[[], "asyncio.Future[int]"]
) -> Waiting:
    """Let many polls wait, several for each recipient, and then wake all of them."""
    before = resident_kib(router.pid)
    async with _wires(router, count) as wires:
        polls = [
            asyncio.create_task(wire.exchange(pairs[index % len(pairs)].poll(router.origin, 60)))
            for index, wire in enumerate(wires)
        ]
        await _until_waiting(router, count)
        kib_each = (resident_kib(router.pid) - before) / count
        connections = await count_connections()
        started = perf_counter()
        async with _wires(router, 1) as (sender,):
            for pair in pairs:
                await sender.exchange(pair.send(router.origin))
        await asyncio.gather(*polls)
        wake_ms = (perf_counter() - started) * 1000
    return Waiting(count, kib_each, connections, wake_ms)


@dataclass(frozen=True, slots=True)
class Streamed:
    """One round of messages over WebSockets: each sent, stored, answered, delivered and acknowledged."""

    per_second: float
    router_cpu: float
    """CPU seconds of the router per 1,000 messages."""
    postgres_cpu: float
    """CPU seconds of PostgreSQL per 1,000 messages."""
    per_transaction: float


class _Talk:
    """One pair with one message in flight: the next is sent when the last was answered, delivered and acknowledged."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._sender: StreamWire
        self._recipient: StreamWire
        self._body = b64encode(os.urandom(MESSAGE_BYTES))
        self._awaited = 0
        self._is_open = False
        self.count = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, origin: str) -> None:
        self._sender = await StreamWire.open(origin, self._pair.sender, self._sender_told)
        self._recipient = await StreamWire.open(origin, self._pair.recipient, self._recipient_told)

    def start(self) -> None:
        self._is_open = True
        self._send()

    def stop(self) -> None:
        self._is_open = False

    def close(self) -> None:
        self._sender.close()
        self._recipient.close()

    def _send(self) -> None:
        self._awaited = len(AWAITED)
        self._sender.send(
            f'{{"type":"send","recipient_id":"{self._pair.recipient_id}","message":"{self._body}",'
            f'"client_message_id":"{uuid4()}"}}'.encode()
        )

    def _sender_told(self, text: bytes) -> None:
        self._take(text)

    def _recipient_told(self, text: bytes) -> None:
        if text.startswith(b'{"type":"message","id":"'):
            self._recipient.send(b'{"type":"ack","message_ids":["%b"]}' % text[24:60])
        self._take(text)

    def _take(self, text: bytes) -> None:
        if not text.startswith(AWAITED):
            if text.startswith(b'{"type":"error"') and not self.ended.done():
                self.ended.set_exception(RuntimeError(text.decode()))
            return
        self._awaited -= 1
        if self._awaited:
            return
        self.count += 1
        if self._is_open:
            self._send()
        elif not self.ended.done():
            self.ended.set_result(None)


async def stream(router: Process, pairs: list[Pair], seconds: float) -> Streamed:
    """Let every pair send one message after the other over WebSockets, each to its end."""
    talks = [_Talk(pair) for pair in pairs]
    for talk in talks:
        await talk.open(router.origin)
    try:
        for talk in talks:
            talk.start()
        await asyncio.sleep(WARM_UP_S)
        batches, counted = await _batches(router), sum(talk.count for talk in talks)
        before, started = (cpu_seconds(router.pid), postgres_cpu_seconds()), perf_counter()
        await asyncio.sleep(seconds)
        after, took = (cpu_seconds(router.pid), postgres_cpu_seconds()), perf_counter() - started
        count = sum(talk.count for talk in talks) - counted
        flushed = await _batches(router)
        for talk in talks:
            talk.stop()
        await asyncio.gather(*(talk.ended for talk in talks))
    finally:
        for talk in talks:
            talk.close()
    transactions, items = flushed[0] - batches[0], flushed[1] - batches[1]
    return Streamed(
        count / took,
        (after[0] - before[0]) / count * 1000,
        (after[1] - before[1]) / count * 1000,
        items / transactions if transactions else 0,
    )


@dataclass(frozen=True, slots=True)
class Idle:
    """Many WebSockets without news."""

    count: int
    kib_each: float


async def idle_streams(router: Process, pairs: list[Pair], count: int) -> Idle:
    """Open many WebSockets, several for each recipient, and see what they take."""
    wires: list[StreamWire] = []

    async def open_up_to(number: int) -> None:
        while len(wires) < number:
            some = range(len(wires), min(len(wires) + OPEN_AT_ONCE, number))
            signs = [pairs[index % len(pairs)].recipient for index in some]
            wires.extend(await asyncio.gather(*(StreamWire.open(router.origin, sign, _ignore) for sign in signs)))

    try:
        await open_up_to(OPEN_AT_ONCE)  # what is made once, at the first
        before = resident_kib(router.pid)
        await open_up_to(count)
        return Idle(count, (resident_kib(router.pid) - before) / (count - OPEN_AT_ONCE))
    finally:
        for wire in wires:
            wire.close()


def _ignore(_text: bytes) -> None:
    """Nothing is sent to an idle stream."""


async def erase_queues(router: Process, pairs: list[Pair]) -> None:
    """Acknowledge all that the measurements left, so that the next begins with empty queues."""
    async with _wires(router, 1) as (wire,):
        for pair in pairs:
            while True:
                page = json.loads((await wire.exchange(pair.fetch(router.origin)))[1])
                if not page["messages"]:
                    break
                await wire.exchange(pair.ack(router.origin, [each["id"] for each in page["messages"]]))
