"""One router, and two on the same stores, where every second pair has one of its people on each."""

from blindpost.bench.ground import Ground, Row
from blindpost.bench.stream import one_round


async def measure(ground: Ground) -> list[Row]:
    """Measure both, in turn."""
    rows = []
    async with ground.router() as one, ground.router() as other, ground.registry() as registry:
        for number in range(ground.plan.rounds):
            for routers in ([one], [one, other]):
                ground.tell(f"{len(routers)} router(s), round {number + 1} of {ground.plan.rounds}")
                rows.append(await one_round(registry, routers, "websocket", ground.plan.crowd, ground.plan))
    return rows
