"""top: what a running router does at the moment."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Annotated, Final

import httpx
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from blindpost.cli import whereabouts
from blindpost.cli.common import errors_as_sentences, out, run
from blindpost.cli.operator import DataDir
from blindpost.config import Settings, load_settings
from blindpost.errors import ConfigurationError
from blindpost.observe.page import Page

TIMEOUT_S: Final = 5
ROWS_MAX: Final = 20
REQUESTS, SECONDS = "blindpost_requests_total", "blindpost_request_seconds"
PROBLEMS, FAULTS = "blindpost_problems_total", "blindpost_faults_total"


def top(
    url: Annotated[
        str | None, typer.Argument(help="The router's metrics; by default those of this data directory's router")
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks", min=0.2, max=3_600)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print what was between, and end")] = False,
    data_dir: DataDir = None,
) -> None:
    """Watch a running router: rates, times, who waits, the queue, errors, workers. Ctrl-C ends it.

    It reads the router's metrics and nothing else, so it says nothing about anybody. docs/metrics.md says what each
    figure means, and what to do when it is bad.

    Examples:
      blindpost top

      blindpost top http://127.0.0.1:9464/metrics --every 5

      blindpost top --once | grep oldest
    """
    with errors_as_sentences():
        where = url or _found(load_settings(data_dir=data_dir))
        if once:
            run(_print_once(where, every))
            return
        with suppress(KeyboardInterrupt):
            run(_watch(where, every))


def _found(settings: Settings) -> str:
    if settings.metrics_port:
        return f"http://{settings.metrics_host}:{settings.metrics_port}/metrics"
    if (found := whereabouts.find(settings.data_dir)) is None:
        raise ConfigurationError(
            f"no router runs on {settings.data_dir}", "name its metrics: blindpost top http://127.0.0.1:PORT/metrics"
        )
    return found.metrics


async def _print_once(url: str, every: float) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        since = await read(http, url)
        await asyncio.sleep(every)
        out.print(frame(await read(http, url), since))


async def _watch(url: str, every: float) -> None:
    since: Page | None = None
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        with _screen() as show:
            while True:
                try:
                    page = await read(http, url)
                except ConfigurationError as error:
                    since = None
                    show(Text(f"{error}; trying again", "bold red"))
                else:
                    show(Text(f"Reading {url} ...") if since is None else frame(page, since))
                    since = page
                await asyncio.sleep(every)


@contextmanager
def _screen() -> Iterator[Callable[[RenderableType], None]]:
    """Give what shows one frame in the place of another; where there is no terminal, one after another."""
    if not out.is_terminal:
        yield out.print
        return
    with Live(console=out, auto_refresh=False, screen=True) as live:
        yield lambda shown: live.update(shown, refresh=True)


async def read(http: httpx.AsyncClient, url: str) -> Page:
    """Read the metrics; raises ConfigurationError."""
    try:
        answer = await http.get(url)
        return Page.read(answer.raise_for_status().text, monotonic())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ConfigurationError(
            f"no metrics at {url}: {type(error).__name__}", "`blindpost serve` prints where they are"
        ) from None


def frame(page: Page, since: Page) -> RenderableType:
    """Show what was between two pages."""
    return Group(*(each for each in (_state(page, since), _routes(page, since), _errors(page, since)) if each))


def _state(page: Page, since: Page) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in _figures(page, since):
        grid.add_row(Text(name, "dim"), value)
    return grid


def _figures(page: Page, since: Page) -> Iterator[tuple[str, str]]:
    yield "answers", f"{_sum(page.rate(since, REQUESTS)):,.1f}/s"
    yield "waiting", f"{_level(page, 'waiting')} polls, {_level(page, 'streams')} streams"
    if page.level("blindpost_queued_messages"):
        oldest, full = (
            _sum(page.level(f"blindpost_{each}")) for each in ("oldest_message_seconds", "notify_queue_ratio")
        )
        yield "queue", f"{_level(page, 'queued_messages')} messages, the oldest for {_age(oldest)}"
        yield "notifications", f"{full:.1%} full"
    else:
        yield "queue", "another node tells, or nobody can"
    yield "writing", f"{_level(page, 'write_queue')} items wait; commit p99 {_p99_of_flushes(page, since)}"
    yield "pool", f"{_level(page, 'pool_in_use')} of {_level(page, 'pool_size')} connections in use"
    listeners = page.level("blindpost_listener_up", "worker").values()
    yield "listening", f"{sum(listeners):.0f} of {len(listeners)}"
    workers = page.level("blindpost_worker_up", "worker")
    starts = page.level("blindpost_worker_starts_total", "worker")
    rates = page.rate(since, REQUESTS, "worker")
    for (number,), is_up in sorted(workers.items(), key=lambda each: int(each[0][0])):
        state = f"{rates.get((number,), 0):,.1f}/s" if is_up else "does not answer"
        yield f"worker {number}", f"{state}, started {starts.get((number,), 0):.0f} times"


def _routes(page: Page, since: Page) -> Table | None:
    rates = {key: rate for key, rate in page.rate(since, REQUESTS, "method", "route").items() if rate}
    if not rates:
        return None
    p50, p99 = (page.quantile(since, part, SECONDS, "method", "route") for part in (0.5, 0.99))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("route", no_wrap=True, min_width=36)
    for name in ("per second", "p50", "p99"):
        table.add_column(name, justify="right")
    for key, rate in sorted(rates.items(), key=lambda each: -each[1])[:ROWS_MAX]:
        table.add_row(" ".join(key), f"{rate:,.1f}", _ms(p50.get(key)), _ms(p99.get(key)))
    return table


def _errors(page: Page, since: Page) -> Table | None:
    now = {**page.rate(since, PROBLEMS, "code"), **page.rate(since, FAULTS, "event")}
    all_of_them = {**page.level(PROBLEMS, "code"), **page.level(FAULTS, "event")}
    if not all_of_them:
        return None
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("error or fault", no_wrap=True, min_width=36)
    for name in ("per second", "since the start"):
        table.add_column(name, justify="right")
    for key, number in sorted(all_of_them.items(), key=lambda each: (-now.get(each[0], 0), -each[1]))[:ROWS_MAX]:
        table.add_row(key[0], f"{now.get(key, 0):,.1f}", f"{number:,.0f}")
    return table


def _p99_of_flushes(page: Page, since: Page) -> str:
    return _ms(page.quantile(since, 0.99, "blindpost_flush_seconds").get(()))


def _sum(values: dict[tuple[str, ...], float]) -> float:
    return sum(values.values())


def _level(page: Page, name: str) -> str:
    return f"{_sum(page.level(f'blindpost_{name}')):,.0f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
