"""What measurements stand on: stores and routers, people, and a word on what goes on."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
from pydantic import SecretStr

from blindpost.bench.people import Registry
from blindpost.bench.routers import Process, router
from blindpost.config import Settings

Row = dict[str, Any]
"""Figures of one round, by name: numbers and strings, for JSON."""

TRANSPORTS: Final = ("websocket", "poll", "acking", "events")
PAIRS: Final = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    pairs: tuple[int, ...] = (1, 10, 50, 500)
    crowd: int = PAIRS
    """Pairs where only one number is measured."""
    transports: tuple[str, ...] = TRANSPORTS
    rounds: int = 3
    seconds: float = 4
    """Of a round."""
    settle: float = 0.5
    """Seconds in which a router must do nothing before the first message: its streams have then read what there was."""
    warm_up: float = 0.5
    """Seconds of a round that do not count."""
    routers: tuple[int, ...] = (2, 4, 8)
    """On the same stores, where the wake-up buses are measured."""
    rate_seconds: float = 20
    clients: int = 10_000
    """Idle WebSockets."""
    polls: int = 1_000
    """Waiting polls, and as many idle streams of events."""
    idle_seconds: float = 60
    wakes: int = 300
    queue: int = 5_000
    users: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    retained: int = 1_000_000
    """Messages that are sent, acknowledged and forgotten."""


FULL: Final = Plan()
QUICK: Final = Plan(
    pairs=(1, 50),
    rounds=1,
    seconds=1.5,
    routers=(2,),
    rate_seconds=3,
    clients=1_000,
    polls=200,
    idle_seconds=2,
    wakes=50,
    queue=1_000,
    users=(1_000, 20_000),
    retained=50_000,
)


SUPERUSER: Final = "postgres"


@dataclass(frozen=True, slots=True)
class Ground:
    """The stores of a run, and what it shall do."""

    settings: Settings
    plan: Plan
    tell: Callable[[str], None]
    """Says what goes on."""

    @property
    def database_url(self) -> str:
        if self.settings.database_url is None:
            raise RuntimeError("the stores are open")
        return self.settings.database_url.get_secret_value()

    def on(self, database: str) -> "Ground":
        """Return the same on another database of the same PostgreSQL."""
        url = urlsplit(self.database_url)._replace(path=f"/{database}").geturl()
        # Without a host there are no slashes to be written, and urlsplit leaves them out.
        url = url if url.startswith("postgresql://") else url.replace("postgresql:", "postgresql://", 1)
        return Ground(self.settings.model_copy(update={"database_url": SecretStr(url)}), self.plan, self.tell)

    @asynccontextmanager
    async def database(self, name: str) -> AsyncIterator["Ground"]:
        """Make an empty database on the same PostgreSQL, for a while, and return the ground on it."""
        name = f"bench_{name}"
        connection = await self.as_superuser()
        try:
            await connection.execute(f"CREATE DATABASE {name} OWNER blindpost")
            yield self.on(name)
        finally:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await connection.close()

    @asynccontextmanager
    async def router(self, **options: str) -> AsyncIterator[Process]:
        """Start a router on the stores."""
        async with router(self.settings, self.settings.data_dir / f"node-{uuid4().hex[:8]}", **options) as process:
            yield process

    @asynccontextmanager
    async def registry(self) -> AsyncIterator[Registry]:
        """Open the register of people; a router must have made the tables."""
        registry = await Registry.open(self.database_url, self.settings.data_dir / "bench")
        try:
            yield registry
        finally:
            await registry.close()

    async def as_superuser(self) -> "asyncpg.Connection[Any]":
        return await asyncpg.connect(self.database_url, user=SUPERUSER)


def spread(name: str, seconds: list[float]) -> Row:
    """Return the percentiles of some times, in ms, as columns of a row."""
    if len(seconds) < 2:  # noqa: PLR2004 - there are no quantiles of fewer
        seconds = [*seconds, *seconds] or [0.0, 0.0]
    cuts = quantiles(seconds, n=1_000, method="inclusive")
    marks = {"p50": cuts[499], "p90": cuts[899], "p99": cuts[989], "p999": cuts[998], "max": max(seconds)}
    return {f"{name}_{mark}_ms": each * 1000 for mark, each in marks.items()}
