"""The audit: security events of all nodes in one hash chain, under pseudonyms of the day and by the hour.

Nobody who notes an event waits for it, or fails with it. Events gather for about a second, equal ones as one with a
count, and go to the database as rows of the chain. While the database is away they wait, within bounds; what is beyond
the bounds is counted, and the count is written.

A chain does not show that its end was cut off, or that all of it was computed anew. So each node keeps the last row
that it wrote in a file of its own, and moves on from it only while it is still there.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from secrets import token_hex
from typing import Final, NamedTuple

from blindpost.core.audit_chain import EXPIRED, Entry, Head, Row, Walk, link, may_have_expired
from blindpost.core.database import Database, Transaction
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.core.repositories import audit
from blindpost.errors import ConfigurationError, OutcomeUnknown, Unavailable
from blindpost.telemetry import AUDIT_EVENTS, FAULTS, PURGED, log, log_fault

HEAD_FILE: Final = "audit-head"
WORKER_DIRS: Final = "worker-"
CAPACITY: Final = 512
"""Different events that may wait, and so the most rows per second: a flood must not fill the disk either."""
INTERVAL_S: Final = 1.0
EXPIRY_INTERVAL_S: Final = 86_400
EXPIRY_BATCH: Final = 10_000
LAST_TRIES: Final = 3
PAGE: Final = 5_000
SUBJECT: Final = "audit-subject"
ADDRESS: Final = "audit-address"


class Event(StrEnum):
    """What is worth a row."""

    LOGIN_FAILED = "login_failed"
    IDENTITY_KEY_CHANGED = "identity_key_changed"
    ENCRYPTION_KEY_CHANGED = "encryption_key_changed"
    SESSIONS_ENDED = "sessions_ended"
    ACCOUNT_DELETED = "account_deleted"
    LIMIT_HIT = "limit_hit"
    TOKEN_KEY_ROTATED = "token_key_rotated"  # noqa: S105 - the name of an event
    SCHEMA_MIGRATED = "schema_migrated"
    DATABASE_RESTORED = "database_restored"
    AUDIT_EXPIRED = EXPIRED
    EVENTS_LOST = "events_lost"


BY_STRANGERS: Final = frozenset({Event.LOGIN_FAILED, Event.LIMIT_HIT})
"""Events that anybody can cause. They get half of the buffer, so that no flood of them hides a change of keys."""


class Noted(NamedTuple):
    """What equal events have in common."""

    at: datetime
    event: Event
    subject: str | None
    address: str | None


class Batch(NamedTuple):
    """Events taken out of the buffer, each with its count, and how many did not fit in."""

    noted: dict[Noted, int]
    lost: int

    def __bool__(self) -> bool:
        return bool(self.noted or self.lost)

    @property
    def total(self) -> int:
        return sum(self.noted.values())


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class Audit:
    """Gathers one node's events and appends them to the chain."""

    def __init__(
        self,
        database: Database,
        pseudonyms: Pseudonyms,
        data_dir: Path,
        keep_days: int,
        *,
        interval_s: float = INTERVAL_S,
        capacity: int = CAPACITY,
        now: Callable[[], datetime] = now,
    ) -> None:
        self._database = database
        self._pseudonyms = pseudonyms
        self._data_dir = data_dir
        self._keep_days = keep_days
        self._interval_s = interval_s
        self._capacity = capacity
        self._now = now
        self._noted: dict[Noted, int] = {}
        self._lost = 0
        self._unsure: tuple[Batch, Head] | None = None
        self._anchor: Head | None = None
        self._is_broken = False
        self._fault: type[Exception] | None = None
        self._expiry_due = 0.0
        self._closing = asyncio.Event()

    def note(self, event: Event, *, subject: str | None = None, address: str | None = None) -> None:
        """Take note of an event; never waits, never fails.

        The subject is a user id; where there is none, a name in lower case. Neither is kept: only its pseudonym is.
        """
        self._add(Noted(self._hour(), event, subject, address), 1)

    async def run(self) -> None:
        """Write about once a second until closed, and then what is left; a store that is away does not end it."""
        await self._remember()
        try:
            while not self._closing.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._closing.wait()
                await self._round()
            for _ in range(LAST_TRIES):
                if self._is_written():
                    break
                await asyncio.sleep(self._interval_s)
                await self._round()
        finally:
            self._give_up()

    def close(self) -> None:
        """Let `run` end when what was noted is written, or when it cannot be."""
        self._closing.set()

    async def expire(self) -> int:
        """Delete rows from before the days that are kept, and say so in the chain; returns how many.

        The word and the deed are one transaction: a chain that begins late always holds the row that says why.
        """
        async with self._database.transaction() as tx:
            await audit.lock(tx)
            await self._check_anchor(tx)
            last = await audit.last_expired(tx, self._keep_days, EXPIRY_BATCH)
            if last is None:
                return 0
            entry = Entry(self._hour(), Event.AUDIT_EXPIRED, None, None, last)
            rows = link(await audit.head(tx), [entry])
            await audit.append(tx, rows)
            deleted = await audit.delete_to(tx, last)
        PURGED.labels("audit").inc(deleted)
        await self._move_anchor(_head_of(rows[-1]))
        return deleted

    def _hour(self) -> datetime:
        return self._now().replace(minute=0, second=0, microsecond=0)

    def _add(self, what: Noted, count: int) -> None:
        room = self._capacity // 2 if what.event in BY_STRANGERS else self._capacity
        if what in self._noted or len(self._noted) < room:
            self._noted[what] = self._noted.get(what, 0) + count
        else:
            self._lost += count
            AUDIT_EVENTS.labels("lost").inc(count)

    def _take(self) -> Batch:
        batch = Batch(self._noted, self._lost)
        self._noted, self._lost = {}, 0
        return batch

    def _give_back(self, batch: Batch) -> None:
        """Put a batch that was not written in front of what came later: the bound is for both."""
        later, self._noted = self._noted, batch.noted
        self._lost += batch.lost
        for what, count in later.items():
            self._add(what, count)

    def _is_written(self) -> bool:
        return not self._noted and not self._lost and self._unsure is None

    def _give_up(self) -> None:
        if self._unsure is not None:
            self._give_back(self._unsure[0])
            self._unsure = None
        if left := self._take().total:
            AUDIT_EVENTS.labels("lost").inc(left)
            log.error("audit_lost", count=left)

    async def _round(self) -> None:
        try:
            await self._settle()
            await self._write()
            await self._expire_if_due()
        except Unavailable:
            pass  # what was not written is still here: the next round will do
        except Exception as error:  # noqa: BLE001 - events are kept, whatever goes wrong; said once, not every second
            if type(error) is not self._fault:
                log_fault("audit_failed", error)
            self._fault = type(error)
        else:
            self._fault = None

    async def _settle(self) -> None:
        """Find out what became of a commit whose answer was lost: the last row's hash stands for them all.

        Behind the lock, which a commit that is still under way holds.
        """
        if self._unsure is None:
            return
        batch, head = self._unsure
        async with self._database.transaction() as tx:
            await audit.lock(tx)
            is_written = await audit.hash_at(tx, head.id) == head.hash
        self._unsure = None
        if is_written:
            await self._written(batch, head)
        else:
            self._give_back(batch)

    async def _write(self) -> None:
        if not (batch := self._take()):
            return
        try:
            head = await self._append(batch)
        except BaseException:
            if self._unsure is None:
                self._give_back(batch)
            raise
        await self._written(batch, head)

    async def _append(self, batch: Batch) -> Head:
        entries = await self._entries(batch)
        rows: list[Row] = []
        try:
            async with self._database.transaction() as tx:
                await audit.lock(tx)
                await self._check_anchor(tx)
                rows = link(await audit.head(tx), entries)
                await audit.append(tx, rows)
        except OutcomeUnknown:
            self._unsure = batch, _head_of(rows[-1])
            raise
        return _head_of(rows[-1])

    async def _entries(self, batch: Batch) -> list[Entry]:
        entries = [
            Entry(
                what.at,
                what.event,
                await self._pseudonym(SUBJECT, what.subject),
                await self._pseudonym(ADDRESS, what.address),
                count,
            )
            for what, count in batch.noted.items()
        ]
        if batch.lost:
            entries.append(Entry(self._hour(), Event.EVENTS_LOST, None, None, batch.lost))
        return entries

    async def _pseudonym(self, purpose: str, whom: str | None) -> bytes | None:
        return None if whom is None else await self._pseudonyms.of(purpose, whom)

    async def _written(self, batch: Batch, head: Head) -> None:
        AUDIT_EVENTS.labels("written").inc(batch.total)
        await self._move_anchor(head)

    async def _expire_if_due(self) -> None:
        time = asyncio.get_running_loop().time()
        if time >= self._expiry_due:
            while await self.expire() == EXPIRY_BATCH:
                pass
            self._expiry_due = time + EXPIRY_INTERVAL_S

    async def _remember(self) -> None:
        """Read the last row that this node wrote, in an earlier run."""
        try:
            self._anchor = await asyncio.to_thread(read_head, self._data_dir)
        except ConfigurationError:
            self._report_broken()

    async def _check_anchor(self, tx: Transaction) -> None:
        if not self._is_broken and not await self._is_anchored(tx):
            self._report_broken()

    async def _is_anchored(self, tx: Transaction) -> bool:
        if (anchor := self._anchor) is None:
            return True
        found = await audit.hash_at(tx, anchor.id)
        if found is not None:
            return found == anchor.hash
        first = await audit.first_id(tx)
        return first is not None and anchor.id < first and may_have_expired(anchor, self._now())

    def _report_broken(self) -> None:
        """Say it, go on appending, and leave the anchor where it was: it is what proves that rows were taken away."""
        self._is_broken = True
        FAULTS.labels("audit_broken").inc()
        log.error("audit_broken", action="blindpost audit verify")

    async def _move_anchor(self, head: Head) -> None:
        if self._is_broken:
            return
        self._anchor = head
        try:
            await asyncio.to_thread(write_head, self._data_dir, head)
        except OSError as error:
            # The rows are safe. The file stays at an earlier row, which proves less and nothing wrong.
            log_fault("audit_head_failed", error)


def _head_of(row: Row) -> Head:
    return Head(row.id, row.hash, row.at)


_HEAD: Final = re.compile(r"([0-9]{1,18}) ([0-9a-f]{64}) ([0-9T:+-]+)\n")


def read_head(data_dir: Path) -> Head | None:
    """Read which row this node wrote last, None if it wrote none yet; raises ConfigurationError."""
    path = data_dir / HEAD_FILE
    try:
        found = _HEAD.fullmatch(path.read_text("ascii"))
        if found is None:
            raise ValueError
        return Head(int(found[1]), bytes.fromhex(found[2]), datetime.fromisoformat(found[3]).astimezone(UTC))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", "run this as the router's user") from None
    except (ValueError, OverflowError):  # the latter for a time within hours of the calendar's two ends
        raise ConfigurationError(
            f"{path} does not hold a row's number, hash and time: somebody else wrote it",
            "find out who did; with the file deleted, the router begins a new one",
        ) from None


def write_head(data_dir: Path, head: Head) -> None:
    """Replace the file whole and durably: after a crash it is the old one or the new one. Raises OSError."""
    path = data_dir / HEAD_FILE
    fresh = path.with_name(f".{HEAD_FILE}.{token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{head.id} {head.hash.hex()} {head.at.isoformat()}\n")
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def worker_dir(data_dir: Path, number: int) -> Path:
    """Return where a worker keeps its head: two that wrote to one file would wipe out each other's proof.

    The first one's is the directory itself, so that a router finds what it wrote with fewer workers. Raises
    ConfigurationError.
    """
    path = data_dir if number == 1 else data_dir / f"{WORKER_DIRS}{number}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}", "set BLINDPOST_DATA_DIR") from None
    return path


def read_heads(data_dir: Path) -> list[Head]:
    """Read which rows this node's workers wrote last, also those that are no more; raises ConfigurationError."""
    return [head for each in _places(data_dir) if (head := read_head(each)) is not None]


def forget_heads(data_dir: Path) -> None:
    """Delete the files of this node's workers, where its operator has put another chain in place. Raises OSError."""
    for each in _places(data_dir):
        (each / HEAD_FILE).unlink(missing_ok=True)


def _places(data_dir: Path) -> list[Path]:
    return [data_dir, *sorted(data_dir.glob(f"{WORKER_DIRS}*"))]


async def verify(database: Database, anchors: Iterable[Head], expected: bytes | None = None) -> Walk:
    """Walk the whole chain as it is at one moment; raises Unavailable.

    The anchors must have been read before: rows that a running node writes meanwhile are not seen here.
    """
    walk = Walk(anchors, expected)
    async with database.transaction() as tx:
        await audit.snapshot(tx)
        rows = await audit.after(tx, None, PAGE)
        while rows:
            for row in rows:
                walk.take(row)
            rows = await audit.after(tx, rows[-1].id, PAGE)
    walk.finish()
    return walk
