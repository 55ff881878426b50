"""The two calls that open a stream: by a signed request, or by a ticket alone."""

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl

from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from blindpost.core.limiter import REQUEST, Limiter
from blindpost.errors import NotAuthenticated, Problem
from blindpost.routers.direct import Route
from blindpost.routers.events import EventStream
from blindpost.routers.problems import REQUEST_ID, ProblemResponse, of_status
from blindpost.routers.security import counted, credentials_of
from blindpost.routers.socket import upgrade
from blindpost.routers.strict import StrictRequest
from blindpost.services.auth import AuthService
from blindpost.services.caller import Caller
from blindpost.services.messages import MessageService

Handler = Callable[[StrictRequest], Awaitable[Response]]

WEBSOCKET: Final = "/messages/ws"
EVENTS: Final = "/messages/events"


class Streams:
    """Answers these calls, and hands on all others: the framework cannot give a connection away."""

    def __init__(self, app: ASGIApp, auth: AuthService, limiter: Limiter, messages: MessageService) -> None:
        self._app = app
        self._auth = auth
        self._limiter = limiter
        self._messages = messages
        self._handlers: dict[str, Handler] = {WEBSOCKET: self._websocket, EVENTS: self._events}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_get = scope["type"] == "http" and scope["method"] == "GET"
        handler = self._handlers.get(scope["path"]) if is_get else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = Route(scope["path"])
        try:
            response = await handler(StrictRequest(scope, receive))
        except Problem as problem:
            response = ProblemResponse(problem, scope[REQUEST_ID])
        except HTTPException as error:
            response = of_status(error, scope[REQUEST_ID])
        await response(scope, receive, send)

    async def _caller(self, request: StrictRequest) -> Caller:
        query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tickets = [value for name, value in query if name == "ticket"]
        if not tickets:
            caller = await self._auth.authenticate(await credentials_of(request))
        elif len(tickets) > 1 or "authorization" in request.headers or "dpop" in request.headers:
            raise NotAuthenticated
        else:
            caller = await self._auth.redeem(tickets[0])
        await self._limiter.spend(REQUEST, str(caller.user_id))
        return caller

    async def _websocket(self, request: StrictRequest) -> Response:
        caller = await self._caller(request)
        return upgrade(request, self._messages, caller, counted(request.scope))

    async def _events(self, request: StrictRequest) -> Response:
        caller = await self._caller(request)
        return EventStream(self._messages, caller, counted(request.scope))
