"""A PostgreSQL and a Redis of this folder's own, on TCP, where roles and users can be made."""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from blindpost.core.embedded import StoreUrls
from fault.servers import Handmade, connected, handmade


@pytest.fixture(scope="session")
def servers() -> Iterator[Handmade]:
    with handmade() as both:
        yield both


@dataclass(frozen=True)
class Roles:
    """A database that one role owns and another one, which owns nothing, uses."""

    superuser_url: str
    owner_url: str
    router_url: str
    router: str
    """As SQL text holds it: a name that must be quoted."""
    stores: StoreUrls


@pytest.fixture
async def roles(servers: Handmade) -> AsyncIterator[Roles]:
    stem = secrets.token_hex(6)
    owner, router, database = f"owner_{stem}", f'ro"u%ter; DROP TABLE users -- {stem}', f"db_{stem}"
    quoted = '"' + router.replace('"', '""') + '"'
    async with connected(servers.postgres.url) as superuser:
        for statement in (
            f"CREATE ROLE {owner} LOGIN",
            f"CREATE ROLE {quoted} LOGIN",
            f"CREATE DATABASE {database} OWNER {owner}",
        ):
            await superuser.execute(statement)
    parts = urlsplit(servers.postgres.url)

    def url_of(role: str) -> str:
        return parts._replace(netloc=f"{quote(role, '')}@127.0.0.1:{parts.port}", path=f"/{database}").geturl()

    router_url = url_of(router)
    yield Roles(url_of("postgres"), url_of(owner), router_url, quoted, StoreUrls(router_url, servers.redis.url))
    async with connected(servers.postgres.url) as superuser:
        await superuser.execute(f"DROP DATABASE {database} WITH (FORCE)")
        await superuser.execute(f"DROP ROLE {owner}, {quoted}")


async def execute(url: str, *statements: str) -> Any:
    """Run statements as the role of a URL; returns the value of the last."""
    async with connected(url) as connection:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
