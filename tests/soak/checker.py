"""What a journal proves: offline, and from what people saw alone.

A message is known by who sent it to whom, and by its number; the notes of a sender name the recipient in `sender`'s
place of the pair: (who, sender) is (sender, recipient) for ENTERED and SENT, and (recipient, sender) for the others.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from soak.journal import Note, What

Pair = tuple[str, str]
"""Sender and recipient."""
Message = tuple[str, str, int]


@dataclass
class Findings:
    """What must not be. Empty lists are a proof only for what the journal has."""

    sent: int = 0
    received: int = 0
    lost: list[Message] = field(default_factory=list)
    """The router said it has it, and its recipient never got it."""
    stuck: list[Message] = field(default_factory=list)
    """In an outbox to the end."""
    refused: list[Message] = field(default_factory=list)
    """Between contacts the router has no reason to."""
    doubled: list[Message] = field(default_factory=list)
    reordered: list[Message] = field(default_factory=list)
    """After one that was sent later by the same person to the same person."""
    unfounded: list[Message] = field(default_factory=list)
    """Received, and never sent."""
    strays: list[Message] = field(default_factory=list)
    """Given to somebody else, or in somebody else's name."""
    problems: list[Message] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not any(isinstance(value := getattr(self, each.name), list) and value for each in fields(self))

    def summary(self) -> dict[str, int]:
        """Return all counts by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: len(value) if isinstance(value, list) else value for name, value in values.items()}


def check(notes: Iterable[Note]) -> Findings:
    """Go through a journal once."""
    found = Findings()
    entered: set[Message] = set()
    sent: set[Message] = set()
    received: Counter[Message] = Counter()
    highest: dict[Pair, int] = defaultdict(lambda: -1)
    for _, who, what, other, number in notes:
        is_senders = what in {What.ENTERED, What.SENT, What.REFUSED}
        pair = (who, other) if is_senders else (other, who)
        message = (*pair, number)
        if what is What.ENTERED:
            entered.add(message)
        elif what is What.SENT:
            sent.add(message)
        elif what is What.REFUSED:
            found.refused.append(message)
        elif what is What.PROBLEM:
            found.problems.append(message)
        elif what is What.STRAY:
            found.strays.append(message)
        else:
            received[message] += 1
            if received[message] == 1 and number < highest[pair]:
                found.reordered.append(message)
            highest[pair] = max(highest[pair], number)
    found.sent, found.received = len(sent), len(received)
    found.lost = sorted(sent - received.keys())
    found.stuck = sorted(entered - sent - set(found.refused))
    found.doubled = sorted(message for message, count in received.items() if count > 1)
    found.unfounded = sorted(received.keys() - entered)
    return found
