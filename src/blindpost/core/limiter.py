"""Rate limits, counted in Redis under pseudonyms: no address or name is kept there.

`hit` asks Redis each time; it is for what is rare or dear. `spend` is for what is done all the time: the process
gives credit, and settles with Redis after a lease of them, so that it costs an ordinary request nothing.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Final, NamedTuple, NoReturn

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute

from blindpost.core.audit import Audit, Event
from blindpost.core.cache import Cache
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.errors import TooManyRequests
from blindpost.telemetry import LIMITS_HIT


class Limit(NamedTuple):
    """How often one thing may be done by one address or account."""

    purpose: str
    rate: RateLimitItem
    by_address: bool = False
    """Whether an address is counted, or else an account."""


REGISTER: Final = Limit("register", RateLimitItemPerMinute(60), by_address=True)
CHALLENGE: Final = Limit("challenge", RateLimitItemPerMinute(240), by_address=True)
LOGIN: Final = Limit("login", RateLimitItemPerMinute(120), by_address=True)
LOGIN_ONE_NAME: Final = Limit("login-name", RateLimitItemPerMinute(20), by_address=True)
SEARCH: Final = Limit("search", RateLimitItemPerMinute(60))
SEARCH_ADDRESS: Final = Limit("search-address", RateLimitItemPerMinute(240), by_address=True)
CONTACT_REQUEST: Final = Limit("contact-request", RateLimitItemPerDay(100))
PUBLISH_PREKEYS: Final = Limit("publish-prekeys", RateLimitItemPerDay(100))
CLAIM_PREKEYS: Final = Limit("claim-prekeys", RateLimitItemPerMinute(120))
PROVE: Final = Limit("prove", RateLimitItemPerMinute(10))

# These are spent, and each is a multiple of its lease.
PUBLIC_KEYS: Final = Limit("public-keys", RateLimitItemPerMinute(600))
USERS_BY_IDS: Final = Limit("users-by-ids", RateLimitItemPerMinute(600))
SEND: Final = Limit("send", RateLimitItemPerMinute(24_000))
SEND_PAIR: Final = Limit("send-pair", RateLimitItemPerMinute(12_000))
REQUEST: Final = Limit("request", RateLimitItemPerMinute(60_000))

LEASE_MIN: Final = 30
LEASE_PART: Final = 100
"""So much of a limit is spent between two questions to Redis, and each process can let as much more pass in each
window: what is counted for every message is asked for rarely."""
LEASES_MAX: Final = 32_768
"""Whoever is forgotten to make room for another has their credit again: a lease of it."""


def lease_of(limit: Limit) -> int:
    """How many are spent between two questions to Redis."""
    return max(LEASE_MIN, limit.rate.amount // LEASE_PART)


class _Lease:
    """What one caller may spend of one limit in this process before Redis is asked."""

    __slots__ = ("ends", "left", "refused_until")

    def __init__(self, left: int, ends: float) -> None:
        self.left = left
        self.ends = ends
        self.refused_until = 0.0


class Limiter:
    """Counts by address, and by account, under pseudonyms that change every day."""

    def __init__(
        self,
        cache: Cache,
        pseudonyms: Pseudonyms,
        audit: Audit,
        *,
        is_on: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._pseudonyms = pseudonyms
        self._audit = audit
        self._is_on = is_on
        self._clock = clock
        self._leases: OrderedDict[tuple[str, ...], _Lease] = OrderedDict()

    async def hit(self, limit: Limit, *whom: str) -> None:
        """Count one; raises TooManyRequests with the seconds to wait, or Unavailable if it cannot count."""
        if self._is_on and (wait := await self._count(limit, whom, 1)) is not None:
            self._refuse(limit, whom, wait)

    async def spend(self, limit: Limit, *whom: str) -> None:
        """Count one, mostly without asking anybody; raises TooManyRequests, or Unavailable if it cannot count."""
        if not self._is_on:
            return
        now = self._clock()
        lease = self._lease_of(limit, whom, now)
        if now < lease.refused_until:
            self._refuse(limit, whom, ceil(lease.refused_until - now))
        lease.left -= 1
        if lease.left < 0:
            await self._renew(lease, limit, whom)

    def spend_known(self, *limits: tuple[Limit, tuple[str, ...]]) -> bool:
        """Count one of each without asking anybody; if that cannot be, count nothing: `spend` tells why."""
        if not self._is_on:
            return True
        now = self._clock()
        leases = [self._leases.get((limit.purpose, *whom)) for limit, whom in limits]
        for lease in leases:
            if lease is None or lease.left <= 0 or now >= lease.ends or now < lease.refused_until:
                return False
        for lease in leases:
            lease.left -= 1  # type: ignore[union-attr]
        return True

    def _lease_of(self, limit: Limit, whom: tuple[str, ...], now: float) -> _Lease:
        key = (limit.purpose, *whom)
        lease = self._leases.get(key)
        if lease is None or now >= max(lease.ends, lease.refused_until):
            lease = self._leases[key] = _Lease(lease_of(limit), now + limit.rate.get_expiry())
            if len(self._leases) > LEASES_MAX:
                self._leases.popitem(last=False)
        return lease

    async def _renew(self, lease: _Lease, limit: Limit, whom: tuple[str, ...]) -> None:
        """Settle for what was spent. Those who come meanwhile spend of the next lease, and do not ask too."""
        lease.left += lease_of(limit)
        try:
            wait = await self._count(limit, whom, lease_of(limit))
        except BaseException:
            lease.left = 0  # not settled: the next one asks again
            raise
        if wait is not None:
            lease.left = 0
            lease.refused_until = self._clock() + wait
            self._refuse(limit, whom, wait)

    def _refuse(self, limit: Limit, whom: tuple[str, ...], wait_s: int) -> NoReturn:
        who = {"address" if limit.by_address else "subject": whom[0]}
        LIMITS_HIT.labels(limit.purpose).inc()
        self._audit.note(Event.LIMIT_HIT, **who)
        raise TooManyRequests(retry_after=wait_s)

    async def _count(self, limit: Limit, whom: tuple[str, ...], cost: int) -> int | None:
        pseudonym = await self._pseudonyms.of(*whom)
        return await self._cache.hit(limit.rate, limit.purpose, pseudonym.hex(), cost=cost)
