"""What people saw, written down as they saw it: one line each, of the time, who, what, with whom and the number."""

import json
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TextIO


class What(StrEnum):
    """What somebody saw."""

    ENTERED = "entered"
    """A message is in their outbox."""
    SENT = "sent"
    """The router said that it has it on disk."""
    REFUSED = "refused"
    """The router said that it will not take it."""
    RECEIVED = "received"
    PROBLEM = "problem"
    """A message did not open, or others before it were missing."""
    STRAY = "stray"
    """A message is not for who got it, or not by who is said to have sent it."""


class Note(NamedTuple):
    """One line."""

    at: float
    """Seconds since the run began."""
    who: str
    what: What
    sender: str
    number: int
    """The message's, among those of its sender to its recipient."""


class Journal:
    """A file that grows by lines."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._began = time.monotonic()
        self.counts = dict.fromkeys(What, 0)

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def note(self, who: str, what: What, sender: str, number: int) -> None:
        self.counts[what] += 1
        self._file.write(json.dumps([round(self.now, 3), who, what.value, sender, number]) + "\n")


def read(path: Path) -> Iterator[Note]:
    """Read what was written down."""
    with path.open() as file:
        for line in file:
            at, who, what, sender, number = json.loads(line)
            yield Note(at, who, What(what), sender, number)
