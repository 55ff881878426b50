"""Rate limits, counted in Redis under pseudonyms: no address or name is kept there."""

from typing import Final, NamedTuple

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute

from blindpost.core.cache import Cache
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.errors import TooManyRequests


class Limit(NamedTuple):
    """How often one thing may be done by one address or account."""

    purpose: str
    rate: RateLimitItem


REGISTER: Final = Limit("register", RateLimitItemPerMinute(60))
CHALLENGE: Final = Limit("challenge", RateLimitItemPerMinute(240))
LOGIN: Final = Limit("login", RateLimitItemPerMinute(120))
LOGIN_ONE_NAME: Final = Limit("login-name", RateLimitItemPerMinute(20))
SEARCH: Final = Limit("search", RateLimitItemPerMinute(60))
SEARCH_ADDRESS: Final = Limit("search-address", RateLimitItemPerMinute(240))
CONTACT_REQUEST: Final = Limit("contact-request", RateLimitItemPerHour(100))
PROVE: Final = Limit("prove", RateLimitItemPerMinute(10))


class Limiter:
    """Counts by address, and by account, under pseudonyms that change every day."""

    def __init__(self, cache: Cache, pseudonyms: Pseudonyms, *, is_on: bool) -> None:
        self._cache = cache
        self._pseudonyms = pseudonyms
        self._is_on = is_on

    async def hit(self, limit: Limit, *whom: str) -> None:
        """Count one; raises TooManyRequests with the seconds to wait, or Unavailable if it cannot count."""
        if not self._is_on:
            return
        pseudonym = await self._pseudonyms.of(*whom)
        wait = await self._cache.hit(limit.rate, limit.purpose, pseudonym.hex())
        if wait is not None:
            raise TooManyRequests(retry_after=wait)
