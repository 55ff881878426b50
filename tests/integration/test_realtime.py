"""Real time: the hub, the long-poll, the hints."""

import asyncio

import httpx

from support import contacts, person


async def test_a_message_answers_a_poll_that_waits(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    waiting = asyncio.create_task(bob.poll())
    answer = await alice.send(bob, b"sealed")
    page = await waiting
    assert [message["id"] for message in page["messages"]] == [answer.json()["id"]]


async def test_a_poll_without_news_is_empty_when_its_time_is_over(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    assert await alice.poll(0.2) == {
        "has_messages": False,
        "has_more": False,
        "messages": [],
        "contacts_changed": False,
        "delivered": [],
    }
