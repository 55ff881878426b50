"""What holds for the wake-up bus over Redis alone: who hears what, what is owed, and what Redis learns."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from dishka import AsyncContainer
from redis.asyncio import Redis

from blindpost.app import open_components
from blindpost.config import WakeUp
from blindpost.core import redis_bus
from blindpost.core.embedded import StoreUrls
from blindpost.core.hub import Hint, Hub, Kind
from blindpost.core.redis_bus import EVERYBODY, OWED_MAX, TAG_BYTES, Owed, RedisBus, channel_of
from blindpost.core.safety import REDIS_RIGHTS, REDIS_RIGHTS_OF_BUS
from blindpost.protocol.limits import PAGE_DEFAULT
from blindpost.services.messages import MessageService
from blindpost.services.models.messages import PollAnswer, SendRequest
from blindpost.telemetry import HINTS_OWED
from fault.servers import Handmade, eventually, fresh_database
from fault.test_listener import caller_of, in_thread
from support import Person, b64, contacts, person, settings_for

NEVER_S = 300
"""No sweep comes while a test lasts: what crosses does so by the bus."""
CHANNELS = "blindpost:wake:*"


class Inside:
    """A node on the test's own event loop, asked without HTTP."""

    def __init__(self, hub: Hub, messages: MessageService) -> None:
        self.hub = hub
        self.messages = messages

    @classmethod
    async def of(cls, container: AsyncContainer) -> "Inside":
        return cls(await container.get(Hub), await container.get(MessageService))

    @property
    def bus(self) -> RedisBus:
        assert isinstance(self.hub.bus, RedisBus)
        return self.hub.bus

    async def send(self, sender: Person, recipient: Person) -> None:
        request = {"recipient_id": recipient.id, "message": b64(b"opaque")}
        await self.messages.send(caller_of(sender), SendRequest.model_validate(request))

    async def poll(self, someone: Person) -> PollAnswer:
        return await self.messages.poll(caller_of(someone), None, 60, PAGE_DEFAULT)

    async def a_poll_waits(self, someone: Person) -> "asyncio.Task[PollAnswer]":
        """Begin a poll, and return when whatever happens from now on is heard."""
        polling = asyncio.create_task(self.poll(someone))

        async def waits() -> bool:
            user_id = UUID(someone.id)
            return user_id in self.hub._subscriptions and self.bus.hears_of(user_id)

        await eventually(waits, what="a waiting poll")
        return polling


@asynccontextmanager
async def nodes(urls: StoreUrls, directory: Path, count: int, sweep_interval_s: float) -> AsyncIterator[list[Inside]]:
    async with AsyncExitStack() as stack:
        opened = []
        for index in range(count):
            more = {"sweep_interval_s": sweep_interval_s, "wake_up_bus": WakeUp.REDIS}
            settings = settings_for(urls, directory / f"inside-{index}", **more)
            opened.append(await Inside.of(await stack.enter_async_context(open_components(settings))))
        yield opened


async def two_contacts(urls: StoreUrls, directory: Path) -> tuple[Person, Person]:
    """Make them by a router that is gone when they are there."""
    settings = settings_for(urls, directory / "outside")
    async with in_thread(settings) as origin, httpx.AsyncClient(base_url=origin, timeout=90) as http:
        return await contacts(http)


async def test_while_redis_is_away_the_sweep_delivers_and_what_is_owed_is_published_when_it_is_back(
    servers: Handmade, tmp_path: Path
) -> None:
    urls = await fresh_database(servers.urls)
    alice, bob = await two_contacts(urls, tmp_path)
    async with nodes(urls, tmp_path, 2, sweep_interval_s=0.5) as (one, two):
        polling = await two.a_poll_waits(bob)
        await asyncio.to_thread(servers.redis.kill)
        async with asyncio.timeout(20):
            await one.send(alice, bob)  # nobody is made to wait for a Redis that is away
            assert len((await polling).messages) == 1
        assert HINTS_OWED._value.get() > 0
        assert not two.hub.listening.is_set()
        await asyncio.to_thread(servers.redis.start)
        await eventually(lambda: is_true(lambda: HINTS_OWED._value.get() == 0), what="publication of what was owed")
        for each in (one, two):
            async with asyncio.timeout(20):
                await each.hub.listening.wait()


async def is_true(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_a_node_hears_of_nobody_while_nobody_waits_there(
    own_database: StoreUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_bus, "HEARTBEAT_S", 0.2)
    alice, bob = await two_contacts(own_database, tmp_path)
    redis = Redis.from_url(str(own_database.redis_url))
    async with nodes(own_database, tmp_path, 2, NEVER_S) as (one, two):
        channel = channel_of(two.bus._tag(UUID(bob.id)))
        assert await redis.pubsub_channels(CHANNELS) == [EVERYBODY]
        polling = await two.a_poll_waits(bob)
        assert set(await redis.pubsub_channels(CHANNELS)) == {EVERYBODY, channel}
        assert await redis.pubsub_numsub(channel) == [(channel, 1)]
        await one.send(alice, bob)
        assert len((await polling).messages) == 1

        async def is_left() -> bool:
            return await redis.pubsub_channels(CHANNELS) == [EVERYBODY]

        await eventually(is_left, what="the end of the subscription")
    await redis.aclose()


async def test_a_message_that_is_stored_before_the_shard_is_heard_is_found_when_it_is(
    own_database: StoreUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll has read, and its shard is not subscribed to yet: the hint goes by, and the confirmation wakes it."""
    alice, bob = await two_contacts(own_database, tmp_path)
    goes_on, follow = asyncio.Event(), RedisBus._follow

    async def late(self: RedisBus, connection: object) -> None:
        if self._waiting:
            await goes_on.wait()
        await follow(self, connection)  # type: ignore[arg-type]

    async with nodes(own_database, tmp_path, 2, NEVER_S) as (one, two):
        monkeypatch.setattr(RedisBus, "_follow", late)
        polling = asyncio.create_task(two.poll(bob))
        await eventually(lambda: is_true(lambda: two.hub._count == 1), what="a waiting poll")
        await one.send(alice, bob)
        assert not two.bus.hears_of(UUID(bob.id))
        goes_on.set()
        async with asyncio.timeout(20):
            assert len((await polling).messages) == 1


async def test_redis_hears_tags_that_only_nodes_can_read_and_no_id_or_name(
    own_database: StoreUrls, tmp_path: Path
) -> None:
    redis = Redis.from_url(str(own_database.redis_url))
    heard: list[bytes] = []
    async with redis.pubsub(ignore_subscribe_messages=True) as thief:
        await thief.psubscribe(CHANNELS)
        settings = settings_for(own_database, tmp_path, wake_up_bus=WakeUp.REDIS)
        async with in_thread(settings) as origin, httpx.AsyncClient(base_url=origin, timeout=90) as http:
            alice, bob = await contacts(http)
            message = (await alice.send(bob)).json()["id"]
            await bob.post("/messages/ack", message_ids=[message])
            await (await person(http)).post("/auth/logout")
            # Of each kind something must be said, or this shows nothing.
            async with asyncio.timeout(20):
                while {each[:1] for each in heard[1::2]} != {b"m", b"r", b"c", b"s"}:
                    if (said := await thief.get_message(timeout=1)) is not None:
                        heard += [said["channel"], said["data"]]
    await redis.aclose()
    everything = b"\n".join(heard)
    for each in (alice, bob):
        for form in (UUID(each.id).bytes, UUID(each.id).hex.encode(), each.id.encode(), each.name.encode()):
            assert form not in everything


async def test_the_rights_in_the_settings_page_are_enough_for_the_bus(servers: Handmade, tmp_path: Path) -> None:
    urls = await fresh_database(servers.urls)
    alice, bob = await two_contacts(urls, tmp_path)
    admin = Redis.from_url(str(urls.redis_url))
    rights = f"{REDIS_RIGHTS} {REDIS_RIGHTS_OF_BUS}".split()
    await admin.execute_command("ACL", "SETUSER", "blindpost", "on", ">secret", *rights)  # type: ignore[no-untyped-call]
    await admin.aclose()
    narrow = StoreUrls(urls.database_url, str(urls.redis_url).replace("redis://", "redis://blindpost:secret@"))
    async with nodes(narrow, tmp_path, 2, NEVER_S) as (one, two):
        polling = await two.a_poll_waits(bob)
        await one.send(alice, bob)
        async with asyncio.timeout(20):
            assert len((await polling).messages) == 1
        assert HINTS_OWED._value.get() == 0


async def test_what_comes_to_be_owed_while_debts_are_paid_is_paid_without_another_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_bus, "RETRY_S", 0.01)
    bus = RedisBus("redis://127.0.0.1:1", bytes(32))
    paid: list[object] = []
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def publish(args: object) -> None:
        paid.append(args)
        if len(paid) == 1:
            raise ConnectionError
        begun.set()
        await goes_on.wait()

    monkeypatch.setattr(bus, "_publish", publish)
    running = asyncio.create_task(bus.run())
    await bus.publish([Hint(Kind.MESSAGES, [uuid4()])])
    await begun.wait()
    await bus.publish([Hint(Kind.MESSAGES, [uuid4()])])
    goes_on.set()
    await eventually(lambda: is_true(lambda: len(paid) == 3 and not bus._owed), what="the last publication")
    assert paid[0] == paid[1] != paid[2]
    running.cancel()
    await bus.close()


def test_more_hints_than_can_be_owed_become_one_for_everybody() -> None:
    owed = Owed()
    for _ in range(OWED_MAX + 1):
        owed.add(Kind.MESSAGES, [uuid4().bytes[:TAG_BYTES]])
    origin = bytes(TAG_BYTES)
    assert list(owed.messages(origin)) == [EVERYBODY, origin]
    later = Owed()
    later.add(Kind.RECEIPTS, [origin])
    later.take_back(owed)
    assert len(later) == 2
    assert list(later.messages(origin))[:2] == [EVERYBODY, origin]
