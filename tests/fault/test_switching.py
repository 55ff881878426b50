"""Clients that change between polls, Server-Sent Events and WebSockets while connections break: all arrives, once.

SWITCHING_SECONDS=600 for a longer run, SWITCHING_SEED=... for one that failed: it is printed. The seed decides what is
done and what breaks, the machine when.
"""

import asyncio
import base64
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import httpx
import pytest

from blindpost.client import Client, Identity, Received, Refused, Retry, Store, Unreachable
from blindpost.client import client as client_module
from blindpost.client import pauses as pauses_module
from blindpost.core.embedded import StoreUrls
from checks import client_of, success
from fault.servers import connected, eventually, tell
from relays import Relay, Wire
from sockets import WAYS, Closed, reading, socket
from sockets import Refused as RefusedUpgrade
from support import Person, contacts, running_in_thread, settings_for, unique_name

SECONDS = float(os.environ.get("SWITCHING_SECONDS", "4"))
SEED = os.environ.get("SWITCHING_SEED") or str(random.SystemRandom().randrange(2**32))
PAIRS, FRIENDS = 3, 2
CUT = 0.02
"""How likely a connection is to break with what passes."""
QUIET = Retry(attempts=4, base_s=0.01, cap_s=0.05)
Broken = (Closed, RefusedUpgrade, httpx.TransportError, OSError, EOFError)


class Pair(Protocol):
    """One who sends numbers, and one who receives them."""

    sent: int
    received: list[int]
    """In the order in which they came, without what came again."""

    @property
    def sender(self) -> str:
        """The sender's id."""

    async def send(self, until: float) -> None:
        """Send until it is so late, and until all of it is certain to be stored."""

    async def receive(self) -> None:
        """Receive for ever."""

    async def left(self) -> int:
        """Take what is still there, and count what was not known of it."""


class Travellers:
    """Two who speak the protocol by hand, and change the way after some messages."""

    def __init__(self, seed: str, origin: str, alice: Person, bob: Person) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._origin = origin
        self._alice = alice
        self._bob = bob
        self._ids: dict[str, int] = {}
        """The router's, with the number that was sent."""
        self.sent = 0
        self.received: list[int] = []
        self._seen: set[str] = set()

    @property
    def sender(self) -> str:
        return self._alice.id

    async def send(self, until: float) -> None:
        while time.monotonic() < until:
            count = self._chance.randrange(1, 12)
            left = {str(uuid4()): number for number in range(self.sent, self.sent + count)}
            while left:
                how = self._chance.choice((self._by_calls, self._by_socket))
                with suppress(*Broken):
                    await how(left)
            self.sent += count

    def _note(self, left: dict[str, int], client_message_id: str, message_id: str) -> None:
        if (number := left.pop(client_message_id, None)) is not None:
            assert self._ids.setdefault(message_id, number) == number

    async def _by_calls(self, left: dict[str, int]) -> None:
        for identifier, number in list(left.items()):
            answer = await self._alice.send(self._bob, str(number).encode(), client_message_id=identifier)
            self._note(left, identifier, success(answer, 201)["id"])

    async def _by_socket(self, left: dict[str, int]) -> None:
        is_patient = self._chance.random() < 0.7
        async with socket(self._alice, self._origin) as ws:
            for identifier, number in left.items():
                ws.send(self._bob, str(number).encode(), identifier)
            while left:
                answer = await ws.next("sent")
                self._note(left, answer["client_message_id"], answer["id"])
                if not is_patient:
                    return

    async def receive(self) -> None:
        while True:
            with suppress(*Broken):
                await self._receive_some(self._chance.choice(WAYS), self._chance.randrange(1, 20))

    async def _receive_some(self, way: str, count: int) -> None:
        async with reading(way, self._bob, self._origin) as reader:
            for _ in range(count):
                message = await reader.next("message")
                self._take(message["id"], message["message"])
                if self._chance.random() < 0.8:
                    await reader.acknowledge(message["id"])

    def _take(self, message_id: str, data: str) -> None:
        if message_id not in self._seen:
            self._seen.add(message_id)
            self.received.append(int(base64.b64decode(data)))

    async def left(self) -> int:
        before = len(self.received)
        page = await self._bob.poll(0, limit=500)
        for message in page["messages"]:
            self._take(message["id"], message["message"])
        await self._bob.drain()
        return len(self.received) - before


class Friends:
    """Two who use the SDK, which changes the way by itself; and who leave and come back."""

    def __init__(self, seed: str, alice: Client, bob: Client) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._alice = alice
        self._bob = bob
        self.sent = 0
        self.received: list[int] = []

    @property
    def sender(self) -> str:
        return str(self._alice.identity.account)

    async def send(self, until: float) -> None:
        following = asyncio.create_task(self._follow())
        try:
            while time.monotonic() < until:
                await self._send_one()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self) -> None:
        """Listen, so that the sends have a WebSocket to go over."""
        async with aclosing(self._alice.events()) as events:
            async for _ in events:
                pass

    async def _send_one(self) -> None:
        try:
            await self._alice.send(self._bob.identity.account, str(self.sent))
        except (Unreachable, Refused):
            if not self._alice.unsent():
                return  # it did not come as far as the outbox
        while self._alice.unsent():
            with suppress(Unreachable, Refused):
                await self._alice.flush()
        self.sent += 1

    async def receive(self) -> None:
        while True:
            if self._chance.random() < 0.7:
                await self._receive_some(self._chance.randrange(1, 30))
            else:
                await self.left()

    async def _receive_some(self, count: int) -> None:
        async with aclosing(self._bob.messages()) as messages:
            async for message in messages:
                self._take(message)
                count -= 1
                if not count:
                    with suppress(Unreachable, Refused):
                        await self._bob.ack(message)
                    return

    def _take(self, message: Received) -> None:
        assert message.problem is None
        self.received.append(int(message.text or ""))

    async def left(self) -> int:
        received: list[Received] = []
        with suppress(Unreachable, Refused):
            received = await self._bob.receive_once()
            for each in received:
                self._take(each)
            await self._bob.ack(*received)
        return len(received)


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with Relay().running() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all pauses short, so that much is changed in little time."""
    for name in ("JITTER_S", "LATER_S", "REFUSED_S", "AWAY_S"):
        monkeypatch.setattr(pauses_module, name, 0.05)
    monkeypatch.setattr(pauses_module, "STABLE_S", 0.3)
    monkeypatch.setattr(client_module, "IDLE_PAUSE_S", 0.02)
    monkeypatch.setattr(client_module, "IDLE_PAUSE_MAX_S", 0.05)


async def friends(origin: str, stack: AsyncExitStack) -> tuple[Client, Client]:
    """Return two contacts, to be closed with the stack."""
    people = [Identity.generate(unique_name()) for _ in range(2)]
    alice, bob = [
        await stack.enter_async_context(Client(origin, each, Store.in_memory(each), retry=QUIET)) for each in people
    ]
    for each in (alice, bob):
        await each.register()
    await alice.request_contact(bob.identity.username)
    await bob.accept(alice.identity.username)
    return alice, bob


async def trouble(relay: Relay, chance: random.Random) -> None:
    """Break connections, and refuse upgrades every now and then."""

    def cut(wire: Wire, _data: bytes, _from_client: bool) -> None:  # noqa: FBT001
        if chance.random() < CUT:
            wire.cut()

    relay.on_data = cut
    try:
        while True:
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            relay.heal()
            if chance.random() < 0.4:
                relay.refuse(chance.choice((403, 404, 426, 502)))
    finally:
        relay.on_data = lambda _wire, _data, _from_client: None
        relay.heal()


@pytest.mark.timeout(SECONDS + 180)
@pytest.mark.usefixtures("impatient")
async def test_whoever_changes_the_way_while_connections_break_gets_everything_once_and_in_order(
    own_database: StoreUrls, tmp_path: Path, relay: Relay
) -> None:
    tell(f"SWITCHING_SEED={SEED} SWITCHING_SECONDS={SECONDS:g}")
    with running_in_thread(settings_for(own_database, tmp_path, public_origin=relay.origin)) as router:
        relay.before(router)
        async with client_of(router) as http, AsyncExitStack() as stack:
            http.base_url = httpx.URL(relay.origin)
            pairs: list[Pair] = [
                *[Travellers(f"{SEED}-{number}", relay.origin, *await contacts(http)) for number in range(PAIRS)],
                *[Friends(f"{SEED}:{number}", *await friends(relay.origin, stack)) for number in range(FRIENDS)],
            ]
            await run(pairs, relay)
    async with connected(str(own_database.database_url)) as database:
        for pair in pairs:
            assert pair.received == list(range(pair.sent))
            stored = await database.fetchval("SELECT count(*) FROM traces WHERE sender_id = $1", pair.sender)
            assert stored == pair.sent
    tell(f"{sum(pair.sent for pair in pairs)} messages; {relay.count('GET /messages/ws')} WebSockets asked for")


async def run(pairs: list[Pair], relay: Relay) -> None:
    """Send and receive in trouble, and then let the rest arrive."""
    until = time.monotonic() + SECONDS
    receiving = [asyncio.create_task(pair.receive()) for pair in pairs]
    troubling = asyncio.create_task(trouble(relay, random.Random(SEED)))  # noqa: S311 - no secret
    try:
        await asyncio.gather(*(pair.send(until) for pair in pairs))
        await end(troubling)

        async def is_all_there() -> bool:
            failed = [task.exception() for task in receiving if task.done()]
            assert not failed
            return all(len(pair.received) >= pair.sent for pair in pairs)

        await eventually(is_all_there, 60, f"all of it (SWITCHING_SEED={SEED})")
    finally:
        await end(troubling, *receiving)
    for pair in pairs:
        assert await pair.left() == 0


async def end(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
