"""The calls that every message makes, answered without the framework's work per request.

FastAPI describes these calls, and routes, resolves and validates all others. For a send, a poll or an acknowledgement
that work took more than the rest of the router together (docs/decisions/0015-the-hot-path.md), so here is what it
comes to: read the body strictly, see who calls, check the fields by the same models, call the same service, and write
the answer at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Annotated, Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from blindpost.core.limiter import REQUEST, Limiter
from blindpost.errors import InternalFault, InvalidJson, InvalidRequest, Problem, TooLarge
from blindpost.protocol.limits import BODY_MAX_BYTES, PAGE_DEFAULT, PAGE_MAX, POLL_DEFAULT_S, POLL_MAX_S
from blindpost.routers import answers, usual
from blindpost.routers.connection import EXCHANGE, Exchange
from blindpost.routers.middleware import GONE, SECURITY_HEADERS, announced, count
from blindpost.routers.problems import ProblemResponse, invalid, next_request_id
from blindpost.routers.security import counted, shown
from blindpost.routers.strict import loads
from blindpost.services.auth import AuthService
from blindpost.services.caller import Caller
from blindpost.services.messages import MessageService
from blindpost.services.models.messages import AckRequest, PollRequest, SendRequest
from blindpost.telemetry import log_fault

Model = TypeVar("Model", bound=BaseModel)
Number = TypeVar("Number", int, float)
Result = TypeVar("Result")

_LIMIT: Final[TypeAdapter[int]] = TypeAdapter(Annotated[int, Field(ge=1, le=PAGE_MAX)])
_TIMEOUT: Final[TypeAdapter[float]] = TypeAdapter(Annotated[float, Field(ge=0, le=POLL_MAX_S, allow_inf_nan=False)])
_COMMON: Final = "".join(f"{name}: {value}\r\n" for name, value in SECURITY_HEADERS.items())
_HEADS: Final = {
    status: f"HTTP/1.1 {status} {words}\r\ncontent-type: application/json\r\n{_COMMON}x-request-id: ".encode()
    for status, words in ((200, "OK"), (201, "Created"))
}


class Route(NamedTuple):
    """What metrics and logs call a request by."""

    path: str


class Call(NamedTuple):
    """A request, whole."""

    scope: Scope
    body: bytes
    exchange: Exchange


class Answer(NamedTuple):
    """What a call is answered with."""

    body: bytes
    status: int = 200


Handler = Callable[[Call], Awaitable[Answer]]


class _Gone(Exception):
    """Nobody is there to be answered."""


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
            ("POST", "/messages/poll"): self._acknowledge_and_poll,
            ("GET", "/messages/get-undelivered-messages"): self._undelivered,
            ("POST", "/messages/ack"): self._ack,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        started, request_id, status = perf_counter(), next_request_id(), 500
        exchange: Exchange = scope["extensions"][EXCHANGE]
        try:
            try:
                answer = await handler(Call(scope, await _body(scope, receive, exchange), exchange))
            except Exception as error:  # noqa: BLE001 - the last catch: nothing of a fault may reach the client
                status = await _refuse(scope, exchange, error, request_id)
            else:
                status = answer.status
                await exchange.answer(b"%b%b\r\n" % (_HEADS[status], request_id.encode()), answer.body)
        finally:
            count(scope["method"], scope["path"], status, started)

    async def _caller(self, call: Call) -> Caller:
        caller = await self._auth.authenticate(shown(call.scope, call.body))
        await self._limiter.spend(REQUEST, str(caller.user_id))
        return caller

    async def _send(self, call: Call) -> Answer:
        caller = await self._caller(call)
        return Answer(answers.sent(await self._messages.send(caller, _send_request(call))), 201)

    async def _ack(self, call: Call) -> Answer:
        caller = await self._caller(call)
        return Answer(answers.acknowledged(await self._messages.acknowledge(caller, _ids(call))))

    async def _undelivered(self, call: Call) -> Answer:
        caller = await self._caller(call)
        return Answer(answers.page(await self._messages.undelivered(caller, _limit(_query(call)))))

    async def _poll(self, call: Call) -> Answer:
        caller = await self._caller(call)
        query = _query(call)
        timeout_s, limit = _checked(_TIMEOUT, query, "timeout", POLL_DEFAULT_S), _limit(query)
        work = self._messages.poll(caller, counted(call.scope), timeout_s, limit)
        return Answer(answers.poll(await _while_connected(call.exchange, work)))

    async def _acknowledge_and_poll(self, call: Call) -> Answer:
        caller = await self._caller(call)
        _text(call)
        asked = _strictly(call, PollRequest)
        address = counted(call.scope)
        work = self._messages.poll(caller, address, asked.timeout, asked.limit, asked.message_ids)
        return Answer(answers.acknowledging_poll(await _while_connected(call.exchange, work)))


async def _while_connected(exchange: Exchange, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for the work, and stop it when the client has gone: a poll of nobody must not take up a place.

    Raises _Gone. The task is this request's own, so nothing else is cancelled.
    """
    task = asyncio.current_task()
    if task is None or exchange.is_gone():
        work.close()
        raise _Gone
    exchange.when_gone(task.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if not exchange.is_gone():
            raise
        task.uncancel()
        raise _Gone from None
    finally:
        exchange.when_gone(None)


async def _body(scope: Scope, receive: Receive, exchange: Exchange) -> bytes:
    """Read the whole body; raises TooLarge, _Gone."""
    body = exchange.body() if announced(scope) <= BODY_MAX_BYTES else b""
    if body is None:
        body = b""
        while len(body) <= BODY_MAX_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
    if len(body) > BODY_MAX_BYTES or announced(scope) > BODY_MAX_BYTES:
        exchange.close_after()
        raise TooLarge
    return body


async def _refuse(scope: Scope, exchange: Exchange, error: Exception, request_id: str) -> int:
    """Answer an error as a problem; returns the status for the metrics."""
    if isinstance(error, _Gone):
        return GONE
    if isinstance(error, ValidationError):
        error = invalid(error.errors(include_url=False, include_context=False))
    if not isinstance(error, Problem):
        log_fault("request_failed", error, request_id=request_id, route=scope["path"], method=scope["method"])
        error = InternalFault()
    response = ProblemResponse(error, request_id)
    headers = b"".join(b"%b: %b\r\n" % each for each in response.raw_headers if each[0] != b"content-length")
    head = f"HTTP/1.1 {error.status} {error.title}\r\n{_COMMON}x-request-id: {request_id}\r\n".encode("ascii")
    await exchange.answer(head + headers, bytes(response.body))
    return error.status


def _send_request(call: Call) -> SendRequest:
    text = _text(call)
    if (found := usual.send(text)) is None:
        return _strictly(call, SendRequest)
    recipient_id, message, client_message_id, _ = found
    return SendRequest.model_construct(recipient_id=recipient_id, message=message, client_message_id=client_message_id)


def _ids(call: Call) -> list[UUID]:
    ids = usual.ack_body(_text(call))
    return _strictly(call, AckRequest).message_ids if ids is None else ids


def _text(call: Call) -> str:
    """Return the body as text; raises InvalidJson if it does not say that it is JSON, or is no text."""
    for name, value in call.scope["headers"]:
        if name == b"content-type" and value.lower().startswith(b"application/json"):
            try:
                return call.body.decode()
            except UnicodeDecodeError:
                break
    raise InvalidJson


def _strictly(call: Call, model: type[Model]) -> Model:
    try:
        members = loads(call.body)
    except ValueError:
        raise InvalidJson from None
    return model.model_validate(members)


def _query(call: Call) -> dict[str, str]:
    return dict(parse_qsl(call.scope["query_string"].decode("latin-1"), keep_blank_values=True))


def _limit(query: dict[str, str]) -> int:
    return _checked(_LIMIT, query, "limit", PAGE_DEFAULT)


def _checked(adapter: TypeAdapter[Number], query: dict[str, str], name: str, default: Number) -> Number:
    if name not in query:
        return default
    try:
        return adapter.validate_python(query[name])
    except ValidationError as error:
        raise InvalidRequest(f"{name}: {error.errors(include_url=False, include_input=False)[0]['msg']}.") from None
