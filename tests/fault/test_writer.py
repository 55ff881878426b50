"""The writer on real stores: no message is lost once it was acknowledged, and none is stored twice."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.embedded import StoreUrls
from blindpost.core.writer import MessageWriter
from blindpost.protocol import transcripts
from fault.nodes import Node, Relay, node
from fault.servers import Handmade, connected, eventually, fresh_database
from support import Person, contacts, person, running_in_thread, settings_for, sign

if TYPE_CHECKING:
    import asyncpg

LOST = (httpx.TransportError,)
INSERT = b"INSERT INTO messages"


@pytest.fixture
def open_router(own_database: StoreUrls, tmp_path: Path) -> Iterator[Running]:
    """A router where anybody may write to anybody."""
    with running_in_thread(settings_for(own_database, tmp_path, require_contact=False)) as router:
        yield router


@asynccontextmanager
async def client(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=origin, timeout=60, limits=limits) as http:
        yield http


@asynccontextmanager
async def watching(urls: StoreUrls) -> AsyncIterator["asyncpg.Connection[Any]"]:
    async with connected(str(urls.database_url)) as connection:
        yield connection


async def stored_by(urls: StoreUrls, sender: Person) -> list[Any]:
    """Return the client's ids of all that is stored of a sender, in order."""
    async with watching(urls) as connection:
        rows = await connection.fetch("SELECT client_message_id FROM traces WHERE sender_id = $1", sender.id)
    return sorted(str(row[0]) for row in rows)


async def a_flush_waits(urls: StoreUrls) -> None:
    """Wait until the writer waits for a lock."""
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query ~ 'INSERT INTO messages'"
    )
    # A connection of its own: inside of a transaction pg_stat_activity does not change.
    async with watching(urls) as connection:

        async def one_waits() -> bool:
            return bool(await connection.fetchval(count))

        await eventually(one_waits, what="a flush that waits")


async def a_deletion_waits(urls: StoreUrls) -> None:
    """Wait until the deletion of an account waits for a lock."""
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query ~ 'DELETE FROM users'"
    )
    async with watching(urls) as connection:

        async def one_waits() -> bool:
            return bool(await connection.fetchval(count))

        await eventually(one_waits, what="a deletion that waits")


async def delete(someone: Person) -> httpx.Response:
    signature = sign(someone.ecdsa, transcripts.delete_account(UUID(someone.id)))
    return await someone.call("DELETE", "/auth/me", {"signature": signature})


async def attempt(sender: Person, recipient: Person, message_id: str) -> bool:
    """Send; tell whether it was acknowledged. Only what a client may repeat counts as a failure."""
    try:
        answer = await sender.send(recipient, client_message_id=message_id)
    except LOST:
        return False
    assert answer.status_code in {201, 503}, answer.text
    return answer.status_code == 201


async def insist(sender: Person, recipient: Person, message_id: str) -> None:
    """Repeat until it is acknowledged, as a client does."""

    async def done() -> bool:
        return await attempt(sender, recipient, message_id)

    await eventually(done, what="an acknowledged message")


# Repeats


@pytest.mark.parametrize("answers", [1, 30])
async def test_a_node_killed_while_it_sends_and_every_send_repeated_elsewhere_stores_each_message_once(
    own_database: StoreUrls, tmp_path: Path, answers: int
) -> None:
    ids = [str(uuid4()) for _ in range(60)]
    async with node(own_database, tmp_path / "two") as second:
        first = await Node(own_database, tmp_path / "one").ready()
        acknowledged = 0

        async def send(message_id: str) -> None:
            nonlocal acknowledged
            if not await attempt(alice, bob, message_id):
                return
            acknowledged += 1
            if acknowledged == answers:
                first.process.kill()

        async with client(first.origin) as http:
            alice, bob = await contacts(http)
            await asyncio.gather(*(send(each) for each in ids))
        first.end()
        assert answers <= acknowledged
        async with client(second.origin) as http:
            alice.http = http
            await asyncio.gather(*(insist(alice, bob, each) for each in ids))
    assert await stored_by(own_database, alice) == sorted(ids)


async def test_an_answer_lost_on_its_way_to_the_client_and_a_repeat_store_one_message_with_one_id(
    router: Running, stores: StoreUrls
) -> None:
    """The relay reads the node's answer to the end, and cuts the client off instead of passing it on."""
    swallowed: list[bytes] = []

    async def swallow(data: bytes, from_client: bool) -> bytes | None:  # noqa: FBT001 - the hook's signature
        if from_client or swallowed:
            return data
        swallowed.append(data)
        return None

    target = urlsplit(router.origin)
    async with client(router.origin) as http, Relay("127.0.0.1", target.port or 0, lambda: swallow).running() as relay:
        alice, bob = await contacts(http)
        body = str(uuid4())
        async with client(f"http://127.0.0.1:{relay.port}") as through:
            alice.http, alice.origin = through, router.origin
            with pytest.raises(httpx.TransportError):
                await alice.send(bob, client_message_id=body)
            again = await alice.send(bob, client_message_id=body)
        assert b"201" in swallowed[0]
        assert again.status_code == 201
        assert [each["id"] for each in (await bob.poll(0))["messages"]] == [again.json()["id"]]
    assert await stored_by(stores, alice) == [body]


async def test_nothing_acknowledged_is_lost_when_node_postgresql_and_redis_are_killed_together(
    servers: Handmade, tmp_path: Path
) -> None:
    own = await fresh_database(servers.urls)
    acknowledged: list[str] = []

    async def send_until_the_end() -> None:
        while True:
            message_id = str(uuid4())
            if not await attempt(alice, bob, message_id):
                return
            acknowledged.append(message_id)

    async def enough() -> bool:
        return len(acknowledged) > 100

    first = await Node(own, tmp_path).ready()
    async with client(first.origin) as http:
        alice, bob = await contacts(http)
        sending = [asyncio.create_task(send_until_the_end()) for _ in range(8)]
        await eventually(enough, what="traffic")
        for kill in (servers.postgres.kill, servers.redis.kill, first.process.kill):
            kill()
        await asyncio.gather(*sending)
    first.end()
    servers.up()
    async with node(own, tmp_path) as again, client(again.origin) as http:
        bob.http = alice.http = http
        page = await bob.poll(0, limit=500)  # the session is as good as before
        assert len(page["messages"]) >= min(len(acknowledged), 500)
        await insist(alice, bob, acknowledged[0])
    stored = await stored_by(own, alice)
    assert set(acknowledged) <= set(stored)
    assert len(set(stored)) == len(stored)


# The writer's connection


class Cutter:
    """In front of PostgreSQL: when armed, the writer's next statement, or the answer to it, is lost."""

    def __init__(self) -> None:
        self.armed = ""
        self.cuts = 0

    def hook(self) -> "Line":
        return Line(self)


class Line:
    """One connection to PostgreSQL; the writer's is known by its statement."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._is_writer = False
        self._is_flying = False

    async def __call__(self, data: bytes, from_client: bool) -> bytes | None:  # noqa: FBT001 - the hook's signature
        self._is_writer |= INSERT in data
        if not self._is_writer or not self._cutter.armed:
            return data
        if from_client and self._cutter.armed == "after":
            self._is_flying = True
            return data
        # ReadyForQuery, outside of a transaction: the server has committed.
        if not from_client and not (self._is_flying and data.endswith(b"Z\x00\x00\x00\x05I")):
            return b""
        self._cutter.armed = ""
        self._cutter.cuts += 1
        return None


@pytest.mark.parametrize("moment", ["before", "after"], ids=["and-not-persisted", "yet-persisted"])
async def test_a_connection_lost_in_a_commit_gives_outcome_unknown_and_a_repeat_stores_once(
    servers: Handmade, tmp_path: Path, moment: str
) -> None:
    own = await fresh_database(servers.urls)
    cutter = Cutter()
    async with Relay("127.0.0.1", servers.postgres.port, cutter.hook).running() as relay:
        url = urlsplit(str(own.database_url))._replace(netloc=f"postgres@127.0.0.1:{relay.port}").geturl()
        async with node(StoreUrls(url, own.redis_url), tmp_path) as each, client(each.origin) as http:
            alice, bob = await contacts(http)
            ids = [str(uuid4()) for _ in range(8)]
            await insist(alice, bob, ids[-1])  # the statement is prepared now
            cutter.armed = moment
            lost = await alice.send(bob, client_message_id=ids[0])
            assert (lost.status_code, lost.json()["code"]) == (503, "outcome_unknown")
            assert int(lost.headers["Retry-After"]) > 0
            assert (ids[0] in await stored_by(own, alice)) is (moment == "after")
            await asyncio.gather(*(insist(alice, bob, message_id) for message_id in ids))
    assert await stored_by(own, alice) == sorted(ids)
    assert cutter.cuts == 1


async def test_a_backend_terminated_while_it_writes_gives_503_and_a_repeat_works(
    open_router: Running, own_database: StoreUrls
) -> None:
    message_id = str(uuid4())
    async with client(open_router.origin) as http, watching(own_database) as other:
        alice, bob = await contacts(http)
        async with other.transaction():
            await other.execute("LOCK TABLE messages IN SHARE MODE")
            sending = asyncio.create_task(alice.send(bob, client_message_id=message_id))
            await a_flush_waits(own_database)
            assert await other.fetchval(
                "SELECT bool_and(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            answer = await sending
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert int(answer.headers["Retry-After"]) > 0
        assert (await alice.send(bob, client_message_id=message_id)).status_code == 201
    assert await stored_by(own_database, alice) == [message_id]


async def test_connections_that_died_while_idle_cost_no_message_and_no_500(
    open_router: Running, own_database: StoreUrls
) -> None:
    ids = [str(uuid4()) for _ in range(6)]
    async with client(open_router.origin) as http, watching(own_database) as other:
        alice, bob = await contacts(http)
        for message_id in ids:
            await other.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            await insist(alice, bob, message_id)
    assert await stored_by(own_database, alice) == sorted(ids)


# One batch


async def test_an_account_deleted_between_check_and_insert_is_refused_alone_and_its_batch_is_stored(
    open_router: Running, own_database: StoreUrls
) -> None:
    async with client(open_router.origin) as http, watching(own_database) as locking, watching(own_database) as other:
        alice, bob, carol, victim = [await person(http) for _ in range(4)]
        async with other.transaction():
            await other.execute("DELETE FROM users WHERE id = $1", victim.id)
            async with locking.transaction():
                await locking.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", carol.id)
                first = asyncio.create_task(alice.send(carol))
                await a_flush_waits(own_database)
                # These queue up behind the flush that waits, and so become one batch.
                rest = [asyncio.create_task(alice.send(each)) for each in (bob, victim, carol, bob)]
                await eventually(lambda: queued(open_router, len(rest)), what="a batch that queues")
            assert (await first).status_code == 201
            # The victim is still there for the check; the insert waits for whoever deletes them.
            await a_flush_waits(own_database)
        answers = await asyncio.gather(*rest)
    assert [each.status_code for each in answers] == [201, 403, 201, 201]
    assert answers[1].json()["code"] == "not_a_contact"


async def queued(router: Running, count: int) -> bool:
    return len((await router.container.get(MessageWriter)).sends._waiting) == count


async def test_sixty_four_senders_who_come_while_one_flush_runs_share_the_next_transaction(
    open_router: Running, own_database: StoreUrls
) -> None:
    async with client(open_router.origin) as http, watching(own_database) as other:
        alice, bob = await person(http), await person(http)
        async with other.transaction():
            await other.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", bob.id)
            first = asyncio.create_task(alice.send(bob))
            await a_flush_waits(own_database)
            rest = [asyncio.create_task(alice.send(bob)) for _ in range(64)]
            await eventually(lambda: queued(open_router, 64), what="64 messages that queue")
        assert {answer.status_code for answer in await asyncio.gather(first, *rest)} == {201}
        written = await other.fetch("SELECT count(*) FROM messages GROUP BY xmin::text ORDER BY 1")
    assert [row[0] for row in written] == [1, 64]


# Deletion of an account, for which no foreign key stands guard


async def remains_of(urls: StoreUrls, someone: Person) -> int:
    async with watching(urls) as connection:
        return int(
            await connection.fetchval(
                "SELECT (SELECT count(*) FROM messages WHERE $1 IN (sender_id, recipient_id))"
                " + (SELECT count(*) FROM traces WHERE sender_id = $1)"
                " + (SELECT count(*) FROM receipts WHERE sender_id = $1)"
                " + (SELECT count(*) FROM traces t WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = t.sender_id))",
                UUID(someone.id),
            )
        )


@pytest.mark.parametrize("require_contact", [True, False])
@pytest.mark.parametrize("who", ["sender", "recipient"])
async def test_a_message_that_is_being_stored_while_an_account_is_deleted_is_deleted_with_it(
    own_database: StoreUrls, tmp_path: Path, who: str, *, require_contact: bool
) -> None:
    settings = settings_for(own_database, tmp_path, require_contact=require_contact)
    with running_in_thread(settings) as router:
        async with client(router.origin) as http, watching(own_database) as other:
            alice, bob = await contacts(http)
            leaving = alice if who == "sender" else bob
            message_id = uuid4()
            transaction = other.transaction()
            await transaction.start()
            # The flush has seen that the two are contacts, and waits to see whether it is a repeat.
            await other.execute("INSERT INTO traces VALUES (uuidv7(), $1, $2)", UUID(alice.id), message_id)
            sending = asyncio.create_task(alice.send(bob, client_message_id=str(message_id)))
            await a_flush_waits(own_database)
            deleting = asyncio.create_task(delete(leaving))
            await a_deletion_waits(own_database)
            await transaction.rollback()
            assert (await sending).status_code == 201
            assert (await deleting).status_code == 200
            assert await remains_of(own_database, leaving) == 0


@pytest.mark.parametrize("require_contact", [True, False])
async def test_a_message_to_an_account_whose_deletion_is_not_committed_yet_is_refused_when_it_is(
    own_database: StoreUrls, tmp_path: Path, *, require_contact: bool
) -> None:
    with running_in_thread(settings_for(own_database, tmp_path, require_contact=require_contact)) as router:
        async with client(router.origin) as http, watching(own_database) as other:
            alice, bob = await contacts(http)
            async with other.transaction():
                await other.execute("DELETE FROM users WHERE id = $1", UUID(bob.id))
                sending = asyncio.create_task(alice.send(bob))
                await a_flush_waits(own_database)
            assert (await sending).json()["code"] == "not_a_contact"
            assert await remains_of(own_database, bob) == 0
            assert await stored_by(own_database, alice) == []
