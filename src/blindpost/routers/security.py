"""Who calls, and how often: the session and the signature of a request, and the limits on those who have none."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from dishka.integrations.fastapi import FromDishka, inject
from fastapi import Depends, Request, Security
from fastapi.security.http import HTTPBase
from starlette.types import Scope

from blindpost.core.addresses import is_loopback
from blindpost.core.limiter import REQUEST, Limit, Limiter
from blindpost.routers.addresses import group_of
from blindpost.services.auth import AuthService
from blindpost.services.caller import Caller, Credentials

_SCHEME = HTTPBase(
    scheme="DPoP",
    scheme_name="session",
    description="The access_token of /auth/login, with a proof of its key in the header DPoP (RFC 9449). The proof's"
    " claim `bd` is base64url(SHA-256(body)), wherever there is a body.",
    auto_error=False,
)
_BOUND: Final = {"dpop": True, "bearer": False}


def address_of(request: Request) -> str:
    """Return the caller's address, an IPv6 one as its /64: one household has that many."""
    return _address(request.scope.get("client"))


def limited(limit: Limit) -> Callable[..., Awaitable[None]]:
    """Make a dependency that counts requests by address."""

    @inject
    async def count(request: Request, limiter: FromDishka[Limiter]) -> None:
        await limiter.hit(limit, address_of(request))

    return count


async def credentials_of(request: Request) -> Credentials:
    """Return what a request shows for itself."""
    return shown(request.scope, await request.body())


def shown(scope: Scope, body: bytes) -> Credentials:
    """Return what a request shows for itself. Two of one header are none: which of them counts must not be a guess."""
    authorization = proof = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value if authorization is None else b""
        elif name == b"dpop":
            proof = value if proof is None else b""
    scheme, _, token = (authorization or b"").decode("latin-1").partition(" ")
    is_bound = _BOUND.get(scheme.lower())
    client = scope.get("client")
    return Credentials(
        token=None if is_bound is None else token.strip(" ") or None,
        is_bound=bool(is_bound),
        proof=None if proof is None else proof.decode("latin-1"),
        method=scope["method"],
        path=scope["raw_path"].decode("latin-1"),
        body=body,
        address=_address(client),
    )


def counted(scope: Scope) -> str | None:
    """Return whose address this waits from; none for the router's own machine, where proxies are."""
    client = scope.get("client")
    return None if client is None or is_loopback(client[0]) else _address(client)


def _address(client: tuple[str, int] | None) -> str:
    return "local" if client is None else group_of(client[0])


@inject
async def authenticate(
    request: Request,
    auth: FromDishka[AuthService],
    limiter: FromDishka[Limiter],
    _documented: Annotated[object, Security(_SCHEME)],
) -> Caller:
    """Return who acts in this request; raises NotAuthenticated, InvalidProof, TooManyRequests."""
    caller = await auth.authenticate(await credentials_of(request))
    await limiter.spend(REQUEST, str(caller.user_id))
    return caller


CurrentCaller = Annotated[Caller, Depends(authenticate)]


def limited_account(limit: Limit) -> Callable[..., Awaitable[None]]:
    """Make a dependency that counts requests by account."""

    @inject
    async def count(caller: CurrentCaller, limiter: FromDishka[Limiter]) -> None:
        await limiter.hit(limit, str(caller.user_id))

    return count
