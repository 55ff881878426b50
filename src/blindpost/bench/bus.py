"""The wake-up buses: what a message costs that goes from one router to another, and how long it takes."""

from contextlib import AsyncExitStack
from typing import Final

from blindpost.bench.ground import Ground, Row
from blindpost.bench.stream import one_round

BUSES: Final = ("postgres", "redis")
FEW: Final = 2
"""Pairs that leave most idle between two messages, each at two routers: their latency is that of waking somebody."""


async def measure(ground: Ground) -> list[Row]:
    """Measure both with each number of routers, in turn."""
    rows: list[Row] = []
    for count in ground.plan.routers:
        for number in range(ground.plan.rounds):
            for bus in BUSES[:: 1 if number % 2 == 0 else -1]:
                ground.tell(f"{count} routers, {bus}, round {number + 1} of {ground.plan.rounds}")
                rows += await _one_bus(ground, count, bus)
    return rows


async def _one_bus(ground: Ground, count: int, bus: str) -> list[Row]:
    # Few connections each: those of one bus are started when those of the other have gone.
    options = {"wake_up_bus": bus, "database_pool_size": "2"}
    async with AsyncExitStack() as stack:
        routers = [await stack.enter_async_context(ground.router(**options)) for _ in range(count)]
        registry = await stack.enter_async_context(ground.registry())
        return [
            {"bus": bus, **await one_round(registry, routers, "websocket", pairs, ground.plan, apart=1)}
            for pairs in (FEW, ground.plan.crowd)
        ]
