"""A run of measurements, one after the other, and its raw figures."""

import os
import platform
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from blindpost.bench import (
    bus,
    floors,
    growth,
    idle,
    login,
    pair,
    processes,
    purge,
    queue,
    rate,
    retention,
    sessions,
    stream,
)
from blindpost.bench.ground import Ground, Row
from blindpost.bench.report import Figures

MEASUREMENTS: Final[dict[str, Callable[[Ground], Awaitable[list[Row]]]]] = {
    "stream": stream.measure,
    "rate": rate.measure,
    "pair": pair.measure,
    "login": login.measure,
    "idle": idle.measure,
    "queue": queue.measure,
    "growth": growth.measure,
    "processes": processes.measure,
    "bus": bus.measure,
    "floors": floors.measure,
    "sessions": sessions.measure,
    "retention": retention.measure,
    "purge": purge.measure,
}


async def measure(ground: Ground, names: Iterable[str], keep: Callable[[Figures], None]) -> Figures:
    """Measure, and let what there is be kept after each measurement."""
    figures: Figures = {"machine": _machine(), "plan": asdict(ground.plan), "measured": {}}
    for name in names:
        figures["measured"][name] = await MEASUREMENTS[name](ground)
        keep(figures)
    return figures


def _machine() -> Row:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "processors": os.cpu_count() or 0,
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
