"""One pair, one message at a time, with nobody else there: what a message takes."""

from blindpost.bench.ground import Ground, Row
from blindpost.bench.stream import one_round


async def measure(ground: Ground) -> list[Row]:
    """Measure a pair on each transport, in turn."""
    rows = []
    async with ground.router() as router, ground.registry() as registry:
        for number in range(ground.plan.rounds):
            for transport in ground.plan.transports:
                ground.tell(f"one pair, {transport}, round {number + 1} of {ground.plan.rounds}")
                rows.append(await one_round(registry, [router], transport, 1, ground.plan))
    return rows
