"""Routers under measurement, each a process of its own; and what processes cost."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

from dishka import Provider, Scope

from blindpost.app import running
from blindpost.config import Settings, load_settings
from blindpost.core.database import Database
from blindpost.core.hub import Hub
from blindpost.core.writer import MessageWriter, NewMessage, Stored

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
NOTHING_STORED: Final = "--store-nothing"


class StoresNothing(MessageWriter):
    """The floor: everything that an application does for a send, but for storing."""

    async def send(self, message: NewMessage) -> Stored:  # noqa: ARG002 - it is what is left out
        return Stored(uuid4(), datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Process:
    """A router in a process of its own."""

    origin: str
    metrics: str
    pid: int


@asynccontextmanager
async def router(settings: Settings, data_dir: Path, *options: str) -> AsyncIterator[Process]:
    """Start a router on these stores, on a free port."""
    environment = os.environ | {
        "BLINDPOST_DATABASE_URL": _secret(settings.database_url),
        "BLINDPOST_REDIS_URL": _secret(settings.redis_url),
        "BLINDPOST_DATA_DIR": str(data_dir),
        "BLINDPOST_PORT": "0",
        "BLINDPOST_RATE_LIMITS": "off",
        "BLINDPOST_WAITING_MAX": "20000",
        "BLINDPOST_MAILBOX_MESSAGES_MAX": "4000000",  # nobody reads while the sends are measured
        "BLINDPOST_MAILBOX_BYTES_MAX": str(1 << 40),
        "BLINDPOST_ALLOW_BEARER": "true",  # to compare with signed requests
    }
    command = (sys.executable, "-m", "blindpost.bench.routers", *options)
    child = await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None  # noqa: S101 - for the type checker: it was asked for
    assert child.stdin is not None  # noqa: S101
    try:
        origin, metrics = (await child.stdout.readline()).decode().split()
        yield Process(origin, metrics, child.pid)
    finally:
        child.stdin.close()
        await child.wait()


def _secret(value: object) -> str:
    return value.get_secret_value() if value is not None and hasattr(value, "get_secret_value") else ""


async def _serve(*providers: Provider) -> None:
    """Serve until standard input is closed: so the router ends with the benchmark, however that ends."""
    async with running(load_settings(), *providers) as here:
        sys.stdout.write(f"{here.origin} {here.metrics}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def nothing_stored() -> Provider:
    """Put the floor in the writer's place."""
    provider = Provider(scope=Scope.APP)

    def writer(settings: Settings, database: Database, hub: Hub) -> MessageWriter:
        return StoresNothing(database, hub, require_contact=settings.require_contact)

    provider.provide(writer, override=True)
    return provider


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far, user and system."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def _stat(pid: int) -> list[str]:
    """Read the fields of /proc/PID/stat behind the name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def postgres_cpu_seconds() -> float:
    """Sum the processor time of the PostgreSQL that this process started: its server and all that it forked."""
    parents = {
        int(each.name): int(fields[1])
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and (fields := _stat(int(each.name)))
    }
    servers = {pid for pid, parent in parents.items() if parent == os.getpid() and _name(pid) == "postgres"}
    return sum(cpu_seconds(pid) for pid, parent in parents.items() if pid in servers or parent in servers)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def resident_kib(pid: int) -> float:
    """Return the memory of a process that is in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1024


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(*([nothing_stored()] if NOTHING_STORED in sys.argv else [])))
