"""serve, migrate: for whoever runs the router."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from blindpost.app import Served, first, spare_the_collector
from blindpost.cli.common import err, errors_as_sentences, fail, out, run, settings_from, stores_for, watched_stores_for
from blindpost.cli.whereabouts import noted
from blindpost.config import Settings
from blindpost.core import privileges
from blindpost.core.database import Database
from blindpost.errors import ConfigurationError
from blindpost.tls import certificate_of, check_transport
from blindpost.workers import serving

WATCH_S: Final = 1

Host = Annotated[str | None, typer.Option(help="Address to listen on, or BLINDPOST_HOST; 127.0.0.1 by default")]
Port = Annotated[int | None, typer.Option(help="Port, or BLINDPOST_PORT; 8000 by default, 0 takes a free one")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where everything is kept, or BLINDPOST_DATA_DIR; by default see above")
]
TlsCert = Annotated[Path | None, typer.Option(help="Certificate chain (PEM), or BLINDPOST_TLS_CERT", metavar="FILE")]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key (PEM), or BLINDPOST_TLS_KEY", metavar="FILE")]
TlsAtProxy = Annotated[
    bool | None, typer.Option("--tls-at-proxy", help="A proxy in front speaks TLS; or BLINDPOST_TLS_AT_PROXY=true")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes that answer, at most one per core; or BLINDPOST_WORKERS, 1 by default")
]


def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_at_proxy: TlsAtProxy = None,
    workers: Workers = None,
) -> None:
    """Run the router.

    With no settings at all it starts a PostgreSQL and a Redis of its own, and keeps their data in
    ~/.local/share/blindpost, or in /var/lib/blindpost for root. An address that is not loopback needs TLS, here or
    at a proxy.

    Settings are environment variables, or a TOML file named by BLINDPOST_CONFIG:

    - stores: BLINDPOST_DATABASE_URL, BLINDPOST_MIGRATION_DATABASE_URL, BLINDPOST_REDIS_URL, BLINDPOST_DATA_DIR

    - addresses: BLINDPOST_HOST, BLINDPOST_PORT, BLINDPOST_PUBLIC_ORIGIN, BLINDPOST_TRUSTED_PROXIES

    - TLS: BLINDPOST_TLS_CERT, BLINDPOST_TLS_KEY, BLINDPOST_TLS_AT_PROXY

    - processes: BLINDPOST_WORKERS, BLINDPOST_WAKE_UP_BUS (postgres, redis)

    - metrics and traces: BLINDPOST_METRICS_HOST, BLINDPOST_METRICS_PORT, BLINDPOST_OTLP_ENDPOINT

    - rules: BLINDPOST_REQUIRE_CONTACT, BLINDPOST_RATE_LIMITS (on, off), BLINDPOST_ALLOW_BEARER

    - times: BLINDPOST_SESSION_LIFETIME_S, BLINDPOST_SWEEP_INTERVAL_S, BLINDPOST_MESSAGE_LIFETIME_S,
      BLINDPOST_RETRY_WINDOW_S, BLINDPOST_AUDIT_DAYS

    - sizes: BLINDPOST_WAITING_MAX, BLINDPOST_WAITING_PER_USER_MAX, BLINDPOST_CONNECTIONS_PER_ADDRESS_MAX,
      BLINDPOST_MAILBOX_MESSAGES_MAX, BLINDPOST_MAILBOX_BYTES_MAX, BLINDPOST_DATABASE_POOL_SIZE

    - logs: BLINDPOST_LOG_FORMAT (auto, json, console), BLINDPOST_LOG_LEVEL

    docs/settings.md gives the reason of each.

    Examples:
      blindpost serve

      blindpost serve --port 9000 --data-dir /srv/blindpost

      blindpost serve --workers 4

      BLINDPOST_PUBLIC_ORIGIN=https://chat.example.org blindpost serve --host 0.0.0.0 --port 443
        --tls-cert chain.pem --tls-key key.pem

      BLINDPOST_DATABASE_URL=postgresql://bp@db/bp BLINDPOST_REDIS_URL=redis://cache blindpost serve
    """
    with errors_as_sentences():
        settings = settings_from(
            host=host,
            port=port,
            data_dir=data_dir,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_at_proxy=tls_at_proxy,
            workers=workers,
        )
        # Before the stores are started: what is wrong here shall be said at once.
        check_transport(settings)
        certificate_of(settings)
        with watched_stores_for(settings) as (ready, ended):
            run(_serve(ready, ended, embedded=settings.database_url is None))


async def _serve(settings: Settings, ended: Callable[[], str | None], *, embedded: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    async with serving(settings) as router:
        spare_the_collector()
        _announce(router, settings, embedded=embedded)
        watching = asyncio.create_task(_watch(ended, stop))
        with noted(settings.data_dir, router):
            await first(stop, router.failed)
        watching.cancel()
        err.print("Stopping: waiting polls are let go, and what was taken is written.")
    if store := ended():
        fail(f"the embedded {store} has ended by itself", f"its log is in {settings.data_dir}; then start again")
    if router.failed.is_set() and settings.workers > 1:
        fail("a worker ended again and again as soon as it had started", "the log says why; please report it")
    if router.failed.is_set():
        fail("the router could not go on: a part of it ended by a fault", "the log says which; please report it")


async def _watch(ended: Callable[[], str | None], stop: asyncio.Event) -> None:
    """Stop when an embedded store is gone for good: a supervisor can start everything again, and we cannot."""
    while ended() is None:  # noqa: ASYNC110 - the kernel knows, and has no event for us
        await asyncio.sleep(WATCH_S)
    stop.set()


def _announce(router: Served, settings: Settings, *, embedded: bool) -> None:
    kind = "an embedded PostgreSQL and Redis" if embedded else "the stores that the settings name"
    origin = settings.public_origin or router.origin
    out.print(Text.assemble("Blindpost is listening on ", (router.origin, "bold green")), soft_wrap=True)
    for line in (
        *([f"  workers  {settings.workers}"] if settings.workers > 1 else []),
        f"  stores   {kind}, data in {settings.data_dir}",
        f"  metrics  {router.metrics}",
        "Next, in another terminal:",
        f"  blindpost register alice --server {origin}",
        "  blindpost --help",
        "Stop with Ctrl-C.",
    ):
        out.print(line, markup=False, soft_wrap=True)
    out.file.flush()


def migrate(
    to: Annotated[str, typer.Option(help="The revision to go to: head, base, or a number such as 0001")] = "head",
    data_dir: DataDir = None,
) -> None:
    """Bring the database's schema to a revision (`serve` does it by itself at start, if its role may).

    With BLINDPOST_MIGRATION_DATABASE_URL it works as the role of that URL, which then owns the tables, and grants to
    the role of BLINDPOST_DATABASE_URL what the router needs and no more. Keep the first out of the router's reach.

    Going down deletes what the older schema has no place for.

    Examples:
      blindpost migrate

      BLINDPOST_DATABASE_URL=postgresql://bp@db/bp BLINDPOST_MIGRATION_DATABASE_URL=postgresql://owner@db/bp
        blindpost migrate
    """
    with errors_as_sentences(), stores_for(settings_from(data_dir=data_dir)) as settings:
        before, after = run(_migrate(settings, to))
        out.print(f"The schema was at {before or 'nothing'} and is at {after or 'nothing'}.")


async def _migrate(settings: Settings, revision: str) -> tuple[str | None, str | None]:
    async with open_database(settings) as database:
        await database.check_server()
        return await privileges.migrate(database, settings.migration_database_url, revision)


def open_database(settings: Settings) -> Database:
    """The database that the settings name; raises ConfigurationError if they name none."""
    if settings.database_url is None:
        raise ConfigurationError("no database is given", "set BLINDPOST_DATABASE_URL")
    return Database(settings.database_url.get_secret_value(), pool_size=1)
