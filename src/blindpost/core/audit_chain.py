"""The audit's chain: how a row is hashed, how rows follow each other, and what a walk over them finds. No I/O.

    hash = SHA-256(transcript("audit-row", previous, id, at, event, subject, address, count))

with the framing of `protocol.transcripts`: a label of its own, and a length before every field. `id`, `at` and `count`
are eight bytes, signed, big-endian; `at` counts microseconds since 1970 (UTC); `event` is UTF-8; `subject` and
`address` are empty where there is none, and otherwise 0x01 and the pseudonym. The first row's `previous` is 32 zeros.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from itertools import chain
from typing import Final, NamedTuple

from blindpost.protocol.transcripts import transcript

LABEL: Final = "audit-row"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
EXPIRED: Final = "audit_expired"
"""The event that says up to which row the oldest ones were deleted: their last id is its count."""
EXPIRABLE: Final = timedelta(days=6)
"""Nothing younger than a week is deleted (a trigger); a day is for whole hours and for clocks that differ."""
FAULTS_MAX: Final = 20
NEARBY: Final = 100
"""How far from its place a moved row is recognised; from farther away it counts as edited."""
ID_MAX: Final = 2**63 - 1


class Entry(NamedTuple):
    """What happened, before it has a place in the chain."""

    at: datetime
    event: str
    subject: bytes | None
    address: bytes | None
    count: int  # type: ignore[assignment]  # a tuple's method of this name is not missed


class Row(NamedTuple):
    """A row of `audit`."""

    id: int
    at: datetime
    event: str
    subject: bytes | None
    address: bytes | None
    count: int  # type: ignore[assignment]  # a tuple's method of this name is not missed
    previous: bytes
    hash: bytes


class Head(NamedTuple):
    """Enough of a row to know it again."""

    id: int
    hash: bytes
    at: datetime


BEGINNING: Final = Head(0, bytes(32), EPOCH)


def hash_of(row: Row) -> bytes:
    """Hash everything of a row but its hash."""
    since_1970 = (row.at - EPOCH) // timedelta(microseconds=1)
    place = row.previous, _number(row.id), _number(since_1970)
    what = row.event.encode(), _optional(row.subject), _optional(row.address), _number(row.count)
    return sha256(transcript(LABEL, *place, *what)).digest()


def _number(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def _optional(value: bytes | None) -> bytes:
    return b"" if value is None else b"\x01" + value


def link(head: Head, entries: Iterable[Entry]) -> list[Row]:
    """Make the rows that follow a head, in this order."""
    rows: list[Row] = []
    previous, number = head.hash, head.id
    for entry in entries:
        number += 1
        row = Row(number, *entry, previous, b"")
        previous = hash_of(row)
        rows.append(row._replace(hash=previous))
    return rows


class Kind(StrEnum):
    """How a chain can be wrong."""

    EDITED = "edited"
    MISSING = "missing"
    OUT_OF_ORDER = "out of order"
    BROKEN = "broken link"
    BEGINS_TOO_LATE = "begins too late"
    CUT_OFF = "cut off at the end"
    REWRITTEN = "rewritten"


class Fault(NamedTuple):
    """One thing that is wrong, and where."""

    kind: Kind
    row: int | None
    says: str


class Walk:
    """Takes the rows in the order of their ids, and says what is wrong with them.

    A chain that was cut at its end, or computed anew as a whole, looks right in itself. Only somebody who remembers
    a row of it can tell: the anchors are the last rows that this node's workers wrote, `expected` a hash that was
    written down.
    """

    def __init__(self, anchors: Iterable[Head] = (), expected: bytes | None = None) -> None:
        self.count = 0
        self.first: Row | None = None
        self.last: Row | None = None
        self.faults: list[Fault] = []
        """The first twenty."""
        self._unmet: dict[int, list[Head]] = {}
        for anchor in anchors:
            self._unmet.setdefault(anchor.id, []).append(anchor)
        self._expected = expected
        self._expired: Row | None = None
        self._is_expected_there = self._is_suspect = False

    def take(self, row: Row) -> None:
        before, self.last = self.last, row
        self.first = self.first or row
        self.count += 1
        if before is not None and row.id != before.id + 1:
            self._found(Kind.MISSING, before.id + 1, f"up to row {row.id - 1} there is nothing")
        is_whole = hash_of(row) == row.hash
        if not is_whole:
            self._not_whole(row)
        elif not self._is_suspect and not _follows(row, before):
            self._found(Kind.BROKEN, row.id, "it does not follow from the row before it: one of the two was replaced")
        elif row.event == EXPIRED:
            self._expired = row
        self._is_suspect = not is_whole
        self._compare(row)

    def _not_whole(self, row: Row) -> None:
        if len(self.faults) < FAULTS_MAX and (place := _place_of(row)) is not None:
            self._found(Kind.OUT_OF_ORDER, row.id, f"it was written as row {place}")
        else:
            self._found(Kind.EDITED, row.id, "its hash is not the hash of what it says")

    def _compare(self, row: Row) -> None:
        self._is_expected_there |= row.hash == self._expected
        if any(anchor.hash != row.hash for anchor in self._unmet.pop(row.id, ())):
            self._found(Kind.REWRITTEN, row.id, "this node remembers it with another hash")

    def finish(self) -> list[Fault]:
        """Say what only the whole shows."""
        self._check_beginning()
        for anchor in chain.from_iterable(self._unmet.values()):
            self._check_unmet(anchor)
        if self._expected is not None and not self._is_expected_there:
            self._found(Kind.REWRITTEN, None, "the hash that was expected is not in the chain, or not any more")
        return self.faults

    def _check_beginning(self) -> None:
        """Rows may be gone at the beginning, if a row of the chain says that just these have expired."""
        if self.first is None or self.first.id <= 1:
            return
        if self._expired is None or self._expired.count != self.first.id - 1:
            self._found(Kind.BEGINS_TOO_LATE, self.first.id, "no row says that those before it have expired")

    def _check_unmet(self, anchor: Head) -> None:
        if self.first is None or self.last is None or anchor.id > self.last.id:
            self._found(Kind.CUT_OFF, anchor.id, "this node wrote it, and the chain ends before it")
        elif anchor.id < self.first.id and (self._expired is None or not may_have_expired(anchor, self._expired.at)):
            # Whoever can append can also append a false word of an expiry; not one from before the row was written.
            self._found(Kind.BEGINS_TOO_LATE, anchor.id, "this node wrote it too lately for it to have expired")

    def _found(self, kind: Kind, row: int | None, says: str) -> None:
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(kind, row, says))


def may_have_expired(head: Head, at: datetime) -> bool:
    """Tell whether this row was old enough to be deleted at that time."""
    return at - head.at > EXPIRABLE


def _follows(row: Row, before: Row | None) -> bool:
    if before is not None:
        return row.id != before.id + 1 or row.previous == before.hash
    return row.id != 1 or row.previous == BEGINNING.hash


def _place_of(row: Row) -> int | None:
    """Find where a row that was moved, or swapped with another, stood before."""
    for number in range(max(row.id - NEARBY, 1), min(row.id + NEARBY, ID_MAX)):
        if hash_of(row._replace(id=number)) == row.hash:
            return number
    return None
