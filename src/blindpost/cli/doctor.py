"""doctor: what is unsafe about this router, why, and the command that mends it."""

import resource
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import typer
from rich.table import Table
from rich.text import Text

from blindpost.cli.common import errors_as_sentences, out, run, settings_from, stores_for
from blindpost.cli.operator import DataDir, open_database
from blindpost.config import Settings, unknown_variables
from blindpost.core import token_key
from blindpost.core.addresses import is_loopback
from blindpost.core.cache import Cache
from blindpost.core.database import Database
from blindpost.errors import BlindpostError, ConfigurationError, StartError, StoresInUse


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
    is_local = is_loopback(settings.host)
    findings = [
        Finding("settings", not unknown, ", ".join(unknown) or "all known", "misspelt variables have no effect"),
        Finding(
            "address",
            is_local or (settings.public_origin or "").startswith("https://"),
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
    async with open_database(settings) as database:
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
