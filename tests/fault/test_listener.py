"""The listening connection is killed, kept dead and frozen: a hint may be lost, and never a message."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
import jwt
import pytest
from dishka import Provider, Scope

from blindpost.app import open_components
from blindpost.config import WakeUp
from blindpost.core import notify_bus, redis_bus
from blindpost.core.embedded import StoreUrls
from blindpost.core.hub import HEARTBEAT_S, HEARTBEAT_TIMEOUT_S, Hub, Subscription
from blindpost.core.reader import MessageReader, News
from blindpost.protocol.limits import PAGE_DEFAULT
from blindpost.services.caller import Caller
from blindpost.services.messages import MessageService
from blindpost.services.models.messages import PollAnswer, SendRequest
from fault.ears import Ear, ear_of
from fault.servers import eventually, tell
from support import Person, b64, contacts, person, running_in_thread, settings_for

NEVER_S = 300
"""A sweep that does not come while the test lasts: what arrives came by the listener."""


@dataclass
class Deaf:
    """A router on a database of its own, with two contacts, and its ear."""

    alice: Person
    bob: Person
    ear: Ear
    first: int
    """The connection that listened at the start."""

    async def listens_again(self, than: int) -> None:
        async def another() -> bool:
            return any(each != than for each in await self.ear.listeners())

        await eventually(another, what="another listening connection")

    async def ready(self) -> int:
        answer = await self.alice.http.get("/health/ready")
        return answer.status_code


MakeDeaf = Callable[[float], AbstractAsyncContextManager[Deaf]]


@pytest.fixture
def deaf(own_database: StoreUrls, tmp_path: Path, bus: WakeUp) -> MakeDeaf:
    """Make a router with a given interval of its sweep."""

    @asynccontextmanager
    async def make(sweep_interval_s: float) -> AsyncIterator[Deaf]:
        # One pooled connection: it is there already when no other can be opened.
        more = {"sweep_interval_s": sweep_interval_s, "database_pool_size": 1, "wake_up_bus": bus}
        async with ear_of(bus, own_database) as ear, in_thread(settings_for(ear.urls, tmp_path, **more)) as origin:
            listeners = await ear.listeners()
            assert len(listeners) == 1, "one process listens on one connection"
            async with httpx.AsyncClient(base_url=origin, timeout=90) as http:
                alice, bob = await contacts(http)
                # Connections that work are there already, whatever becomes of new ones.
                await alice.send(bob)
                await bob.drain()
                await alice.drain()
                yield Deaf(alice, bob, ear, listeners[0])

    return make


@asynccontextmanager
async def in_thread(settings: Any) -> AsyncIterator[str]:
    with running_in_thread(settings) as router:
        yield router.origin


async def delivered_in(deaf: Deaf, fault: Callable[[], Coroutine[Any, Any, object]]) -> float:
    """Let Bob wait, break something, send; returns the seconds from the acknowledgement to the delivery."""
    waiting = asyncio.create_task(deaf.bob.poll(60))
    await asyncio.sleep(0)
    await fault()
    answer = await deaf.alice.send(deaf.bob)
    assert answer.status_code == 201
    sent = time.monotonic()
    page = await waiting
    took = time.monotonic() - sent
    ids = [message["id"] for message in page["messages"]]
    assert ids == [answer.json()["id"]]
    await deaf.bob.post("/messages/ack", message_ids=ids)
    return took


# Dead


async def test_messages_keep_arriving_while_the_listening_connection_is_terminated_again_and_again(
    deaf: MakeDeaf,
) -> None:
    """The sweep never comes, so a message sent while nobody listened arrives by the wake-up after the reconnect."""
    async with deaf(NEVER_S) as each:
        delays = []
        for _ in range(10):
            delays.append(await delivered_in(each, each.ear.terminate))
            await each.listens_again(-1)
        tell(f"longest delay after a terminated listener: {max(delays) * 1_000:.0f} ms")
        assert max(delays) < 10
        assert await each.ear.listeners() != [each.first]


async def test_while_no_listening_connection_can_be_opened_the_sweep_delivers(deaf: MakeDeaf) -> None:
    async with deaf(1.0) as each, each.ear.kept_away():
        await each.ear.terminate()
        delays = [await delivered_in(each, each.ear.listeners) for _ in range(3)]
        assert await each.ear.listeners() == []
        tell(f"longest delay by the sweep of 1 s: {max(delays) * 1_000:.0f} ms")
        assert max(delays) < 1.0 + 5


async def test_without_a_listening_connection_the_router_is_not_ready_and_recovers_by_itself(
    deaf: MakeDeaf,
) -> None:
    async with deaf(NEVER_S) as each:

        async def ready() -> bool:
            return await each.ready() == 200

        assert await ready()
        async with each.ear.kept_away():
            await each.ear.terminate()

            async def unready() -> bool:
                return await each.ready() == 503

            await eventually(unready, what="unreadiness")
            assert (await each.alice.http.get("/health/live")).status_code == 200
        await eventually(ready, what="readiness")
        assert await delivered_in(each, each.ear.listeners) < 10


async def test_lost_wake_ups_for_contacts_and_receipts_heal_by_the_sweep(deaf: MakeDeaf) -> None:
    async with deaf(0.5) as each, each.ear.kept_away():
        await each.ear.terminate()
        message = (await each.alice.send(each.bob)).json()["id"]
        waiting = asyncio.create_task(each.alice.poll(60))
        await each.bob.post("/messages/ack", message_ids=[message])
        assert (await waiting)["delivered"] == [message]
        stranger = await person(each.alice.http)
        await stranger.drain()
        waiting = asyncio.create_task(each.bob.poll(60))
        assert (await stranger.post("/contacts/send-contact-request", receiver_id=each.bob.id)).status_code == 201
        assert (await waiting)["contacts_changed"] is True
        assert await each.ear.listeners() == []


# Frozen


async def test_a_listening_connection_that_is_silently_dead_delays_a_message_by_a_sweep_at_most(
    deaf: MakeDeaf,
) -> None:
    async with deaf(1.0) as each:
        with each.ear.frozen(each.first):
            delay = await delivered_in(each, each.ear.listeners)
            assert await each.ear.listeners() == [each.first], "it was noticed before: this shows nothing"
        assert delay < 1.0 + 5


async def test_the_heartbeat_notices_a_frozen_listening_connection_and_another_one_is_opened(
    deaf: MakeDeaf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (notify_bus, redis_bus):
        monkeypatch.setattr(module, "HEARTBEAT_S", 0.5)
        monkeypatch.setattr(module, "HEARTBEAT_TIMEOUT_S", 0.5)
    async with deaf(NEVER_S) as each:
        with each.ear.frozen(each.first):
            began = time.monotonic()
            assert await delivered_in(each, each.ear.listeners) < 20
            tell(f"noticed by a heartbeat of 0.5 + 0.5 s within {time.monotonic() - began:.2f} s")
            assert await each.ready() == 200
    assert HEARTBEAT_S + HEARTBEAT_TIMEOUT_S < 30


# Between the read and the wait


class Injecting(MessageReader):
    """A reader that lets a test act just before or just after one reading: at the poll's critical moments."""

    before: Callable[[], Coroutine[Any, Any, None]] | None = None
    after: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def look(self, user_id: UUID, session_id: UUID) -> News | None:
        before, self.before = self.before, None
        after, self.after = (None if before else self.after), (self.after if before else None)
        if before:
            await before()
        news = await super().look(user_id, session_id)
        if after:
            await after()
        return news


def caller_of(someone: Person) -> Caller:
    claims = jwt.decode(someone.token, options={"verify_signature": False})
    return Caller(UUID(claims["sub"]), UUID(claims["jti"]))


@dataclass
class Inside:
    """The services themselves, on the test's own event loop."""

    reader: Injecting
    hub: Hub
    messages: MessageService
    bob: Person
    alice: Person

    async def poll(self) -> PollAnswer:
        return await self.messages.poll(caller_of(self.bob), None, 60, PAGE_DEFAULT)

    async def send(self) -> None:
        """Send to Bob."""
        request = {"recipient_id": self.bob.id, "message": b64(b"between")}
        await self.messages.send(caller_of(self.alice), SendRequest.model_validate(request))

    async def send_and_be_heard(self) -> None:
        """Send to Bob, who reads, and go on only when the hub has heard of it."""
        await self.send()
        subscriptions = [each for mine in self.hub._subscriptions.values() for each in mine]

        async def heard() -> bool:
            return all(isinstance(each, Subscription) and each._event.is_set() for each in subscriptions)

        await eventually(heard, what="a notification")


@pytest.fixture
async def inside(own_database: StoreUrls, tmp_path: Path, bus: WakeUp) -> AsyncIterator[Inside]:
    settings = settings_for(own_database, tmp_path / "outside", wake_up_bus=bus)
    async with in_thread(settings) as origin, httpx.AsyncClient(base_url=origin, timeout=90) as http:
        alice, bob = await contacts(http)
        provider = Provider(Scope.APP)
        provider.provide(Injecting, provides=MessageReader, override=True)
        own = settings_for(own_database, tmp_path / "inside", sweep_interval_s=NEVER_S, wake_up_bus=bus)
        async with open_components(own, provider) as container:
            reader = cast("Injecting", await container.get(MessageReader))
            yield Inside(reader, await container.get(Hub), await container.get(MessageService), bob, alice)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_message_committed_around_the_first_read_of_a_poll_is_delivered_at_once(
    inside: Inside, moment: str
) -> None:
    setattr(inside.reader, moment, inside.send_and_be_heard)
    async with asyncio.timeout(30):
        answer = await inside.poll()
    assert [each.message for each in answer.messages] == [b"between"]


async def test_a_hint_that_was_stale_does_not_end_the_wait(inside: Inside) -> None:
    waiting = asyncio.create_task(inside.poll())

    async def waits() -> bool:
        return inside.hub._count == 1

    await eventually(waits, what="a waiting poll")
    inside.hub.wake_all()
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done
    await inside.send()
    async with asyncio.timeout(30):
        assert (await waiting).has_messages
