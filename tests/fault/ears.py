"""The connections on which a router listens, of each wake-up bus: to be seen, ended, kept away and frozen."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis

from blindpost.config import WakeUp
from blindpost.core.embedded import StoreUrls
from fault.nodes import Hook, Relay
from fault.servers import connected, database_of, superuser
from support import in_thread

if TYPE_CHECKING:
    import asyncpg

LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND query ~* '^LISTEN'"


class Ear(Protocol):
    """A router's."""

    urls: StoreUrls
    """For the router."""

    async def listeners(self) -> list[int]:
        """Name the connections that listen."""

    async def terminate(self) -> int:
        """End them; returns how many there were."""

    def kept_away(self) -> AbstractAsyncContextManager[None]:
        """Let nobody listen anew; whoever does goes on."""

    def frozen(self, which: int) -> AbstractContextManager[None]:
        """Let a connection that listens hear nothing, without ending it."""


class PostgresEar:
    """LISTEN, by the processes of PostgreSQL whose last statement that was: until the first heartbeat."""

    def __init__(self, urls: StoreUrls, watch: "asyncpg.Connection[Any]") -> None:
        self.urls = urls
        self._watch = watch

    async def listeners(self) -> list[int]:
        return [row[0] for row in await self._watch.fetch(f"SELECT pid {LISTENERS}")]

    async def terminate(self) -> int:
        return int(await self._watch.fetchval(f"SELECT count(pg_terminate_backend(pid, 20000)) {LISTENERS}"))

    @asynccontextmanager
    async def kept_away(self) -> AsyncIterator[None]:
        name = database_of(self.urls)
        async with superuser(self.urls) as connection:
            await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            try:
                yield
            finally:
                await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    @contextmanager
    def frozen(self, which: int) -> Iterator[None]:
        os.kill(which, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(which, signal.SIGCONT)


class RedisEar:
    """SUBSCRIBE, over a relay that can go silent for those who did."""

    def __init__(self, urls: StoreUrls, watch: "Redis", relay: "SilentRelay") -> None:
        password = urlsplit(str(urls.redis_url)).password or ""
        self.urls = StoreUrls(urls.database_url, f"redis://:{password}@127.0.0.1:{relay.port}/0")
        self._watch = watch
        self._relay = relay

    async def listeners(self) -> list[int]:
        return [int(each["id"]) for each in await self._watch.client_list(_type="pubsub")]

    async def terminate(self) -> int:
        return int(await self._watch.client_kill_filter(_type="pubsub"))

    @asynccontextmanager
    async def kept_away(self) -> AsyncIterator[None]:
        await self._watch.execute_command("ACL", "SETUSER", "default", "-subscribe")  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            await self._watch.execute_command("ACL", "SETUSER", "default", "+subscribe")  # type: ignore[no-untyped-call]

    @contextmanager
    def frozen(self, which: int) -> Iterator[None]:
        del which  # there is one
        self._relay.silence()
        yield


class SilentRelay(Relay):
    """In front of a Redis at a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("", 0, self._hook)
        self._path = path
        self._silent = 0
        self._subscribed = 0

    def silence(self) -> None:
        """Pass nothing on of the connections that have subscribed by now."""
        self._silent = self._subscribed

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self._path)

    def _hook(self) -> Hook:
        number = 0

        async def hook(data: bytes, from_client: bool) -> bytes | None:  # noqa: FBT001 - as relays call it
            nonlocal number
            if from_client and not number and b"SUBSCRIBE" in data:
                self._subscribed = number = self._subscribed + 1
            if 0 < number <= self._silent:
                await asyncio.Event().wait()
            return data

        return hook


@asynccontextmanager
async def ear_of(bus: WakeUp, urls: StoreUrls) -> AsyncIterator[Ear]:
    """Give the ear of routers on these stores, at a relay of its own where that is needed."""
    if bus is WakeUp.POSTGRES:
        async with connected(str(urls.database_url)) as watch:
            yield PostgresEar(urls, watch)
        return
    path = unquote(urlsplit(str(urls.redis_url)).path)
    watching = Redis.from_url(str(urls.redis_url))
    try:
        # In a thread: a router that starts in another one holds this loop up.
        with in_thread(SilentRelay(path).running) as relay:
            assert isinstance(relay, SilentRelay)
            yield RedisEar(urls, watching, relay)
    finally:
        await watching.aclose()
