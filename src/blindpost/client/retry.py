"""When a call is repeated, and after how long."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeVar

from blindpost.client.errors import Refused, Unreachable

T = TypeVar("T")

NOTHING_CHANGED: Final = frozenset({"unavailable", "overloaded", "shutting_down"})
"""503 codes that promise it; with any other the outcome is unknown."""
UNAVAILABLE: Final = 503
TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with full jitter, bounded in number and length."""

    attempts: int = 5
    base_s: float = 0.25
    cap_s: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = secrets.SystemRandom().random

    async def run(self, call: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        """Call until it succeeds; raises the last Unreachable (`sent` if any of them was) or Refused.

        A call that is not `repeatable` is made again only if it is certain that it was not carried out.
        """
        sent = False
        for attempt in count(1):
            try:
                return await call()
            except (Unreachable, Refused) as error:
                # A first try may have been carried out, even if the last did not get as far.
                sent = sent or _may_have_acted(error)
                if isinstance(error, Unreachable):
                    error.sent = sent
                if attempt >= self.attempts or not _may_repeat(error, repeatable=repeatable):
                    raise
                await self.wait(attempt - 1, error)
        raise AssertionError("counting has no end")

    async def wait(self, attempt: int, error: Unreachable | Refused) -> None:
        """Sleep before the next attempt: at least what the router asked for, never more than twice the cap."""
        jittered = self.random() * min(self.cap_s, self.base_s * 2.0 ** min(attempt, 30))
        asked = error.retry_after if isinstance(error, Refused) else None
        await self.sleep(min(asked or 0.0, self.cap_s) + jittered)


def is_passing(error: Unreachable | Refused) -> bool:
    """Tell whether this may be over in a moment, so that a stream waits and goes on."""
    return isinstance(error, Unreachable) or error.status in {UNAVAILABLE, TOO_MANY}


def _may_have_acted(error: Unreachable | Refused) -> bool:
    if isinstance(error, Unreachable):
        return error.sent
    return error.status == UNAVAILABLE and error.code not in NOTHING_CHANGED


def _may_repeat(error: Unreachable | Refused, *, repeatable: bool) -> bool:
    if isinstance(error, Unreachable):
        return repeatable or not error.sent
    return error.status == UNAVAILABLE and (repeatable or error.code in NOTHING_CHANGED)
