"""bench: what this machine makes of it."""

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from blindpost.bench import stream
from blindpost.bench.ground import FULL, QUICK, Ground, Plan, Row
from blindpost.cli.common import errors_as_sentences, out, run, say_progress, stores_for
from blindpost.config import LogLevel, Settings
from blindpost.telemetry import configure_logging

MEASUREMENTS: Final[dict[str, Callable[[Ground], Awaitable[list[Row]]]]] = {"stream": stream.measure}


def _words(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="What to measure; everything by default")] = None,
    pairs: Annotated[str, typer.Option(help="Pairs that talk, separated by commas")] = "",
    transports: Annotated[str, typer.Option(help="Of websocket, poll, events, separated by commas")] = "",
    rounds: Annotated[int | None, typer.Option(help="Rounds of each kind, in turn", min=1, max=100)] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of a round", min=0.5, max=60)] = None,
    settle: Annotated[
        float | None, typer.Option(help="Seconds from the opening of streams to the first message")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A minute instead of ten, with coarser figures")] = False,
) -> None:
    """Measure on an embedded PostgreSQL with its default durability, all checks and limits on.

    Examples:
      blindpost bench

      blindpost bench stream --transports websocket --pairs 50 --rounds 2 --seconds 3
    """
    options: dict[str, Any] = {
        "pairs": tuple(map(int, _words(pairs))),
        "transports": _words(transports),
        "rounds": rounds,
        "seconds": seconds,
        "settle": settle,
    }
    plan = replace(
        QUICK if quick else FULL, **{name: value for name, value in options.items() if value not in {None, ()}}
    )
    with errors_as_sentences():
        configure_logging(json=False, level=LogLevel.ERROR)
        path = Path(tempfile.mkdtemp(prefix="blindpost-bench-"))
        try:
            with stores_for(Settings(data_dir=path, database_url=None, redis_url=None)) as ready:
                run(_bench(ready, plan, names or list(MEASUREMENTS)))
        finally:
            shutil.rmtree(path, ignore_errors=True)


async def _bench(settings: Settings, plan: Plan, names: list[str]) -> None:
    ground = Ground(settings, plan, say_progress)
    for name in names:
        _show(await MEASUREMENTS[name](ground))


def _show(rows: list[Row]) -> None:
    table = Table()
    columns = [name for name in rows[0] if not name.endswith(("p90_ms", "p999_ms", "max_ms"))]
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{row[name]:,.3g}" if isinstance(row[name], float) else str(row[name]) for name in columns))
    out.print(table)
