"""Rate limits: who asks too often waits, nobody else does, and the counters know nobody."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis.asyncio
from limits import RateLimitItemPerMinute
from starlette.requests import Request

from blindpost.app import Running
from blindpost.core.embedded import EmbeddedStores, StoreUrls
from blindpost.core.limiter import (
    CHALLENGE,
    CLAIM_PREKEYS,
    CONTACT_REQUEST,
    LEASE_MIN,
    LOGIN,
    LOGIN_ONE_NAME,
    PROVE,
    PUBLISH_PREKEYS,
    REGISTER,
    SEARCH,
    USERS_BY_IDS,
    Limit,
)
from blindpost.routers.security import address_of
from blindpost.services import messages
from checks import client_of, refusal, success
from support import Person, Signed, b64, new_key, running_in_thread, settings_for, sign, unique_name

Call = Callable[[], Awaitable[httpx.Response]]
_addresses = count()


@pytest.fixture(scope="module")
def limited_stores(stores: StoreUrls, data_dir: Path) -> Iterator[StoreUrls]:
    """A Redis of their own: the counters of 127.0.0.1 must not meet those of other tests."""
    with EmbeddedStores(data_dir / "limited-redis", postgres=False) as own:
        yield StoreUrls(stores.database_url, own.redis_url)


@pytest.fixture(scope="module")
def limited(limited_stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    """A router behind a proxy on 127.0.0.1: the tests say in X-Forwarded-For who they are."""
    settings = settings_for(limited_stores, data_dir / "limited", rate_limits="on", trusted_proxies="127.0.0.1")
    with running_in_thread(settings) as running:
        yield running


@pytest.fixture(scope="module")
def unproxied(limited_stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    """A router that trusts no proxy."""
    with running_in_thread(settings_for(limited_stores, data_dir / "unproxied", rate_limits="on")) as running:
        yield running


def new_address() -> str:
    return f"198.51.{next(_addresses)}.1"


@pytest.fixture
async def http(limited: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an address of its own."""
    async with client_of(limited, **{"X-Forwarded-For": new_address()}) as client:
        yield client


@pytest.fixture
async def elsewhere(limited: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client with another address."""
    async with client_of(limited, **{"X-Forwarded-For": new_address()}) as client:
        yield client


async def exhaust(limit: Limit, call: Call) -> httpx.Response:
    """Call until it is refused: not before the limit, and soon after it (the window slides while we call)."""
    for number in range(2 * limit.rate.amount):
        answer = await call()
        if answer.status_code == 429:
            assert number >= limit.rate.amount, "refused before the limit"
            return answer
    raise AssertionError("never refused")


def demand_wait(answer: httpx.Response, most: int = 60) -> None:
    refusal(answer, 429, "too_many_requests")
    assert 1 <= int(answer.headers["Retry-After"]) <= most


async def bad_login(http: httpx.AsyncClient, name: str) -> httpx.Response:
    body = {"username": name, "challenge": "x", "signature": b64(b"x")}
    return await http.post("/auth/login", json=body, auth=Signed())


async def test_registrations_are_limited_by_address(http: httpx.AsyncClient, elsewhere: httpx.AsyncClient) -> None:
    demand_wait(await exhaust(REGISTER, lambda: http.post("/auth/register", json={})))
    demand_wait(await http.post("/auth/register", json=Person(http).registration()))
    await Person(elsewhere).register()


async def test_challenges_are_limited_by_address_whatever_the_name(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient
) -> None:
    victim = await Person(elsewhere).register()
    names = iter([victim.name, *(unique_name() for _ in range(2 * CHALLENGE.rate.amount))])
    demand_wait(await exhaust(CHALLENGE, lambda: http.get(f"/auth/challenge/{next(names)}")))
    demand_wait(await http.get(f"/auth/challenge/{victim.name}"))
    await victim.login()


async def test_logins_are_limited_by_address_over_many_names(http: httpx.AsyncClient) -> None:
    demand_wait(await exhaust(LOGIN, lambda: bad_login(http, unique_name())))


async def test_logins_to_one_name_are_limited_more_and_in_any_case(http: httpx.AsyncClient) -> None:
    name = unique_name()
    spellings = cycle([name, name.upper()])
    demand_wait(await exhaust(LOGIN_ONE_NAME, lambda: bad_login(http, next(spellings))))
    refusal(await bad_login(http, unique_name()), 401, "login_failed")


async def test_a_stranger_cannot_lock_a_victim_out(http: httpx.AsyncClient, elsewhere: httpx.AsyncClient) -> None:
    victim = await Person(elsewhere).register()
    demand_wait(await exhaust(LOGIN_ONE_NAME, lambda: bad_login(http, victim.name)))
    await victim.login()
    success(await victim.get("/auth/me"))


async def test_searches_are_limited_by_account_wherever_it_is(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient
) -> None:
    alice, bob = await (await Person(http).register()).login(), await (await Person(http).register()).login()
    demand_wait(await exhaust(SEARCH, lambda: alice.get("/contacts/search-users", username="abc")))
    moved = alice.at(elsewhere)
    demand_wait(await moved.get("/contacts/search-users", username="abd"))
    success(await bob.get("/contacts/search-users", username="abc"))


async def test_contact_requests_are_limited_by_account_and_day(http: httpx.AsyncClient) -> None:
    alice, bob = await (await Person(http).register()).login(), await (await Person(http).register()).login()

    def ask() -> Awaitable[httpx.Response]:
        return alice.post("/contacts/send-contact-request", receiver_id=str(uuid4()))

    demand_wait(await exhaust(CONTACT_REQUEST, ask), 86_400)
    refusal(await bob.post("/contacts/send-contact-request", receiver_id=str(uuid4())), 404)


async def test_uploads_of_prekeys_are_limited_by_account_and_day(http: httpx.AsyncClient) -> None:
    alice, bob = await (await Person(http).register()).login(), await (await Person(http).register()).login()
    demand_wait(await exhaust(PUBLISH_PREKEYS, lambda: alice.call("POST", "/keys", {})), 86_400)
    success(await bob.call("POST", "/keys", {}))


async def test_claims_of_prekeys_are_limited_by_account(http: httpx.AsyncClient) -> None:
    alice, bob = await (await Person(http).register()).login(), await (await Person(http).register()).login()
    demand_wait(await exhaust(CLAIM_PREKEYS, lambda: alice.post("/keys/claim", user_id=bob.id)))
    refusal(await bob.post("/keys/claim", user_id=alice.id), 403, "not_a_contact")


async def test_reading_people_by_id_is_limited_by_account(http: httpx.AsyncClient) -> None:
    alice = await (await Person(http).register()).login()
    demand_wait(await exhaust(USERS_BY_IDS, lambda: alice.get("/contacts/users-by-ids", users_ids=alice.id)))


@pytest.mark.parametrize(("name", "others_too"), [("SEND", True), ("SEND_PAIR", False)])
async def test_messages_are_limited_by_account_and_by_pair(
    http: httpx.AsyncClient, name: str, *, others_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit(f"test-{name}", RateLimitItemPerMinute(LEASE_MIN))
    monkeypatch.setattr(messages, name, limit)
    alice, bob = await (await Person(http).register()).login(), Person(http, id=str(uuid4()))
    answers = [await alice.send(bob) for _ in range(2 * LEASE_MIN + 1)]
    assert [answer.status_code for answer in answers] == [403] * 2 * LEASE_MIN + [429]
    demand_wait(answers[-1])
    other = await alice.send(Person(http, id=str(uuid4())))
    assert other.status_code == (429 if others_too else 403)
    moved = await (await Person(http).register()).login()
    refusal(await moved.send(bob), 403)


async def test_tries_at_a_signature_with_a_stolen_token_are_limited(http: httpx.AsyncClient) -> None:
    alice = await (await Person(http).register()).login()
    forged = {"signature": sign(new_key(), b"")}
    demand_wait(await exhaust(PROVE, lambda: alice.call("DELETE", "/auth/me", forged)))
    success(await alice.get("/auth/me"))


async def test_a_proxy_is_believed_only_about_the_last_address(limited: Running) -> None:
    """What a client writes into the header itself stands before what the proxy adds."""
    address, invented = new_address(), count()
    async with client_of(limited) as http:

        def call() -> Awaitable[httpx.Response]:
            forwarded = f"203.0.113.{next(invented)}, {address}"
            return http.post("/auth/register", json={}, headers={"X-Forwarded-For": forwarded})

        demand_wait(await exhaust(REGISTER, call))


async def test_addresses_of_one_ipv6_network_are_counted_as_one(limited: Running) -> None:
    hosts = count(1)
    async with client_of(limited) as http:

        def call(network: str = "2001:db8:7:1") -> Awaitable[httpx.Response]:
            forwarded = f"{network}::{next(hosts):x}"
            return http.post("/auth/register", json={}, headers={"X-Forwarded-For": forwarded})

        demand_wait(await exhaust(REGISTER, call))
        refusal(await call("2001:db8:7:2"), 400)


async def test_forwarded_addresses_of_untrusted_clients_are_ignored(unproxied: Running) -> None:
    async with client_of(unproxied) as http:

        def call() -> Awaitable[httpx.Response]:
            headers = {"X-Forwarded-For": new_address(), "Forwarded": f"for={new_address()}"}
            return http.post("/auth/register", json={}, headers=headers | {"X-Real-IP": new_address()})

        demand_wait(await exhaust(REGISTER, call))


async def test_redis_holds_no_address_name_or_id(http: httpx.AsyncClient, limited_stores: StoreUrls) -> None:
    alice = await (await Person(http).register()).login()
    success(await alice.get("/contacts/search-users", username=alice.name))
    assert limited_stores.redis_url
    async with redis.asyncio.from_url(limited_stores.redis_url) as client:
        keys = [key async for key in client.scan_iter()]
        values = [str(await client.get(key)).encode() for key in keys if await client.type(key) == b"string"]
    assert any(b"search" in key for key in keys)
    held = b"\x00".join(keys + values).lower()
    traces = [http.headers["X-Forwarded-For"], "127.0.0.1", alice.name, alice.id, alice.id.replace("-", "")]
    assert not any(trace.lower().encode() in held for trace in traces)


# Who is one caller


def request_from(host: str | None) -> Request:
    client: Any = None if host is None else (host, 1)
    return Request({"type": "http", "client": client, "headers": []})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("2001:db8::1", "2001:0DB8:0000:0000:0001::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1%eth1"),
    ],
)
def test_these_are_one_caller(one: str, two: str) -> None:
    assert address_of(request_from(one)) == address_of(request_from(two))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("2001:db8::1", "2001:db8:0:1::1"),
        ("192.0.2.1", "192.0.2.2"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("::1", "127.0.0.1"),
        ("::", "0.0.0.0"),
        ("testclient", "127.0.0.1"),
    ],
)
def test_these_are_two_callers(one: str, two: str) -> None:
    assert address_of(request_from(one)) != address_of(request_from(two))


def test_a_caller_on_a_unix_socket_has_a_name_too() -> None:
    assert address_of(request_from(None)) == address_of(request_from(None)) != address_of(request_from("::"))
