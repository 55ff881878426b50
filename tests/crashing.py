"""Two people whose processes are killed: at each write to the disk, and around each request. Run as a program.

It forks much, so it is a process of its own, with one thread. It tells how often it killed.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from blindpost.client import Client, Entry, EntryStatus, Identity, Received, Scrypt, Store
from blindpost.client.records import Records
from blindpost.client.session import Session
from support import unique_name

CHEAP: Final = Scrypt(log2_n=4)
SECRET: Final = "secret"
CASES: Final = 1_000
"""More than there are points."""


class Person:
    """Somebody whose identity and store are files, and who writes down what they know."""

    def __init__(self, origin: str, directory: Path, stem: str) -> None:
        self.origin = origin
        self.path = directory / stem
        directory.mkdir(exist_ok=True)
        Identity.generate(unique_name(stem)).save(self.path.with_suffix(".identity"), SECRET, kdf=CHEAP)

    def _opened(self) -> tuple[Identity, Store]:
        identity = Identity.load(self.path.with_suffix(".identity"), SECRET, floor=CHEAP)
        return identity, Store.open(self.path.with_suffix(".store"), identity)

    @property
    def account(self) -> UUID:
        return self._opened()[0].account

    def client(self) -> Client:
        """Return them as a new process has them."""
        identity, store = self._opened()
        return Client(self.origin, identity, store, history=store.history)

    def note(self, *what: str) -> None:
        """Write down what this person saw: it outlives the process, so the kernel need not have it on disk."""
        with self.path.with_suffix(".journal").open("a") as journal:
            journal.write(json.dumps(what) + "\n")

    def noted(self, what: str) -> list[str]:
        """Return what was written down of a sort."""
        journal = self.path.with_suffix(".journal")
        lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        return [line[1] for line in lines if line[0] == what]

    def history(self, other: "Person") -> list[Entry]:
        """Return what was said."""
        _, store = self._opened()
        return [entry for _, entry in store.history.page(other.account, None, 99)]


def kill_at(point: int) -> None:
    """Have this process killed at one of the points that it comes to."""
    left = point

    def passed() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    run, call = Records._run, Session.call

    def counted_run(self: Records, sql: str, *values: object) -> list[tuple[Any, ...]]:
        is_write = not sql.startswith(("SELECT", "PRAGMA"))
        if is_write:
            passed()
        rows = run(self, sql, *values)
        if sql.startswith(("COMMIT", "RELEASE")):
            passed()
        return rows

    async def counted_call(self: Session, *given: Any, **more: Any) -> Any:
        passed()
        answer = await call(self, *given, **more)
        passed()
        return answer

    Records._run = counted_run  # type: ignore[method-assign]
    Session.call = counted_call  # type: ignore[method-assign]


def in_child(person: Person, work: Callable[[Client], Awaitable[object]], point: int = 0) -> bool:
    """Do something as a person, in a process of its own; False if it was killed at a point."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(_run(person, work, point))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    demand(os.WEXITSTATUS(status) == 0, "a child failed")
    return True


async def _run(person: Person, work: Callable[[Client], Awaitable[object]], point: int) -> None:
    client = person.client()
    # A killed one closes nothing either.
    if point:
        kill_at(point)
    await work(client)


def demand(condition: bool, rule: str) -> None:  # noqa: FBT001
    if not condition:
        sys.exit(f"this does not hold: {rule}")


class Case:
    """Alice writes to Bob, who answers. One of them is killed at a point."""

    def __init__(self, origin: str, directory: Path, killed: str, point: int) -> None:
        self.alice, self.bob = Person(origin, directory, "alice"), Person(origin, directory, "bob")
        self._points = {"alice": 0, "bob": 0} | {killed: point}

    def run(self) -> bool:
        """Play it through; False if the point was beyond the end."""
        for person in (self.alice, self.bob):
            in_child(person, lambda client: client.register())
        alice_id, bob_id = self.alice.account, self.bob.account
        in_child(self.alice, lambda client: client.request_contact(bob_id))
        in_child(self.bob, lambda client: client.accept(alice_id))

        whole = in_child(self.alice, lambda client: self._says(self.alice, client, bob_id), self._points["alice"])
        in_child(self.alice, lambda client: self._goes_on(self.alice, client, bob_id))
        whole &= in_child(self.bob, lambda client: self._reads(self.bob, client, alice_id), self._points["bob"])
        in_child(self.bob, lambda client: self._reads_on(self.bob, client, alice_id))
        in_child(self.alice, lambda client: self._reads_on(self.alice, client, bob_id))
        self._check()
        return not whole

    async def _says(self, person: Person, client: Client, other_id: UUID) -> None:
        for text in ("one", "two"):
            await client.send(other_id, text)
            person.note("sent", text)
        client.enqueue(other_id, "three")
        person.note("sent", "three")

    async def _goes_on(self, person: Person, client: Client, other_id: UUID) -> None:
        await client.flush()
        await client.send(other_id, "last")
        person.note("sent", "last")

    async def _reads(self, person: Person, client: Client, other_id: UUID) -> None:
        for received in await client.receive_once():
            self._note(person, received)
            await client.ack(received)
            person.note("acknowledged", received.text or "")
        await client.send(other_id, "answer")
        person.note("sent", "answer")

    async def _reads_on(self, person: Person, client: Client, _other_id: UUID) -> None:
        while received := await client.receive_once():
            for each in received:
                self._note(person, each)
            await client.ack(*received)
        await client.flush()

    def _note(self, person: Person, received: Received) -> None:
        demand(received.problem is None and not received.missing, f"every message opens: {received.problem}")
        person.note("read", received.text or "")

    def _check(self) -> None:
        for sender, recipient in ((self.alice, self.bob), (self.bob, self.alice)):
            said = [each.data.decode() for each in sender.history(recipient) if each.is_mine]
            read = [each.data.decode() for each in recipient.history(sender) if not each.is_mine]
            demand(said == read, f"what is in the one's history is in the other's, once, in order: {said}, {read}")
            demand(set(sender.noted("sent")) <= set(read), "what was sent or put into the outbox arrives")
            shown = recipient.noted("read")
            demand(set(shown) == set(read), "what arrives is shown")
            again = [text for text in set(shown) if shown.count(text) > 1]
            demand(not set(again) & set(recipient.noted("acknowledged")), "what was acknowledged is not shown again")
            demand(sum(shown.count(text) - 1 for text in again) <= 1, "one death shows one message again at most")
            for each in sender.history(recipient):
                is_settled = each.status in {EntryStatus.SENT, EntryStatus.DELIVERED}
                demand(not each.is_mine or is_settled, f"nothing waits or has failed: {each.status}")


def main(origin: str, directory: Path, step: int, first: int) -> None:
    kills = 0
    for killed in ("alice", "bob"):
        for point in range(1 + first % step, CASES, step):
            if not Case(origin, directory / f"{killed}{point}", killed, point).run():
                break
            kills += 1
        else:
            demand(condition=False, rule="the points come to an end")
    sys.stdout.write(f"{kills}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
