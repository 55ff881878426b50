"""The lines of a conversation, as they are shown."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from blindpost.client import Entry, EntryStatus
from blindpost.protocol.content import Kind

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a conversation."""

    key: str
    """What it is known by on the screen. Mine, theirs and held ones are apart, as the router knows ids of all."""
    contact_id: UUID
    """The other side."""
    is_mine: bool
    text: str
    """As it was written: the screens make it harmless."""
    sent_at: datetime
    status: EntryStatus
    problem: str | None = None
    """A sentence on what is wrong with it."""
    missing: int = 0
    """How many messages should have come before it, and did not."""


def line_of(entry: Entry) -> Line:
    """Return a message of the history as a line."""
    return Line(
        key=f"{'mine' if entry.is_mine else 'theirs'} {entry.client_message_id}",
        contact_id=entry.contact_id,
        is_mine=entry.is_mine,
        text=_text_of(entry),
        sent_at=_EPOCH + timedelta(milliseconds=entry.sent_at_ms),
        status=entry.status,
        problem=entry.problem,
        missing=entry.missing,
    )


def _text_of(entry: Entry) -> str:
    if entry.kind is Kind.TEXT:
        return entry.data.decode("utf-8")
    # What could not be opened has none; whoever sends nothing as bytes sends nothing to show.
    return f"[{len(entry.data):,} bytes]" if entry.data else ""
