"""When a WebSocket is opened again, by how the last one ended or was refused (spec/http.md, Closing)."""

import math
from collections.abc import Callable
from typing import Final

from blindpost.client.errors import Refused, Unreachable

LOG_IN: Final = 4100
LATER: Final = 4300
AT_ONCE: Final = frozenset({LOG_IN, 4200, 4201, 4202})
NEVER: Final = frozenset({1002, 1003, 1007, 1009})
"""What we sent was not understood, and nothing will have changed by then."""

JITTER_S: Final = 1.0
AT_ONCE_MAX: Final = 3
"""So often in a row; then with pauses that grow, whatever the code says."""
LATER_S: Final = 10.0
PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses of a router, or of a proxy before it, that may be another in a moment."""
REFUSED_S: Final = 60.0
"""After a handshake that was refused in another way, or not answered. Each try may hold up the polls for seconds."""
AWAY_S: Final = 5.0
"""While nobody is reached, by polls either: these have pauses of their own."""
LONGEST_S: Final = 3_600.0
STABLE_S: Final = 60.0
"""A connection that lasted so long was none that breaks again and again."""
DOUBLINGS_MAX: Final = 30


class Pauses:
    """Counts what failed in a row, and says how long to wait, in seconds; `inf` for ever."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0
        self._is_over = False

    def closed(self, code: int | None, lasted_s: float) -> float:
        """Take in how a connection ended: with the router's code, or None if it broke."""
        self._is_over = self._is_over or code in NEVER
        if lasted_s >= STABLE_S:
            self._failures = 0
        earlier, self._failures = self._failures, self._failures + 1
        if code == LATER:
            return self._grown(LATER_S, earlier)
        return self._grown(0.0, earlier - AT_ONCE_MAX if code in AT_ONCE else earlier)

    def refused(self, error: Unreachable | Refused) -> float:
        """Take in why none could be opened."""
        if isinstance(error, Unreachable) and not error.sent:
            return self.away()
        earlier, self._failures = self._failures, self._failures + 1
        if isinstance(error, Refused) and error.status in PASSING:
            return max(self._grown(0.0, earlier), min(error.retry_after or 0.0, LONGEST_S))
        return self._grown(REFUSED_S, earlier)

    def away(self) -> float:
        """Take in that the router is not reached at all: what failed before may have been the network's fault."""
        self._failures = 0
        return math.inf if self._is_over else AWAY_S + self._random() * JITTER_S

    def _grown(self, least_s: float, doublings: int) -> float:
        """Return a pause that doubles with each failure, of which the least is certain and the rest is chance."""
        if self._is_over:
            return math.inf
        factor = 2.0 ** min(max(doublings, 0), DOUBLINGS_MAX)
        return min((least_s + self._random() * JITTER_S) * factor, LONGEST_S)
