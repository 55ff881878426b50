"""backup, verify-backup, restore: so that a lost disk is not the end of a router."""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final

import typer
from pydantic import SecretStr

from blindpost.cli.common import err, errors_as_sentences, fail, run, say_progress, settings_from, stores_for
from blindpost.cli.operator import DataDir, open_database
from blindpost.core.audit import forget_heads
from blindpost.core.audit import verify as walk_over
from blindpost.core.backup import make
from blindpost.core.backup_file import Reader, check, standard_output, whole_file
from blindpost.core.embedded import running_database
from blindpost.core.restore import FORGETTING_S
from blindpost.core.restore import restore as put_back
from blindpost.errors import BackupDamaged, ConfigurationError, StartError, StoresInUse

if TYPE_CHECKING:
    from blindpost.config import Settings
    from blindpost.core.audit_chain import Walk
    from blindpost.core.backup_file import Header, Manifest

PIPE: Final = Path("-")
SAY_EVERY_S: Final = 2.0
MEGABYTE: Final = 1_000_000

Source = Annotated[Path, typer.Argument(metavar="FILE", help="The backup, or - for standard input")]


class Progress:
    """Says how far it is, when that is worth a word."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said_at = time.monotonic()

    def __call__(self, table: str, size: int) -> None:
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            say_progress(f"{self._what} {table}: {size // MEGABYTE} MB ...")


def backup(
    to: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file, a directory to make one in, or - for standard output")
    ],
    data_dir: DataDir = None,
) -> None:
    """Write a backup of the database, while the router runs or not: one moment of it, whole or not at all.

    It holds accounts, contacts, waiting messages (sealed) and the audit, and so who writes to whom. It is not
    encrypted: pipe it through age or gpg where others could get at it. No session, token key or one-time prekey is in
    it. docs/backup.md has a timer for every night, and what a restore changes.

    Examples:
      blindpost backup /var/backups/blindpost

      blindpost backup - | age -r age1... -o blindpost.tar.age

      BLINDPOST_DATABASE_URL=postgresql://bp@db/bp blindpost backup bp.tar
    """
    with errors_as_sentences():
        began = time.monotonic()
        with _database_of(settings_from(data_dir=data_dir)) as settings, _target(to) as (file, name):
            header, manifest = run(_make(settings, file))
        _say_what("Written: a backup", header, manifest, began)
        if name is not None:
            err.print(f"It is in {name}, for its owner alone and not encrypted.", markup=False, soft_wrap=True)


async def _make(settings: "Settings", file: IO[bytes]) -> "tuple[Header, Manifest]":
    async with open_database(settings) as database:
        await database.check_server()
        return await make(database, file, Progress("Backing up"))


@contextmanager
def _target(to: Path) -> Iterator[tuple[IO[bytes], Path | None]]:
    if to == PIPE:
        if sys.stdout.isatty():
            raise ConfigurationError("a backup is not for a terminal", "blindpost backup - | age -r KEY -o FILE")
        with standard_output() as file:
            yield file, None
        return
    path = to / f"blindpost-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar" if to.is_dir() else to
    with whole_file(path) as file:
        yield file, path


def verify_backup(
    source: Source,
    checksums_only: Annotated[
        bool, typer.Option("--checksums-only", help="Do not restore it for a try, which takes room and time")
    ] = False,
) -> None:
    """Check a backup: every byte of it, and that it restores; no running router is touched. Ends with 1 if not.

    It is restored into an embedded PostgreSQL in the temporary directory (TMPDIR), which is deleted afterwards, and the
    chain of its audit is walked over.

    Examples:
      blindpost verify-backup /var/backups/blindpost/blindpost-20260102T030405Z.tar

      age -d -i key.txt blindpost.tar.age | blindpost verify-backup -
    """
    with errors_as_sentences():
        began = time.monotonic()
        with _opened(source) as file:
            if checksums_only:
                header, manifest = check(file)
            else:
                header, manifest, walk = _tried(settings_from(), file)
                if walk.faults:
                    fault = walk.faults[0]
                    fail(
                        f"the audit in this backup is not whole: {fault.kind}: {fault.says}",
                        "see what `blindpost audit verify` says of the router's own; the rest of this backup is good",
                    )
        _say_what("Whole: the backup", header, manifest, began)
        if not checksums_only:
            err.print("It was restored for a try, and the chain of its audit holds.")


def _tried(settings: "Settings", file: IO[bytes]) -> "tuple[Header, Manifest, Walk]":
    """Restore it into a database of its own, and look at that."""
    with tempfile.TemporaryDirectory(prefix="blindpost-verify-") as scratch:
        alone = {"data_dir": Path(scratch), "database_url": None, "redis_url": None, "migration_database_url": None}
        with ExitStack() as stack:
            try:
                ready = stack.enter_context(stores_for(settings.model_copy(update=alone)))
            except StartError as error:
                reason = f"it cannot be restored for a try here: {error}"
                raise StartError(reason, "give --checksums-only for the rest, and try it on another machine") from None
            return run(_try(ready, file))


async def _try(settings: "Settings", file: IO[bytes]) -> "tuple[Header, Manifest, Walk]":
    async with open_database(settings) as database:
        header, manifest = await put_back(database, None, Reader(file), Progress("Trying"))
        return header, manifest, await walk_over(database, ())


def restore(
    source: Source,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete what is in the database; without it, only an empty one is filled")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Put a backup back, all of it or nothing; stop `serve` on all nodes before.

    Everybody has to log in again. One-time prekeys are withdrawn, and their owners' clients publish new ones. What was
    accepted, acknowledged, changed or deleted after the backup was made is as it was then: docs/backup.md says what
    that means for people. The restore is noted in the audit. A backup of an older schema is brought up to this one.

    With BLINDPOST_MIGRATION_DATABASE_URL it works as the owner of the tables, as `migrate` does.

    Examples:
      blindpost restore blindpost-20260102T030405Z.tar

      age -d -i key.txt blindpost.tar.age | blindpost restore - --replace
    """
    with errors_as_sentences():
        began = time.monotonic()
        given = settings_from(data_dir=data_dir)
        with _opened(source) as file:
            reader = Reader(file)  # what is no backup is said before any store is started
            # A Redis of one's own goes on running; the embedded one ended with the router.
            forgetting_s = FORGETTING_S if given.redis_url is not None else 0.0
            # Where a store is embedded, this takes the data directory's lock: no router runs on it meanwhile.
            with stores_for(given) as settings:
                header, manifest = run(_restore(settings, reader, forgetting_s, replace=replace))
        _forget_heads(given.data_dir)
        _say_what("Restored: the backup", header, manifest, began)
        err.print("All sessions have ended, and one-time prekeys were withdrawn. Next: blindpost serve", soft_wrap=True)


async def _restore(
    settings: "Settings", reader: Reader, forgetting_s: float, *, replace: bool
) -> "tuple[Header, Manifest]":
    async with open_database(settings) as database:
        await database.check_server()
        return await put_back(
            database,
            settings.migration_database_url,
            reader,
            Progress("Restoring"),
            replace=replace,
            forgetting_s=forgetting_s,
            say=say_progress,
        )


def _forget_heads(data_dir: Path) -> None:
    """This node remembers rows of another chain by now; that they are gone is known, and noted in the new one."""
    try:
        forget_heads(data_dir)
    except OSError as error:
        err.print(
            f"audit-head in {data_dir} cannot be deleted ({error.strerror}): do it, or the audit is called cut off.",
            markup=False,
            soft_wrap=True,
        )


@contextmanager
def _opened(source: Path) -> Iterator[IO[bytes]]:
    if source == PIPE:
        yield sys.stdin.buffer
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise BackupDamaged(f"{source} cannot be read: {error.strerror}", "give the file of a backup") from None
    with file:
        yield file


@contextmanager
def _database_of(settings: "Settings") -> Iterator["Settings"]:
    """Give settings that name the database: the one that is set, else the embedded one, whether or not it runs."""
    if settings.database_url is not None:
        yield settings
        return
    if not (settings.data_dir / "postgres").exists():
        raise ConfigurationError(f"there is no database in {settings.data_dir}", "give the router's with --data-dir")
    with ExitStack() as stack:
        try:
            ready = stack.enter_context(stores_for(settings))
        except StoresInUse:
            if (url := running_database(settings.data_dir)) is None:
                raise
            ready = settings.model_copy(update={"database_url": SecretStr(url)})
        yield ready


def _say_what(done: str, header: "Header", manifest: "Manifest", began: float) -> None:
    rows = Counter({name: each.rows for name, each in manifest.tables.items()})
    err.print(
        f"{done} of {header.made_at:%Y-%m-%d %H:%M:%S} UTC, schema {header.revision}: {rows['users']} accounts,"
        f" {rows['messages']} messages, {rows['audit']} rows of the audit, in {time.monotonic() - began:.1f} s.",
        markup=False,
        soft_wrap=True,
    )
