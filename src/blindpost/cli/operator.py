"""serve, migrate, doctor: for whoever runs the router."""

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from blindpost.app import Running, running
from blindpost.cli.common import err, errors_as_sentences, fail, out, run, settings_from, stores_for, watched_stores_for
from blindpost.config import Settings, unknown_variables
from blindpost.core import token_key
from blindpost.core.cache import Cache
from blindpost.core.database import Database
from blindpost.errors import BlindpostError, ConfigurationError, StartError, StoresInUse

WATCH_S: Final = 1
LOOPBACK: Final = ("127.", "::1", "localhost")

Host = Annotated[str | None, typer.Option(help="Address to listen on, or BLINDPOST_HOST; 127.0.0.1 by default")]
Port = Annotated[int | None, typer.Option(help="Port, or BLINDPOST_PORT; 8000 by default, 0 takes a free one")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where everything is kept, or BLINDPOST_DATA_DIR; by default see above")
]


def serve(host: Host = None, port: Port = None, data_dir: DataDir = None) -> None:
    """Run the router.

    With no settings at all it starts a PostgreSQL and a Redis of its own, and keeps their data in
    ~/.local/share/blindpost, or in /var/lib/blindpost for root.

    Settings are environment variables, or a TOML file named by BLINDPOST_CONFIG:

    - stores: BLINDPOST_DATABASE_URL, BLINDPOST_REDIS_URL, BLINDPOST_DATA_DIR

    - addresses: BLINDPOST_HOST, BLINDPOST_PORT, BLINDPOST_PUBLIC_ORIGIN, BLINDPOST_TRUSTED_PROXIES

    - metrics: BLINDPOST_METRICS_HOST, BLINDPOST_METRICS_PORT

    - rules: BLINDPOST_REQUIRE_CONTACT, BLINDPOST_RATE_LIMITS (on, off), BLINDPOST_ALLOW_BEARER

    - times: BLINDPOST_SESSION_LIFETIME_S, BLINDPOST_SWEEP_INTERVAL_S, BLINDPOST_RETRY_WINDOW_S

    - sizes: BLINDPOST_WAITING_MAX, BLINDPOST_WAITING_PER_USER_MAX, BLINDPOST_DATABASE_POOL_SIZE

    - logs: BLINDPOST_LOG_FORMAT (auto, json, console), BLINDPOST_LOG_LEVEL

    docs/settings.md gives the reason of each.

    Examples:
      blindpost serve

      blindpost serve --port 9000 --data-dir /srv/blindpost

      BLINDPOST_DATABASE_URL=postgresql://bp@db/bp BLINDPOST_REDIS_URL=redis://cache blindpost serve
    """
    with errors_as_sentences():
        settings = settings_from(host=host, port=port, data_dir=data_dir)
        if not settings.host.startswith(LOOPBACK):
            err.print("blindpost: this address is not loopback: put a TLS proxy in front, or tokens travel in the open")
        with watched_stores_for(settings) as (ready, ended):
            run(_serve(ready, ended, embedded=settings.database_url is None))


async def _serve(settings: Settings, ended: Callable[[], str | None], *, embedded: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    async with running(settings) as router:
        _announce(router, settings, embedded=embedded)
        watching = asyncio.create_task(_watch(ended, stop))
        await _first(stop, router.failed)
        watching.cancel()
        err.print("Stopping: waiting polls are let go, and what was taken is written.")
    if store := ended():
        fail(f"the embedded {store} has ended by itself", f"its log is in {settings.data_dir}; then start again")
    if router.failed.is_set():
        fail("the router could not go on: a part of it ended by a fault", "the log says which; please report it")


async def _watch(ended: Callable[[], str | None], stop: asyncio.Event) -> None:
    """Stop when an embedded store is gone for good: a supervisor can start everything again, and we cannot."""
    while ended() is None:  # noqa: ASYNC110 - the kernel knows, and has no event for us
        await asyncio.sleep(WATCH_S)
    stop.set()


async def _first(*events: asyncio.Event) -> None:
    """Wait for one of several events."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _announce(router: Running, settings: Settings, *, embedded: bool) -> None:
    kind = "an embedded PostgreSQL and Redis" if embedded else "the stores that the settings name"
    out.print(Text.assemble("Blindpost is listening on ", (router.origin, "bold green")), soft_wrap=True)
    for line in (
        f"  stores   {kind}, data in {settings.data_dir}",
        f"  metrics  {router.metrics}",
        "Next, in another terminal:",
        f"  blindpost register alice --server {router.origin}",
        "  blindpost --help",
        "Stop with Ctrl-C.",
    ):
        out.print(line, markup=False, soft_wrap=True)
    out.file.flush()


def migrate(
    to: Annotated[str, typer.Option(help="The revision to go to: head, base, or a number such as 0001")] = "head",
    data_dir: DataDir = None,
) -> None:
    """Bring the database's schema to a revision (`serve` does it by itself at start).

    Going down deletes what the older schema has no place for.

    Examples:
      blindpost migrate

      BLINDPOST_DATABASE_URL=postgresql://bp@db/bp blindpost migrate --to head
    """
    with errors_as_sentences(), stores_for(settings_from(data_dir=data_dir)) as settings:
        before, after = run(_migrate(settings, to))
        out.print(f"The schema was at {before or 'nothing'} and is at {after or 'nothing'}.")


async def _migrate(settings: Settings, revision: str) -> tuple[str | None, str | None]:
    async with _database(settings) as database:
        await database.check_server()
        return await database.migrate(revision)


def _database(settings: Settings) -> Database:
    if settings.database_url is None:
        raise ConfigurationError("no database is given", "set BLINDPOST_DATABASE_URL")
    return Database(settings.database_url.get_secret_value(), pool_size=1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's."""

    what: str
    is_good: bool
    says: str
    hint: str = ""


def doctor(data_dir: DataDir = None) -> None:
    """Check settings, stores, keys and limits, and say how to mend what is wrong; ends with 1 if something is.

    Examples:
      blindpost doctor

      BLINDPOST_DATABASE_URL=postgresql://bp@db/bp blindpost doctor
    """
    with errors_as_sentences():
        settings = settings_from(data_dir=data_dir)
        findings = [*_settings_findings(settings), *_store_findings(settings)]
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = Text("ok", "green") if finding.is_good else Text("wrong", "bold red")
        table.add_row(mark, finding.what, finding.says)
        if finding.hint and not finding.is_good:
            table.add_row("", "", Text(finding.hint, "italic"))
    out.print(table)
    if not all(finding.is_good for finding in findings):
        raise typer.Exit(1)


def _settings_findings(settings: Settings) -> list[Finding]:
    unknown = unknown_variables()
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_loopback = settings.host.startswith(LOOPBACK)
    findings = [
        Finding("settings", not unknown, ", ".join(unknown) or "all known", "misspelt variables have no effect"),
        Finding(
            "address",
            is_loopback or (settings.public_origin or "").startswith("https://"),
            settings.host,
            "set BLINDPOST_PUBLIC_ORIGIN to the https:// origin of the TLS proxy in front",
        ),
        Finding(
            "open files",
            files >= settings.waiting_max,
            f"{files}, for at most {settings.waiting_max} waiting polls",
            f"ulimit -Hn {settings.waiting_max + 1_000}, or lower BLINDPOST_WAITING_MAX",
        ),
    ]
    try:
        token_key.load_or_make(settings.data_dir)
        findings.append(Finding("token key", True, "readable by its owner alone"))
    except ConfigurationError as error:
        findings.append(Finding("token key", False, str(error), error.hint))
    return findings


def _store_findings(settings: Settings) -> list[Finding]:
    try:
        with stores_for(settings) as ready:
            return run(_check_stores(ready))
    except StoresInUse as error:
        return [Finding("stores", True, f"{error}: stop it to have them checked")]
    except StartError as error:
        return [Finding("stores", False, str(error), error.hint)]


async def _check_stores(settings: Settings) -> list[Finding]:
    async with _database(settings) as database:
        findings = [await _finding("PostgreSQL", database.check_server, "answers, and is new enough")]
        if findings[0].is_good:
            findings += await _check_database(database)
    if settings.redis_url is not None:
        cache = Cache(settings.redis_url.get_secret_value())
        findings.append(await _finding("Redis", cache.check_server, "answers"))
        await cache.close()
    return findings


async def _check_database(database: Database) -> list[Finding]:
    present, newest = await database.revisions()
    unsafe = await database.unsafe_settings()
    return [
        Finding(
            "schema", present in {None, newest}, f"at {present or 'nothing yet'}, newest {newest}", "blindpost migrate"
        ),
        Finding(
            "durability",
            not unsafe,
            f"off: {', '.join(unsafe)}" if unsafe else "an acknowledged message is on disk",
            "ALTER SYSTEM RESET " + "; ALTER SYSTEM RESET ".join(unsafe),
        ),
    ]


async def _finding(what: str, check: Callable[[], Awaitable[None]], good: str) -> Finding:
    try:
        await check()
    except ConfigurationError as error:
        return Finding(what, False, str(error), error.hint)
    except BlindpostError as error:
        return Finding(what, False, str(error))
    return Finding(what, True, good)
