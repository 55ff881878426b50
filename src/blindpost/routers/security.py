"""Who calls, and how often: the session of a request, and the limits on those who have none."""

from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Final

from dishka.integrations.fastapi import FromDishka, inject
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from blindpost.core.limiter import Limit, Limiter
from blindpost.errors import NotAuthenticated
from blindpost.services.auth import AuthService
from blindpost.services.caller import Caller

IPV6_HOST_BITS: Final = 64

_bearer = HTTPBearer(auto_error=False, scheme_name="session", description="The access_token of /auth/login.")


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


def limited(limit: Limit) -> Callable[..., Awaitable[None]]:
    """Make a dependency that counts requests by address."""

    @inject
    async def count(request: Request, limiter: FromDishka[Limiter]) -> None:
        await limiter.hit(limit, address_of(request))

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


def limited_account(limit: Limit) -> Callable[..., Awaitable[None]]:
    """Make a dependency that counts requests by account."""

    @inject
    async def count(caller: CurrentCaller, limiter: FromDishka[Limiter]) -> None:
        await limiter.hit(limit, str(caller.user_id))

    return count
