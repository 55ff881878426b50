"""Ids are drawn before the commit: a later one can be seen first, and the earlier one must not be passed over."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import httpx

from blindpost.core.embedded import StoreUrls
from checks import Waiting, ids_waiting, success
from support import contacts

if TYPE_CHECKING:
    from support import Person

INSERT = "INSERT INTO messages (sender_id, recipient_id, message) VALUES ($1, $2, $3) RETURNING id"


async def insert(connection: "asyncpg.Connection[Any]", sender: "Person", recipient: "Person") -> str:
    """Store a message past the router: its id is drawn now, and it is seen when the transaction ends."""
    return str(await connection.fetchval(INSERT, UUID(sender.id), UUID(recipient.id), b"slow"))


async def test_a_message_that_is_committed_after_a_later_one_was_read_and_acknowledged_is_delivered(
    http: httpx.AsyncClient, stores: StoreUrls
) -> None:
    alice, bob = await contacts(http)
    slow = await asyncpg.connect(stores.database_url)
    transaction = slow.transaction()
    await transaction.start()
    earlier = await insert(slow, alice, bob)
    later = success(await alice.send(bob), 201)["id"]
    assert earlier < later
    assert [message["id"] for message in (await bob.poll(0))["messages"]] == [later]
    success(await bob.post("/messages/ack", message_ids=[later]))
    assert await ids_waiting(bob) == []
    await transaction.commit()
    await slow.close()
    assert await ids_waiting(bob) == [earlier]
    assert [message["id"] for message in (await bob.poll())["messages"]] == [earlier]


async def test_a_poll_that_waits_gets_what_is_committed_late_and_was_told_to_nobody(
    http: httpx.AsyncClient, stores: StoreUrls, waiting: Waiting
) -> None:
    """No notification at all: the sweep finds it, whatever its id."""
    alice, bob = await contacts(http)
    slow = await asyncpg.connect(stores.database_url)
    transaction = slow.transaction()
    await transaction.start()
    earlier = await insert(slow, alice, bob)
    later = success(await alice.send(bob), 201)["id"]
    success(await bob.post("/messages/ack", message_ids=[later]))
    poll = await waiting.one_poll(bob)
    await transaction.commit()
    await slow.close()
    assert [message["id"] for message in success(await poll)["messages"]] == [earlier]
