"""/contacts."""

from typing import Annotated
from uuid import UUID

from dishka.integrations.fastapi import FromDishka
from fastapi import APIRouter, Depends, Query

from blindpost.core.limiter import CONTACT_REQUEST, SEARCH, SEARCH_ADDRESS, USERS_BY_IDS, Limiter
from blindpost.errors import (
    Conflict,
    ContactRequestExists,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    OutcomeUnknown,
    TooLarge,
    TooManyContacts,
    TooManyPending,
    TooManyRequests,
    UserNotFound,
)
from blindpost.protocol.limits import USER_IDS_MAX
from blindpost.routers.problems import responses
from blindpost.routers.security import CurrentCaller, limited, limited_account
from blindpost.routers.strict import StrictRoute
from blindpost.services.contacts import ContactService
from blindpost.services.models.contacts import (
    Contact,
    ContactDecision,
    ContactRequest,
    ContactStatus,
    Direction,
    UsernamePrefix,
    UserSummary,
)

router = APIRouter(prefix="/contacts", tags=["contacts"], route_class=StrictRoute)

Contacts = FromDishka[ContactService]
UUID_CHARS = 36
_decision = responses(NotAuthenticated, NotFound, Conflict, TooManyContacts, TooLarge, OutcomeUnknown)


def comma_separated_ids(text: str, most: int) -> list[UUID]:
    """Read ids from a query parameter; raises InvalidRequest."""
    parts = text.split(",")
    if len(parts) > most:
        raise InvalidRequest(f"Give at most {most} ids.")
    try:
        return [UUID(part.strip()) for part in parts]
    except ValueError:
        raise InvalidRequest("Give ids as UUIDs, separated by commas.") from None


@router.get(
    "/search-users",
    dependencies=[Depends(limited(SEARCH_ADDRESS)), Depends(limited_account(SEARCH))],
    responses=responses(NotAuthenticated, TooManyRequests),
)
async def search_users(
    username: Annotated[UsernamePrefix, Query()], caller: CurrentCaller, contacts: Contacts
) -> list[UserSummary]:
    """Find up to ten people by the beginning of their name."""
    return await contacts.search(caller, username)


@router.get("/users-by-ids", responses=responses(NotAuthenticated, TooManyRequests))
async def users_by_ids(
    users_ids: Annotated[
        str,
        Query(
            min_length=1,
            max_length=USER_IDS_MAX * (UUID_CHARS + 4),
            description="UUIDs, separated by commas: at most 100",
        ),
    ],
    caller: CurrentCaller,
    contacts: Contacts,
    limiter: FromDishka[Limiter],
) -> list[UserSummary]:
    """Read people by id; those that do not exist are left out."""
    await limiter.spend(USERS_BY_IDS, str(caller.user_id))
    return await contacts.users_by_ids(caller, comma_separated_ids(users_ids, USER_IDS_MAX))


@router.get("/get-contacts", responses=responses(NotAuthenticated))
async def get_contacts(caller: CurrentCaller, contacts: Contacts) -> list[Contact]:
    """List one's contacts."""
    return await contacts.accepted(caller)


@router.post(
    "/send-contact-request",
    status_code=201,
    dependencies=[Depends(limited_account(CONTACT_REQUEST))],
    responses=responses(
        *(NotAuthenticated, UserNotFound, ContactRequestExists, TooManyContacts),
        *(TooLarge, TooManyRequests, TooManyPending, OutcomeUnknown),
    ),
)
async def send_contact_request(body: ContactRequest, caller: CurrentCaller, contacts: Contacts) -> Contact:
    """Ask somebody to be a contact; if they asked first, this accepts."""
    return await contacts.ask(caller, body.receiver_id)


@router.get("/get-contact-requests", responses=responses(NotAuthenticated))
async def get_contact_requests(
    caller: CurrentCaller, contacts: Contacts, direction: Annotated[Direction, Query()] = Direction.RECEIVED
) -> list[Contact]:
    """List the requests that wait for an answer."""
    return await contacts.pending(caller, direction)


@router.put("/accept-contact-request", responses=_decision)
async def accept_contact_request(body: ContactDecision, caller: CurrentCaller, contacts: Contacts) -> Contact:
    """Accept a request that one received."""
    return await contacts.decide(caller, body.sender_id, ContactStatus.ACCEPTED)


@router.put("/reject-contact-request", responses=_decision)
async def reject_contact_request(body: ContactDecision, caller: CurrentCaller, contacts: Contacts) -> Contact:
    """Reject a request that one received."""
    return await contacts.decide(caller, body.sender_id, ContactStatus.REJECTED)
