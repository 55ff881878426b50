"""Routers under measurement, each a process of its own, with all of their checks and limits."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from blindpost.app import running, spare_the_collector
from blindpost.config import PREFIX, Settings, load_settings
from blindpost.errors import StartError
from blindpost.telemetry import configure_logging


@dataclass(frozen=True, slots=True)
class Process:
    """A router in a process of its own."""

    origin: str
    metrics: str
    pid: int

    async def counts(self) -> dict[str, float]:
        """Read what it counts itself, by name and labels as Prometheus writes them."""
        text = await asyncio.to_thread(_read, self.metrics)
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}


def _read(url: str) -> str:
    with urlopen(url) as answer:  # noqa: S310 - our own router's
        return str(answer.read().decode())


@asynccontextmanager
async def router(settings: Settings, data_dir: Path, **options: str) -> AsyncIterator[Process]:
    """Start a router on these stores, on a free port, with its defaults for all that the options do not name."""
    given = {
        "database_url": _secret(settings.database_url),
        "redis_url": _secret(settings.redis_url),
        "data_dir": str(data_dir),
        "port": "0",
        "log_level": "error",
        **options,
    }
    async with process("blindpost.bench.routers", given) as (pid, words):
        origin, metrics = words
        yield Process(origin, metrics, pid)


@asynccontextmanager
async def process(module: str, settings: dict[str, str], *arguments: str) -> AsyncIterator[tuple[int, list[str]]]:
    """Run a module of ours that serves until its standard input is closed; gives its pid and its first words.

    In a session of its own: Ctrl-C is for the benchmark, which ends what it started.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        env=environment | {PREFIX + name.upper(): value for name, value in settings.items()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None  # noqa: S101 - for the type checker: it was asked for
    assert child.stdin is not None  # noqa: S101
    try:
        words = (await child.stdout.readline()).decode().split()
        if not words:
            raise StartError(f"{module} did not start", "its reason is above")
        yield child.pid, words
    finally:
        child.stdin.close()
        await child.wait()


def _secret(value: object) -> str:
    return value.get_secret_value() if value is not None and hasattr(value, "get_secret_value") else ""


async def until_stdin_closes(*words: str) -> None:
    """Say these words, and wait: so the process ends with the benchmark, however that ends."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


async def _serve() -> None:
    settings = load_settings()
    configure_logging(json=True, level=settings.log_level)  # to standard error: nobody reads the rest of the output
    async with running(settings) as here:
        spare_the_collector()
        await until_stdin_closes(here.origin, here.metrics)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
