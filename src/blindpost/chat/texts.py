"""Lines and people as text for the screen. Whatever others wrote becomes harmless here, and is never markup."""

from datetime import datetime
from typing import Final

from textual.content import Content

from blindpost.chat.lines import Line
from blindpost.chat.model import Connection, Person, Reach, Standing, Trust
from blindpost.client import EntryStatus
from blindpost.printable import printable

TAB: Final = " " * 4
TICKS: Final = {EntryStatus.WAITING: "…", EntryStatus.SENT: "✓", EntryStatus.DELIVERED: "✓✓", EntryStatus.FAILED: "✗"}
UNREAD_MAX: Final = 99
LINES_MAX: Final = 300
REFUSALS: Final = {
    "(user_not_found)": "has no account here any more",
    "(not_a_contact)": "is no contact of yours here",
}
"""What is meant, by how the client ends what the router says. Who was erased is first no contact any more."""
NEW_STORE: Final = (
    "The file with what is remembered here is new: safety numbers are not compared, "
    "and earlier messages cannot be read."
)
STANDINGS: Final = {
    Standing.NONE: ("", "Enter asks them to be a contact."),
    Standing.ASKED_YOU: ("asked you: Enter accepts", "They asked you: Enter accepts."),
    Standing.YOU_ASKED: ("you asked them", "They have not answered yet."),
    Standing.CONTACT: ("contact", "They are your contact already."),
    Standing.REJECTED: ("rejected", "Enter asks them, if it was you who rejected."),
}
"""How one stands with somebody who was found, and what Enter does."""
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


def body_of(line: Line, name: str) -> Content:
    """Return what was written to or by somebody of this name, and what is wrong with it."""
    shown, left = _cut(line.text)
    parts: list[Content | tuple[str, str]] = [Content(safe(shown))] if shown else []
    if left:
        parts.append((f"\n[{left:,} more lines are not shown]", "$text-muted"))
    if line.problem is not None:
        parts += [*(["\n"] if parts else []), (f"! {_problem_of(line, line.problem, name)}", "bold $text-error")]  # type: ignore[list-item]
    return Content.assemble(*parts)


def _problem_of(line: Line, problem: str, name: str) -> str:
    said = REFUSALS.get(problem.rpartition(" ")[2]) if line.is_mine else None
    return safe(problem if said is None else f"{name} {said}")


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
    """Return the head of a conversation: the state first, so that no long name hides it."""
    said = {
        Trust.COMPARED: ("✓ safety number compared", "$text-success"),
        Trust.UNCOMPARED: ("safety number not compared", "$text-muted"),
        Trust.CHANGED: ("! KEYS CHANGED", "bold $text-error"),
        Trust.INVALID: ("! KEYS NOT VALID", "bold $text-error"),
    }[person.trust]
    return Content.assemble(said, "   ", (safe(person.name), "bold"))


def warning_of(person: Person) -> str:
    """Say why nothing is sent to somebody, and what to do."""
    name = safe(person.name)
    if person.trust is Trust.INVALID:
        return f"The server gives keys for {name} that are not valid. Nothing is sent to them. Ctrl+T says more."
    return f"The keys of {name} changed. Nothing is sent until you have compared the new number: Ctrl+T."


def me_of(name: str, origin: str, *, keeps: bool) -> str:
    """Say who one is, and first, so that no long name hides it, if nothing is kept."""
    return f"{'' if keeps else 'history off   '}{name} at {origin}"


def title(unread: int) -> str:
    """Return the terminal's title."""
    return f"blindpost ({unread})" if unread else "blindpost"


def below(count: int) -> str:
    """Say how many new messages are below what is in sight."""
    return f"↓ {count} new" if count else ""


def drafts(count: int) -> str:
    """Say what is lost by leaving."""
    what = "1 message is" if count == 1 else f"{count} messages are"
    return f"{what} written and not sent. Ctrl+Q once more leaves."


def asked(name: str, *, is_contact: bool) -> str:
    """Say what came of asking somebody."""
    return f"{safe(name)} is your contact now" if is_contact else f"{safe(name)} was asked"


def state_of(connection: Connection) -> Content:
    """Return how it stands with the router."""
    style = {Reach.CONNECTED: "$text-success", Reach.AWAY: "bold $text-warning"}.get(connection.reach, "$text-muted")
    sign = "●" if connection.reach is Reach.CONNECTED else "○"
    return Content.styled(f"{sign} {connection.reach}", style)
