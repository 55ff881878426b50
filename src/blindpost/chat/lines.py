"""The lines of conversations, as they are shown."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Status(StrEnum):
    """What became of a message: the first four are for mine, the others for theirs."""

    WAITING = "waiting"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    TAKEN = "taken"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a conversation."""

    id: UUID
    contact_id: UUID
    """The other side."""
    is_mine: bool
    text: str
    """As it was written: the screens make it harmless."""
    sent_at: datetime
    status: Status
    message_id: UUID | None = None
    """The router's."""
    problem: str | None = None
    """A sentence on what is wrong with it."""
    missing: int = 0
    """How many messages should have come before it, and did not."""


class Lines:
    """All conversations of this run, each in the order in which its lines became known."""

    def __init__(self) -> None:
        self._of: dict[UUID, list[Line]] = {}

    def add(self, line: Line) -> Line | None:
        """Put a line at its end, or in the place of the one with its id, which is returned."""
        lines = self._of.setdefault(line.contact_id, [])
        for index, each in enumerate(lines):
            if each.id == line.id:
                lines[index] = line
                return each
        lines.append(line)
        return None

    def page(self, contact_id: UUID, before: int | None, limit: int) -> list[tuple[int, Line]]:
        """Return the last lines before a position (None: the end), with their positions, oldest first."""
        lines = self._of.get(contact_id, [])
        end = len(lines) if before is None else before
        start = max(0, end - limit)
        return list(enumerate(lines[start:end], start))

    def update(self, line: Line, **changes: Any) -> Line:
        """Change a line, and return what it is now."""
        changed = replace(line, **changes)
        self.add(changed)
        return changed

    def delivered(self, message_ids: Iterable[UUID]) -> list[Line]:
        """Mark messages of mine, by the router's ids, as delivered, and return them."""
        wanted = set(message_ids)
        found = [each for lines in self._of.values() for each in lines if each.is_mine and each.message_id in wanted]
        return [self.update(each, status=Status.DELIVERED) for each in found]

    def unread(self) -> dict[UUID, int]:
        """Return how many lines of each person were not read, for those with any."""
        counts = {who: sum(each.status is Status.TAKEN for each in lines) for who, lines in self._of.items()}
        return {who: count for who, count in counts.items() if count}

    def mark_read(self, contact_id: UUID) -> None:
        """Mark what was taken of a person as read."""
        for each in list(self._of.get(contact_id, [])):
            if each.status is Status.TAKEN:
                self.update(each, status=Status.READ)
