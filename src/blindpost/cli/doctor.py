"""doctor: what is unsafe about this router, why, and the command that mends it."""

import os
import resource
import shutil
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import typer
from pydantic import SecretStr
from rich.text import Text

from blindpost.cli import whereabouts
from blindpost.cli.common import errors_as_sentences, out, run, settings_from, stores_for
from blindpost.cli.operator import DataDir, TlsAtProxy, TlsCert, TlsKey, open_database
from blindpost.config import PREFIX, Settings, Switch, unknown_variables
from blindpost.core import token_key
from blindpost.core.addresses import is_here
from blindpost.core.cache import Cache
from blindpost.core.embedded import running_database
from blindpost.core.safety import (
    Finding,
    Level,
    answers,
    fine,
    note,
    postgres_findings,
    postgres_transport,
    redis_findings,
    redis_transport,
    wrong,
)
from blindpost.core.vitals import postgres_vitals, redis_vitals
from blindpost.errors import ConfigurationError, StartError, StoresInUse
from blindpost.observe.page import Page
from blindpost.routers.addresses import read_networks
from blindpost.tls import Loaded, check_transport

COLOURS: Final = {Level.OK: "green", Level.NOTE: "yellow", Level.WRONG: "bold red"}
WRITABLE: Final = 0o022
READABLE: Final = 0o077
GIB: Final = 1 << 30
ROOM_MIN: Final = GIB
ANSWER_S: Final = 10


def doctor(
    data_dir: DataDir = None, tls_cert: TlsCert = None, tls_key: TlsKey = None, tls_at_proxy: TlsAtProxy = None
) -> None:
    """Check settings, transport, files, stores and the router that runs; say what is wrong, why, and what mends it.

    Of a router that runs on this data directory it asks whether it answers and hears notifications; of the stores also
    whether their clocks are right, and how long the oldest message has waited. It can run beside the router.

    Ends with 1 if something is wrong. A note is as somebody may want it, and ends with 0.

    Examples:
      blindpost doctor

      BLINDPOST_CONFIG=/etc/blindpost.toml blindpost doctor
    """
    with errors_as_sentences():
        settings = settings_from(data_dir=data_dir, tls_cert=tls_cert, tls_key=tls_key, tls_at_proxy=tls_at_proxy)
        findings = [*_transport(settings), *_rules(settings), *_files(settings), *_router(settings)]
        findings += _stores(settings)
    for finding in findings:
        _show(finding)
    if any(finding.level is Level.WRONG for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    # Not wrapped: a command that is broken over two lines cannot be copied.
    mark = Text(f"{finding.level:<6}", COLOURS[finding.level])
    out.print(Text.assemble(mark, (finding.what, "bold"), ": ", finding.says), soft_wrap=True)
    if finding.mend and finding.level is not Level.OK:
        out.print(Text.assemble("      mend: ", (finding.mend, "italic")), soft_wrap=True)


# How it is reached


def _transport(settings: Settings) -> Iterator[Finding]:
    yield _address(settings)
    yield _origin(settings)
    yield from _proxies(settings)
    if settings.tls_cert is not None and settings.tls_key is not None:
        yield _certificate(settings, settings.tls_cert, settings.tls_key)
    if is_here(settings.metrics_host):
        yield fine("metrics", "on loopback")
    else:
        says = f"{settings.metrics_host} is not loopback, and metrics have no login: anybody can see how busy it is"
        yield wrong("metrics", says, "unset BLINDPOST_METRICS_HOST, and let a proxy with a login reach it")


def _address(settings: Settings) -> Finding:
    try:
        check_transport(settings)
    except ConfigurationError as error:
        return wrong("address", str(error), error.hint)
    where = "TLS 1.3" if settings.tls_cert else "TLS at a proxy" if settings.tls_at_proxy else "loopback alone"
    return fine("address", f"{settings.host}, {where}")


def _origin(settings: Settings) -> Finding:
    parts = urlsplit(settings.origin)
    if parts.scheme == "https" or is_here(parts.hostname or ""):
        return fine("public origin", settings.origin)
    return wrong(
        "public origin",
        f"{settings.origin} is without TLS and not loopback: tokens and who writes to whom travel in the open",
        f"BLINDPOST_PUBLIC_ORIGIN=https://{parts.netloc}, and TLS here or at a proxy",
    )


def _proxies(settings: Settings) -> Iterator[Finding]:
    given = [each.strip() for each in settings.trusted_proxies.split(",") if each.strip()]
    bad = [each for each in given if not _is_bounded(each)]
    if bad:
        says = f"{bad[0]} is no address or means all of them: anybody could choose the address that limits see"
        yield wrong("trusted proxies", says, "BLINDPOST_TRUSTED_PROXIES=ADDRESS, the proxy's own")
    elif settings.tls_at_proxy and not given:
        says = "none, with TLS at a proxy: everybody seems to come from it, and one who is limited limits all"
        yield wrong("trusted proxies", says, "BLINDPOST_TRUSTED_PROXIES=ADDRESS, the proxy's own")
    elif given:
        yield fine("trusted proxies", ", ".join(given))


WIDEST: Final = {4: 8, 6: 32}
"""Networks of proxies that somebody can mean; wider ones are half of the world."""


def _is_bounded(network: str) -> bool:
    try:
        return all(each.prefixlen >= WIDEST[each.version] for each in read_networks(network))
    except ConfigurationError:
        return False


def _certificate(settings: Settings, cert: Path, key: Path) -> Finding:
    try:
        loaded = Loaded.read(cert, key)
    except ConfigurationError as error:
        return wrong("certificate", str(error), error.hint)
    host = urlsplit(settings.origin).hostname or ""
    if not loaded.is_for(host):
        says = f"{cert} is not for {host}, which clients type: they would refuse it"
        return wrong("certificate", says, f"get one for {host}; to try: blindpost dev-certificate DIR --name {host}")
    if loaded.ends_soon:
        says = f"it ends on {loaded.expires:%Y-%m-%d}, and then nobody can connect"
        return wrong("certificate", says, f"renew {cert}; the router takes it up by itself")
    return fine("certificate", f"for {host}, until {loaded.expires:%Y-%m-%d}")


# What it allows


def _rules(settings: Settings) -> Iterator[Finding]:
    if unknown := unknown_variables():
        says = f"{', '.join(unknown)}: no such setting, so whatever it was to switch is not switched"
        yield wrong("settings", says, "see the names: blindpost serve --help")
    else:
        yield fine("settings", "all known")
    if settings.allow_bearer:
        says = "tokens that are bound to no key are given out: whoever steals one can use it"
        yield wrong("sessions", says, "unset BLINDPOST_ALLOW_BEARER")
    if settings.rate_limits is Switch.OFF:
        says = "off: names and challenges can be tried as fast as somebody can"
        yield wrong("rate limits", says, "unset BLINDPOST_RATE_LIMITS")
    if not settings.require_contact:
        says = "anybody who is registered can write to anybody"
        yield note("contacts", says, "unset BLINDPOST_REQUIRE_CONTACT")
    yield _open_files(settings)


def _open_files(settings: Settings) -> Finding:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting_max = settings.of_one_worker().waiting_max
    says = f"{files}, for at most {waiting_max} waiting polls" + (" in each worker" if settings.workers > 1 else "")
    if files >= waiting_max:
        return fine("open files", says)
    mend = f"ulimit -Hn {waiting_max + 1_000} (systemd: LimitNOFILE=), or lower BLINDPOST_WAITING_MAX"
    return note("open files", f"{says}: connections beyond it are refused", mend)


# What lies on the disk


def _files(settings: Settings) -> Iterator[Finding]:
    yield _directory(settings.data_dir)
    yield room_finding(shutil.disk_usage(_first_there(settings.data_dir)).free)
    try:
        token_key.load_or_make(settings.data_dir)
        yield fine("token key", "readable by its owner alone")
    except ConfigurationError as error:
        yield wrong("token key", str(error), error.hint)
    if path := os.environ.get(PREFIX + "CONFIG"):
        yield _config_file(Path(path))


def _first_there(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def room_finding(free: int) -> Finding:
    """Judge the room that is left on a disk."""
    says = f"{free / GIB:,.1f} GiB are free"
    if free >= ROOM_MIN:
        return fine("room", says)
    return wrong("room", f"{says} in the data directory: when it is full, no message can be stored", "make room there")


def _directory(path: Path) -> Finding:
    try:
        status = path.stat()
    except FileNotFoundError:
        return fine("data directory", f"{path} is made at the first start")
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in {0, os.geteuid()}:
        says = f"{path} is somebody else's, who can put a key of theirs in the place of the router's"
        return wrong("data directory", says, f"chown {os.geteuid()} {path}")
    if mode & WRITABLE:
        says = f"others can write to {path}, and put a key of theirs in the place of the router's"
        return wrong("data directory", says, f"chmod go-w {path}")
    if mode & READABLE:
        return note("data directory", f"others can see what is in {path}, though not read it", f"chmod 700 {path}")
    return fine("data directory", f"{path}, its owner's alone")


def _config_file(path: Path) -> Finding:
    """It was read already, so it can be."""
    if stat.S_IMODE(path.stat().st_mode) & READABLE and _holds_password(path):
        return wrong("settings file", f"others can read the passwords in {path}", f"chmod 600 {path}")
    return fine("settings file", f"{path} shows no password to others")


def _holds_password(path: Path) -> bool:
    values = tomllib.loads(path.read_text()).values()
    return any(isinstance(each, str) and "://" in each and urlsplit(each).password for each in values)


# The router, if it runs


def _router(settings: Settings) -> Iterator[Finding]:
    if (found := whereabouts.find(settings.data_dir)) is None:
        yield fine("router", "none runs on this data directory")
        return
    try:
        # By its name a certificate is judged above; here it is asked at the address on which it listens.
        with httpx.Client(timeout=ANSWER_S, verify=False, trust_env=False) as http:  # noqa: S501
            yield ready_finding(found.origin, http.get(f"{found.origin}/health/ready"))
            yield listener_finding(Page.read(http.get(found.metrics).text, 0))
    except (httpx.HTTPError, ValueError) as error:
        says = f"it was started at {found.origin}, and does not answer: {type(error).__name__}"
        yield wrong("router", says, f"start it again: blindpost serve; or, if it shall not run: rm {_note(settings)}")


def _note(settings: Settings) -> Path:
    return settings.data_dir / whereabouts.FILE


def ready_finding(origin: str, answer: httpx.Response) -> Finding:
    """Judge what a router says of itself and its stores."""
    if answer.is_success:
        return fine("router", f"answers at {origin}, and so do its stores")
    detail = answer.json().get("detail", "no reason is given")
    return wrong("router", f"answers at {origin}, and is not ready: {detail}", "the findings on the stores say why")


def listener_finding(page: Page) -> Finding:
    """Judge whether each process of a router hears notifications."""
    up = page.level("blindpost_listener_up", "worker")
    if up and all(up.values()):
        return fine("listener", f"{len(up)} of {len(up)} processes hear PostgreSQL's notifications")
    says = f"{sum(up.values()):.0f} of {len(up)} processes hear notifications: news come late to the others"
    return wrong(
        "listener", says, "let it reach PostgreSQL without a transaction-pooling proxy; its log has listener_lost"
    )


# The stores


def _stores(settings: Settings) -> list[Finding]:
    try:
        with stores_for(settings) as ready:
            return run(_check_stores(settings, ready))
    except StoresInUse as error:
        if (url := running_database(settings.data_dir)) is None:
            return [note("stores", f"{error}: they are not checked", "stop it, and run this again")]
        return run(_check_stores(settings, _beside(settings, url)))
    except StartError as error:
        return [wrong("stores", str(error), error.hint)]


def _beside(settings: Settings, url: str) -> Settings:
    """Name the embedded PostgreSQL of a router that runs; its Redis has a password that only that router knows."""
    return settings if settings.database_url else settings.model_copy(update={"database_url": SecretStr(url)})


async def _check_stores(given: Settings, ready: Settings) -> list[Finding]:
    """Look at both; `given` are the settings as they were before embedded stores were put in."""
    findings = [*_ways_to_stores(given)]
    async with open_database(ready) as database:
        if (fault := await answers("PostgreSQL", database.check_server)) is None:
            findings.append(fine("PostgreSQL", "answers, and is new enough"))
            is_embedded = given.database_url is None
            findings += await postgres_findings(
                database, is_embedded=is_embedded, pool_size=ready.database_pool_size, workers=ready.workers
            )
            findings += await postgres_vitals(database, ready.message_lifetime_s)
        else:
            findings.append(fault)
    if ready.redis_url is None:
        findings.append(fine("Redis", "its password is the running router's alone, which says whether it answers"))
    else:
        findings += await _check_redis(ready.redis_url.get_secret_value(), is_embedded=given.redis_url is None)
    return findings


async def _check_redis(url: str, *, is_embedded: bool) -> list[Finding]:
    cache = Cache(url)
    try:
        if (fault := await answers("Redis", cache.check_server)) is not None:
            return [fault]
        return [*await redis_findings(url, is_embedded=is_embedded), *await redis_vitals(url)]
    finally:
        await cache.close()


def _ways_to_stores(given: Settings) -> Iterator[Finding]:
    if given.database_url is not None:
        yield postgres_transport("BLINDPOST_DATABASE_URL", given.database_url.get_secret_value())
    if given.migration_database_url is not None:
        yield postgres_transport("BLINDPOST_MIGRATION_DATABASE_URL", given.migration_database_url.get_secret_value())
        says = "the tables' owner is in the router's own settings: whoever takes the router over is the owner"
        yield note("migrations", says, "give BLINDPOST_MIGRATION_DATABASE_URL to `blindpost migrate` alone")
    if given.redis_url is not None:
        yield redis_transport(given.redis_url.get_secret_value())
