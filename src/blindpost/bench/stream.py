"""Messages from send to acknowledgement, through each transport."""

import asyncio
from collections.abc import Awaitable, Sequence
from time import perf_counter
from typing import Any, Final

from blindpost.bench.costs import cpu, undisturbed
from blindpost.bench.errors import MeasurementError
from blindpost.bench.ground import Ground, Plan, Row, spread
from blindpost.bench.people import Registry
from blindpost.bench.routers import Process
from blindpost.bench.talks import AcknowledgingPolls, LongPolls, MakeWay, ServerSentEvents, Talk, Tally, WebSockets

PATIENCE_S: Final = 30
OPEN_AT_ONCE: Final = 32
IDLE: Final = 0.05
"""Part of a core that a router without work may use."""
TRANSPORTS: Final[dict[str, MakeWay]] = {
    "websocket": WebSockets,
    "poll": LongPolls,
    "acking": AcknowledgingPolls,
    "events": ServerSentEvents,
}


async def measure(ground: Ground) -> list[Row]:
    """Measure all transports with all numbers of pairs, in turn."""
    rows = []
    async with ground.router() as router, ground.registry() as registry:
        for number in range(ground.plan.rounds):
            for pairs in ground.plan.pairs:
                for transport in ground.plan.transports:
                    ground.tell(f"{transport}, {pairs} pairs, round {number + 1} of {ground.plan.rounds}")
                    rows.append(await one_round(registry, [router], transport, pairs, ground.plan))
    return rows


async def one_round(
    registry: Registry, routers: Sequence[Process], transport: str, count: int, plan: Plan, *, apart: int = 0
) -> Row:
    """Let new pairs talk for a while; on several routers, most of them are at two: of two routers, half of them.

    The first pairs, as many as there are routers, are `apart` by so many routers, the next by one more, and so on. New
    pairs each time: no pair comes near what it may send in a minute.
    """
    pairs = await registry.pairs(count)
    tally = Tally()
    talks = [Talk(pair, tally, TRANSPORTS[transport]) for pair in pairs]
    try:
        await _open(talks, routers, apart)
        with undisturbed():
            row = await _talk(talks, tally, routers, plan)
    finally:
        for talk in talks:
            talk.way.close()
    if left := await registry.waiting([pair.recipient for pair in pairs]):
        raise MeasurementError(f"{left} messages were not acknowledged")
    return {"transport": transport, "pairs": count, "routers": len(routers), **row}


async def _open(talks: list[Talk], routers: Sequence[Process], apart: int) -> None:
    origins = [router.origin for router in routers]
    for start in range(0, len(talks), OPEN_AT_ONCE):
        await asyncio.gather(
            *(
                talk.way.open(
                    origins[number % len(origins)], origins[(number + number // len(origins) + apart) % len(origins)]
                )
                for number, talk in enumerate(talks[start : start + OPEN_AT_ONCE], start)
            )
        )


async def _talk(talks: list[Talk], tally: Tally, routers: Sequence[Process], plan: Plan) -> Row:
    """Warm up, and measure; then let all messages come to their end."""
    await quiet(routers, plan.settle)
    for talk in talks:
        talk.start()
    await unless_failed(asyncio.sleep(plan.warm_up), tally)
    pids = [router.pid for router in routers]
    batches = await _batches(routers)
    counts, before, began = (len(tally.sent), len(tally.received), tally.done), cpu(*pids), perf_counter()
    await unless_failed(asyncio.sleep(plan.seconds), tally)
    took, used, done = perf_counter() - began, cpu(*pids) - before, tally.done - counts[2]
    flushed = await _batches(routers)
    sent, received = tally.sent[counts[0] :], tally.received[counts[1] :]
    for talk in talks:
        talk.stop()
    async with asyncio.timeout(PATIENCE_S):
        await unless_failed(asyncio.gather(*(talk.ended for talk in talks)), tally)
    transactions, items = flushed[0] - batches[0], flushed[1] - batches[1]
    return {
        "seconds": took,
        "messages": done,
        "per_second": done / took,
        **used.per_1000(done),
        "per_transaction": items / transactions if transactions else 0.0,
        **spread("received", received),
        **spread("sent", sent),
    }


async def quiet(routers: Sequence[Process], settle_s: float) -> None:
    """Wait until new connections have read what there was: for a while, and then until the routers do nothing."""
    if not settle_s:
        return
    pids = [router.pid for router in routers]
    async with asyncio.timeout(PATIENCE_S):
        while True:
            before = cpu(*pids).router
            await asyncio.sleep(settle_s)
            if cpu(*pids).router - before <= settle_s * IDLE:
                return


async def unless_failed(work: Awaitable[Any], tally: Tally) -> None:
    """Wait for something; raises what went wrong meanwhile."""
    task: asyncio.Future[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, tally.failed}, return_when=asyncio.FIRST_COMPLETED)
        if tally.failed.done():
            tally.failed.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at: the first to fail is what is raised


async def _batches(routers: Sequence[Process]) -> tuple[float, float]:
    """Return how many transactions the writers made, and how many messages were in them."""
    counts = [await router.counts() for router in routers]
    names = [f'blindpost_batch_size_{each}{{kind="send"}}' for each in ("count", "sum")]
    transactions, items = (sum(each.get(name, 0) for each in counts) for name in names)
    return transactions, items
