"""People who write to each other through the SDK, and note what they see."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress

from blindpost.client import Client, ClientError, Identity, Received, Retry, Store
from soak.journal import Journal, What
from support import unique_name

RETRY = Retry(attempts=6, base_s=0.05, cap_s=1.0)
PAUSE_S = 0.2
LEFT_S = 30.0


class Person:
    """Somebody with friends, whom they write to in turn."""

    def __init__(self, origin: str, journal: Journal) -> None:
        identity = Identity.generate(unique_name("p"))
        self.name = identity.username
        self.client = Client(origin, identity, Store.in_memory(identity), retry=RETRY)
        self.friends: list[Person] = []
        self.hidden = 0
        """Errors that a call told of, and the next attempt made good."""
        self._journal = journal
        self._next: dict[str, int] = {}

    async def write(self, goes_on: Callable[[], bool], pace_s: float) -> None:
        """Write to one friend after the other, until told to stop and nothing waits any more."""
        while goes_on():
            for friend in self.friends:
                await self._write_to(friend)
                await asyncio.sleep(pace_s)

    async def _write_to(self, friend: "Person") -> None:
        number = self._next.get(friend.name, 0)
        self._next[friend.name] = number + 1
        waiting = self.client.enqueue(friend.client.identity.account, f"{self.name} {friend.name} {number}")
        self._journal.note(self.name, What.ENTERED, friend.name, number)
        while waiting in self.client.unsent():
            try:
                await self.client.deliver(waiting)
            except ClientError:
                self.hidden += 1
                if waiting not in self.client.unsent():
                    self._journal.note(self.name, What.REFUSED, friend.name, number)
                    return
                await asyncio.sleep(PAUSE_S)
        self._journal.note(self.name, What.SENT, friend.name, number)

    async def read(self) -> None:
        """Read for ever."""
        while True:
            try:
                async with aclosing(self.client.events()) as events:
                    async for event in events:
                        if isinstance(event, Received):
                            self._take(event)
            except ClientError:
                # A program that uses the SDK begins to read again; what it had not taken comes again.
                self.hidden += 1
                await asyncio.sleep(PAUSE_S)

    def _take(self, received: Received) -> None:
        sender, recipient, number = (received.text or "? ? -1").split()
        if received.problem is not None or received.missing:
            self._journal.note(self.name, What.PROBLEM, received.username or "?", int(number))
        elif (sender, recipient) != (received.username, self.name):
            self._journal.note(self.name, What.STRAY, received.username or "?", int(number))
        else:
            self._journal.note(self.name, What.RECEIVED, sender, int(number))


async def town(origin: str, journal: Journal, count: int, friends: int) -> list[Person]:
    """Return people in a ring, each a friend of so many after them: all write to their friends."""
    people = [Person(origin, journal) for _ in range(count)]
    await _a_few_at_once([each.client.register for each in people])
    for index, person in enumerate(people):
        for step in range(1, friends + 1):
            friend = people[(index + step) % count]
            person.friends.append(friend)
            friend.friends.append(person)
            await person.client.request_contact(friend.client.identity.account)
            await friend.client.accept(person.client.identity.account)
    return people


async def _a_few_at_once(calls: Sequence[Callable[[], Awaitable[object]]]) -> None:
    turns = asyncio.Semaphore(4)

    async def do(call: Callable[[], Awaitable[object]]) -> None:
        async with turns:
            await call()

    await asyncio.gather(*(do(each) for each in calls))


async def leave(people: Sequence[Person]) -> None:
    """Close everything, though a router may be away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LEFT_S):
            await asyncio.gather(*(each.client.aclose() for each in people), return_exceptions=True)
