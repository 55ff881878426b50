"""What has had its time goes away by itself."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.core.database import Database
from blindpost.core.repositories import housekeeping as repository
from blindpost.services import housekeeping
from blindpost.services.housekeeping import keep_house, kinds, purge_all
from blindpost.telemetry import registry
from checks import session_of, success, until
from prekeys import upload_of
from support import person

if TYPE_CHECKING:
    import asyncpg

KINDS = kinds(message_lifetime_s=86_400, retry_window_s=3_600)


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, pool_size=1) as database:
        yield database


async def kept(house: Database, database: "asyncpg.Connection[Any]", query: str, *arguments: object) -> None:
    """Keep house until a count is 0."""
    task = asyncio.create_task(keep_house(house, KINDS))
    async with asyncio.timeout(30):
        while await database.fetchval(query, *arguments):  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.02)
    task.cancel()


async def test_sessions_that_expired_are_deleted_in_batches_and_no_others(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 10)
    alice = await person(http)
    me = UUID(alice.id)
    rows = [(uuid4(), me) for _ in range(25)]
    insert = "INSERT INTO sessions (id, user_id, expires_at, contacts_seen) VALUES ($1, $2, now() - interval '1 s', 0)"
    await database.executemany(insert, rows)
    await kept(house, database, "SELECT count(*) FROM sessions WHERE user_id = $1 AND expires_at < now()", me)
    left = await database.fetch("SELECT id FROM sessions WHERE user_id = $1", me)
    assert [str(row["id"]) for row in left] == [session_of(alice)]


def claimed(days_ago: str) -> str:
    return f"""
        INSERT INTO one_time_prekeys (user_id, algorithm, id, fingerprint, claimed_on)
        SELECT $1, 'p384', gen_random_uuid(), sha384(n::text::bytea), (now() AT TIME ZONE 'UTC')::date - {days_ago}
        FROM generate_series(1, 25) AS n
    """


async def test_prekeys_that_expired_are_deleted_and_no_others(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice = await person(http)
    success(await alice.call("POST", "/keys", upload_of(alice)))
    query = "SELECT count(*) FROM lasting_prekeys WHERE user_id = $1 AND expires_at < now()"
    sql = "UPDATE lasting_prekeys SET expires_at = now() - interval '1 s' WHERE user_id = $1 AND algorithm = 'p384'"
    await database.execute(sql, UUID(alice.id))
    await kept(house, database, query, UUID(alice.id))
    left = await database.fetch("SELECT algorithm FROM lasting_prekeys WHERE user_id = $1", UUID(alice.id))
    assert [row["algorithm"] for row in left] == ["ml-kem-1024"]


async def test_claimed_prekeys_are_remembered_for_thirty_days_and_forgotten_in_batches(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 10)
    alice, bob = UUID((await person(http)).id), UUID((await person(http)).id)
    await database.execute(claimed("31"), alice)
    await database.execute(claimed("30"), bob)
    count = "SELECT count(*) FROM one_time_prekeys WHERE user_id = $1"
    await kept(house, database, count, alice)
    assert await database.fetchval(count, bob) == 25


async def test_one_time_prekeys_that_wait_do_not_go(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await person(http), await person(http)
    success(await alice.call("POST", "/keys", upload_of(alice)))
    await database.execute(claimed("31"), UUID(bob.id))
    await kept(house, database, "SELECT count(*) FROM one_time_prekeys WHERE user_id = $1", UUID(bob.id))
    assert success(await alice.get("/keys/status"))["one_time_prekeys"] == 1


async def test_counts_of_claims_go_when_their_day_is_over(
    http: httpx.AsyncClient, house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = [UUID((await person(http)).id) for _ in range(2)]
    insert = "INSERT INTO prekey_claims VALUES ($1, $2, (now() AT TIME ZONE 'UTC')::date - $3::int, 4)"
    await database.executemany(insert, [(alice, bob, 1), (bob, alice, 0)])
    await kept(house, database, "SELECT count(*) FROM prekey_claims WHERE user_id = $1", alice)
    assert await database.fetchval("SELECT count(*) FROM prekey_claims WHERE user_id = $1", bob) == 1


async def test_the_keys_of_past_days_go_though_nobody_comes(
    house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    old = date(2001, 1, 1)
    await database.execute("INSERT INTO pseudonym_keys VALUES ($1, $2) ON CONFLICT DO NOTHING", old, bytes(32))
    await kept(house, database, "SELECT count(*) FROM pseudonym_keys WHERE day = $1", old)


async def test_a_database_that_is_away_does_not_end_the_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "INTERVAL_S", 0.01)
    async with Database("postgresql://nobody@127.0.0.1:1/nowhere", pool_size=1) as away:
        task = asyncio.create_task(keep_house(away, KINDS))
        done, _ = await asyncio.wait({task}, timeout=0.5)
        assert not done
        task.cancel()


def purged(kind: str) -> float:
    return registry.get_sample_value("blindpost_purged_total", {"kind": kind}) or 0.0


async def test_every_kind_is_counted_by_its_name(house: Database, database: "asyncpg.Connection[Any]") -> None:
    before = purged("pseudonym_keys")
    old = date(2001, 1, 2)
    await database.execute("INSERT INTO pseudonym_keys VALUES ($1, $2) ON CONFLICT DO NOTHING", old, bytes(32))
    await kept(house, database, "SELECT count(*) FROM pseudonym_keys WHERE day = $1", old)
    await until(lambda: purged("pseudonym_keys") == before + 1)


async def test_nothing_is_purged_while_another_process_does_it(
    house: Database, database: "asyncpg.Connection[Any]"
) -> None:
    old, count = date(2001, 1, 3), "SELECT count(*) FROM pseudonym_keys WHERE day = $1"
    await database.execute("INSERT INTO pseudonym_keys VALUES ($1, $2) ON CONFLICT DO NOTHING", old, bytes(32))
    await database.execute("SELECT pg_advisory_lock($1)", repository.LOCK)
    await purge_all(house, "pseudonym_keys", KINDS["pseudonym_keys"]())
    assert await database.fetchval(count, old) == 1
    await database.execute("SELECT pg_advisory_unlock($1)", repository.LOCK)
    await kept(house, database, count, old)
