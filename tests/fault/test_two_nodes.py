"""Two routers on the same stores: whatever happens through one is seen through the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from blindpost.config import WakeUp
from blindpost.core.embedded import StoreUrls
from blindpost.telemetry import WAITING
from fault.nodes import Node, node
from fault.servers import eventually
from support import Person, contacts, person, running_in_thread, settings_for

NEVER_S = 300
"""No sweep comes while a test lasts: what crosses does so by the wake-up bus."""


@asynccontextmanager
async def http_of(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=origin, timeout=90) as http:
        yield http


@pytest.fixture
async def pair(
    own_database: StoreUrls, tmp_path: Path, bus: WakeUp
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of two routers, each with a data directory, and so a token key, of its own."""
    more = {"sweep_interval_s": NEVER_S, "wake_up_bus": bus}
    one, two = (settings_for(own_database, tmp_path / name, **more) for name in ("one", "two"))
    with running_in_thread(one) as first, running_in_thread(two) as second:
        async with http_of(first.origin) as to_first, http_of(second.origin) as to_second:
            yield to_first, to_second
    assert (tmp_path / "one" / "token-key.pem").read_bytes() != (tmp_path / "two" / "token-key.pem").read_bytes()


def through(http: httpx.AsyncClient, someone: Person) -> Person:
    """Return the same person with the same token, who talks to another router."""
    return someone.at(http)


async def a_poll_waits() -> None:
    """Wait until a poll waits, by the metric that all routers of this process share."""

    async def waits() -> bool:
        return bool(WAITING._value.get() >= 1)

    await eventually(waits, what="a waiting poll")


async def test_a_message_sent_through_one_node_answers_a_poll_that_waits_at_the_other(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    alice, bob = await contacts(pair[0])
    poll = asyncio.create_task(through(pair[1], bob).poll(60))
    await a_poll_waits()
    sent = await alice.send(bob)
    assert [each["id"] for each in (await poll)["messages"]] == [sent.json()["id"]]


async def test_a_token_of_one_node_is_good_at_the_other_and_dead_at_both_after_a_logout(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    here = await person(pair[0])
    there = through(pair[1], here)
    assert (await there.get("/auth/me")).status_code == 200
    assert (await here.post("/auth/logout")).status_code == 200
    for _ in range(3):
        assert (await there.get("/auth/me")).status_code == 401
        assert (await here.get("/auth/me")).status_code == 401


async def test_a_logout_at_one_node_ends_a_poll_of_the_session_at_the_other(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    here = await person(pair[0])
    poll = asyncio.create_task(through(pair[1], here).get("/messages/poll", timeout=60))
    await a_poll_waits()
    await here.post("/auth/logout")
    async with asyncio.timeout(30):
        assert (await poll).status_code == 401


async def test_a_receipt_crosses_the_nodes(pair: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
    alice, bob = await contacts(pair[0])
    message = (await alice.send(bob)).json()["id"]
    poll = asyncio.create_task(alice.poll(60))
    await a_poll_waits()
    await through(pair[1], bob).post("/messages/ack", message_ids=[message])
    assert (await poll)["delivered"] == [message]


async def test_a_change_among_the_contacts_crosses_the_nodes(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    alice, bob = await person(pair[0]), await person(pair[1])
    await bob.drain()
    poll = asyncio.create_task(bob.poll(60))
    await a_poll_waits()
    assert (await alice.post("/contacts/send-contact-request", receiver_id=bob.id)).status_code == 201
    assert (await poll)["contacts_changed"] is True


async def test_the_same_message_repeated_at_another_node_is_stored_once(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    alice, bob = await contacts(pair[0])
    again = through(pair[1], alice)
    message_id = "0d7f9a52-31f5-4f0e-9d54-0a2b8a7b3c11"
    answers = await asyncio.gather(
        *(each.send(bob, client_message_id=message_id) for each in (alice, again, alice, again))
    )
    assert {each.status_code for each in answers} == {201}
    assert len({each.json()["id"] for each in answers}) == 1
    assert len((await bob.poll(0))["messages"]) == 1


async def test_kill_9_of_one_node_leaves_the_other_working_and_its_clients_move_over(
    own_database: StoreUrls, tmp_path: Path, bus: WakeUp
) -> None:
    more = {"sweep_interval_s": NEVER_S, "wake_up_bus": bus}
    async with node(own_database, tmp_path / "two", **more) as second:
        first = await Node(own_database, tmp_path / "one", **more).ready()
        async with http_of(first.origin) as to_first, http_of(second.origin) as to_second:
            alice, bob = await contacts(to_first)
            lost = asyncio.create_task(bob.get("/messages/poll", timeout=60))
            staying = asyncio.create_task(through(to_second, bob).poll(60))
            first.end()
            with pytest.raises(httpx.TransportError):
                await lost
            moved = through(to_second, alice)
            sent = await moved.send(bob)
            assert sent.status_code == 201
            assert [each["id"] for each in (await staying)["messages"]] == [sent.json()["id"]]
            # The dead node's tokens and challenges are as good as before, and so are its people.
            assert (await through(to_second, bob).login()).token
