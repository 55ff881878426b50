"""Two routers behind a balancer are restarted in turn while people write: nobody is shown a failure.

ROLLING_ROUNDS=5 for more restarts.
"""

import asyncio
import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from blindpost.client import Client, Identity, Retry, Store
from blindpost.config import WakeUp
from fault.servers import eventually, handmade, tell
from soak import people as soak_people
from soak.checker import check
from soak.journal import Journal, Note, What, read
from soak.people import RETRY, Person, leave, town
from soak.stage import Stage

PEOPLE = 6
PACE_S = 0.05
ROUNDS = int(os.environ.get("ROLLING_ROUNDS", "1"))
BETWEEN_S = 1.0
END_S = 10.0
"""A router ends within it, whoever waits there: 4 s for requests, 4 s for the writer, and some for the process."""
ARRIVED_S = 15.0


class Counts:
    """What all clients did together: requests (a WebSocket is one), and repeats that their programs hear nothing of."""

    def __init__(self) -> None:
        self.requests = self.retries = 0

    def client(self, origin: str, identity: Identity, store: Store, **_: Any) -> Client:
        """Make a client that is counted."""
        client = Client(origin, identity, store, retry=Retry(RETRY.attempts, RETRY.base_s, RETRY.cap_s, self._sleep))
        transport: Any = client._session.transport
        transport.request, transport.open = self._counted(transport.request), self._counted(transport.open)
        return client

    def _counted(self, call: Any) -> Any:
        async def counted(*arguments: Any, **options: Any) -> Any:
            self.requests += 1
            return await call(*arguments, **options)

        return counted

    async def _sleep(self, seconds: float) -> None:
        self.retries += 1
        await asyncio.sleep(seconds)


async def restart_in_turn(stage: Stage) -> list[float]:
    """Restart all routers, one after the other; returns how long each took to end."""
    ends = []
    for node in stage.nodes * ROUNDS:
        await asyncio.sleep(BETWEEN_S)
        began = time.monotonic()
        await node.end(signal.SIGTERM)
        ends.append(time.monotonic() - began)
        await node.start()
    return ends


def longest_gap_ms(notes: list[Note], who: What) -> float:
    """Return the longest time in which nobody noted such a thing."""
    times = [each.at for each in notes if each.what is who]
    return max((after - before) * 1000 for before, after in pairwise(times))


@pytest.mark.timeout(200)
@pytest.mark.parametrize("bus", WakeUp)
async def test_a_rolling_restart_is_hidden_from_everybody_and_loses_and_doubles_nothing(
    tmp_path: Path, bus: WakeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts()
    monkeypatch.setattr(soak_people, "Client", counts.client)
    monkeypatch.setenv("BLINDPOST_WAKE_UP_BUS", bus)
    path = tmp_path / "journal.jsonl"
    with handmade() as stores, path.open("w") as file:
        async with Stage(stores, tmp_path, nodes=2, seed="rolling", bug=None).running() as stage:
            journal = Journal(file)
            people = await town(stage.balancer.origin, journal, PEOPLE, friends=1)
            ends = await under_load(stage, people, journal)
            shown = sum(each.hidden for each in people)
            await leave(people)
    notes = list(read(path))
    found = check(notes)
    tell(
        f"{bus}: {len(ends)} restarts (longest {max(ends) * 1000:.0f} ms to end), {found.received} messages,"
        f" {counts.requests} requests, {counts.retries} retries hidden, {shown} failures shown;"
        f" longest gap: {longest_gap_ms(notes, What.SENT):.0f} ms between two sent,"
        f" {longest_gap_ms(notes, What.RECEIVED):.0f} ms between two received"
    )
    assert found.is_clean, found.summary()
    assert found.received == found.sent > 0
    assert shown == 0
    assert max(ends) < END_S


async def under_load(stage: Stage, people: list[Person], journal: Journal) -> list[float]:
    """Have everybody write and read while the routers are restarted, and let all arrive."""
    is_over = False
    reading = [asyncio.create_task(each.read()) for each in people]
    writing = asyncio.gather(*(each.write(lambda: not is_over, PACE_S) for each in people))
    try:
        ends = await restart_in_turn(stage)
        is_over = True
        await writing

        async def is_all_there() -> bool:
            return journal.counts[What.RECEIVED] >= journal.counts[What.SENT]

        await eventually(is_all_there, ARRIVED_S, "the last message")
        return ends
    finally:
        writing.cancel()
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
