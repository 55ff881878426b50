"""A store whose process is killed: before and after each of its system calls, and at any time. Run as a program.

It forks much, so it is a process of its own, with one thread. It ends with 77 where the kernel forbids ptrace.
"""

import ctypes
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final
from uuid import UUID

from blindpost.client import Identity, Store
from blindpost.client.history import Entry, EntryStatus
from blindpost.client.saved import Prekey, PrekeySort, SavedSession
from blindpost.client.store import Unsent
from blindpost.protocol.content import Kind

FORBIDDEN: Final = 77
TRACE_ME: Final = 0
NEXT_SYSTEM_CALL: Final = 24
LIBC: Final = ctypes.CDLL(None, use_errno=True)
BOB: Final = UUID(int=2)
ALICE: Final = Identity.generate("alice")
BIG: Final = 8_000
"""Bytes, so that a change is of many pages."""
WAITING: Final = 20
"""Messages that are in the outbox at one time."""


def fork(work: Callable[[], None], *, is_traced: bool = False) -> int:
    """Do the work in a child; a traced one stops where the work says so."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if is_traced and LIBC.ptrace(TRACE_ME, 0, None, None) != 0:
            os._exit(FORBIDDEN)
        work()
        status = 0
    finally:
        os._exit(status)


def from_here() -> None:
    """Count stops from here on, in a child that is traced."""
    os.kill(os.getpid(), signal.SIGSTOP)


def killed_at(stop: int, work: Callable[[], None]) -> bool:
    """Kill a child at one of its stops, two for each system call; False if it was at its end before."""
    pid = fork(work, is_traced=True)
    _, status = os.waitpid(pid, 0)
    for _ in range(stop):
        if os.WIFEXITED(status):
            break
        LIBC.ptrace(NEXT_SYSTEM_CALL, pid, None, None)
        _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        if os.WEXITSTATUS(status):
            sys.exit(os.WEXITSTATUS(status))
        return False
    kill(pid)
    return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    with closing(Store.open(path, ALICE)) as store:
        yield store


def message(number: int, size: int = 10) -> tuple[Unsent, Entry, SavedSession]:
    """What belongs together: the ratchet's step, what is to be sent, and what the user sees of it."""
    unsent = Unsent(client_message_id=UUID(int=number), recipient_id=BOB, message=bytes(size))
    entry = Entry(
        client_message_id=UUID(int=number),
        contact_id=BOB,
        is_mine=True,
        kind=Kind.BYTES,
        data=bytes(size),
        sent_at_ms=number,
        message_id=None,
        status=EntryStatus.WAITING,
    )
    return unsent, entry, SavedSession(id=bytes(32), state=number.to_bytes(8, "big") + bytes(size), rank=number)


def write(store: Store, number: int, size: int = 10) -> None:
    unsent, entry, session = message(number, size)
    with store.change():
        store.sessions.put(BOB, session)
        store.enqueue(unsent)
        store.history.add(entry)


def prekey(number: int) -> Prekey:
    return Prekey(
        id=UUID(int=number),
        sort=PrekeySort.ONE_TIME,
        secret=bytes(32),
        made_at_s=0,
        expires_s=None,
        signer=b"key",
        published=False,
    )


def begin(path: Path) -> None:
    """Make a store with something in it."""
    with opened(path) as store, store.change():
        write(store, 1, BIG)
        for number in range(10):
            store.prekeys.put(prekey(number))


def change(path: Path) -> None:
    """Add, replace and remove, of every sort; then note that it is done, and nothing may undo it."""
    with opened(path) as store:
        from_here()
        with store.change():
            write(store, 2, BIG)
            store.settle(UUID(int=1))
            store.history.update(BOB, True, UUID(int=1), status=EntryStatus.SENT, message_id=UUID(int=9))
            store.prekeys.remove(UUID(int=3))
            store.mark_seen(BOB, bytes(32))
            store.flag(UUID(int=7))
        path.with_name("done").touch()


def content(path: Path) -> object:
    """Everything that begin and change are about."""
    with opened(path) as store:
        marks = store.seen(BOB, bytes(32)), store.was_flagged(UUID(int=7))
        return store.unsent(), store.history.page(BOB, None, 9), store.sessions.all_of(BOB), store.prekeys.all(), marks


def demand(holds: object, rule: str) -> None:
    if not holds:
        sys.exit(f"broken: {rule}")


def copied(folder: Path, name: str) -> Path:
    """Return the store in a copy of a folder."""
    copy = folder.with_name(name)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy / "store"


def killings(folder: Path, name: str, work: Callable[[Path], None], every: int = 1) -> Iterator[tuple[int, Path]]:
    """Do some work on copies of a folder's store, killed ever later; yield each stop and what was left."""
    for stop in count(0, every):
        path = copied(folder, name)
        if not killed_at(stop, partial(work, path)):
            return
        yield stop, path


def a_change_is_whole_or_not_at_all(folder: Path) -> None:
    """Wherever its process is killed, and wherever the one that comes next to mend it."""
    begun = folder / "begun"
    begun.mkdir()
    begin(begun / "store")
    before = content(begun / "store")
    finished = copied(begun, "finished")
    demand(not killed_at(sys.maxsize, partial(change, finished)), "it comes to an end")
    after = content(finished)
    mended, seen = 0, []
    for stop, path in killings(begun, "killed", change):
        journal = path.with_name("store-journal")
        # A journal that is not empty is for the next one to mend with: some of these are killed, too.
        if journal.exists() and journal.stat().st_size and stop % 25 == 0:
            mended += mend(path.parent, (before, after))
        is_done = path.with_name("done").exists()
        now = content(path)
        demand(now in ((after,) if is_done else (before, after)), f"whole or not at all, at stop {stop}")
        seen.append(now == after)
    demand(seen == sorted(seen), "what is committed stays")
    demand(set(seen) == {False, True}, "some are killed before, and some after")
    demand(mended, "some are killed while they mend")


def mend(killed: Path, allowed: tuple[object, ...]) -> int:
    """Open what a killed process left, kill the opener, and return how often."""
    number = 0
    for stop, path in killings(killed, "mended", read, every=11):
        demand(content(path) in allowed, f"whole or not at all, also when mended, at stop {stop}")
        number += 1
    return number


def read(path: Path) -> None:
    from_here()
    content(path)


def make(path: Path) -> None:
    from_here()
    begin(path)


def a_store_is_begun_whole_or_not_at_all(folder: Path) -> None:
    """Wherever the process that makes it is killed, the next one can use it."""
    empty = folder / "empty"
    empty.mkdir()
    for stop, path in killings(empty, "beginning", make, every=3):
        begin(path)
        with opened(path) as store:
            demand(len(store.prekeys.all()) == len(store.sessions.all_of(BOB)) * 10 == 10, f"usable, at stop {stop}")


def work_on(path: Path, told: int) -> None:
    """Write message after message, and tell of each when it is on disk."""
    with opened(path) as store:
        while True:
            with store.change():
                number = written_to(store) + 1
                write(store, number, number)
                store.settle(UUID(int=max(number - WAITING, 0)))
            os.write(told, number.to_bytes(4, "big"))


def written_to(store: Store) -> int:
    return max((each.rank for each in store.sessions.all_of(BOB)), default=0)


def a_commit_outlives_its_process(folder: Path) -> None:
    """Two write, and are killed at any time, again and again: each message that was told of is there, and whole."""
    path = folder / "long"
    chance = random.Random(1)  # noqa: S311
    number = 0
    for _ in range(25):
        mine, theirs = os.pipe()
        children = [fork(partial(work_on, path, theirs)) for _ in range(2)]
        os.close(theirs)
        time.sleep(chance.uniform(0.01, 0.1))
        for pid in children:
            kill(pid)
        with os.fdopen(mine, "rb") as pipe:
            told = pipe.read()
        last = max((int.from_bytes(told[at : at + 4], "big") for at in range(0, len(told), 4)), default=0)
        with opened(path) as store:
            number = written_to(store)
            demand(number >= last, "what was told of is there")
            demand_whole(store, [message(each, each) for each in range(1, number + 1)])
    demand(number > WAITING, "they came to something")


def demand_whole(store: Store, expected: list[tuple[Unsent, Entry, SavedSession]]) -> None:
    history = [entry for _, entry in store.history.page(BOB, None, 1 << 20)]
    demand(store.unsent() == tuple(unsent for unsent, _, _ in expected[-WAITING:]), "the outbox is whole")
    demand(history == [entry for _, entry, _ in expected], "the history is whole, and in order")
    demand(store.sessions.all_of(BOB) == tuple(session for _, _, session in expected[-1:]), "no key is used again")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    a_change_is_whole_or_not_at_all(place)
    a_store_is_begun_whole_or_not_at_all(place)
    a_commit_outlives_its_process(place)
