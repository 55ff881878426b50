"""bench: what this machine makes of it."""

import asyncio
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from blindpost.bench import measure
from blindpost.bench.people import Pair, make_pairs
from blindpost.bench.routers import NOTHING_STORED, Process, router
from blindpost.cli.common import err, errors_as_sentences, out, run, stores_for
from blindpost.config import LogLevel, Settings
from blindpost.core.database import Database
from blindpost.telemetry import configure_logging

POLLS: Final = 1_000
LATENCY_ROUNDS: Final = 500


def bench(
    senders: Annotated[int, typer.Option(help="Concurrent senders", min=1, max=1_000)] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds of each kind, in turn", min=1, max=100)] = 5,
    seconds: Annotated[float, typer.Option(help="Length of a round", min=0.5, max=60)] = 4,
) -> None:
    """Measure sends, latency and waiting polls on an embedded PostgreSQL with its default durability.

    The generator of the load runs on the same machine, so absolute figures are those of a machine that is shared;
    what holds from machine to machine are the ratios, and the CPU seconds per 1,000 messages.

    Examples:
      blindpost bench

      blindpost bench --senders 16 --rounds 3 --seconds 2
    """
    with errors_as_sentences():
        configure_logging(json=False, level=LogLevel.ERROR)
        path = Path(tempfile.mkdtemp(prefix="blindpost-bench-"))
        try:
            with stores_for(Settings(data_dir=path, database_url=None, redis_url=None)) as ready:
                run(_bench(ready, senders, rounds, seconds))
        finally:
            shutil.rmtree(path, ignore_errors=True)


async def _bench(settings: Settings, senders: int, rounds: int, seconds: float) -> None:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        async with (
            router(settings, settings.data_dir / "store") as storing,
            router(settings, settings.data_dir / "floor", NOTHING_STORED) as floor,
        ):
            task = progress.add_task("making people", total=None)
            pairs = await make_pairs(storing.origin, senders)
            stored, unstored = [], []
            for number in range(rounds):
                progress.update(task, description=f"{senders} senders, round {number + 1} of {rounds}")
                unstored.append(await measure.sends(floor, pairs, seconds))
                stored.append(await measure.sends(storing, pairs, seconds))
                await measure.erase_queues(storing, pairs)
            progress.update(task, description="the price of signatures")
            price = await _price(storing, pairs, rounds, seconds / 2)
            progress.update(task, description="latency of one pair")
            latency = await measure.latency(storing, pairs[0], LATENCY_ROUNDS, lambda: progress.advance(task))
            progress.update(task, description=f"{len(pairs)} pairs over WebSockets")
            streamed = [await measure.stream(storing, pairs, seconds) for _ in range(rounds)]
            progress.update(task, description=f"{POLLS} idle WebSockets and waiting polls")
            crowd = await make_pairs(storing.origin, -(-POLLS // settings.waiting_per_user_max))
            # Before the polls: what those leave behind would be used again, and WebSockets would seem to take nothing.
            idle = await measure.idle_streams(storing, crowd, POLLS)
            waiting = await _waiting(settings, storing, crowd)
    _show(stored, unstored, latency, waiting)
    _show_streams(streamed, idle)
    _show_price(price)


def _show_streams(streamed: list[measure.Streamed], idle: measure.Idle) -> None:
    table = Table(title="Messages of 512 bytes over WebSockets, from send to acknowledgement", title_style="bold")
    for column in ("per second", "CPU s / 1,000: router", "PostgreSQL", "messages / transaction"):
        table.add_column(column, justify="right")
    fields = ("router_cpu", "postgres_cpu", "per_transaction")
    medians = [statistics.median(getattr(each, field) for each in streamed) for field in fields]
    per_second = statistics.median(each.per_second for each in streamed)
    table.add_row(f"{per_second:,.0f}", *(f"{median:,.3g}" for median in medians))
    out.print(table)
    out.print(f"{idle.count:,} idle WebSockets: [bold]{idle.kib_each:.1f} KiB[/] each")


Price = dict[str, list[tuple[measure.Sends, measure.Sends]]]
"""Rounds with plain bearer tokens and with signed requests, by what is asked."""


async def _price(router: Process, signed: list[Pair], rounds: int, seconds: float) -> Price:
    plain = await make_pairs(router.origin, len(signed), signed=False)
    price: Price = {"send": [], "empty poll": []}
    for _ in range(rounds):
        price["send"].append(
            (await measure.sends(router, plain, seconds), await measure.sends(router, signed, seconds))
        )
        for pairs in (plain, signed):
            await measure.erase_queues(router, pairs)
        polls = [await measure.empty_polls(router, pairs, seconds) for pairs in (plain, signed)]
        price["empty poll"].append((polls[0], polls[1]))
    return price


def _show_price(price: Price) -> None:
    table = Table(title="The price of signed requests: the router's CPU s / 1,000", title_style="bold")
    for column in ("", "bearer", "signed", "difference", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for what, rounds in price.items():
        plain, signed = (statistics.median(pair[side].router_cpu for pair in rounds) for side in (0, 1))
        ratio = statistics.median(after.router_cpu / before.router_cpu for before, after in rounds)
        table.add_row(what, f"{plain:.2f}", f"{signed:.2f}", f"{signed - plain:+.2f}", f"{ratio:.2f}")
    out.print(table)


async def _waiting(settings: Settings, process: Process, pairs: list[Pair]) -> measure.Waiting:
    if settings.database_url is None:
        raise RuntimeError("the stores are open")
    async with Database(settings.database_url.get_secret_value(), pool_size=1) as database:
        connection = await database.connect_raw()

        async def count() -> int:
            value = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()"
            )
            return int(value)

        try:
            return await measure.waiting(process, pairs, POLLS, lambda: asyncio.ensure_future(count()))
        finally:
            await connection.close()


def _show(
    stored: list[measure.Sends],
    unstored: list[measure.Sends],
    latency: measure.Latency,
    waiting: measure.Waiting,
) -> None:
    table = Table(title="Sends of 512 bytes", title_style="bold")
    for column in ("", "per second", "CPU s / 1,000: router", "PostgreSQL", "messages / transaction"):
        table.add_column(column, justify="left" if not column else "right")
    for name, each in (("stored", stored), ("everything but stored", unstored)):
        table.add_row(
            name,
            *(
                f"{statistics.median(getattr(one, field) for one in each):,.3g}"
                if field != "per_second"
                else f"{statistics.median(one.per_second for one in each):,.0f}"
                for field in ("per_second", "router_cpu", "postgres_cpu", "per_transaction")
            ),
        )
    out.print(table)
    ratios = sorted(a.per_second / b.per_second for a, b in zip(stored, unstored, strict=True))
    out.print(
        f"Ratio of the two, round by round: median [bold]{statistics.median(ratios):.2f}[/]"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    out.print(
        f"From send to the answer of a waiting poll, one pair, {latency.count} messages:"
        f" p50 [bold]{latency.p50:.1f} ms[/], p99 {latency.p99:.1f} ms"
    )
    out.print(
        f"{waiting.count:,} waiting polls: [bold]{waiting.kib_each:.0f} KiB[/] each,"
        f" {waiting.connections} PostgreSQL connections for two routers, all woken in {waiting.wake_ms:.0f} ms"
    )
