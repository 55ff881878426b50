"""One run: people write while things break; then everything heals, what waits arrives, and the journal is checked."""

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault.servers import Handmade, connected, eventually, handmade
from soak import faults
from soak.checker import Findings, check
from soak.journal import Journal, What, read
from soak.people import Person, leave, town
from soak.stage import Stage

GRACE_S = 20.0
"""Within which all must have arrived once everything is well: four sweeps."""
DRAIN_S = 120.0
TELL_S = 2.0
ACKNOWLEDGED_S = 2.0
"""For the last acknowledgements, which go in batches."""
DISK_BYTES = 1 << 30

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How long, how much, and how bad."""

    directory: Path
    """For the journal, and for what the routers keep."""
    seed: str
    seconds: float
    messages: int | None = None
    """Stop after so many instead."""
    people: int = 30
    friends: int = 1
    nodes: int = 2
    pace_s: float = 0.0
    rest_s: float = 2.0
    """About how long between two faults."""
    bug: str | None = None
    grace_s: float = GRACE_S
    faults: Sequence[str] = ()
    """Which of them."""
    small_disk: bool = False
    """Have PostgreSQL on a file system of its own, so that it can be filled; needs root."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    findings: Findings
    faults: list[faults.Told]
    """Begin, end and name of each."""
    seconds: float
    hidden: int
    rows: dict[str, int]
    """Of the tables, afterwards."""

    def summary(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds),
            "found": self.findings.summary(),
            "errors that the SDK or a second attempt made good": self.hidden,
            "faults": dict(sorted(faults.counted(self.faults).items())),
            "rows left": self.rows,
        }

    @property
    def is_clean(self) -> bool:
        """Nothing was lost, doubled or out of order, and the tables say the same as the people."""
        is_settled = self.rows["messages"] == 0 and self.rows["traces"] == self.findings.sent
        return self.findings.is_clean and is_settled


async def run(plan: Plan, tell: Callable[[str], None]) -> Outcome:
    """Do it; raises nothing for what is found."""
    path = plan.directory / "journal.jsonl"
    told: list[faults.Told] = []
    with _stores(plan) as stores, path.open("w") as file:
        stage = Stage(stores, plan.directory, plan.nodes, plan.seed, plan.bug)
        async with stage.running():
            journal = Journal(file)
            people = await town(stage.balancer.origin, journal, plan.people, plan.friends)
            began = journal.now
            await _play(plan, stage, people, journal, told, tell)
            seconds = journal.now - began
            rows = await _rows(stores.postgres.url)
            await leave(people)
    outcome = Outcome(check(read(path)), told, seconds, sum(each.hidden for each in people), rows)
    (plan.directory / "faults.jsonl").write_text("".join(json.dumps(each) + "\n" for each in told))
    (plan.directory / "summary.json").write_text(json.dumps(outcome.summary(), indent=2) + "\n")
    return outcome


@contextmanager
def _stores(plan: Plan) -> Iterator[Handmade]:
    """Start stores; where it may be done, PostgreSQL's on a small disk of its own."""
    if not plan.small_disk:
        with handmade() as stores:
            yield stores
        return
    with tempfile.TemporaryDirectory(prefix="bp-disk-") as mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=711", "tmpfs", mounted], check=True)
        try:
            with handmade(Path(mounted) / "postgres") as stores:
                yield stores
        finally:
            subprocess.run(["umount", "--lazy", mounted], check=True)


async def _play(
    plan: Plan, stage: Stage, people: Sequence[Person], journal: Journal, told: list[faults.Told], tell: Tell
) -> None:
    """Have them write while things break, and then let the rest arrive."""
    end = journal.now + plan.seconds

    def goes_on() -> bool:
        if plan.messages is not None:
            return journal.counts[What.ENTERED] < plan.messages
        # On a slow machine longer, until each fault was there once.
        return journal.now < end or (len(told) < len(plan.faults) and journal.now < end + plan.seconds)

    reading = [asyncio.create_task(each.read()) for each in people]
    stop, breaking = asyncio.Event(), list[asyncio.Task[None]]()
    if plan.faults:
        trouble = faults.trouble(stage, journal, plan.faults, plan.rest_s, told, stop)
        breaking.append(asyncio.create_task(trouble))
    telling = asyncio.create_task(_tell_often(journal, told, tell))
    writing = asyncio.gather(*(each.write(goes_on, plan.pace_s) for each in people))
    try:
        while goes_on():
            for_ever: list[asyncio.Task[None]] = [*reading, *breaking]
            await asyncio.wait(for_ever, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            for each in for_ever:
                if each.done():
                    each.result()
        stop.set()
        await asyncio.gather(*breaking)
        await stage.heal()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await writing
        await _arrived(journal, plan.grace_s)
    finally:
        await _end(writing, telling, *breaking, *reading)


async def _arrived(journal: Journal, grace_s: float) -> None:
    """Wait until all that was sent is received, and acknowledged; or for as long as it may take."""

    async def is_all_there() -> bool:
        return journal.counts[What.RECEIVED] >= journal.counts[What.SENT]

    with suppress(AssertionError):
        await eventually(is_all_there, grace_s)
    await asyncio.sleep(ACKNOWLEDGED_S)


async def _tell_often(journal: Journal, told: list[faults.Told], tell: Tell) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        sent, received = journal.counts[What.SENT], journal.counts[What.RECEIVED]
        tell(f"{journal.now:6.0f} s  {sent:9,} sent  {received:9,} received  {len(told):5,} faults")


async def _rows(url: str) -> dict[str, int]:
    async with connected(url) as database:
        return {table: await database.fetchval(f"SELECT count(*) FROM {table}") for table in ("messages", "traces")}


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
