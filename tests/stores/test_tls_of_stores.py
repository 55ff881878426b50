"""Stores on other machines: TLS with a checked certificate, or no connection. And a Redis user with narrow rights."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from blindpost.core.cache import Cache
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.safety import REDIS_RIGHTS
from blindpost.errors import StartError
from certificates import Authority, Pair
from checks import client_of
from fault.servers import Handmade, fresh_database
from stores.relay import TlsRelay
from support import running_in_thread, settings_for
from whole_job import whole_job

PASSWORD = "a word with % and @"
QUOTED = "a%20word%20with%20%25%20and%20%40"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def authority(home: Path) -> Authority:
    return Authority(home)


@pytest.fixture(scope="module")
def other(home: Path) -> Authority:
    return Authority(home, "other")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("localhost", stem="store")


@pytest.fixture(scope="module")
def postgres(servers: Handmade, pair: Pair) -> Iterator[TlsRelay]:
    with TlsRelay(servers.postgres.port, pair, speaks_postgresql=True).running() as relay:
        yield relay


@pytest.fixture(scope="module")
def redis_relay(servers: Handmade, pair: Pair) -> Iterator[TlsRelay]:
    with TlsRelay(servers.redis.port, pair).running() as relay:
        yield relay


@pytest.fixture
def user(servers: Handmade) -> Iterator[str]:
    """A Redis user with the rights that the documentation gives, and no more."""
    name = f"blindpost-{secrets.token_hex(4)}"
    with redis.Redis(port=servers.redis.port) as client:
        client.execute_command("ACL", "SETUSER", name, "on", f">{PASSWORD}", *REDIS_RIGHTS.split())
        client.execute_command("ACL", "LOG", "RESET")
        yield name
        client.execute_command("ACL", "DELUSER", name)


def postgres_url(relay: TlsRelay, host: str, query: str, database: str = "postgres") -> str:
    return f"postgresql://postgres@{host}:{relay.port}/{database}?{query}"


def refused_at(servers: Handmade) -> list[str]:
    """What Redis refused somebody for want of a right, as its log of that says."""
    with redis.Redis(port=servers.redis.port, decode_responses=True) as client:
        return [f"{entry['reason']} {entry['object']}" for entry in client.acl_log()]


async def test_the_router_does_its_whole_job_over_tls_to_both_stores_as_a_user_with_narrow_rights(
    servers: Handmade, authority: Authority, postgres: TlsRelay, redis_relay: TlsRelay, user: str, tmp_path: Path
) -> None:
    database = urlsplit(str((await fresh_database(servers.urls)).database_url)).path[1:]
    verified = f"sslmode=verify-full&sslrootcert={authority.file}"
    stores = StoreUrls(
        postgres_url(postgres, "localhost", verified, database),
        f"rediss://{user}:{QUOTED}@localhost:{redis_relay.port}/0?ssl_ca_certs={authority.file}",
    )
    before = postgres.passed, redis_relay.passed
    with running_in_thread(settings_for(stores, tmp_path, rate_limits="on")) as router:
        async with client_of(router) as http:
            await whole_job(http)
    assert postgres.passed >= before[0] + 4
    assert redis_relay.passed > before[1]
    # redis-py names itself to the server, and goes on where it may not.
    assert set(refused_at(servers)) <= {"command client", "command client|setinfo"}


@pytest.mark.parametrize(
    "right", ["FLUSHALL", "CONFIG GET *", "KEYS *", "SHUTDOWN", "DEBUG SLEEP 0", "ACL LIST", "SAVE"]
)
def test_that_user_may_not_do_what_is_the_operators(servers: Handmade, user: str, right: str) -> None:
    refused = pytest.raises(redis.exceptions.NoPermissionError)
    with redis.Redis(port=servers.redis.port, username=user, password=PASSWORD) as client, refused:
        client.execute_command(*right.split())


@pytest.mark.parametrize("key", ["other:1", "challeng", "x"])
def test_that_user_reads_and_writes_no_keys_but_the_routers(servers: Handmade, user: str, key: str) -> None:
    with redis.Redis(port=servers.redis.port, username=user, password=PASSWORD) as client:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set(key, "1")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get(key)
        with pytest.raises(redis.exceptions.ResponseError):
            client.eval("return redis.call('GET', KEYS[1])", 1, key)


@pytest.mark.parametrize(
    ("host", "sentence"),
    [("localhost", "not of the authority"), ("127.0.0.1", "another host name")],
    ids=["another authority", "another host"],
)
async def test_a_postgresql_with_a_wrong_certificate_is_refused_with_a_sentence(
    postgres: TlsRelay, authority: Authority, other: Authority, host: str, sentence: str
) -> None:
    root = other.file if host == "localhost" else authority.file
    async with Database(
        postgres_url(postgres, host, f"sslmode=verify-full&sslrootcert={root}"), pool_size=1
    ) as database:
        with pytest.raises(StartError, match=sentence) as caught:
            await database.check_server()
    assert str(postgres.port) in str(caught.value)
    assert "BLINDPOST_DATABASE_URL" in caught.value.hint


async def test_a_postgresql_without_tls_is_refused_where_tls_is_demanded(
    servers: Handmade, authority: Authority
) -> None:
    url = f"{servers.postgres.url}?sslmode=verify-full&sslrootcert={authority.file}"
    async with Database(url, pool_size=1) as database:
        with pytest.raises(StartError, match="does not speak TLS"):
            await database.check_server()


async def test_an_authoritys_file_that_cannot_be_read_is_named(postgres: TlsRelay) -> None:
    url = postgres_url(postgres, "localhost", "sslmode=verify-full&sslrootcert=/nowhere/ca.pem")
    async with Database(url, pool_size=1) as database:
        with pytest.raises(StartError, match=r"/nowhere/ca\.pem"):
            await database.check_server()


async def test_a_redis_that_refuses_the_password_is_told_from_one_that_is_away(servers: Handmade) -> None:
    cache = Cache(f"redis://nobody:wrong@127.0.0.1:{servers.redis.port}/0")
    with pytest.raises(StartError, match="refuses this user or password"):
        await cache.check_server()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another authority", "another host"])
async def test_a_redis_with_a_wrong_certificate_is_refused_with_a_sentence(
    redis_relay: TlsRelay, authority: Authority, other: Authority, host: str
) -> None:
    root = other.file if host == "localhost" else authority.file
    cache = Cache(f"rediss://{host}:{redis_relay.port}/0?ssl_ca_certs={root}")
    with pytest.raises(StartError, match="Redis does not answer"):
        await cache.check_server()
    await cache.close()
