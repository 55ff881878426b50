"""Latency at a fixed rate, counted from when each message was due: what waits for its turn has waited too.

A load that waits for answers sends less while the router stalls, and so leaves the stall out of its figures
("coordinated omission"). This one goes by the clock.
"""

import asyncio
import sys
from collections import deque
from contextlib import suppress
from itertools import cycle
from threading import Thread
from time import perf_counter, sleep
from typing import Final

from blindpost.bench.costs import cpu, undisturbed
from blindpost.bench.ground import Ground, Plan, Row, spread
from blindpost.bench.people import Pair, Registry
from blindpost.bench.routers import Process
from blindpost.bench.stream import PATIENCE_S, one_round, quiet, unless_failed
from blindpost.bench.talks import Tally, WebSockets

LOAD: Final = 0.5
"""Of the most that was found."""
SWITCH_S: Final = 0.0002
"""How soon the clock's thread gets its turn: Python would let it wait for 5 ms."""


class Paced:
    """A pair whose messages go when they are due, however many are under way."""

    def __init__(self, pair: Pair, tally: Tally) -> None:
        self.way = WebSockets(pair, self)
        self.fail = tally.fail
        self.late: list[float] = []
        self._tally = tally
        self._due: deque[float] = deque()
        """When those were due that have not arrived: one sender's messages arrive in their order."""
        self._unanswered: deque[float] = deque()
        """When those were written whose sender has no answer yet: answers come in the order of sending, too."""

    def send(self, due: float) -> None:
        self._due.append(due)
        now = perf_counter()
        self._unanswered.append(now)
        self.late.append(now - due)
        self.way.send()

    def sent(self) -> None:
        self._tally.sent.append(perf_counter() - self._unanswered.popleft())

    def received(self) -> None:
        self._tally.received.append(perf_counter() - self._due.popleft())

    def acknowledged(self) -> None:
        self._tally.done += 1

    def lost(self) -> None:
        self.fail("the router closed a connection")


async def measure(ground: Ground) -> list[Row]:
    """Find the most that so many pairs make, and send half of it by the clock."""
    async with ground.router() as router, ground.registry() as registry:
        ground.tell(f"the most that {ground.plan.crowd} pairs make")
        most = await one_round(registry, [router], "websocket", ground.plan.crowd, ground.plan)
        rate = most["per_second"] * LOAD
        ground.tell(f"latency at {rate:,.0f} messages/s for {ground.plan.rate_seconds:g} s")
        row = await at_rate(registry, router, rate, ground.plan)
    return [{"pairs": ground.plan.crowd, "most": most["per_second"], "rate": rate, **row}]


async def at_rate(registry: Registry, router: Process, rate: float, plan: Plan) -> Row:
    """Let new pairs send so many messages a second, each when it is due."""
    pairs, tally, seconds = await registry.pairs(plan.crowd), Tally(), plan.rate_seconds
    paced = [Paced(pair, tally) for pair in pairs]
    try:
        for each in paced:
            await each.way.open(router.origin, router.origin)
        await quiet([router], plan.settle)
        before = cpu(router.pid)
        clock = _Clock(paced, rate, int(rate * seconds))
        clock.start()
        try:
            with undisturbed():
                await unless_failed(_until_done(tally, clock.count, seconds), tally)
        finally:
            clock.count = 0
        used = cpu(router.pid) - before
    finally:
        for each in paced:
            each.way.close()
    late = [each for one in paced for each in one.late]
    return {
        "messages": tally.done,
        **used.per_1000(tally.done),
        **spread("received", tally.received),
        # Of a pair's first message the router asks what may be sent: not of the others.
        **spread("sent", tally.sent[int(rate * plan.warm_up) :]),
        **spread("late", late),
    }


class _Clock(Thread):
    """Says when each message is due. A thread, because the event loop's timers know only whole milliseconds."""

    def __init__(self, paced: list[Paced], rate: float, count: int) -> None:
        super().__init__(daemon=True)
        self.count = count
        """How many there shall be; nothing more is said when it is lowered."""
        self._paced = paced
        self._interval = 1 / rate
        self._loop = asyncio.get_running_loop()

    def run(self) -> None:
        switch, began, number = sys.getswitchinterval(), perf_counter(), 0
        sys.setswitchinterval(SWITCH_S)
        paced = cycle(self._paced)
        with suppress(RuntimeError):  # the loop is closed
            while number < self.count:
                due = began + number * self._interval
                sleep(max(0.0, due - perf_counter()))
                self._loop.call_soon_threadsafe(next(paced).send, due)
                number += 1
        sys.setswitchinterval(switch)


async def _until_done(tally: Tally, count: int, seconds: float) -> None:
    async with asyncio.timeout(seconds + PATIENCE_S):
        while tally.done < count:  # noqa: ASYNC110 - to look now and then costs less than an event for each message
            await asyncio.sleep(0.01)
