"""/messages: described here; `direct` answers those that every message makes."""

from typing import Annotated
from uuid import UUID

from dishka.integrations.fastapi import FromDishka
from fastapi import APIRouter, Query, Response

from blindpost.errors import (
    MailboxFull,
    NotAContact,
    NotAuthenticated,
    OutcomeUnknown,
    Overloaded,
    ShuttingDown,
    TooLarge,
    TooManyRequests,
    TooManyWaiting,
    UpgradeRequired,
)
from blindpost.protocol.limits import PAGE_DEFAULT, PAGE_MAX, POLL_DEFAULT_S, POLL_MAX_S
from blindpost.routers.contacts import UUID_CHARS, comma_separated_ids
from blindpost.routers.problems import responses
from blindpost.routers.security import CurrentCaller
from blindpost.routers.strict import StrictRoute
from blindpost.services.messages import MessageService
from blindpost.services.models.messages import (
    Acknowledged,
    AcknowledgingPollAnswer,
    AckRequest,
    MessagePage,
    MessageStatus,
    PollAnswer,
    PollRequest,
    SendRequest,
    Sent,
)

router = APIRouter(prefix="/messages", tags=["messages"], route_class=StrictRoute)

Messages = FromDishka[MessageService]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


@router.post(
    "/send",
    status_code=201,
    responses=responses(
        *(NotAuthenticated, NotAContact, TooLarge, TooManyRequests, MailboxFull),
        *(Overloaded, OutcomeUnknown, ShuttingDown),
    ),
)
async def send(_body: SendRequest, _caller: CurrentCaller) -> Sent:
    """Send a message; when this answers it is on disk."""
    raise NotImplementedError  # `direct` answers it


@router.get("/get-undelivered-messages", responses=responses(NotAuthenticated))
async def get_undelivered_messages(_caller: CurrentCaller, limit: Limit = PAGE_DEFAULT) -> MessagePage:
    """Read the messages that wait, oldest first."""
    raise NotImplementedError  # `direct` answers it


@router.get("/poll", responses=responses(NotAuthenticated, TooManyWaiting, ShuttingDown))
async def poll(
    _caller: CurrentCaller,
    timeout: Annotated[float, Query(ge=0, le=POLL_MAX_S, allow_inf_nan=False)] = POLL_DEFAULT_S,  # noqa: ASYNC109
    limit: Limit = PAGE_DEFAULT,
) -> PollAnswer:
    """Read what there is, or wait for it: messages, deliveries of one's own, changes among the contacts."""
    raise NotImplementedError  # `direct` answers it


@router.post(
    "/poll",
    responses=responses(NotAuthenticated, TooManyWaiting, TooLarge, Overloaded, OutcomeUnknown, ShuttingDown),
)
async def acknowledge_and_poll(_body: PollRequest, _caller: CurrentCaller) -> AcknowledgingPollAnswer:
    """Acknowledge what the last poll gave, and poll: one request in place of two."""
    raise NotImplementedError  # `direct` answers it


Ticket = Annotated[
    str | None,
    Query(alias="ticket", max_length=64, description="In place of the headers, for browsers: see POST /auth/ticket"),
]


@router.get(
    "/ws",
    status_code=101,
    response_class=Response,
    responses=responses(NotAuthenticated, UpgradeRequired, TooManyWaiting, ShuttingDown),
)
async def ws(_caller: CurrentCaller, _ticket: Ticket = None) -> Response:
    """Open a WebSocket: frames of these objects both ways (spec/http.md)."""
    raise NotImplementedError  # `streams` answers it


@router.get(
    "/events",
    response_class=Response,
    responses=responses(NotAuthenticated, TooManyWaiting, ShuttingDown)
    | {200: {"description": "Server-Sent Events, for ever", "content": {"text/event-stream": {}}}},
)
async def events(_caller: CurrentCaller, _ticket: Ticket = None) -> Response:
    """Receive as a stream of Server-Sent Events (spec/http.md)."""
    raise NotImplementedError  # `direct` answers it


@router.post("/ack", responses=responses(NotAuthenticated, TooLarge, Overloaded, OutcomeUnknown, ShuttingDown))
async def ack(_body: AckRequest, _caller: CurrentCaller) -> Acknowledged:
    """Acknowledge messages: their ciphertext is erased."""
    raise NotImplementedError  # `direct` answers it


@router.get("/status", responses=responses(NotAuthenticated))
async def status(
    ids: Annotated[
        str,
        Query(
            min_length=1, max_length=PAGE_MAX * (UUID_CHARS + 4), description="UUIDs, separated by commas: at most 500"
        ),
    ],
    caller: CurrentCaller,
    messages: Messages,
) -> dict[UUID, MessageStatus]:
    """Ask what became of messages that one sent."""
    return await messages.statuses(caller, comma_separated_ids(ids, PAGE_MAX))
