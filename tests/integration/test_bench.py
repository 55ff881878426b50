"""Each measurement, with as little of it as there can be: that it works, and says all that its table shows."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from blindpost.app import Running
from blindpost.bench import idle, report, stream
from blindpost.bench.errors import MeasurementError
from blindpost.bench.ground import Ground, Plan
from blindpost.bench.people import Pair
from blindpost.bench.routers import Process
from blindpost.bench.run import MEASUREMENTS, measure
from blindpost.bench.talks import Talk, Tally, WebSockets
from blindpost.core.embedded import StoreUrls
from support import running_in_thread, settings_for

LITTLE = Plan(
    pairs=(2,),
    crowd=4,
    rounds=1,
    seconds=0.2,
    settle=0.05,
    warm_up=0.1,
    rate_seconds=0.2,
    clients=10,
    polls=5,
    idle_seconds=0.1,
    wakes=3,
    queue=600,
    users=(20,),
    retained=600,
)


class Elsewhere(Ground):
    """A ground whose routers run in this process: a process of their own takes seconds to begin."""

    @asynccontextmanager
    async def router(self, **_options: str) -> AsyncIterator[Process]:
        with running_in_thread(self.settings) as running:
            yield process_of(running)


@dataclass(frozen=True)
class Here(Ground):
    """A ground whose routers are all the same one, but on a database that is made for a measurement."""

    process: Process

    def on(self, database: str) -> Ground:
        if database == "bench_empty":
            return self
        there = super().on(database)
        return Elsewhere(there.settings, there.plan, there.tell)

    @asynccontextmanager
    async def router(self, **_options: str) -> AsyncIterator[Process]:
        yield self.process


def process_of(running: Running) -> Process:
    return Process(running.origin, running.metrics, os.getpid())


@pytest.fixture
def ground(router: Running, stores: StoreUrls, tmp_path: Path) -> Ground:
    return Here(settings_for(stores, tmp_path), LITTLE, print, process_of(router))


@pytest.mark.parametrize("name", MEASUREMENTS)
async def test_a_measurement_works(name: str, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "IDLE", 10.0)  # this process is the router, and the tests
    for constant, least in {"SETTLE_S": 0.1, "FIRST": 2, "SENDERS": 2}.items():
        monkeypatch.setattr(idle, constant, least)
    figures = await measure(ground, [name], lambda _: None)
    table = report.tables(figures)[name]
    assert table.rows
    assert all(len(row) == len(table.columns) for row in table.rows)


async def test_a_pair_of_strangers_ends_the_measurement(ground: Ground) -> None:
    async with ground.router() as process, ground.registry() as registry:
        stranger, other = await registry.people(2)
        tally = Tally()
        talk = Talk(Pair(stranger, other), tally, WebSockets)
        await talk.way.open(process.origin, process.origin)
        talk.start()
        with pytest.raises(MeasurementError, match="not_a_contact"):
            await stream.unless_failed(asyncio.sleep(5), tally)
        talk.way.close()
