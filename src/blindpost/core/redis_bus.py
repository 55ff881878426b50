"""The wake-up bus over Redis: each process hears of those alone who may wait in it, and commits take no turns for it.

Everybody belongs to one of many shards, each a channel of its own; a process subscribes to a shard while somebody of
it waits there. A hint names people by tags under a key that only the nodes have: Redis learns neither ids nor names.

A hint is published after its commit, so it can be lost in between; a sweep heals that. What Redis does not take at once
is owed, and published when it can be: nobody waits for a Redis that is away.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from secrets import token_bytes
from time import monotonic
from typing import Any, Final
from uuid import UUID

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from blindpost.core.hub import ALL, HEARTBEAT_S, HEARTBEAT_TIMEOUT_S, KINDS, LETTERS, Ears, Hint, Kind, WakeUpBus
from blindpost.telemetry import HINTS_OWED, log

SHARDS: Final = 4_096
"""The more, the less a process hears for nothing; each that it subscribes to costs Redis some 150 bytes."""
TAG_BYTES: Final = 8
EVERYBODY: Final = b"blindpost:wake:all"
"""All are subscribed to it."""
CONNECTIONS_MAX: Final = 4
CONNECT_TIMEOUT_S: Final = 2
PUBLISH_S: Final = 0.5
"""How long senders wait at most for their hints to be with Redis, and only while it is well."""
OWED_MAX: Final = 10_000
"""Tags; beyond, all are told to look."""
RETRY_S: Final = 0.5

# Many in one command: a pipeline would have an answer for each.
_PUBLISH: Final = "for n = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[n], ARGV[n + 1]) end"


class Owed:
    """Hints that Redis has not taken yet: tags, by kind."""

    def __init__(self) -> None:
        self.tags: dict[Kind, set[bytes]] = defaultdict(set)
        self.is_for_all = False

    def __len__(self) -> int:
        return sum(map(len, self.tags.values())) + self.is_for_all

    def add(self, kind: Kind, tags: Iterable[bytes]) -> None:
        self.tags[kind].update(tags)
        if len(self) > OWED_MAX:
            self.tags.clear()
            self.is_for_all = True

    def take_back(self, other: "Owed") -> None:
        """Owe again what could not be paid."""
        self.is_for_all = self.is_for_all or other.is_for_all
        for kind, tags in other.tags.items():
            self.add(kind, tags)

    def messages(self, origin: bytes) -> Iterator[bytes]:
        """Write channels and payloads, in turn."""
        if self.is_for_all:
            yield from (EVERYBODY, origin)
        for kind, tags in self.tags.items():
            by_channel: dict[bytes, list[bytes]] = defaultdict(list)
            for tag in tags:
                by_channel[channel_of(tag)].append(tag)
            for channel, mine in by_channel.items():
                yield from (channel, LETTERS[kind].encode() + origin + b"".join(mine))


class RedisBus(WakeUpBus):
    """One subscribing connection for the whole process, and a few that publish."""

    losses = (RedisError, OSError, TimeoutError)
    refusal = "Redis does not let this program SUBSCRIBE", "give its user the rights in docs/settings.md"
    in_statement = "payload"

    def __init__(self, url: str, key: bytes) -> None:
        options: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        # Silence is nothing bad in a connection that listens: the heartbeat notices what is.
        self._listening = ConnectionPool.from_url(url, socket_timeout=None, **options)
        publishing = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=CONNECT_TIMEOUT_S,
            socket_timeout=CONNECT_TIMEOUT_S,
            **options | {"retry": Retry(NoBackoff(), 1)},  # for one that the server closed while it was idle
        )
        self._redis: Redis = Redis.from_pool(publishing)
        self._publish = self._redis.register_script(_PUBLISH)
        self._key = key
        self._origin = token_bytes(TAG_BYTES)
        """Leads what this process publishes: it has told its own already."""
        self._ears: Ears | None = None
        self._owed = Owed()
        self._is_in_debt = asyncio.Event()
        self._is_paying = True
        self._waiting: dict[bytes, dict[bytes, UUID]] = defaultdict(dict)
        """Who is waited for here, by channel and tag."""
        self._asked: set[bytes] = set()
        self._heard: set[bytes] = set()
        """Channels that this connection subscribed to, and those of which Redis has said so."""
        self._is_changed = asyncio.Event()
        self._pong = asyncio.Event()

    def _tag(self, user_id: UUID) -> bytes:
        return blake2b(user_id.bytes, key=self._key, digest_size=TAG_BYTES).digest()

    # Who waits here

    def attend(self, user_id: UUID) -> None:
        tag = self._tag(user_id)
        channel = channel_of(tag)
        self._waiting[channel][tag] = user_id
        if channel not in self._asked:
            self._is_changed.set()

    def leave(self, user_id: UUID) -> None:
        # Its shard is unsubscribed from with the next heartbeat: somebody who polls is back in a moment.
        tag = self._tag(user_id)
        del self._waiting[channel_of(tag)][tag]

    def hears_of(self, user_id: UUID) -> bool:
        return channel_of(self._tag(user_id)) in self._heard

    # Publishing

    async def ride(self, tx: AsyncConnection, hints: Sequence[Hint]) -> None:
        """Do nothing: Redis knows no commit of PostgreSQL's."""

    async def publish(self, hints: Sequence[Hint]) -> None:
        for kind, user_ids in hints:
            if kind is not Kind.MESSAGES and self._ears is not None:
                self._ears.wake(kind, user_ids)  # at once, and without Redis; of messages the writer has told them
            self._owed.add(kind, map(self._tag, user_ids))
        if self._is_paying:
            try:
                async with asyncio.timeout(PUBLISH_S):
                    await self._pay()
            except self.losses as error:
                log.warning("hints_late", error=type(error).__name__)
        HINTS_OWED.set(len(self._owed))

    async def _pay(self) -> None:
        """Publish what is owed; whatever keeps it from that, it is owed again, as a hint too many does no harm."""
        owed, self._owed = self._owed, Owed()
        if not owed:
            return
        try:
            await self._publish(args=list(owed.messages(self._origin)))
        except BaseException:
            self._owed.take_back(owed)
            self._is_paying = False
            self._is_in_debt.set()
            raise

    async def run(self) -> None:
        """Pay what was owed, as soon as Redis takes it, until cancelled."""
        while True:
            await self._is_in_debt.wait()
            self._is_in_debt.clear()
            with suppress(*self.losses):
                await self._pay()
                self._is_paying = True
            HINTS_OWED.set(len(self._owed))
            if not self._is_paying:
                await asyncio.sleep(RETRY_S)
            elif self._owed:  # it has come to be owed meanwhile
                self._is_in_debt.set()

    async def close(self) -> None:
        await self._redis.aclose()
        await self._listening.aclose()

    # Listening

    async def listen(self, ears: Ears) -> None:
        self._ears = ears
        self._asked, self._heard = set(), set()
        connection: AbstractConnection = self._listening.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()  # type: ignore[no-untyped-call]
        ways = [asyncio.create_task(self._hear(connection, ears)), asyncio.create_task(self._ask(connection, ears))]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            self._heard = set()
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await connection.disconnect(nowait=True)

    async def _ask(self, connection: AbstractConnection, ears: Ears) -> None:
        """Subscribe to what is waited for, and ask now and then for a sign of life."""
        due = 0.0
        await connection.send_command("SUBSCRIBE", EVERYBODY)
        while True:
            await self._follow(connection)
            if monotonic() >= due:
                await self._leave_empty(connection)
                self._pong.clear()
                await connection.send_command("PING")
                async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                    await self._pong.wait()
                if not due:
                    ears.is_listening()  # answers come in order: all that was subscribed to before is heard
                due = monotonic() + HEARTBEAT_S
            with suppress(TimeoutError):
                async with asyncio.timeout(due - monotonic()):
                    await self._is_changed.wait()

    async def _follow(self, connection: AbstractConnection) -> None:
        self._is_changed.clear()
        if wanted := self._waiting.keys() - self._asked:
            self._asked |= wanted
            await connection.send_command("SUBSCRIBE", *wanted)

    async def _leave_empty(self, connection: AbstractConnection) -> None:
        if empty := {channel for channel, users in self._waiting.items() if not users}:
            for channel in empty:
                del self._waiting[channel]
            self._asked -= empty
            self._heard -= empty
            await connection.send_command("UNSUBSCRIBE", *empty)

    async def _hear(self, connection: AbstractConnection, ears: Ears) -> None:
        while True:
            answer: list[Any] = await connection.read_response()
            if answer[0] == b"message":
                self._take(ears, answer[1], answer[2])
            elif answer[0] == b"subscribe" and answer[1] in self._asked:
                self._heard.add(answer[1])
                # Who waits there may have read before this, and of what came in between nobody was told.
                ears.wake(ALL, list(self._waiting.get(answer[1], {}).values()))
            elif answer[0] == b"pong":
                self._pong.set()

    def _take(self, ears: Ears, channel: bytes, payload: bytes) -> None:
        if channel == EVERYBODY or (kind := KINDS.get(chr(payload[0]))) is None:
            ears.wake_all()  # what a newer version means by it is not known: looking does no harm
        elif payload[1 : 1 + TAG_BYTES] != self._origin:
            users = self._waiting.get(channel, {})
            tags = (payload[start : start + TAG_BYTES] for start in range(1 + TAG_BYTES, len(payload), TAG_BYTES))
            ears.wake(kind, [users[tag] for tag in tags if tag in users])


def channel_of(tag: bytes) -> bytes:
    """Name the shard of a tag."""
    return b"blindpost:wake:%03x" % (int.from_bytes(tag[:2], "big") % SHARDS)
