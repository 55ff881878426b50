"""PostgreSQL's primary dies while people write, and its standby takes over: nothing that was answered is lost."""

import asyncio
import base64
import shutil
import socket as sockets
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import pytest

from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.errors import ConfigurationError, StartError
from checks import success
from fault.nodes import Relay, node
from fault.servers import Postgres, connected, eventually, free_port, tell
from sockets import Closed, socket
from support import Person, contacts

PAIRS: Final = 6
BEFORE_S: Final = 2.0
AFTER: Final = 20
"""Messages of each pair after the standby has taken over."""
PATIENCE_S: Final = 40
RECOVERY_MAX_S: Final = 15
PAUSE_S: Final = 0.05
RETRIED: Final = {"unavailable", "outcome_unknown"}


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that the account of the stores may pass."""
    path = Path(tempfile.mkdtemp(prefix="bp-failover-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@dataclass
class Couple:
    """A primary and the standby without which it says of no commit that it is done."""

    primary: Postgres
    standby: Postgres

    @property
    def url(self) -> str:
        """A URL that names both hosts."""
        return f"postgresql://postgres@127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}/postgres"

    async def follow(self) -> None:
        """Let no commit be answered before the standby has it on its disk."""
        async with connected(self.primary.url) as admin:
            await admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await admin.execute("SELECT pg_reload_conf()")

            async def is_sync() -> bool:
                return bool(await admin.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"))

            await eventually(is_sync, what="a synchronous standby")

    async def fail_over(self) -> float:
        """Kill the primary, and promote the standby at once; returns how long that took, from the death."""
        async with connected(self.standby.url) as admin:
            self.primary.kill()
            died = time.monotonic()
            assert await admin.fetchval("SELECT pg_promote(true, 30)")
        return time.monotonic() - died


@pytest.fixture
async def couple(home: Path) -> AsyncIterator[Couple]:
    homes = home / "one", home / "two"
    for path in homes:
        path.mkdir()
        path.chmod(0o711)
    # Replication asks for a role that may, and a line in pg_hba.conf: initdb with trust writes both.
    primary = Postgres(homes[0]).create()
    standby = Postgres(homes[1])
    try:
        primary.start()
        standby.copy(primary.url)
        standby.start()
        each = Couple(primary, standby)
        await each.follow()
        yield each
    finally:
        standby.end()
        primary.end()


@dataclass
class Books:
    """What was answered, and what came."""

    sent: dict[str, str] = field(default_factory=dict)
    """The id that the router gave to each text that it took."""
    came: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The ids under which each text came."""
    answered_at: list[float] = field(default_factory=list)
    again: int = 0
    """How often a send was repeated."""
    erased: set[str] = field(default_factory=set)
    """Messages whose acknowledgement was answered."""
    returned: list[str] = field(default_factory=list)
    """Those of them that came again."""
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    def gap(self) -> float:
        """The longest time in which nobody was answered."""
        times = sorted(self.answered_at)
        return max(two - one for one, two in pairwise(times))


async def write(alice: Person, bob: Person, books: Books) -> None:
    """Send one message after the other, each with the same id until it is answered."""
    while not books.enough.is_set():
        text, identifier = str(uuid4()), str(uuid4())
        while True:
            answer = await alice.send(bob, text.encode(), client_message_id=identifier)
            if answer.status_code == 201:
                break
            assert answer.status_code == 503, answer.text
            assert answer.json()["code"] in RETRIED, answer.text
            books.again += 1
            await asyncio.sleep(PAUSE_S)
        books.sent[text] = answer.json()["id"]
        books.answered_at.append(time.monotonic())


def take(books: Books, messages: list[dict[str, str]]) -> list[str]:
    """Write down what came, and return its ids."""
    for each in messages:
        books.came[base64.b64decode(each["message"]).decode()].add(each["id"])
        if each["id"] in books.erased:
            books.returned.append(each["id"])
    return [each["id"] for each in messages]


async def receive_by_poll(bob: Person, books: Books) -> None:
    """Poll and acknowledge, whatever the router says meanwhile."""
    while True:
        answer = await bob.get("/messages/poll", timeout=5, limit=100)
        if answer.status_code != 200:
            assert answer.json()["code"] in RETRIED, answer.text
            await asyncio.sleep(PAUSE_S)
            continue
        if ids := take(books, success(answer)["messages"]):
            acknowledged = await bob.post("/messages/ack", message_ids=ids)
            if acknowledged.status_code == 200:
                books.erased.update(ids)


async def receive_by_stream(bob: Person, origin: str, books: Books, closed: list[int]) -> None:
    """Receive over a WebSocket, opened again when it is closed."""
    while True:
        try:
            async with socket(bob, origin) as ws:
                while True:
                    message = await ws.next("message")
                    ws.ack(*take(books, [message]))
        except Closed as error:
            closed.append(error.code)


@asynccontextmanager
async def writing(origin: str, books: Books, closed: list[int]) -> AsyncIterator[list[tuple[Person, Person]]]:
    """Let pairs write to each other: half of the recipients poll, half have a stream."""
    async with httpx.AsyncClient(base_url=origin, timeout=60, limits=httpx.Limits(max_connections=None)) as http:
        pairs = [await contacts(http) for _ in range(PAIRS)]
        receiving = [
            asyncio.create_task(
                receive_by_poll(bob, books) if number % 2 else receive_by_stream(bob, origin, books, closed)
            )
            for number, (_, bob) in enumerate(pairs)
        ]
        sending = [asyncio.create_task(write(alice, bob, books)) for alice, bob in pairs]
        try:
            yield pairs
            books.enough.set()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*sending)
            await eventually(lambda: _all_came(books), PATIENCE_S, "all that was sent")
        finally:
            books.enough.set()
            for each in (*receiving, *sending):
                each.cancel()
            outcomes = await asyncio.gather(*receiving, *sending, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


async def _all_came(books: Books) -> bool:
    return set(books.sent) <= set(books.came)


async def the_books_are_right(books: Books, url: str) -> None:
    """What was answered came, once, under the id that was told, and the new primary knows of no other."""
    assert {text: {identifier} for text, identifier in books.sent.items()} == dict(books.came)
    assert books.returned == []
    async with connected(url) as database:
        known = {str(row["id"]) for row in await database.fetch("SELECT id FROM traces")}
    assert known == set(books.sent.values())


async def wait_for_more(books: Books, count: int) -> None:
    wanted = len(books.sent) + count

    async def are_there() -> bool:
        return len(books.sent) >= wanted

    await eventually(are_there, PATIENCE_S, "messages after the failover")


@pytest.mark.parametrize("way", ["relay", "two hosts"])
async def test_a_standby_that_takes_over_from_a_primary_that_was_killed_has_all_that_was_answered(
    couple: Couple, stores: StoreUrls, tmp_path: Path, way: str
) -> None:
    async def onward(data: bytes, _from_client: bool) -> bytes:  # noqa: FBT001 - the relay's
        return data

    books, closed = Books(), list[int]()
    relay = Relay("127.0.0.1", couple.primary.port, lambda: onward)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(relay.running())
        url = couple.url if way == "two hosts" else f"postgresql://postgres@127.0.0.1:{relay.port}/postgres"
        router = await stack.enter_async_context(node(StoreUrls(url, stores.redis_url), tmp_path))
        await stack.enter_async_context(writing(router.origin, books, closed))
        await asyncio.sleep(BEFORE_S)
        before = len(books.sent)
        took = await couple.fail_over()
        relay.target = ("127.0.0.1", couple.standby.port)
        await wait_for_more(books, PAIRS * AFTER)
    await the_books_are_right(books, couple.standby.url)
    gap = books.gap()
    tell(
        f"failover by {way}: {before} messages before it, {len(books.sent)} in all, {books.again} sends repeated,"
        f" promoted {took:.2f} s after the death, longest gap {gap:.2f} s, {len(closed)} streams closed"
    )
    assert before > PAIRS
    assert gap < took + RECOVERY_MAX_S


async def test_a_host_that_is_silent_does_not_keep_from_the_next_one(couple: Couple) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and never says a word
        url = f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{couple.primary.port}/postgres"
        async with Database(url, pool_size=1) as database:
            await database.check_server()
            began = time.monotonic()
            await database.ping()
            assert time.monotonic() - began < 1, "the host that answered was not asked first"


async def test_of_two_hosts_the_one_that_takes_writes_is_taken_and_a_standby_alone_is_refused(couple: Couple) -> None:
    primary, standby = (f"127.0.0.1:{each.port}" for each in (couple.primary, couple.standby))
    async with Database(f"postgresql://postgres@{standby},{primary}/postgres", pool_size=1) as database:
        connection = await database.connect_raw()
        assert await connection.fetchval("SELECT pg_is_in_recovery()") is False
        await connection.close()
    async with Database(f"postgresql://postgres@{standby},{standby}/postgres", pool_size=1) as database:
        with pytest.raises(StartError, match="is a standby"):
            await database.check_server()
    wanted = f"postgresql://postgres@{standby},{primary}/postgres?target_session_attrs=any"
    async with Database(wanted, pool_size=1) as database:
        connection = await database.connect_raw()
        assert await connection.fetchval("SELECT pg_is_in_recovery()") is True
        await connection.close()


async def test_what_is_said_of_several_hosts_names_each_and_no_password() -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    async with Database(f"postgresql://someone:secret@{hosts}/name", pool_size=1) as database:
        assert database.address == hosts
        with pytest.raises(StartError, match="no connection") as caught:
            await database.check_server()
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="no number"):
        Database("postgresql://someone@one:5432,two:x/name", pool_size=1)
