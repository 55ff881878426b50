"""Lines and people as text for the screen. Whatever others wrote becomes harmless here, and is never markup."""

from datetime import datetime
from typing import Final

from textual.content import Content

from blindpost.chat.lines import Line
from blindpost.chat.model import Connection, Person, Reach, Trust
from blindpost.client import EntryStatus
from blindpost.printable import printable

TAB: Final = " " * 4
TICKS: Final = {EntryStatus.WAITING: "…", EntryStatus.SENT: "✓", EntryStatus.DELIVERED: "✓✓", EntryStatus.FAILED: "✗"}
UNREAD_MAX: Final = 99
LINES_MAX: Final = 300
MARKS: Final = {
    Trust.COMPARED: ("✓", "$text-success"),
    Trust.UNCOMPARED: (" ", ""),
    Trust.CHANGED: ("!", "bold $text-error"),
    Trust.INVALID: ("!", "bold $text-error"),
}


def safe(text: str) -> str:
    """Return what may be shown of a text that anybody may have written."""
    return printable(text).replace("\t", TAB)


def tick(line: Line) -> Content:
    """Say how far a message of mine came."""
    styles = {EntryStatus.FAILED: "bold $text-error", EntryStatus.DELIVERED: "$text-success"}
    style = styles.get(line.status, "$text-muted")
    return Content.styled(TICKS.get(line.status, ""), style)


def time_of(line: Line) -> Content:
    """Return the time of day."""
    return Content.styled(f"{_local(line.sent_at):%H:%M}", "$text-muted")


def day_of(line: Line) -> str:
    """Return the day, in full."""
    day = _local(line.sent_at)
    return f"{day:%A}, {day.day} {day:%B %Y}"


def _local(moment: datetime) -> datetime:
    try:
        return moment.astimezone()
    except (OverflowError, ValueError):
        # The sender's clock may say any year from 1970 to 9999, and not each is one here.
        return moment


def body_of(line: Line) -> Content:
    """Return what was written, and what is wrong with it."""
    shown, left = _cut(line.text)
    parts: list[Content | tuple[str, str]] = [Content(safe(shown))] if shown else []
    if left:
        parts.append((f"\n[{left:,} more lines are not shown]", "$text-muted"))
    if line.problem is not None:
        parts += [*(["\n"] if parts else []), (f"! {safe(line.problem)}", "bold $text-error")]  # type: ignore[list-item]
    return Content.assemble(*parts)


def _cut(text: str) -> tuple[str, int]:
    """Return what is shown of a text, and how many lines are not: each costs the screen, and anybody can send many."""
    lines = text.split("\n")
    return "\n".join(lines[:LINES_MAX]), max(0, len(lines) - LINES_MAX)


def gap_of(line: Line, name: str) -> str:
    """Say what did not arrive before a line."""
    if line.missing == 1:
        return f"1 message of {safe(name)} before this one has not arrived"
    return f"{line.missing:,} messages of {safe(name)} before this one have not arrived" if line.missing else ""


def entry_of(person: Person) -> Content:
    """Return somebody as an entry of the list: the mark and the count first, so that no long name hides them."""
    mark, style = MARKS[person.trust]
    many = f"{UNREAD_MAX}+" if person.unread > UNREAD_MAX else str(person.unread or "")
    name = (safe(person.name), "bold" if person.unread else "")
    return Content.assemble((mark, style), (f"{many:>3} ", "bold $text-warning"), name)


def about(person: Person) -> Content:
    """Return the head of a conversation."""
    said = {
        Trust.COMPARED: ("✓ safety number compared", "$text-success"),
        Trust.UNCOMPARED: ("safety number not compared", "$text-muted"),
        Trust.CHANGED: ("! KEYS CHANGED", "bold $text-error"),
        Trust.INVALID: ("! KEYS NOT VALID", "bold $text-error"),
    }[person.trust]
    return Content.assemble((safe(person.name), "bold"), "   ", said)


def warning_of(person: Person) -> str:
    """Say why nothing is sent to somebody, and what to do."""
    name = safe(person.name)
    if person.trust is Trust.INVALID:
        return f"The server gives keys for {name} that are not valid. Nothing is sent to them. Ctrl+T says more."
    return f"The keys of {name} changed. Nothing is sent until you have compared the new number: Ctrl+T."


def state_of(connection: Connection) -> Content:
    """Return how it stands with the router."""
    style = {Reach.CONNECTED: "$text-success", Reach.AWAY: "bold $text-warning"}.get(connection.reach, "$text-muted")
    sign = "●" if connection.reach is Reach.CONNECTED else "○"
    reason = f": {safe(connection.reason)}" if connection.reason else ""
    return Content.styled(f"{sign} {connection.reach}{reason}", style)
