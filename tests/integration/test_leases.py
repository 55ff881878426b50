"""Limits that are spent: Redis is asked once for many, the sum holds over all nodes, and a refusal ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from limits import RateLimitItemPerMinute

from blindpost.core import limiter as limiter_module
from blindpost.core.audit import Audit
from blindpost.core.cache import Cache
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.limiter import LEASE_MIN as LEASE
from blindpost.core.limiter import PUBLIC_KEYS, REQUEST, SEND, SEND_PAIR, USERS_BY_IDS, Limit, Limiter, lease_of
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.errors import TooManyRequests, Unavailable

AMOUNT = 3 * LEASE


class CountedCache(Cache):
    """Redis, and how often it was asked."""

    asked = 0

    async def hit(self, *arguments: Any, **options: Any) -> int | None:
        self.asked += 1
        return await super().hit(*arguments, **options)


class Clock:
    """A clock that stands until it is set."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def audit(stores: StoreUrls, tmp_path: Path) -> AsyncIterator[Audit]:
    """An audit that is never written: what matters here is what is counted."""
    assert stores.database_url
    async with Database(stores.database_url, pool_size=1) as database:
        await database.migrate()
        yield Audit(database, Pseudonyms(database), tmp_path, keep_days=7)


@pytest.fixture
def pseudonyms(audit: Audit) -> Pseudonyms:
    return audit._pseudonyms


@pytest.fixture
async def cache(stores: StoreUrls) -> AsyncIterator[CountedCache]:
    assert stores.redis_url
    cache = CountedCache(stores.redis_url)
    yield cache
    await cache.close()


@pytest.fixture
def limit() -> Limit:
    return Limit(f"test-{uuid4().hex}", RateLimitItemPerMinute(AMOUNT))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(cache: CountedCache, pseudonyms: Pseudonyms, audit: Audit, clock: Clock) -> Limiter:
    return Limiter(cache, pseudonyms, audit, is_on=True, clock=clock)


async def spend(limiter: Limiter, limit: Limit, whom: str = "alice", most: int = 10 * AMOUNT) -> int:
    """Spend until it is refused; return how many passed."""
    for passed in range(most):
        try:
            await limiter.spend(limit, whom)
        except TooManyRequests as refusal:
            return passed if refusal.retry_after in range(1, 61) else -1
    return most


@pytest.mark.parametrize("limit", [PUBLIC_KEYS, USERS_BY_IDS, SEND, SEND_PAIR, REQUEST])
def test_what_is_spent_is_a_multiple_of_a_lease(limit: Limit) -> None:
    assert limit.rate.amount % lease_of(limit) == 0


@pytest.mark.parametrize("limit", [PUBLIC_KEYS, USERS_BY_IDS, SEND, SEND_PAIR, REQUEST])
def test_a_process_can_exceed_a_limit_by_a_twentieth_at_most(limit: Limit) -> None:
    assert lease_of(limit) * 20 <= limit.rate.amount


async def test_redis_is_asked_once_for_a_lease_and_not_at_all_for_the_first(
    limiter: Limiter, limit: Limit, cache: CountedCache
) -> None:
    assert await spend(limiter, limit, most=LEASE) == LEASE
    assert cache.asked == 0
    assert await spend(limiter, limit, most=LEASE) == LEASE
    assert cache.asked == 1


async def test_leases_end_at_the_limit_and_one_more(limiter: Limiter, limit: Limit) -> None:
    assert await spend(limiter, limit) == AMOUNT + LEASE


async def test_one_caller_spends_nothing_of_another_s(limiter: Limiter, limit: Limit) -> None:
    await spend(limiter, limit)
    assert await spend(limiter, limit, "bob", most=LEASE) == LEASE
    other = Limit(f"test-{uuid4().hex}", limit.rate)
    assert await spend(limiter, other, most=LEASE) == LEASE


async def test_nodes_spend_of_one_limit_and_each_of_its_own_credit(
    cache: CountedCache, pseudonyms: Pseudonyms, audit: Audit, limit: Limit
) -> None:
    nodes = [Limiter(cache, pseudonyms, audit, is_on=True) for _ in range(3)]
    passed = sum([await spend(node, limit) for node in nodes])
    assert passed == AMOUNT + len(nodes) * LEASE


async def test_a_refusal_is_remembered_and_redis_left_alone(
    limiter: Limiter, limit: Limit, cache: CountedCache
) -> None:
    await spend(limiter, limit)
    asked = cache.asked
    for _ in range(50):
        assert await spend(limiter, limit) == 0
    assert cache.asked == asked


async def test_a_refusal_ends(limiter: Limiter, limit: Limit, clock: Clock) -> None:
    await spend(limiter, limit)
    clock.now += 121
    assert await spend(limiter, limit, most=LEASE) == LEASE


async def test_of_many_at_once_one_asks_redis(limiter: Limiter, limit: Limit, cache: CountedCache) -> None:
    await spend(limiter, limit, most=LEASE)
    await asyncio.gather(*(limiter.spend(limit, "alice") for _ in range(LEASE)))
    assert cache.asked == 1


async def test_without_redis_no_more_pass_than_a_lease(pseudonyms: Pseudonyms, audit: Audit, limit: Limit) -> None:
    gone = Cache("redis://127.0.0.1:1/0")
    limiter = Limiter(gone, pseudonyms, audit, is_on=True)
    assert await spend(limiter, limit, most=LEASE) == LEASE
    for _ in range(3):
        with pytest.raises(Unavailable):
            await limiter.spend(limit, "alice")
    await gone.close()


async def test_off_is_off(cache: CountedCache, pseudonyms: Pseudonyms, audit: Audit, limit: Limit) -> None:
    off = Limiter(cache, pseudonyms, audit, is_on=False)
    assert await spend(off, limit, most=2 * AMOUNT) == 2 * AMOUNT
    assert cache.asked == 0


async def test_leases_are_bounded_in_number(limiter: Limiter, limit: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "LEASES_MAX", 10)
    for number in range(50):
        await limiter.spend(limit, f"user {number}")
    assert len(limiter._leases) == 10


@pytest.mark.parametrize("elapsed_s", [1, 20, 50])
async def test_the_time_to_wait_is_until_there_is_room_and_not_the_whole_window(
    cache: CountedCache, elapsed_s: int
) -> None:
    whom = uuid4().hex
    rate = RateLimitItemPerMinute(5)
    for _ in range(rate.amount):
        assert await cache.hit(rate, whom) is None
    (key,) = [key async for key in cache._redis.scan_iter(match=f"*{whom}*")]
    # Time goes by: the window's key lives for two of them.
    await cache._redis.expire(key, 120 - elapsed_s)
    assert await cache.hit(rate, whom) in range(58 - elapsed_s, 62 - elapsed_s)
    await cache._redis.expire(key, 45)
    assert await cache.hit(rate, whom) is None
