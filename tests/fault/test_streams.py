"""Streams when things break: nothing is lost, and nothing takes effect twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.embedded import StoreUrls
from blindpost.core.own_connection import OwnConnection
from blindpost.errors import OutcomeUnknown
from checks import client_of, success
from fault.nodes import Node, node
from fault.servers import connected, database_of, superuser
from sockets import Closed, Frame, Ws, events, socket
from support import Person, b64, contacts, running_in_thread, settings_for, signed

if TYPE_CHECKING:
    import asyncpg

NEVER_S = 300
"""No sweep comes while a test lasts: what arrives does so by hand-over, hint or first read."""
MESSAGES = 150
SOME = 20


async def take_all(ws: Ws, seen: list[str], count: int, then: Callable[[], object] | None = None) -> None:
    """Receive and acknowledge until so many different messages were seen, or the stream ends.

    After the twentieth, do something.
    """
    with suppress(Closed):
        while len(set(seen)) < count:
            message = await ws.next("message")
            seen.append(message["id"])
            ws.ack(message["id"])
            if then is not None and len(seen) == SOME:
                then()


async def send_all(ws: Ws, other: Person, wanted: dict[str, bytes]) -> None:
    """Send what has no answer yet, in one go; what is answered is struck off. Ends when all is, or the stream ends."""
    for identifier, data in wanted.items():
        ws.send(other, data, identifier)
    with suppress(Closed):
        while wanted:
            wanted.pop((await ws.next("sent"))["client_message_id"], None)


async def test_kill_9_of_a_node_with_streams_open_loses_and_doubles_nothing(
    own_database: StoreUrls, tmp_path: Path
) -> None:
    origin = "https://chat.example.org"
    limits = {"sweep_interval_s": NEVER_S, "public_origin": origin}
    async with node(own_database, tmp_path / "two", **limits) as second:
        first = await Node(own_database, tmp_path / "one", **limits).ready()
        async with httpx.AsyncClient(base_url=first.origin, timeout=90) as http:
            alice, bob = Person(http, origin=origin), Person(http, origin=origin)
            for each in (alice, bob):
                await each.register()
                await login_at(each, origin)
            await alice.befriend(bob)
            wanted = {str(uuid4()): str(number).encode() for number in range(MESSAGES)}
            seen: list[str] = []
            async with socket(alice, first.origin) as ws, socket(bob, first.origin) as other:
                await asyncio.gather(send_all(ws, bob, wanted), take_all(other, seen, MESSAGES, first.process.kill))
            first.end()
            async with socket(alice, second.origin) as ws, socket(bob, second.origin) as other:
                await asyncio.gather(send_all(ws, bob, wanted), take_all(other, seen, MESSAGES))
    async with connected(str(own_database.database_url)) as database:
        rows = await database.fetch("SELECT id FROM traces WHERE sender_id = $1", alice.id)
    assert len(rows) == MESSAGES
    assert {str(row["id"]) for row in rows} == set(seen)


async def login_at(someone: Person, origin: str) -> None:
    """Log in behind a public origin."""
    request = someone.http.build_request("POST", "/auth/login", json=await someone.login_body())
    request.headers.update(signed("POST", f"{origin}/auth/login", someone.key, None, request.content))
    someone.token = success(await someone.http.send(request))["access_token"]


async def test_a_listener_that_is_killed_again_and_again_while_streams_are_open_loses_nothing(
    own_database: StoreUrls, tmp_path: Path
) -> None:
    one, two = (settings_for(own_database, tmp_path / name, sweep_interval_s=NEVER_S) for name in ("one", "two"))
    with running_in_thread(one) as first, running_in_thread(two) as second:
        async with client_of(first) as http, client_of(second) as other_http:
            alice, bob = await contacts(http)
            there = Person(other_http, alice.name, alice.ecdsa, alice.ecdh, alice.id)
            await there.login()
            async with (
                socket(alice, first.origin) as near,
                socket(there, second.origin) as far,
                socket(bob, first.origin) as ws,
                superuser(own_database) as admin,
            ):
                seen: list[str] = []
                taking = asyncio.create_task(take_all(ws, seen, 2 * MESSAGES))
                for number in range(MESSAGES):
                    near.send(bob)
                    far.send(bob)
                    await asyncio.gather(near.next("sent"), far.next("sent"))
                    if number % 30 == 0:
                        await kill_listeners(admin, own_database)
                async with asyncio.timeout(60):
                    await taking
                assert len(seen) == len(set(seen)) == 2 * MESSAGES


async def kill_listeners(admin: "asyncpg.Connection[Any]", urls: StoreUrls) -> None:
    """Kill the routers' listening connections, known by their last query."""
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND query ~ '^(LISTEN|SELECT 1$)'"
    )
    # Those that were killed a moment ago may not be back yet.
    async with asyncio.timeout(20):
        while not await admin.fetch(query, database_of(urls)):  # noqa: ASYNC110 - only the database knows
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_commit_whose_outcome_is_unknown_reaches_the_stream_once_if_it_happened(
    own_database: StoreUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_stored: bool
) -> None:
    """The recipient streams at the node that stored it, and that passes over its own notification."""
    fetch = OwnConnection.fetch
    failing = True

    async def lose(flusher: OwnConnection, sql: str, *arguments: object) -> list[object]:
        nonlocal failing
        if "INSERT INTO traces" not in sql or not failing:
            return await fetch(flusher, sql, *arguments)
        failing = False
        if is_stored:
            await fetch(flusher, sql, *arguments)
        raise OutcomeUnknown

    with running_in_thread(settings_for(own_database, tmp_path, sweep_interval_s=NEVER_S)) as router:
        async with client_of(router) as http:
            alice, bob = await contacts(http)
            async with socket(alice, router.origin) as ws, socket(bob, router.origin) as other:
                ws.say(type="ack", message_ids=[str(uuid4())])
                await ws.next("acknowledged")
                monkeypatch.setattr(OwnConnection, "fetch", lose)
                identifier = ws.send(bob, b"once")
                assert (await ws.next("error"))["code"] == "outcome_unknown"
                ws.send(bob, b"once", identifier)
                first = await other.next("message")
                assert (await ws.next("sent"))["id"] == first["id"]
                ws.send(bob, b"then")
                assert (await other.next("message"))["message"] == b64(b"then")


class Traveller:
    """Two people who change between all ways of sending and receiving, as chance has it."""

    def __init__(self, origin: str, alice: Person, bob: Person) -> None:
        self._origin = origin
        self._alice = alice
        self._bob = bob
        self._chance = random.Random(20)  # noqa: S311 - no secret
        self.sent = {str(uuid4()): str(number).encode() for number in range(MESSAGES)}
        self.seen: dict[str, str] = {}

    async def send(self) -> None:
        left = list(self.sent.items())
        while left:
            count = self._chance.randrange(1, 12)
            some, left = dict(left[:count]), left[count:]
            if self._chance.random() < 0.5:
                async with socket(self._alice, self._origin) as ws:
                    for identifier, data in some.items():
                        ws.send(self._bob, data, identifier)
                    if self._chance.random() < 0.5:
                        await ws.next("sent")  # and the answers to the others are lost
            for identifier, data in some.items():
                success(await self._alice.send(self._bob, data, client_message_id=identifier), 201)

    async def receive(self) -> None:
        while len(self.seen) < MESSAGES:
            how = self._chance.choice((self._by_socket, self._by_events, self._by_poll))
            await how(self._chance.randrange(1, 20))

    def _take(self, message: Frame) -> bool:
        """Note a message; tells whether to acknowledge it."""
        self.seen[message["id"]] = message["message"]
        return self._chance.random() < 0.8

    async def _by_socket(self, count: int) -> None:
        async with socket(self._bob, self._origin) as ws:
            for _ in range(min(count, MESSAGES - len(self.seen))):
                message = await ws.next("message")
                if self._take(message):
                    ws.ack(message["id"])

    async def _by_events(self, count: int) -> None:
        async with events(self._bob) as stream:
            messages = (each async for each in stream if each["type"] == "message")
            for _ in range(min(count, MESSAGES - len(self.seen))):
                message = await anext(messages)
                if self._take(message):
                    success(await self._bob.post("/messages/ack", message_ids=[message["id"]]))

    async def _by_poll(self, count: int) -> None:
        page = await self._bob.poll(0.5, limit=count)
        if ids := [message["id"] for message in page["messages"] if self._take(message)]:
            success(await self._bob.post("/messages/ack", message_ids=ids))


async def test_changing_between_streams_and_polls_at_random_loses_and_doubles_nothing(
    router: Running, http: httpx.AsyncClient
) -> None:
    alice, bob = await contacts(http)
    both = Traveller(router.origin, alice, bob)
    async with asyncio.timeout(120):
        await asyncio.gather(both.send(), both.receive())
    assert Counter(both.seen.values()) == Counter(b64(each) for each in both.sent.values())
    await bob.drain()
    assert (await bob.poll(0))["messages"] == []
