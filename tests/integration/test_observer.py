"""What waits is asked of PostgreSQL by one process, by an index, and told by no other."""

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text

from blindpost.core import observer as module
from blindpost.core.cache import LEADER, Cache
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.observer import BEGIN, LOOK, Observer, find
from blindpost.telemetry import OBSERVED

FILL = text("""
INSERT INTO messages (sender_id, recipient_id, timestamp, message)
SELECT gen_random_uuid(), gen_random_uuid(), now() - interval '1 hour' + n * interval '1 minute', 'sealed'
FROM generate_series(0, 6) AS n
""")


@pytest.fixture
async def database(scratch: StoreUrls) -> AsyncIterator[Database]:
    async with Database(str(scratch.database_url), pool_size=1) as database:
        await database.migrate()
        yield database


@pytest.fixture
async def cache(stores: StoreUrls, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cache]:
    """The same Redis, with a leader of this test's own."""
    monkeypatch.setattr("blindpost.core.cache.LEADER", LEADER + b":test")
    cache = Cache(str(stores.redis_url))
    yield cache
    await cache._redis.delete(LEADER + b":test")
    await cache.close()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = dict(OBSERVED)
    yield
    OBSERVED.clear()
    OBSERVED.update(before)


async def test_an_empty_queue_has_no_age(database: Database) -> None:
    found = await find(database)
    assert found["blindpost_queued_messages"] == 0
    assert found["blindpost_oldest_message_seconds"] == 0
    assert 0 <= found["blindpost_notify_queue_ratio"] < 0.01


async def test_what_waits_is_counted_and_the_oldest_has_its_age(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute(FILL)
    found = await find(database)
    assert found["blindpost_queued_messages"] == 7
    assert 3_600 <= found["blindpost_oldest_message_seconds"] < 3_660


async def test_the_question_reads_messages_by_an_index_alone(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute(FILL)
        await tx.execute(BEGIN)
        plan = "\n".join((await tx.execute(text(f"EXPLAIN {LOOK.text}"))).scalars())
    assert plan.count("using messages_pkey on messages") == 2
    assert "Seq Scan on messages" not in plan
    assert "Sort" not in plan


async def test_one_process_tells_and_when_it_is_gone_another(database: Database, cache: Cache) -> None:
    one, other = Observer(database, cache), Observer(database, cache)
    await one.look()
    assert OBSERVED
    await one.look()
    assert OBSERVED
    await other.look()
    assert not OBSERVED
    await cache._redis.delete(LEADER + b":test")
    await other.look()
    assert OBSERVED
    await one.look()
    assert not OBSERVED


async def test_nothing_is_told_while_postgresql_is_away(
    database: Database, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old figure would hide that."""
    observer = Observer(database, cache)
    await observer.look()
    assert OBSERVED
    monkeypatch.setattr(module, "LOOK", text("SELECT pg_terminate_backend(pg_backend_pid())"))
    await observer.look()
    assert not OBSERVED
