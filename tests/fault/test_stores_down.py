"""PostgreSQL or Redis is killed, frozen, full or away: clear answers, no loss, and recovery without a restart."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from blindpost.core.embedded import StoreUrls
from blindpost.protocol import transcripts
from fault.nodes import node
from fault.servers import (
    Handmade,
    Postgres,
    connected,
    database_of,
    eventually,
    fresh_database,
    is_root,
    superuser,
    tell,
)
from support import Person, b64, contacts, new_key, public, sign

HANG_S = 10 + 4
"""No answer may take longer than ten seconds, whatever a store does; and some for a busy machine."""
Call = tuple[str, str, dict[str, Any] | None]


@dataclass
class Outage:
    """A router in a process of its own, on servers that the test breaks."""

    servers: Handmade
    urls: StoreUrls
    alice: Person
    bob: Person

    @property
    def http(self) -> httpx.AsyncClient:
        return self.alice.http

    async def health(self, what: str) -> int:
        return (await self.http.get(f"/health/{what}")).status_code

    async def is_ready(self) -> bool:
        return await self.health("ready") == 200

    async def is_unready(self) -> bool:
        return await self.health("ready") == 503


@asynccontextmanager
async def outage_on(servers: Handmade, data_dir: Path) -> AsyncIterator[Outage]:
    urls = await fresh_database(servers.urls)
    limits = httpx.Limits(max_connections=None)
    async with (
        node(urls, data_dir, rate_limits="on", sweep_interval_s=1) as one,
        httpx.AsyncClient(base_url=one.origin, timeout=60, limits=limits) as http,
    ):
        alice, bob = await contacts(http)
        assert (await alice.send(bob)).status_code == 201
        await bob.drain()
        await alice.drain()
        yield Outage(servers, urls, alice, bob)


@pytest.fixture
async def outage(servers: Handmade, tmp_path: Path) -> AsyncIterator[Outage]:
    async with outage_on(servers, tmp_path) as each:
        yield each


def for_sessions(alice: Person, bob: Person) -> list[Call]:
    """Return one call of every kind that a session can make, each valid."""
    key = new_key()
    update = {
        "ecdsa_public_key": public(key).pem,
        "ecdh_signature": sign(key, transcripts.register(alice.name, public(key), public(alice.ecdh))),
        "old_key_signature": sign(alice.ecdsa, b"never looked at: the store is asked first"),
        "new_key_signature": sign(key, b"never looked at"),
    }
    some = str(uuid4())
    return [
        ("GET", f"/auth/public-keys/{bob.id}", None),
        ("PUT", "/auth/ecdsa-update-key", update),
        ("PUT", "/auth/ecdh-update-key", {"ecdh_public_key": public(key).pem, "ecdh_signature": sign(key, b"x")}),
        ("GET", "/auth/me", None),
        ("DELETE", "/auth/me", {"signature": sign(alice.ecdsa, b"x")}),
        ("GET", f"/contacts/search-users?username={bob.name[:5]}", None),
        ("GET", f"/contacts/users-by-ids?users_ids={bob.id}", None),
        ("GET", "/contacts/get-contacts", None),
        ("POST", "/contacts/send-contact-request", {"receiver_id": some}),
        ("GET", "/contacts/get-contact-requests", None),
        ("PUT", "/contacts/accept-contact-request", {"sender_id": some}),
        ("PUT", "/contacts/reject-contact-request", {"sender_id": some}),
        ("POST", "/messages/send", {"recipient_id": bob.id, "message": b64(b"x"), "client_message_id": some}),
        ("GET", "/messages/get-undelivered-messages", None),
        ("GET", "/messages/poll?timeout=0", None),
        ("POST", "/messages/ack", {"message_ids": [some]}),
        ("GET", f"/messages/status?ids={some}", None),
    ]


async def refused(alice: Person, call: Call) -> float:
    """Make a call that cannot be served; returns how long the refusal took."""
    began = time.monotonic()
    answer = await alice.call(*call)
    assert answer.status_code == 503, (call[:2], answer.status_code, answer.text)
    assert int(answer.headers["Retry-After"]) > 0, call[:2]
    assert answer.json()["code"] in {"unavailable", "outcome_unknown"}, call[:2]
    return time.monotonic() - began


async def all_are_refused(outage: Outage, calls: list[Call]) -> None:
    took = await asyncio.gather(*(refused(outage.alice, call) for call in calls))
    slowest = max(range(len(calls)), key=took.__getitem__)
    tell(f"slowest refusal: {took[slowest]:.1f} s, {calls[slowest][:2]}")
    assert took[slowest] < HANG_S, calls[slowest][:2]


async def it_works_again(outage: Outage) -> None:
    """The same router serves the same people, as if nothing had been; logging in included."""
    await eventually(outage.is_ready, what="readiness")
    sent = (await outage.alice.send(outage.bob)).json()["id"]
    ids: list[str] = []
    while sent not in ids:  # what was sent with an unknown outcome may come first
        ids = [message["id"] for message in (await outage.bob.poll(60))["messages"]]
        assert (await outage.bob.post("/messages/ack", message_ids=ids)).json()["acknowledged"] == ids
    await outage.alice.login()
    assert (await outage.alice.get("/auth/me")).status_code == 200


async def prepared(outage: Outage) -> list[Call]:
    """Return one valid call of every kind, made while all is well."""
    login = ("POST", "/auth/login", await outage.alice.login_body())
    register = ("POST", "/auth/register", Person(outage.http).registration())
    return [login, register, *for_sessions(outage.alice, outage.bob)]


BREAKS: dict[str, Callable[[Handmade], None]] = {
    "postgresql-killed": lambda servers: servers.postgres.kill(),
    "postgresql-stopped": lambda servers: servers.postgres.stop(),
    "postgresql-frozen": lambda servers: servers.postgres.freeze(),
    "redis-killed": lambda servers: servers.redis.kill(),
    "redis-frozen": lambda servers: servers.redis.freeze(),
}


@pytest.mark.parametrize("fault", BREAKS)
async def test_while_a_store_is_away_every_kind_of_call_is_refused_in_time_and_all_works_when_it_is_back(
    outage: Outage, fault: str
) -> None:
    calls = await prepared(outage)
    BREAKS[fault](outage.servers)
    if fault.startswith("redis"):
        calls.append(("GET", f"/auth/challenge/{outage.alice.name}", None))
    await all_are_refused(outage, calls)
    if "frozen" not in fault:  # and again, now that the loss is known; but the login's challenge is used up
        await all_are_refused(outage, calls[1:])
    assert await outage.health("live") == 200
    began = time.monotonic()
    assert await outage.is_unready()
    assert time.monotonic() - began < HANG_S
    outage.servers.up()
    await it_works_again(outage)


@pytest.mark.parametrize("fault", ["postgresql-killed", "redis-killed"])
async def test_a_poll_that_waits_through_the_loss_of_a_store_gets_what_is_sent_after_it(
    outage: Outage, fault: str
) -> None:
    waiting = asyncio.create_task(outage.bob.poll(60))
    await asyncio.sleep(0)
    assert (await outage.alice.get("/messages/poll", timeout=0)).status_code == 200
    BREAKS[fault](outage.servers)
    await eventually(outage.is_unready, what="unreadiness")
    outage.servers.up()
    await eventually(outage.is_ready, what="readiness")
    sent = await outage.alice.send(outage.bob)
    assert [message["id"] for message in (await waiting)["messages"]] == [sent.json()["id"]]


async def test_the_loss_of_all_that_redis_held_ends_no_session_and_loses_no_message(outage: Outage) -> None:
    sent = await outage.alice.send(outage.bob)
    outage.servers.redis.kill()
    outage.servers.up()
    await eventually(outage.is_ready, what="readiness")
    assert [message["id"] for message in (await outage.bob.poll(0))["messages"]] == [sent.json()["id"]]


async def test_a_logout_is_not_undone_by_the_loss_of_all_that_redis_held(outage: Outage) -> None:
    assert (await outage.alice.post("/auth/logout")).status_code == 200
    outage.servers.redis.kill()
    outage.servers.up()
    await eventually(outage.is_ready, what="readiness")
    assert (await outage.alice.get("/auth/me")).status_code == 401


async def test_a_postgresql_that_takes_no_connections_is_a_503_and_no_fault_of_ours(outage: Outage) -> None:
    calls = (await prepared(outage))[1:]
    async with superuser(outage.urls) as connection:
        name = database_of(outage.urls)
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        end = "SELECT count(pg_terminate_backend(pid, 20000)) FROM pg_stat_activity WHERE datname = $1"
        assert await connection.fetchval(end, name)
        await all_are_refused(outage, calls)
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await it_works_again(outage)


# At start


PASSWORD = "hunter2-of-the-operator"
NOWHERE = 1
"""A port of loopback where nobody listens."""


@pytest.mark.parametrize("away", ["postgresql", "redis"])
@pytest.mark.parametrize("how", ["refused", "silent"])
def test_a_store_that_is_down_at_start_is_one_clear_line_without_its_password(
    servers: Handmade, tmp_path: Path, away: str, how: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says a word
        port = NOWHERE if how == "refused" else silent.getsockname()[1]
        postgres = f"postgresql://operator:{PASSWORD}@127.0.0.1:{port}/blindpost"
        redis = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        result = subprocess.run(
            [sys.executable, "-c", "from blindpost.cli import main; main()", "serve", "--port", "0"],
            env=os.environ
            | {
                "BLINDPOST_DATA_DIR": str(tmp_path),
                "BLINDPOST_DATABASE_URL": postgres if away == "postgresql" else servers.urls.database_url or "",
                "BLINDPOST_REDIS_URL": redis if away == "redis" else servers.redis.url,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("blindpost: ")]
    assert len(said) == 1, result.stderr
    assert away in said[0].lower()
    assert "Traceback" not in result.stderr
    assert PASSWORD not in result.stdout + result.stderr
    assert "listening" not in result.stdout


# A full disk


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own with little space; only root can make one, and not in every container."""
    if not is_root() or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    path = Path(tempfile.mkdtemp(prefix="bp-disk-"))
    path.chmod(0o711)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m,mode=711", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        path.rmdir()
        pytest.skip(f"mount is not permitted here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
    path.rmdir()


@pytest.fixture
def cramped(small_disk: Path) -> Iterator[Postgres]:
    home = Path(tempfile.mkdtemp(prefix="bp-hand-"))
    home.chmod(0o711)
    postgres = Postgres(home, data=small_disk / "postgres", options=("max_wal_size=8MB", "min_wal_size=2MB"))
    postgres.make_directory()
    try:
        postgres.create("--wal-segsize=1")
        postgres.start()
        yield postgres
    finally:
        postgres.end()
        shutil.rmtree(home, ignore_errors=True)


async def test_a_full_disk_refuses_sends_loses_nothing_acknowledged_and_heals_when_there_is_space(
    cramped: Postgres, servers: Handmade, small_disk: Path, tmp_path: Path
) -> None:
    urls = StoreUrls(cramped.url, servers.redis.url)
    acknowledged: list[str] = []
    async with (
        node(urls, tmp_path, sweep_interval_s=1) as one,
        httpx.AsyncClient(base_url=one.origin, timeout=60) as http,
    ):
        alice, bob = await contacts(http)
        ballast = small_disk / "ballast"
        fill(ballast, small_disk, leave=6 * 1024 * 1024)
        assert await send_until_refused(alice, bob, acknowledged) == 503
        assert acknowledged, "there was no space from the beginning: this shows nothing"
        ballast.unlink()
        assert await stored(cramped, alice) >= set(acknowledged)

        async def sends_again() -> bool:
            return (await alice.send(bob)).status_code == 201

        await eventually(sends_again, what="a message that is taken")


def fill(ballast: Path, disk: Path, *, leave: int) -> None:
    ballast.write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - leave))


async def send_until_refused(alice: Person, bob: Person, acknowledged: list[str]) -> int:
    """Send large messages until one is not taken; returns its status."""
    for _ in range(2_000):
        message_id = str(uuid4())
        answer = await alice.send(bob, uuid4().bytes * 4_096, client_message_id=message_id)
        if answer.status_code != 201:
            assert int(answer.headers["Retry-After"]) > 0
            return answer.status_code
        acknowledged.append(message_id)
    return 201


async def stored(cramped: Postgres, alice: Person) -> set[str]:
    """Read what there is; where PostgreSQL gave up, bring it back, and wait until it has recovered."""
    stored: set[str] = set()

    async def read() -> bool:
        if not cramped.alive:
            cramped.kill()
            cramped.start()
        with suppress(asyncpg.PostgresError, OSError):
            async with connected(cramped.url) as connection:
                rows = await connection.fetch("SELECT client_message_id FROM traces WHERE sender_id = $1", alice.id)
                stored.update(str(row[0]) for row in rows)
                return True
        return False

    await eventually(read, what="PostgreSQL's recovery")
    return stored
