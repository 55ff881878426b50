"""Whether sends feel it when what has had its time is deleted: with and without the purge, in turn, at one rate."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from blindpost.bench.ground import Ground, Row
from blindpost.bench.rate import at_rate
from blindpost.bench.routers import Process
from blindpost.bench.stream import one_round

if TYPE_CHECKING:
    import asyncpg

LOAD: Final = 0.25
"""Of the most that was found: what is felt shall be the purge, and not that the processors have no more to give."""
LEAST: Final = 50
"""Sends a second, however little was found."""
ALONE: Final = "alone"
BESIDE: Final = "beside the purge"
YEAR_S: Final = str(365 * 86_400)
KEEPERS: Final[dict[str, dict[str, str]]] = {
    ALONE: {"message_lifetime_s": YEAR_S, "retry_window_s": YEAR_S},
    BESIDE: {},
}
"""Another node on the same stores, which keeps house when it starts, with nothing to do or with much."""
CHUNK: Final = 100_000

# Sent 40 days ago. One in ten still waits: it expires, and its trace stays for a while.
_FILL: Final = """
WITH input AS MATERIALIZED (
    SELECT n, uuidv7(interval '-40 days') AS id, now() - interval '40 days' AS timestamp, gen_random_uuid() AS person
    FROM generate_series(1, $1::bigint) AS n
), traced AS (
    INSERT INTO traces (id, sender_id, client_message_id, timestamp)
    SELECT id, person, gen_random_uuid(), timestamp FROM input
)
INSERT INTO messages (id, sender_id, recipient_id, timestamp, message)
SELECT id, person, person, timestamp, decode(repeat(md5(id::text), 32), 'hex') FROM input WHERE n % 10 = 0
"""


async def measure(ground: Ground) -> list[Row]:
    """Send by the clock, each round first alone and then beside the purge, or the other way round."""
    rows: list[Row] = []
    plan = replace(ground.plan, rate_seconds=ground.plan.seconds)
    async with ground.database("purge") as there, there.router() as router, there.registry() as registry:
        superuser = await there.as_superuser()
        try:
            ground.tell(f"the most that {plan.crowd} pairs make")
            most = (await one_round(registry, [router], "websocket", plan.crowd, plan))["per_second"]
            rate = max(most * LOAD, LEAST)
            for number in range(plan.rounds):
                await _fill(ground, superuser)
                for name in sorted(KEEPERS, reverse=number % 2 == 1):
                    ground.tell(f"sends {name}, {rate:,.0f}/s, round {number + 1} of {plan.rounds}")
                    async with there.router(**KEEPERS[name]) as keeper:
                        before = await _purged(keeper)
                        row = await at_rate(registry, router, rate, plan)
                        rows.append({"sends": name, "rate": rate, "purged": await _purged(keeper) - before, **row})
        finally:
            await superuser.close()
    return rows


async def _fill(ground: Ground, superuser: "asyncpg.Connection[Any]") -> None:
    """Put in so many messages of long ago."""
    ground.tell(f"{ground.plan.retained:,} messages of 40 days ago")
    for left in range(ground.plan.retained, 0, -CHUNK):
        await superuser.execute(_FILL, min(left, CHUNK), timeout=None)
    for statement in ("VACUUM (ANALYZE) messages, traces", "CHECKPOINT"):
        await superuser.execute(statement, timeout=None)


async def _purged(keeper: Process) -> float:
    return sum(number for name, number in (await keeper.counts()).items() if name.startswith("blindpost_purged_total"))
