"""Who calls, and how often: the session of a request, and the limits on those who have none."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Final

from dishka.integrations.fastapi import FromDishka, inject
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItem, RateLimitItemPerMinute

from blindpost.core.cache import Cache
from blindpost.errors import NotAuthenticated, TooManyRequests
from blindpost.services.auth import AuthService
from blindpost.services.caller import Caller

IPV6_HOST_BITS: Final = 64

REGISTER: Final = RateLimitItemPerMinute(60)
CHALLENGE: Final = RateLimitItemPerMinute(240)
LOGIN: Final = RateLimitItemPerMinute(120)
LOGIN_ONE_NAME: Final = RateLimitItemPerMinute(20)
SEARCH: Final = RateLimitItemPerMinute(60)
PROVE: Final = RateLimitItemPerMinute(10)

_bearer = HTTPBearer(auto_error=False, scheme_name="session", description="The access_token of /auth/login.")


class Limiter:
    """Counts by address, and by account, under pseudonyms that change every day."""

    def __init__(self, cache: Cache, key: bytes, *, is_on: bool) -> None:
        self._cache = cache
        self._key = key
        self._is_on = is_on

    async def hit(self, limit: RateLimitItem, purpose: str, *whom: str) -> None:
        """Count one; raises TooManyRequests with the seconds to wait, or Unavailable if it cannot count."""
        if not self._is_on:
            return
        wait = await self._cache.hit(limit, purpose, self._pseudonym(*whom))
        if wait is not None:
            raise TooManyRequests(retry_after=wait)

    def _pseudonym(self, *whom: str) -> str:
        text = "\x00".join((datetime.now(UTC).date().isoformat(), *whom))
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).hexdigest()


def address_of(request: Request) -> str:
    """Return the caller's address, an IPv6 one as its /64: one household has that many."""
    if request.client is None:
        return "local"
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return request.client.host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(int(address) >> IPV6_HOST_BITS)
    return str(address)


def limited(limit: RateLimitItem, purpose: str) -> Callable[..., Awaitable[None]]:
    """Make a dependency that counts requests by address."""

    @inject
    async def count(request: Request, limiter: FromDishka[Limiter]) -> None:
        await limiter.hit(limit, purpose, address_of(request))

    return count


@inject
async def authenticate(
    auth: FromDishka[AuthService],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """Return who acts in this request; raises NotAuthenticated."""
    if credentials is None:
        raise NotAuthenticated
    return await auth.authenticate(credentials.credentials)


CurrentCaller = Annotated[Caller, Depends(authenticate)]


@inject
async def limited_search(caller: CurrentCaller, limiter: FromDishka[Limiter]) -> None:
    """Keep one account from walking the directory."""
    await limiter.hit(SEARCH, "search", str(caller.user_id))


@inject
async def limited_proof(caller: CurrentCaller, limiter: FromDishka[Limiter]) -> None:
    """Keep a stolen token from trying signatures, and verifications from eating the processor."""
    await limiter.hit(PROVE, "prove", str(caller.user_id))
