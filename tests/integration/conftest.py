"""The stores as an operator sees them, and more routers on them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
import redis.asyncio

from blindpost.app import Running
from blindpost.core.embedded import StoreUrls
from checks import Waiting, client_of
from support import running_in_thread, settings_for


@pytest.fixture
async def database(stores: StoreUrls) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """PostgreSQL, past the router."""
    connection = await asyncpg.connect(stores.database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def cache(stores: StoreUrls) -> AsyncIterator["redis.asyncio.Redis"]:
    """Redis, past the router."""
    assert stores.redis_url
    async with redis.asyncio.from_url(stores.redis_url) as client:
        yield client


@pytest.fixture
async def waiting(router: Running) -> Waiting:
    return await Waiting.at(router)


@pytest.fixture(scope="session")
def second_node(stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    """Another router on the same stores, with a token key of its own."""
    with running_in_thread(settings_for(stores, data_dir / "second-node")) as running:
        yield running


@pytest.fixture
async def second_http(second_node: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(second_node) as client:
        yield client


@pytest.fixture
async def scratch(database_url: str, stores: StoreUrls) -> AsyncIterator[StoreUrls]:
    """An empty database of one test's own."""
    name = f"scratch_{uuid4().hex}"
    superuser = await asyncpg.connect(database_url, user="postgres", database="postgres")
    await superuser.execute(f"CREATE DATABASE {name} OWNER blindpost")
    yield StoreUrls(urlunsplit(urlsplit(database_url)._replace(path=f"/{name}")), stores.redis_url)
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await superuser.close()


@pytest.fixture
def database_url(stores: StoreUrls) -> str:
    assert stores.database_url
    return stores.database_url
