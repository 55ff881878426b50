"""What processes cost: their processor time and their memory, as the kernel counts them."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Final

from blindpost.bench.errors import MeasurementError

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
STORES: Final = {"postgres": "postgres", "redis-server": "redis"}
"""The processes that this one started, by the name that the kernel has for them."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of processor time so far, user and system, of all who take part."""

    router: float
    postgres: float
    redis: float
    generator: float
    """This process's."""

    def __sub__(self, before: "Cpu") -> "Cpu":
        return Cpu(
            self.router - before.router,
            self.postgres - before.postgres,
            self.redis - before.redis,
            self.generator - before.generator,
        )

    def per_1000(self, count: int) -> dict[str, float]:
        """Return the seconds for 1,000 of what was done so often, as columns of a row."""
        each = {"router": self.router, "postgres": self.postgres, "redis": self.redis, "generator": self.generator}
        return {f"{name}_cpu": seconds / count * 1000 if count else 0.0 for name, seconds in each.items()}


def cpu(*routers: int) -> Cpu:
    """Read the processor time of these routers, of the stores that this process started, and of itself."""
    stores = dict.fromkeys(STORES.values(), 0.0)
    for pid, name in _stores():
        stores[name] += sum(map(cpu_seconds, _children(pid)), cpu_seconds(pid, with_ended=True))
    return Cpu(sum(map(cpu_seconds, routers)), stores["postgres"], stores["redis"], process_time())


@contextmanager
def undisturbed() -> Iterator[None]:
    """Collect no garbage of this process inside the block: its pauses would be in the figures of others."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def cpu_seconds(pid: int, *, with_ended: bool = False) -> float:
    """Return the processor time of a process, and of its children that ended where they are asked for."""
    fields = _stat(pid)
    return sum(map(int, fields[11 : 15 if with_ended else 13])) / TICKS_PER_S


def pss_kib(pid: int) -> float:
    """Return the memory of a process that is in RAM; of pages that it shares, its part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return float(value.split()[0])
    raise MeasurementError(f"the kernel does not say how much memory process {pid} has")


def _stores() -> Iterator[tuple[int, str]]:
    for pid in _children(os.getpid()):
        name = _name(pid)
        if name in STORES:
            yield pid, STORES[name]


def _children(pid: int) -> list[int]:
    """List a process's children, of all of its threads."""
    found: list[int] = []
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, each.read_text().split())
        except OSError:
            continue  # the thread has ended
    return found


def _stat(pid: int) -> list[str]:
    """Read the fields of /proc/PID/stat behind the name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
