"""The calls that every message makes, answered without the framework's work per request.

FastAPI describes these calls, and routes, resolves and validates all others. For a send, a poll or an acknowledgement
that work took more than the rest of the router together (docs/performance.md), so here is what it comes to: read the
body strictly, see who calls, check the fields by the same models, and call the same service.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from fastapi.responses import Response
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from blindpost.core.limiter import REQUEST, Limiter
from blindpost.errors import InvalidJson, InvalidRequest, NotAuthenticated, Problem
from blindpost.protocol.limits import PAGE_DEFAULT, PAGE_MAX, POLL_DEFAULT_S, POLL_MAX_S
from blindpost.routers.connected import while_connected
from blindpost.routers.events import EventStream
from blindpost.routers.problems import ProblemResponse, invalid, of_status
from blindpost.routers.security import counted_address, credentials_of
from blindpost.routers.socket import upgrade
from blindpost.routers.strict import StrictRequest
from blindpost.services.auth import AuthService
from blindpost.services.caller import Caller
from blindpost.services.messages import MessageService
from blindpost.services.models.messages import AckRequest, SendRequest

Model = TypeVar("Model", bound=BaseModel)
Number = TypeVar("Number", int, float)
Handler = Callable[[StrictRequest], Awaitable[Response]]

_LIMIT: Final[TypeAdapter[int]] = TypeAdapter(Annotated[int, Field(ge=1, le=PAGE_MAX)])
_TIMEOUT: Final[TypeAdapter[float]] = TypeAdapter(Annotated[float, Field(ge=0, le=POLL_MAX_S, allow_inf_nan=False)])


class _Route(NamedTuple):
    """What the metrics call a request by."""

    path: str


class Direct:
    """Answers these calls, and hands on all others."""

    def __init__(self, app: ASGIApp, auth: AuthService, limiter: Limiter, messages: MessageService) -> None:
        self._app = app
        self._auth = auth
        self._limiter = limiter
        self._messages = messages
        self._handlers: dict[tuple[str, str], Handler] = {
            ("POST", "/messages/send"): self._send,
            ("GET", "/messages/poll"): self._poll,
            ("GET", "/messages/get-undelivered-messages"): self._undelivered,
            ("POST", "/messages/ack"): self._ack,
            ("GET", "/messages/ws"): self._websocket,
            ("GET", "/messages/events"): self._events,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = _Route(scope["path"])
        try:
            response = await handler(StrictRequest(scope, receive))
        except Problem as problem:
            response = ProblemResponse(problem)
        except ValidationError as error:
            response = ProblemResponse(invalid(error.errors(include_url=False, include_context=False)))
        except HTTPException as error:
            response = of_status(error)
        await response(scope, receive, send)

    async def _caller(self, request: StrictRequest) -> Caller:
        caller = await self._auth.authenticate(await credentials_of(request))
        await self._limiter.spend(REQUEST, str(caller.user_id))
        return caller

    async def _send(self, request: StrictRequest) -> Response:
        caller = await self._caller(request)
        body = await _body(request, SendRequest)
        return _answer(await self._messages.send(caller, body), 201)

    async def _ack(self, request: StrictRequest) -> Response:
        caller = await self._caller(request)
        body = await _body(request, AckRequest)
        return _answer(await self._messages.acknowledge(caller, body.message_ids))

    async def _undelivered(self, request: StrictRequest) -> Response:
        caller = await self._caller(request)
        return _answer(await self._messages.undelivered(caller, _limit(_query(request))))

    async def _poll(self, request: StrictRequest) -> Response:
        caller = await self._caller(request)
        query = _query(request)
        timeout_s, limit = _checked(_TIMEOUT, query, "timeout", POLL_DEFAULT_S), _limit(query)
        work = self._messages.poll(caller, counted_address(request), timeout_s, limit)
        return _answer(await while_connected(request, work))

    async def _streaming_caller(self, request: StrictRequest) -> Caller:
        """Return who opens a stream: by a signed request, or by a ticket alone."""
        tickets = [value for name, value in _queries(request) if name == "ticket"]
        if not tickets:
            return await self._caller(request)
        if len(tickets) > 1 or "authorization" in request.headers or "dpop" in request.headers:
            raise NotAuthenticated
        caller = await self._auth.redeem(tickets[0])
        await self._limiter.spend(REQUEST, str(caller.user_id))
        return caller

    async def _websocket(self, request: StrictRequest) -> Response:
        caller = await self._streaming_caller(request)
        return upgrade(request, self._messages, caller, counted_address(request))

    async def _events(self, request: StrictRequest) -> Response:
        caller = await self._streaming_caller(request)
        return EventStream(self._messages, caller, counted_address(request))


async def _body(request: StrictRequest, model: type[Model]) -> Model:
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        raise InvalidJson
    try:
        return model.model_validate(await request.json())
    except ValidationError:
        raise
    except ValueError:
        raise InvalidJson from None


def _query(request: StrictRequest) -> dict[str, str]:
    return dict(_queries(request))


def _queries(request: StrictRequest) -> list[tuple[str, str]]:
    return parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _limit(query: dict[str, str]) -> int:
    return _checked(_LIMIT, query, "limit", PAGE_DEFAULT)


def _checked(adapter: TypeAdapter[Number], query: dict[str, str], name: str, default: Number) -> Number:
    if name not in query:
        return default
    try:
        return adapter.validate_python(query[name])
    except ValidationError as error:
        raise InvalidRequest(f"{name}: {error.errors(include_url=False, include_input=False)[0]['msg']}.") from None


def _answer(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(), status, media_type="application/json")
