"""/auth."""

from typing import Annotated
from uuid import UUID

from dishka.integrations.fastapi import FromDishka
from fastapi import APIRouter, Depends, Path, Request

from blindpost.core.limiter import CHALLENGE, LOGIN, LOGIN_ONE_NAME, PROVE, PUBLIC_KEYS, REGISTER, Limiter
from blindpost.errors import (
    Conflict,
    InvalidKey,
    InvalidSignature,
    LoginFailed,
    NotAuthenticated,
    NotFound,
    OutcomeUnknown,
    TooLarge,
    TooManyRequests,
    UsernameTaken,
    UserNotFound,
)
from blindpost.routers.problems import responses
from blindpost.routers.security import CurrentCaller, address_of, credentials_of, limited, limited_account
from blindpost.routers.strict import StrictRoute
from blindpost.services.auth import AuthService
from blindpost.services.models.auth import (
    ChallengeAnswer,
    DeleteAccount,
    EcdhUpdate,
    EcdsaUpdate,
    LoginRequest,
    Me,
    PublicKeys,
    Registered,
    RegisterRequest,
    Session,
    SessionsEnded,
    SessionSummary,
    TicketAnswer,
)
from blindpost.services.models.common import Done, Username

router = APIRouter(prefix="/auth", tags=["auth"], route_class=StrictRoute)

Auth = FromDishka[AuthService]
_keys = responses(
    InvalidKey, InvalidSignature, NotAuthenticated, Conflict, TooLarge, TooManyRequests, OutcomeUnknown
)  # what a call that proves a key can answer


@router.post(
    "/register",
    status_code=201,
    dependencies=[Depends(limited(REGISTER))],
    responses=responses(InvalidKey, InvalidSignature, UsernameTaken, TooLarge, TooManyRequests, OutcomeUnknown),
)
async def register(body: RegisterRequest, auth: Auth) -> Registered:
    """Register a name and two public keys, bound together by a signature."""
    return await auth.register(body)


@router.get(
    "/challenge/{username}",
    dependencies=[Depends(limited(CHALLENGE))],
    responses=responses(TooManyRequests),
)
async def challenge(username: Annotated[Username, Path()], auth: Auth) -> ChallengeAnswer:
    """Ask for a challenge to sign; the answer is alike for names that nobody has."""
    return await auth.challenge(username)


@router.post(
    "/login",
    dependencies=[Depends(limited(LOGIN))],
    responses=responses(LoginFailed, TooLarge, TooManyRequests, OutcomeUnknown),
)
async def login(body: LoginRequest, request: Request, auth: Auth, limiter: FromDishka[Limiter]) -> Session:
    """Open a session with a signed challenge."""
    # By name and address together: a stranger cannot use up what the owner of the name has.
    await limiter.hit(LOGIN_ONE_NAME, address_of(request), body.username.lower())
    return await auth.login(body, await credentials_of(request))


@router.post("/logout", responses=responses(NotAuthenticated, OutcomeUnknown))
async def logout(caller: CurrentCaller, auth: Auth) -> Done:
    """End this session, at once and on every node."""
    await auth.logout(caller)
    return Done()


@router.post("/ticket", responses=responses(NotAuthenticated))
async def ticket(caller: CurrentCaller, auth: Auth) -> TicketAnswer:
    """Get a ticket for one stream, for browsers: they cannot send headers with one."""
    return await auth.ticket(caller)


@router.get("/sessions", responses=responses(NotAuthenticated))
async def list_sessions(caller: CurrentCaller, auth: Auth) -> list[SessionSummary]:
    """List one's open sessions, the oldest first."""
    return await auth.sessions(caller)


@router.delete("/sessions", responses=responses(NotAuthenticated, OutcomeUnknown))
async def end_other_sessions(caller: CurrentCaller, auth: Auth) -> SessionsEnded:
    """End all of one's sessions but this one, at once and on every node."""
    return SessionsEnded(ended=await auth.end_other_sessions(caller))


@router.delete("/sessions/{session_id}", responses=responses(NotAuthenticated, NotFound, OutcomeUnknown))
async def end_session(session_id: UUID, caller: CurrentCaller, auth: Auth) -> Done:
    """End one of one's sessions, at once and on every node."""
    await auth.end_session(caller, session_id)
    return Done()


@router.get("/public-keys/{user_id}", responses=responses(NotAuthenticated, UserNotFound))
async def public_keys(user_id: UUID, caller: CurrentCaller, auth: Auth, limiter: FromDishka[Limiter]) -> PublicKeys:
    """Read a user's public keys."""
    await limiter.spend(PUBLIC_KEYS, str(caller.user_id))
    return await auth.public_keys(user_id)


@router.put("/ecdsa-update-key", dependencies=[Depends(limited_account(PROVE))], responses=_keys)
async def update_ecdsa_key(body: EcdsaUpdate, caller: CurrentCaller, auth: Auth) -> Done:
    """Replace the identity key; every other session of the user ends."""
    await auth.update_ecdsa_key(caller, body)
    return Done()


@router.put("/ecdh-update-key", dependencies=[Depends(limited_account(PROVE))], responses=_keys)
async def update_ecdh_key(body: EcdhUpdate, caller: CurrentCaller, auth: Auth) -> Done:
    """Replace the encryption key."""
    await auth.update_ecdh_key(caller, body)
    return Done()


@router.get("/me", responses=responses(NotAuthenticated))
async def me(caller: CurrentCaller, auth: Auth) -> Me:
    """Read one's own account."""
    return await auth.me(caller)


@router.delete("/me", dependencies=[Depends(limited_account(PROVE))], responses=_keys)
async def delete_me(body: DeleteAccount, caller: CurrentCaller, auth: Auth) -> Done:
    """Erase the account; its name stays taken for ever."""
    await auth.delete(caller, body.signature)
    return Done()
