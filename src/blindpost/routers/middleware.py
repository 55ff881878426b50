"""What stands around every request: its size, its headers, its metric, and the catch for faults of ours.

Plain ASGI: Starlette's BaseHTTPMiddleware hides disconnects from the polls that must notice them.
"""

from functools import lru_cache
from time import perf_counter
from typing import Final

from prometheus_client import Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blindpost.errors import InternalFault, TooLarge
from blindpost.protocol.limits import BODY_MAX_BYTES
from blindpost.routers.problems import REQUEST_ID, ProblemResponse, next_request_id
from blindpost.telemetry import DURATION, REQUESTS, log_fault
from blindpost.tracing import traces

GONE: Final = 499
"""What the metrics call a client that left before its request was read."""
SIZE_MAX_DIGITS: Final = 18
WAITING_ROUTES: Final = frozenset({"/messages/poll", "/messages/events"})
SWITCHED: Final = 101
"""The answer is written, and its connection is another protocol's."""
SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Gate:
    """The outermost layer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = scope[REQUEST_ID] = next_request_id()
        status = 500
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                status, has_started = message["status"], True
                if status == SWITCHED:
                    return
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers["X-Request-Id"] = request_id
            await send(message)

        try:
            if announced(scope) > BODY_MAX_BYTES:
                response = ProblemResponse(TooLarge(), request_id, {"Connection": "close"})
                await response(scope, receive, send_with_headers)
            else:
                await self._app(scope, _bounded(receive), send_with_headers)
        except ClientDisconnect:
            status = GONE  # nobody is there to be answered, and nothing is wrong with us
        except Exception as error:  # noqa: BLE001 - the last catch: nothing of a fault may reach the client
            log_fault("request_failed", error, request_id=request_id, route=_route(scope), method=_method(scope))
            if not has_started:
                await ProblemResponse(InternalFault(), request_id)(scope, receive, send_with_headers)
        finally:
            count(_method(scope), _route(scope), status, started)


def count(method: str, route: str, status: int, started: float) -> None:
    """Count and trace an answer, and the time from `started` (of perf_counter) to it."""
    _answers(method, route, status).inc()
    traces.record(
        f"{method} {route}",
        started,
        http__request__method=method,
        http__route=route,
        http__response__status_code=status,
    )
    if route not in WAITING_ROUTES:
        _durations(method, route).observe(perf_counter() - started)


@lru_cache(maxsize=1_024)
def _answers(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@lru_cache(maxsize=256)
def _durations(method: str, route: str) -> Histogram:
    return DURATION.labels(method, route)


def announced(scope: Scope) -> int:
    """Return how long the body is said to be; too long, if it is said in no number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            digits = value.strip()
            # As many zeros before it as there may be: Python reads no number of more than 4,300 digits.
            size = digits.lstrip(b"0") or b"0"
            return int(size) if digits.isdigit() and len(size) <= SIZE_MAX_DIGITS else BODY_MAX_BYTES + 1
    return 0


def _bounded(receive: Receive) -> Receive:
    """Count a body that does not announce its size, and stop reading it at the limit."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > BODY_MAX_BYTES:
                raise HTTPException(TooLarge.status, headers={"Connection": "close"})
        return message

    return bounded


def _route(scope: Scope) -> str:
    """The route's template: a path can hold a name."""
    route = scope.get("route")
    return getattr(route, "path", "unmatched")


def _method(scope: Scope) -> str:
    """A client can invent methods, and each would be a time series of its own."""
    return scope["method"] if scope["method"] in {"GET", "POST", "PUT", "DELETE"} else "other"
