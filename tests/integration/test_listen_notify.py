"""LISTEN and NOTIFY within PostgreSQL's bounds: short payloads, and a listener that holds nothing up."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.group_commit import BATCH_MAX
from blindpost.core.hub import CHANNEL, Hub, Kind, payloads
from blindpost.core.notify_bus import NotifyBus
from blindpost.core.writer import Ack, MessageWriter, NewMessage
from checks import PATIENCE_S, client_of
from support import contacts, running_in_thread, settings_for

PAYLOAD_LIMIT = 8_000
NODE_ID_CHARS = 32
"""The node that wrote it comes first."""
"""PostgreSQL refuses a payload of this many bytes, and with it the whole transaction."""


@pytest.fixture
async def database(scratch: StoreUrls) -> AsyncIterator[Database]:
    assert scratch.database_url
    async with Database(scratch.database_url, pool_size=2) as database:
        await database.migrate()
        yield database


@pytest.mark.parametrize("count", [0, 1, 240, 241, 4_096])
def test_payloads_are_short_and_name_everybody_once(count: int) -> None:
    user_ids = [uuid4() for _ in range(count)]
    written = payloads(Kind.CONTACTS, user_ids + user_ids)
    assert all(len(each) < PAYLOAD_LIMIT for each in written)
    hexes = "".join(each[1:] for each in written)
    named = [UUID(hex=hexes[start : start + 32]) for start in range(0, len(hexes), 32)]
    assert sorted(named) == sorted(user_ids)


async def _nothing(_: object) -> dict[Any, Any]:
    return {}


async def test_a_whole_batch_to_as_many_people_is_stored_and_all_of_them_are_told(database: Database) -> None:
    """More ids than one payload holds, in one commit: for messages and for acknowledgements."""
    raw, listener = await database.connect_raw(), await database.connect_raw()
    names = [f"someone_{number}" for number in range(BATCH_MAX + 1)]
    await raw.execute("INSERT INTO names SELECT unnest($1::text[])", names)
    add = (
        "INSERT INTO users (name, name_key, ecdsa_public_key, ecdh_public_key, ecdh_signature)"
        " SELECT n, n, $2, $3, '' FROM unnest($1::text[]) AS n RETURNING id"
    )
    sender, *recipients = [row["id"] for row in await raw.fetch(add, names, bytes(120), b"\x01" * 120)]
    heard: list[str] = []
    await listener.add_listener(CHANNEL, lambda *said: heard.append(str(said[-1])))
    bounds = {"waiting_max": 1, "waiting_per_user_max": 1, "waiting_per_address_max": 1}
    hub = Hub(NotifyBus(database), _nothing, _nothing, sweep_interval_s=1, **bounds)
    writer = MessageWriter(database, hub, require_contact=False)
    sends = [asyncio.create_task(writer.send(NewMessage(sender, each, b"x", None))) for each in recipients]
    await asyncio.sleep(0)  # all are queued before the first flush
    running = asyncio.create_task(writer.run())
    stored = await asyncio.gather(*sends)
    async with asyncio.timeout(PATIENCE_S):
        while sum(len(each) - len("m") - NODE_ID_CHARS for each in heard) < 32 * BATCH_MAX:  # noqa: ASYNC110 - of another connection
            await asyncio.sleep(0.01)
    assert len(heard) == 2
    assert {each[0] for each in heard} == {"m"}
    assert max(len(each) for each in heard) < PAYLOAD_LIMIT
    acks = [Ack(each, [message.id]) for each, message in zip(recipients, stored, strict=True)]
    assert sum(len(each) for each in await asyncio.gather(*map(writer.acknowledge, acks))) == BATCH_MAX
    writer.close()
    await running
    await listener.close()
    await raw.close()


async def test_the_listening_connection_is_in_no_transaction_and_the_queue_stays_empty(
    scratch: StoreUrls, tmp_path: Path
) -> None:
    """A listener inside a transaction fills the queue of the whole cluster, and then every commit fails."""
    with running_in_thread(settings_for(scratch, tmp_path / "node")) as router:
        await router.container.get(Hub)
        async with client_of(router) as http:
            alice, bob = await contacts(http)
            for _ in range(20):
                await alice.send(bob)
        assert scratch.database_url
        async with Database(scratch.database_url, pool_size=1) as database:
            raw = await database.connect_raw()
            mine = "datname = current_database() AND pid <> pg_backend_pid()"
            states = await raw.fetch(f"SELECT state, xact_start, query FROM pg_stat_activity WHERE {mine}")
            usage = await raw.fetchval("SELECT pg_notification_queue_usage()")
            await raw.close()
    listening = [row for row in states if "LISTEN" in row["query"]]
    assert [(row["state"], row["xact_start"]) for row in listening] == [("idle", None)]
    assert usage < 0.01
