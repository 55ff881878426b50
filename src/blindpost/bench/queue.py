"""What waited for somebody who was away, fetched and acknowledged when they come back."""

import asyncio
from time import perf_counter
from typing import Final

from blindpost.bench.costs import cpu
from blindpost.bench.errors import MeasurementError
from blindpost.bench.ground import Ground, Row
from blindpost.bench.people import Pair, Person
from blindpost.bench.routers import Process
from blindpost.bench.talks import (
    ERROR,
    IDS,
    KIND,
    MESSAGE,
    MESSAGE_ID,
    OK,
    PAGE,
    SENT,
    UUID_CHARS,
    new_message,
    open_websocket,
    send_frame,
)
from blindpost.bench.wire import HttpWire, WebSocketWire, frame

PATIENCE_S: Final = 120


async def measure(ground: Ground) -> list[Row]:
    """Fill a queue and empty it, through each transport in turn."""
    rows = []
    count, ways = ground.plan.queue, {"websocket": _by_websocket, "poll": _by_polls}
    async with ground.router() as router, ground.registry() as registry:
        for number in range(ground.plan.rounds):
            for transport, fetch in ways.items():
                ground.tell(f"a queue of {count:,}, {transport}, round {number + 1} of {ground.plan.rounds}")
                (pair,) = await registry.pairs(1)
                await fill(router, pair, count)
                before, began = cpu(router.pid), perf_counter()
                async with asyncio.timeout(PATIENCE_S):
                    await fetch(router, pair.recipient, count)
                took, used = perf_counter() - began, cpu(router.pid) - before
                if left := await registry.waiting([pair.recipient]):
                    raise MeasurementError(f"{left} messages were not acknowledged")
                rows.append({"transport": transport, "messages": count, "seconds": took, **used.per_1000(count)})
    return rows


class _Count:
    """Counts to a number, or to a fault."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, number: int) -> None:
        self._left -= number
        if self._left <= 0 and not self.reached.done():
            self.reached.set_result(None)

    def fail(self, reason: str) -> None:
        if not self.reached.done():
            self.reached.set_exception(MeasurementError(reason))

    def lost(self) -> None:
        self.fail("the router closed a connection")


async def fill(router: Process, pair: Pair, count: int) -> None:
    """Send so many messages to somebody who is away."""
    sent = _Count(count)

    def told(data: bytes, start: int, stop: int) -> None:
        kind = data[start + KIND]
        if kind == SENT:
            sent.add(1)
        elif kind == ERROR:
            sent.fail(data[start:stop].decode())

    wire = await open_websocket(pair.sender, router.origin, told)
    wire.on_lost = sent.lost
    before = send_frame(pair)
    try:
        for _ in range(count):  # the router reads on as it answers
            wire.write(new_message(before))
        async with asyncio.timeout(PATIENCE_S):
            await sent.reached
    finally:
        wire.close()


class _Reader:
    """Acknowledges what comes: all that came at once with one frame."""

    def __init__(self, count: int) -> None:
        self.count = _Count(count)
        self.wire: WebSocketWire
        self._ids: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def told(self, data: bytes, start: int, stop: int) -> None:
        kind = data[start + KIND]
        if kind == MESSAGE:
            if not self._ids:
                self._loop.call_soon(self._acknowledge)
            self._ids.append(data[start + MESSAGE_ID : start + MESSAGE_ID + UUID_CHARS])
        elif kind == ERROR:
            self.count.fail(data[start:stop].decode())
        else:
            self.count.add(_ids_in(data[start:stop]))

    def _acknowledge(self) -> None:
        ids, self._ids = self._ids[:PAGE], self._ids[PAGE:]
        self.wire.write(frame(b'{"type":"ack","message_ids":["%b"]}' % b'","'.join(ids)))
        if self._ids:
            self._loop.call_soon(self._acknowledge)


def _ids_in(text: bytes) -> int:
    """Count the ids in an answer to an acknowledgement."""
    return text.count(b"-") // 4


async def _by_websocket(router: Process, person: Person, count: int) -> None:
    reader = _Reader(count)
    reader.wire = await open_websocket(person, router.origin, reader.told)
    reader.wire.on_lost = reader.count.lost
    try:
        await reader.count.reached
    finally:
        reader.wire.close()


async def _by_polls(router: Process, person: Person, count: int) -> None:
    ask = person.signer("GET", f"{router.origin}/messages/poll?timeout=0&limit={PAGE}").request
    acknowledge = person.signer("POST", f"{router.origin}/messages/ack").request
    wire = await HttpWire.connect(router.origin)
    try:
        while count > 0:
            ids = IDS.findall(_good(*await wire.exchange(ask())))
            answer = await wire.exchange(acknowledge(b'{"message_ids":["%b"]}' % b'","'.join(ids)))
            count -= _ids_in(_good(*answer))
    finally:
        wire.close()


def _good(status: int, body: bytes) -> bytes:
    if status != OK:
        raise MeasurementError(f"the router answered {status}: {body.decode()}")
    return body
