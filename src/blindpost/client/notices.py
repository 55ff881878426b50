"""Whose messages could not be opened here: they are told, in a session of its own, and write in that from then on.

Who lost their sessions would otherwise be written to in the old one until they write themselves.
"""

from collections.abc import Callable
from typing import Final
from uuid import UUID

from blindpost.protocol.content import LOST_MAX

PAUSE_S: Final = 3_600.0
"""Between two notices to one person: a router can make any message one that does not open."""
PEOPLE_MAX: Final = 64


class Notices:
    """What is to be told, and when it may be."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._unopened: dict[UUID, dict[UUID, None]] = {}
        self._last: dict[UUID, float] = {}

    def note(self, sender_id: UUID, message_id: UUID) -> None:
        """Have somebody told that a message of theirs could not be opened."""
        if sender_id not in self._unopened and len(self._unopened) >= PEOPLE_MAX:
            return
        ids = self._unopened.setdefault(sender_id, {})
        ids[message_id] = None
        if len(ids) > LOST_MAX:
            del ids[next(iter(ids))]

    def due(self) -> list[tuple[UUID, bytes]]:
        """Return who is to be told now, and the data of the notice. What is returned counts as told."""
        now = self._clock()
        # A clock that was set back must not silence anybody for longer.
        self._last = {who: then for who, then in self._last.items() if 0 <= now - then < PAUSE_S}
        told = [who for who in self._unopened if who not in self._last]
        self._last |= dict.fromkeys(told, now)
        return [(who, b"".join(each.bytes for each in self._unopened.pop(who))) for who in told]
