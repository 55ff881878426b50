"""Messages that nobody acknowledges expire; their senders can see it, and nothing is stored twice for it."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import event

from blindpost.config import load_settings
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.repositories import housekeeping as repository
from blindpost.errors import ConfigurationError
from blindpost.protocol import transcripts
from blindpost.services import housekeeping
from blindpost.services.housekeeping import kinds
from checks import ids_waiting, success
from support import Person, contacts, running_in_thread, settings_for, sign

if TYPE_CHECKING:
    import asyncpg

LIFETIME = timedelta(days=30)
WINDOW = timedelta(days=7)
KINDS = kinds(int(LIFETIME.total_seconds()), int(WINDOW.total_seconds()))
MINUTE = timedelta(minutes=1)
FILL = """
INSERT INTO traces SELECT uuidv7(n * interval '-1 s'), gen_random_uuid(), gen_random_uuid()
FROM generate_series(1, 50000) AS n;
INSERT INTO messages SELECT id, sender_id, gen_random_uuid(), now(), 'sealed' FROM traces;
INSERT INTO receipts SELECT gen_random_uuid(), id FROM traces;
ANALYZE;
"""


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, pool_size=1) as database:
        yield database


async def keep(house: Database, *names: str) -> None:
    """Keep house once, whether or not the router does so in this moment."""
    for name in names or ("messages", "traces"):
        purge, is_last = KINDS[name](), False
        while not is_last:
            async with house.transaction() as tx:
                _, is_last = await purge(tx)


async def sent_long_ago(
    database: "asyncpg.Connection[Any]", sender: Person, recipient: Person, ago: timedelta, **more: Any
) -> str:
    """Send a message, and let its id and its time be of so long ago."""
    now = UUID(success(await sender.send(recipient, **more), 201)["id"])
    then: UUID = await database.fetchval("SELECT uuidv7($1::interval)", -ago)
    for table in ("messages", "traces"):
        sql = f"UPDATE {table} SET id = $1, timestamp = timestamp - $2::interval WHERE id = $3"
        await database.execute(sql, then, ago, now)
    return str(then)


async def statuses(someone: Person, *ids: str) -> dict[str, str]:
    found: dict[str, str] = success(await someone.get("/messages/status", ids=",".join(ids)))
    return found


async def acknowledge(someone: Person, *ids: str) -> list[str]:
    acknowledged: list[str] = success(await someone.post("/messages/ack", message_ids=list(ids)))["acknowledged"]
    return acknowledged


async def expired_so_long_ago(database: "asyncpg.Connection[Any]", message_id: str, ago: timedelta) -> None:
    await database.execute("UPDATE traces SET expired_at = now() - $2::interval WHERE id = $1", UUID(message_id), ago)


async def test_a_message_that_waited_for_thirty_days_expires_and_a_younger_one_waits_on(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    old = await sent_long_ago(database, alice, bob, LIFETIME + MINUTE)
    young = await sent_long_ago(database, alice, bob, LIFETIME - MINUTE)
    await keep(house)
    assert await ids_waiting(bob) == [young]
    assert await statuses(alice, old, young) == {old: "expired", young: "queued"}


async def test_who_asks_gets_nothing_of_an_expired_message_and_cannot_acknowledge_it(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    old = await sent_long_ago(database, alice, bob, LIFETIME + MINUTE)
    await keep(house)
    assert await database.fetchval("SELECT count(*) FROM messages WHERE recipient_id = $1", UUID(bob.id)) == 0
    assert (await bob.poll(0))["messages"] == []
    assert await acknowledge(bob, old) == []
    assert await statuses(bob, old) == {}
    assert (await alice.poll(0))["delivered"] == []
    assert await statuses(alice, old) == {old: "expired"}


async def test_a_repeat_of_an_expired_message_is_answered_as_before_and_not_stored_anew(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    name = str(uuid4())
    old = await sent_long_ago(database, alice, bob, LIFETIME + MINUTE, client_message_id=name)
    await keep(house)
    await expired_so_long_ago(database, old, WINDOW - MINUTE)
    await keep(house)
    again = success(await alice.send(bob, client_message_id=name), 201)
    assert (again["id"], again["status"]) == (old, "sent")
    assert await ids_waiting(bob) == []
    assert await statuses(alice, old) == {old: "expired"}


async def test_the_trace_of_an_expired_message_goes_a_retry_window_after_its_expiry(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    old = await sent_long_ago(database, alice, bob, LIFETIME + MINUTE)
    await keep(house)
    await expired_so_long_ago(database, old, WINDOW + MINUTE)
    await keep(house)
    assert await statuses(alice, old) == {}
    assert await database.fetchval("SELECT count(*) FROM traces WHERE id = $1", UUID(old)) == 0


async def test_the_trace_of_a_delivered_message_goes_a_retry_window_after_it_was_sent_and_its_receipt_with_it(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    old = await sent_long_ago(database, alice, bob, WINDOW + MINUTE)
    young = await sent_long_ago(database, alice, bob, WINDOW - MINUTE)
    assert await acknowledge(bob, old, young) == [old, young]
    await keep(house)
    assert await statuses(alice, old, young) == {young: "delivered"}
    assert (await alice.poll(0))["delivered"] == [young]


async def test_the_trace_of_a_message_that_waits_stays_as_long_as_it_does(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    name = str(uuid4())
    waiting = await sent_long_ago(database, alice, bob, WINDOW + MINUTE, client_message_id=name)
    await keep(house)
    assert success(await alice.send(bob, client_message_id=name), 201)["id"] == waiting
    assert await ids_waiting(bob) == [waiting]


async def test_traces_behind_many_that_stay_are_found_in_batches(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 3)
    alice, bob = await contacts(http)
    ids = [await sent_long_ago(database, alice, bob, LIFETIME - MINUTE * n) for n in range(1, 13)]
    assert await acknowledge(bob, *ids[7:]) == ids[7:]
    await keep(house, "traces")
    assert await statuses(alice, *ids) == dict.fromkeys(ids[:7], "queued")


async def test_more_than_a_batch_expires_at_once(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    alice, bob = await contacts(http)
    ids = [await sent_long_ago(database, alice, bob, LIFETIME + MINUTE) for _ in range(5)]
    await keep(house, "messages")
    assert await statuses(alice, *ids) == dict.fromkeys(ids, "expired")


@pytest.mark.parametrize("table", ["messages", "traces"])
async def test_what_somebody_works_on_is_passed_over_and_not_waited_for(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]", table: str
) -> None:
    """An acknowledgement locks the message, and the deletion of an account the trace first."""
    alice, bob = await contacts(http)
    old, other = [await sent_long_ago(database, alice, bob, LIFETIME + MINUTE) for _ in range(2)]
    async with database.transaction():
        await database.execute(f"SELECT FROM {table} WHERE id = $1 FOR UPDATE", UUID(old))
        async with asyncio.timeout(5):
            await keep(house)
        assert await statuses(alice, old, other) == {old: "queued", other: "expired"}
    assert await acknowledge(bob, old) == [old]
    assert await statuses(alice, old) == {old: "delivered"}


async def test_an_acknowledgement_that_comes_too_late_changes_nothing_of_what_the_sender_sees(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    """It waits for the expiry that has the row, and then finds it gone."""
    alice, bob = await contacts(http)
    old = await sent_long_ago(database, alice, bob, LIFETIME + MINUTE)
    async with house.transaction() as tx:
        await KINDS["messages"]()(tx)
        late = asyncio.create_task(acknowledge(bob, old))
        waits = "wait_event_type = 'Lock' AND query LIKE '%DELETE FROM messages m%'"
        waiting = f"SELECT count(*) FROM pg_stat_activity WHERE {waits}"
        async with asyncio.timeout(20):
            while not await database.fetchval(waiting):  # noqa: ASYNC110 - the database has no event for it
                await asyncio.sleep(0.01)
    assert await late == []
    assert await statuses(alice, old) == {old: "expired"}
    assert await database.fetchval("SELECT count(*) FROM receipts WHERE sender_id = $1", UUID(alice.id)) == 0


async def test_a_router_keeps_house_by_its_settings(
    http: httpx.AsyncClient, stores: StoreUrls, database: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    alice, bob = await contacts(http)
    old = await sent_long_ago(database, alice, bob, timedelta(hours=2))
    with running_in_thread(settings_for(stores, tmp_path, message_lifetime_s=3_600)):
        async with asyncio.timeout(20):
            while await ids_waiting(bob):  # noqa: ASYNC110 - the router does it when it likes
                await asyncio.sleep(0.02)
    assert await statuses(alice, old) == {old: "expired"}


async def test_an_account_with_expired_messages_is_deleted_whole(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    await sent_long_ago(database, alice, bob, LIFETIME + MINUTE)
    await keep(house)
    signature = sign(alice.ecdsa, transcripts.delete_account(UUID(alice.id)))
    success(await alice.call("DELETE", "/auth/me", {"signature": signature}))
    assert await database.fetchval("SELECT count(*) FROM traces WHERE sender_id = $1", UUID(alice.id)) == 0


@pytest.mark.parametrize("name", ["message_lifetime_s", "retry_window_s"])
@pytest.mark.parametrize("value", [0, 59, 366 * 86_400])
def test_a_lifetime_that_loses_messages_or_never_ends_stops_the_start(name: str, value: int) -> None:
    with pytest.raises(ConfigurationError):
        load_settings(**{name: value})


def test_a_message_is_kept_for_an_hour_at_least() -> None:
    with pytest.raises(ConfigurationError):
        load_settings(message_lifetime_s=3_599)
    assert load_settings(message_lifetime_s=3_600).message_lifetime_s == 3_600


async def test_the_purge_enters_the_tables_by_their_keys_however_much_they_hold(scratch: StoreUrls) -> None:
    """A walk over all of a large table each ten minutes would be in the way of what is sent."""
    said: list[tuple[str, Any]] = []
    async with Database(str(scratch.database_url), pool_size=1) as database:
        await database.migrate()
        event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *told: said.append(told[2:4]))
        async with database.transaction() as tx:
            assert await repository.begin(tx)
            said.clear()
            for name in ("messages", "traces"):
                await KINDS[name]()(tx)
        raw = await database.connect_raw()
        await raw.execute(FILL)
        for statement, parameters in said:
            async with raw.transaction():
                await raw.fetch(str(repository.BEGIN).replace(":key", "0"))
                plan = "\n".join(row[0] for row in await raw.fetch(f"EXPLAIN {statement}", *parameters))
            assert re.search(r"Index (Only )?Scan using (messages|traces)_pkey .*\n +Index Cond: .*id < ", plan), plan
            assert not re.search(r"Seq Scan on (messages|traces|receipts)", plan), plan
        await raw.close()
    assert len(said) == 2
