"""backup, verify-backup and restore as an operator types them: processes, files, signals, exit codes."""

import asyncio
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import asyncpg
import httpx
import psutil
import pytest
import typer

from blindpost.cli import backup as commands
from blindpost.core.audit import HEAD_FILE
from blindpost.core.embedded import StoreUrls, place, running_database
from checks import refusal, success
from e2e.test_serve import PROGRAM, Served, blindpost, environment, one_sentence
from fault.servers import Handmade, eventually, fresh_database, handmade, until
from prekeys import upload_of
from support import Person, contacts

COPIES = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active')"


@pytest.fixture(scope="module")
def servers() -> Iterator[Handmade]:
    with handmade() as both:
        yield both


@pytest.fixture
async def urls(servers: Handmade) -> StoreUrls:
    return await fresh_database(servers.urls)


def ask(url: str | None, query: str) -> object:
    async def fetch() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def said(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return result.stderr


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a few people in it, whose router has stopped."""
    home = tmp_path_factory.mktemp("town")
    served = Served(home / "data", home / "errors")
    try:
        asyncio.run(_fill(served))
        served.process.terminate()
        assert served.process.wait(30) == 0
    finally:
        served.end()
    return home / "data"


@pytest.fixture
def filled(town: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to change; as root its files are another account's, and stay so."""
    subprocess.run(("cp", "-a", town, tmp_path / "filled"), check=True)
    return tmp_path / "filled"


async def _fill(served: Served) -> tuple[Person, Person]:
    async with httpx.AsyncClient(base_url=served.origin, timeout=60) as http:
        alice, bob = await contacts(http)
        success(await alice.send(bob, b"sealed"), 201)
        success(await alice.call("POST", "/keys", upload_of(alice)))
    return alice, bob


def test_from_a_backup_of_a_running_router_another_machine_serves_the_same_people(tmp_path: Path) -> None:
    """The drill of docs/backup.md."""
    data, path = tmp_path / "data", tmp_path / "backup.tar"
    served = Served(data, tmp_path / "errors")
    try:
        alice, bob = asyncio.run(_fill(served))
        assert "2 accounts, 1 messages" in said(blindpost("backup", str(path), data_dir=data))
        assert "in use" in one_sentence(blindpost("restore", str(path), data_dir=data))
        assert httpx.get(f"{served.origin}/health/ready").status_code == 200, "the router was not disturbed"
        port = int(served.origin.rpartition(":")[2])
        served.process.kill()
        until(lambda: not served.left(), what="the end of the stores")
    finally:
        served.end()
    shutil.rmtree(data)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "Whole" in said(blindpost("verify-backup", str(path), data_dir=data))
    assert not data.exists(), "a check touches no router's directory"
    assert "2 accounts, 1 messages" in said(blindpost("restore", str(path), data_dir=data))
    assert "The audit is whole" in blindpost("audit", "verify", data_dir=data).stdout
    assert "database_resto" in blindpost("audit", "show", data_dir=data).stdout
    again = Served(data, tmp_path / "errors", port=port)
    try:
        asyncio.run(_go_on(again, alice, bob))
    finally:
        again.end()


async def _go_on(served: Served, alice: Person, bob: Person) -> None:
    async with httpx.AsyncClient(base_url=served.origin, timeout=60) as http:
        alice, bob = alice.at(http), bob.at(http)
        for each in (alice, bob):
            refusal(await each.get("/auth/me"), 401)
            await each.login()
        assert len((await bob.poll(0))["messages"]) == 1
        assert success(await alice.get("/keys/status"))["one_time_prekeys"] == 0
        success(await alice.send(bob), 201)


def test_a_stopped_router_is_backed_up_through_a_pipe_into_a_directory_and_nothing_is_overwritten(
    filled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "backups"
    out.mkdir()
    assert "not encrypted" in said(blindpost("backup", str(out), data_dir=filled))
    [path] = out.iterdir()
    assert path.name.startswith("blindpost-2")
    with (tmp_path / "piped").open("wb") as piped:
        result = run_with(piped, "backup", "-", data_dir=filled)
    assert result.returncode == 0, result.stderr
    with tarfile.open(tmp_path / "piped") as one, tarfile.open(path) as other:
        assert one.getnames() == other.getnames()
    before = path.read_bytes()
    assert "there already" in one_sentence(blindpost("backup", str(path), data_dir=filled))
    assert path.read_bytes() == before
    with path.open("rb") as source:
        assert run_with(None, "verify-backup", "-", source=source, data_dir=filled).returncode == 0


def run_with(
    output: IO[bytes] | None, *arguments: str, source: IO[bytes] | None = None, **more: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*PROGRAM, *arguments),
        env=environment(Path(str(more.pop("data_dir"))), **more),
        stdin=source or subprocess.DEVNULL,
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_cannot_be_written_or_read_is_one_sentence(filled: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert "No space left" in one_sentence(run_with(full, "backup", "-", data_dir=filled))
    assert "cannot be written" in one_sentence(blindpost("backup", str(tmp_path / "no" / "place"), data_dir=filled))
    assert "no database" in one_sentence(blindpost("backup", str(tmp_path / "backup"), data_dir=tmp_path / "none"))
    for command in ("verify-backup", "restore"):
        assert "cannot be read" in one_sentence(blindpost(command, str(tmp_path / "none"), data_dir=tmp_path / "new"))
        assert "damaged" in one_sentence(blindpost(command, "/bin/sh", data_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_check_says_what_is_wrong_ends_with_1_and_leaves_nothing_behind(filled: Path, tmp_path: Path) -> None:
    path, scratch = tmp_path / "backup.tar", tmp_path / "scratch"
    scratch.mkdir(mode=0o1777)
    said(blindpost("backup", str(path), data_dir=filled))
    whole = path.read_bytes()
    for spoilt, *more in ((whole[:-3_000],), (whole.replace(b"sealed", b"Sealed"), "--checksums-only")):
        path.write_bytes(spoilt)
        assert "damaged" in one_sentence(check_in(scratch, path, *more))
    path.write_bytes(whole)
    assert "Whole" in said(check_in(scratch, path))
    assert "Whole" in said(check_in(scratch, path, "--checksums-only"))
    assert list(scratch.iterdir()) == []


def check_in(scratch: Path, path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*PROGRAM, "verify-backup", str(path), *more),
        env=environment(scratch / "none") | {"TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_check_finds_that_the_audit_in_a_backup_was_changed(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    said(blindpost("restore", str(_backup(filled, path)), "--replace", data_dir=filled))
    served = Served(filled, tmp_path / "errors")
    try:
        url = str(running_database(filled))
        ask(url, "ALTER TABLE audit DISABLE TRIGGER USER")
        ask(url, "UPDATE audit SET count = 2")
        said(blindpost("backup", str(tmp_path / "changed.tar"), data_dir=filled))
    finally:
        served.end()
    assert "not whole: edited" in one_sentence(
        blindpost("verify-backup", str(tmp_path / "changed.tar"), data_dir=filled)
    )


def _backup(data: Path, path: Path) -> Path:
    said(blindpost("backup", str(path), data_dir=data))
    return path


def test_a_restore_over_something_needs_the_word_and_lets_the_node_begin_a_new_head(
    filled: Path, tmp_path: Path
) -> None:
    path = _backup(filled, tmp_path / "backup.tar")
    for head in (filled / HEAD_FILE, filled / "worker-2" / HEAD_FILE):
        head.parent.mkdir(exist_ok=True)
        head.write_text(f"9 {'ab' * 32} 2026-01-01T00:00:00+00:00\n")
    assert "cut off" in blindpost("audit", "verify", data_dir=filled).stdout
    refused = blindpost("restore", str(path), data_dir=filled)
    assert "not empty" in one_sentence(refused)
    assert (filled / HEAD_FILE).exists()
    assert "2 accounts" in said(blindpost("restore", str(path), "--replace", data_dir=filled))
    assert "The audit is whole" in blindpost("audit", "verify", data_dir=filled).stdout


# Interrupted


@contextmanager
def begun(urls: StoreUrls, data_dir: Path, *arguments: str, source: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that is to be ended in the middle of its work."""
    with subprocess.Popen(
        (*PROGRAM, *arguments),
        env=environment(data_dir, database_url=urls.database_url, redis_url=urls.redis_url),
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_backup_that_is_ended_in_the_middle_is_none(
    urls: StoreUrls, tmp_path: Path, how: signal.Signals
) -> None:
    stores = {"database_url": urls.database_url, "redis_url": urls.redis_url}
    migrated = await asyncio.to_thread(blindpost, "migrate", data_dir=tmp_path / "data", **stores)
    assert migrated.returncode == 0, migrated.stderr
    out = tmp_path / "out"
    out.mkdir()
    holder = await asyncpg.connect(urls.database_url)
    await holder.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted)"
    with begun(urls, tmp_path / "data", "backup", str(out / "backup.tar"), source=subprocess.DEVNULL) as process:
        await eventually(lambda: holder.fetchval(query), what="a COPY that waits for a table")
        partials = list(out.iterdir())
        process.send_signal(how)
        _, errors = await asyncio.to_thread(process.communicate, timeout=30)
    await holder.close()
    assert [each.suffix for each in partials] == [".partial"]
    if how is signal.SIGKILL:
        assert list(out.iterdir()) == partials, "nobody can tidy up, and it does not have the name"
    else:
        assert process.returncode == 130, errors
        assert errors == b"Stopped.\n"
        assert list(out.iterdir()) == []


@pytest.mark.parametrize("is_filled", [False, True])
def test_a_restore_that_is_killed_in_the_middle_has_changed_nothing(
    servers: Handmade, urls: StoreUrls, filled: Path, tmp_path: Path, *, is_filled: bool
) -> None:
    path = _backup(filled, tmp_path / "backup.tar")
    # With the embedded Redis, which nobody waits for: none of these databases had a router.
    how = {"database_url": urls.database_url, "data_dir": tmp_path / "node"}
    if is_filled:
        said_ok(blindpost("restore", str(path), **how))  # type: ignore[arg-type]
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    before = ask(urls.database_url, count)
    data = path.read_bytes()
    with begun(urls, tmp_path / "data", "restore", "-", "--replace", source=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(data[: data.index(b"manifest.json")])
        process.stdin.flush()
        until(lambda: ask(servers.urls.database_url, COPIES), what="a COPY that waits for more")
        process.kill()
    until(lambda: not ask(servers.urls.database_url, COPIES), what="its end")
    assert ask(urls.database_url, count) == before
    if is_filled:
        assert ask(urls.database_url, "SELECT count(*) FROM users") == 2
    said_ok(blindpost("restore", str(path), "--replace", **how))  # type: ignore[arg-type]
    assert ask(urls.database_url, "SELECT count(*) FROM messages") == 1


def said_ok(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr


# A Redis of one's own


def test_where_redis_goes_on_running_a_restore_waits_until_it_has_forgotten_the_sessions(
    urls: StoreUrls, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _backup(filled, tmp_path / "backup.tar")
    monkeypatch.setattr(commands, "FORGETTING_S", 1.2)
    monkeypatch.setenv("BLINDPOST_DATABASE_URL", str(urls.database_url))
    monkeypatch.setenv("BLINDPOST_REDIS_URL", str(urls.redis_url))
    commands.restore(path, replace=False, data_dir=tmp_path / "data")
    assert "until Redis has forgotten" in capsys.readouterr().err


def test_a_backup_is_not_written_to_a_terminal(monkeypatch: pytest.MonkeyPatch, filled: Path) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(typer.Exit) as caught:
        commands.backup(Path("-"), data_dir=filled)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("command", ["backup", "verify-backup", "restore"])
def test_help_has_examples(command: str, tmp_path: Path) -> None:
    result = blindpost(command, "--help", data_dir=tmp_path)
    assert result.returncode == 0
    assert f"blindpost {command} " in result.stdout.partition("Examples:")[2]


def test_no_store_is_left_running(filled: Path, tmp_path: Path) -> None:
    path = _backup(filled, tmp_path / "backup.tar")
    said(blindpost("verify-backup", str(path), data_dir=tmp_path / "none"))
    said(blindpost("restore", str(path), data_dir=tmp_path / "new"))
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(each.info["cmdline"])]
    assert place.DataDir(tmp_path / "new").runtime is None
