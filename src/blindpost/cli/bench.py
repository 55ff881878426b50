"""bench: what this machine makes of it."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from blindpost.bench import report
from blindpost.bench.errors import MeasurementError
from blindpost.bench.ground import FULL, QUICK, TRANSPORTS, Ground, Plan
from blindpost.bench.plots import plots
from blindpost.bench.run import MEASUREMENTS, measure
from blindpost.cli.common import err, errors_as_sentences, out, run, say_progress, stores_for
from blindpost.config import LogLevel, Settings
from blindpost.errors import ConfigurationError
from blindpost.telemetry import configure_logging

TABLE_WIDTH: Final = 200


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"What to measure: {', '.join(MEASUREMENTS)}; everything by default", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute or two instead of ten, with coarser figures")
    ] = False,
    pairs: Annotated[str, typer.Option(help="stream: pairs that talk, separated by commas", metavar="LIST")] = "",
    transports: Annotated[
        str, typer.Option(help=f"Of {', '.join(TRANSPORTS)}, separated by commas", metavar="LIST")
    ] = "",
    clients: Annotated[int | None, typer.Option(help="idle: WebSockets", min=1, max=100_000)] = None,
    polls: Annotated[int | None, typer.Option(help="idle: polls, and streams of events", min=1, max=20_000)] = None,
    users: Annotated[str, typer.Option(help="growth: users, separated by commas", metavar="LIST")] = "",
    queue: Annotated[int | None, typer.Option(help="queue: messages that wait", min=1, max=10_000)] = None,
    retained: Annotated[int | None, typer.Option(help="retention, purge: messages", min=100, max=10_000_000)] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of each kind, in turn", min=1, max=100)] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of a round", min=0.2, max=60)] = None,
    settle: Annotated[
        float | None, typer.Option(help="Seconds of a quiet router before the first message", min=0, max=60)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all raw figures there", metavar="FILE")
    ] = None,
    plots_dir: Annotated[Path | None, typer.Option("--plots", help="Draw SVG plots into it", metavar="DIR")] = None,
    fill: Annotated[
        Path | None, typer.Option(help="Put the tables between their marks in a Markdown file", metavar="FILE")
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option("--from", help="Measure nothing: take the figures of an earlier --json", metavar="FILE"),
    ] = None,
) -> None:
    """Measure on an embedded PostgreSQL with its default durability, with all checks and limits on.

    The load's generator runs on the same machine; its processor time is given beside the others'.

    docs/performance.md says how to read each figure.

    - stream: messages from send to acknowledgement, through each transport

    - rate: latency at a fixed rate

    - pair: latency of one pair

    - login: logins

    - idle: memory and processor time of clients that wait, and how soon one is told

    - queue: what waited for somebody, fetched

    - growth: the same load beside a million users

    - processes: one router and two

    - bus: two, four and eight routers that wake each other's clients by PostgreSQL, and by Redis

    - floors: what Python, PostgreSQL and the signatures take by themselves

    - sessions: what handshakes and ratchets cost a client

    - retention: what is left of a million messages that were acknowledged

    - purge: sends while what has had its time is deleted

    Examples:
      blindpost bench --quick

      blindpost bench stream pair --transports websocket --pairs 1,50

      blindpost bench idle --clients 10000

      blindpost bench --json figures.json --plots docs/performance --fill docs/performance.md

      blindpost bench --from figures.json --plots docs/performance --fill docs/performance.md
    """
    options: dict[str, Any] = {
        "pairs": _numbers(pairs, "--pairs"),
        "transports": _chosen(_words(transports), TRANSPORTS, "--transports"),
        "clients": clients,
        "polls": polls,
        "users": _numbers(users, "--users"),
        "queue": queue,
        "retained": retained,
        "rounds": rounds,
        "seconds": seconds,
        "settle": settle,
    }
    plan = replace(
        QUICK if quick else FULL, **{name: value for name, value in options.items() if value not in {None, ()}}
    )
    chosen = _chosen(names or MEASUREMENTS, MEASUREMENTS, "NAMES")
    keep = _keep_in(json_file)
    with errors_as_sentences():
        _demand_writable(json_file, plots_dir, fill)
        figures = _measure(plan, chosen, keep) if from_file is None else _read(from_file)
        _show(figures)
        _write(figures, plots_dir, fill)


def _demand_writable(json_file: Path | None, plots_dir: Path | None, fill: Path | None) -> None:
    """Make the directories that are missing, before anything is measured; raises ConfigurationError."""
    try:
        for directory in (plots_dir, json_file and json_file.parent):
            if directory is not None:
                directory.mkdir(parents=True, exist_ok=True)
        for file in (json_file, fill):
            if file is not None and file.exists() and not os.access(file, os.W_OK):
                raise ConfigurationError(f"{file} cannot be written", "name another file")
        if fill is not None and not fill.is_file():
            raise ConfigurationError(f"there is no file {fill} to fill", "name one that has the marks of a report")
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be made: {error.strerror}", "name another place") from None


def _words(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(each) for each in _words(text))
    except ValueError:
        numbers = (0,)
    if any(each < 1 for each in numbers):
        raise typer.BadParameter("write whole numbers, separated by commas: 1,10,50", param_hint=option)
    return numbers


def _chosen(words: Any, known: Any, hint: str) -> tuple[str, ...]:
    if unknown := [each for each in words if each not in known]:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(known)}", param_hint=hint)
    return tuple(words)


def _measure(plan: Plan, names: tuple[str, ...], keep: Callable[[report.Figures], None]) -> report.Figures:
    configure_logging(json=False, level=LogLevel.ERROR)
    path = Path(tempfile.mkdtemp(prefix="blindpost-bench-"))
    try:
        with stores_for(Settings(data_dir=path, database_url=None, redis_url=None)) as ready:
            return run(measure(Ground(ready, plan, say_progress), names, keep))
    except TimeoutError:
        raise MeasurementError("the router did not come to the end of what it was asked in time") from None
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> report.Figures:
    """Read what a run wrote; raises ConfigurationError."""
    try:
        figures: report.Figures = json.loads(path.read_text())
    except (OSError, ValueError):
        raise ConfigurationError(
            f"{path} holds no figures", "give a file that `blindpost bench --json` wrote"
        ) from None
    return figures


def _keep_in(path: Path | None) -> Callable[[report.Figures], None]:
    """Write the figures there after each measurement: a run that is stopped has not been in vain."""

    def keep(figures: report.Figures) -> None:
        if path is not None:
            path.write_text(json.dumps(figures, indent=1) + "\n")

    return keep


def _show(figures: report.Figures) -> None:
    # Into a file or a pipe nothing need be wrapped.
    console = out if out.is_terminal else Console(highlight=False, width=TABLE_WIDTH)
    for each in report.tables(figures).values():
        table = Table(title=each.title, title_style="bold", title_justify="left")
        for place, column in enumerate(each.columns):
            table.add_column(column, justify="left" if place < each.left else "right", overflow="fold")
        for row in each.rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        console.print(table)
    console.print(report.where(figures), soft_wrap=True)


def _write(figures: report.Figures, plots_dir: Path | None, fill: Path | None) -> None:
    if plots_dir is not None:
        plots_dir.mkdir(parents=True, exist_ok=True)
        for name, drawing in plots(figures).items():
            (plots_dir / name).write_text(drawing)
        err.print(f"Plots are in {plots_dir}.", markup=False, soft_wrap=True)
    if fill is not None:
        fill.write_text(report.fill(fill.read_text(), figures))
        err.print(f"The tables are in {fill}.", markup=False, soft_wrap=True)
