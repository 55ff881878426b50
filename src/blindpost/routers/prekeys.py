"""/keys."""

from dishka.integrations.fastapi import FromDishka
from fastapi import APIRouter, Depends

from blindpost.core.limiter import CLAIM_PREKEYS, PUBLISH_PREKEYS
from blindpost.errors import (
    Conflict,
    InvalidKey,
    InvalidSignature,
    NoPrekeys,
    NotAContact,
    NotAuthenticated,
    OutcomeUnknown,
    TooLarge,
    TooManyPrekeys,
    TooManyRequests,
)
from blindpost.routers.problems import responses
from blindpost.routers.security import CurrentCaller, limited_account
from blindpost.routers.strict import StrictRoute
from blindpost.services.models.prekeys import Bundle, ClaimRequest, PrekeysStatus, PrekeysUpload
from blindpost.services.prekeys import PrekeyService

router = APIRouter(prefix="/keys", tags=["keys"], route_class=StrictRoute)

Prekeys = FromDishka[PrekeyService]


@router.post(
    "",
    dependencies=[Depends(limited_account(PUBLISH_PREKEYS))],
    responses=responses(
        *(NotAuthenticated, InvalidKey, InvalidSignature, Conflict, TooManyPrekeys),
        *(TooLarge, TooManyRequests, OutcomeUnknown),
    ),
)
async def publish(body: PrekeysUpload, caller: CurrentCaller, prekeys: Prekeys) -> PrekeysStatus:
    """Publish keys that others begin sessions with: all of the body, or nothing. It is safe to repeat."""
    return await prekeys.publish(caller, body)


@router.get("/status", responses=responses(NotAuthenticated))
async def status(caller: CurrentCaller, prekeys: Prekeys) -> PrekeysStatus:
    """Ask which of one's own keys are here, and how many wait for somebody."""
    return await prekeys.status(caller)


@router.post(
    "/claim",
    dependencies=[Depends(limited_account(CLAIM_PREKEYS))],
    responses=responses(NotAuthenticated, NotAContact, NoPrekeys, TooLarge, TooManyRequests, OutcomeUnknown),
)
async def claim(body: ClaimRequest, caller: CurrentCaller, prekeys: Prekeys) -> Bundle:
    """Take keys of a contact to begin a session with; the one-time keys are given to nobody else."""
    return await prekeys.claim(caller, body.user_id)
