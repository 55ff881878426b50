"""What measurements stand on: stores and routers, people, and a word on what goes on."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any
from uuid import uuid4

from blindpost.bench.people import Registry
from blindpost.bench.routers import Process, router
from blindpost.config import Settings

Row = dict[str, Any]
"""Figures of one round, by name: numbers and strings, for JSON."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    transports: tuple[str, ...]
    pairs: tuple[int, ...]
    rounds: int
    seconds: float
    """Of a round."""
    settle: float = 0.5
    """Seconds between the opening of streams and the first message: for them to have read what there was."""


TRANSPORTS = ("websocket", "poll", "events")
FULL = Plan(TRANSPORTS, pairs=(1, 10, 50, 500), rounds=3, seconds=4)
QUICK = Plan(TRANSPORTS, pairs=(1, 50), rounds=1, seconds=1.5)


@dataclass(frozen=True, slots=True)
class Ground:
    """The stores of a run, and what it shall do."""

    settings: Settings
    plan: Plan
    tell: Callable[[str], None]
    """Says what goes on."""

    @asynccontextmanager
    async def router(self, **options: str) -> AsyncIterator[Process]:
        """Start a router on the stores."""
        async with router(self.settings, self.settings.data_dir / f"node-{uuid4().hex[:8]}", **options) as process:
            yield process

    @asynccontextmanager
    async def registry(self) -> AsyncIterator[Registry]:
        """Open the register of people; a router must have made the tables."""
        if self.settings.database_url is None:
            raise RuntimeError("the stores are open")
        url = self.settings.database_url.get_secret_value()
        registry = await Registry.open(url, self.settings.data_dir / "bench")
        try:
            yield registry
        finally:
            await registry.close()


def spread(name: str, seconds: list[float]) -> Row:
    """Return the percentiles of some times, in ms, as columns of a row."""
    if len(seconds) < 2:  # noqa: PLR2004 - there are no quantiles of fewer
        seconds = [*seconds, *seconds] or [0.0, 0.0]
    cuts = quantiles(seconds, n=1_000, method="inclusive")
    marks = {"p50": cuts[499], "p90": cuts[899], "p99": cuts[989], "p999": cuts[998], "max": max(seconds)}
    return {f"{name}_{mark}_ms": each * 1000 for mark, each in marks.items()}


def machine() -> Row:
    """Say what it was measured on."""
    return {"processors": os.cpu_count() or 0}
