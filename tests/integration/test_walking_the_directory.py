"""Nobody walks the directory quickly: searches count by account, and by address over all accounts."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.embedded import EmbeddedStores, StoreUrls
from blindpost.core.limiter import PUBLIC_KEYS, SEARCH, SEARCH_ADDRESS
from checks import client_of, refusal, success
from support import Person, running_in_thread, settings_for


@pytest.fixture(scope="module")
def limited(stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    """A router behind a proxy, with counters that no other test meets."""
    with EmbeddedStores(data_dir / "walking-redis", postgres=False) as own:
        urls = StoreUrls(stores.database_url, own.redis_url)
        settings = settings_for(urls, data_dir / "walking", rate_limits="on", trusted_proxies="127.0.0.1")
        with running_in_thread(settings) as running:
            yield running


@pytest.fixture
async def http(limited: Running, numbers: Iterator[int]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(limited, **{"X-Forwarded-For": f"198.51.100.{next(numbers)}"}) as client:
        yield client


@pytest.fixture
async def elsewhere(limited: Running, numbers: Iterator[int]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(limited, **{"X-Forwarded-For": f"198.51.100.{next(numbers)}"}) as client:
        yield client


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return count(1)


async def test_many_accounts_of_one_address_share_its_searches(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient
) -> None:
    """One account has 60 a minute: more accounts help only until the address is counted."""
    accounts = SEARCH_ADDRESS.rate.amount // SEARCH.rate.amount + 4
    people = [await (await Person(http).register()).login() for _ in range(accounts)]
    found = 0
    for number in range(SEARCH.rate.amount - 1):
        for each in people:
            answer = await each.get("/contacts/search-users", username=f"a{number:02}")
            if answer.status_code == 429:
                refusal(answer, 429, "too_many_requests")
                assert found >= SEARCH_ADDRESS.rate.amount, "refused before the limit"
                success(await each.at(elsewhere).get("/contacts/search-users", username="abc"))
                return
            found += 1
    raise AssertionError("never refused")


async def test_reading_keys_is_limited_by_account(http: httpx.AsyncClient) -> None:
    alice, bob = [await (await Person(http).register()).login() for _ in range(2)]
    for _ in range(2 * PUBLIC_KEYS.rate.amount):
        if (answer := await alice.get(f"/auth/public-keys/{bob.id}")).status_code == 429:
            break
    else:
        raise AssertionError("never refused")
    refusal(answer, 429, "too_many_requests")
    success(await bob.get(f"/auth/public-keys/{alice.id}"))
