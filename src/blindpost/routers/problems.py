"""Errors as RFC 9457 answers, and as OpenAPI's responses."""

import re
from collections import defaultdict
from collections.abc import Sequence
from os import urandom
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from blindpost.errors import (
    InternalFault,
    InvalidJson,
    InvalidProof,
    InvalidRequest,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    Problem,
    TooLarge,
    TooManyRequests,
    Unavailable,
    UpgradeRequired,
)
from blindpost.protocol import dpop
from blindpost.telemetry import PROBLEMS, log, log_fault

MEDIA_TYPE: Final = "application/problem+json"
REQUEST_ID: Final = "blindpost.request_id"
"""In a request's ASGI scope: its name."""
SHOWN_MAX: Final = 5
_BY_STATUS: Final[dict[int, type[Problem]]] = {
    400: InvalidRequest,
    401: NotAuthenticated,
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
}
_FIELD: Final = re.compile(r"[a-z_]{1,32}|[0-9]{1,3}")
ALWAYS: Final[tuple[type[Problem], ...]] = (InvalidRequest, InternalFault, Unavailable)


def next_request_id() -> str:
    """Name a request, for the client and the log. At random: a number would tell how many others there are."""
    return urandom(16).hex()


def told(problem: Problem, request_id: str) -> dict[str, object]:
    """Count and log a problem, and write its members (RFC 9457, our `code`, and the request's name).

    Who quotes the name of a request can be told what became of it: of a fault always, of a refusal where the log has
    its least level, because anybody could fill it with refusals.
    """
    PROBLEMS.labels(problem.code).inc()
    say = log.error if isinstance(problem, InternalFault) else log.debug
    say("request_refused", request_id=request_id, status=problem.status, code=problem.code)
    return {
        "type": f"urn:blindpost:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
    }


class ProblemResponse(JSONResponse):
    """Problem details."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, request_id: str, headers: dict[str, str] | None = None) -> None:
        headers = dict(headers or {})
        if problem.retry_after is not None:
            headers["Retry-After"] = str(problem.retry_after)
        if isinstance(problem, NotAuthenticated):
            headers["WWW-Authenticate"] = _challenge(problem)
        if isinstance(problem, UpgradeRequired):
            headers |= {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        super().__init__(told(problem, request_id), problem.status, headers)


def _challenge(problem: NotAuthenticated) -> str:
    """Name what is asked for (RFC 9449, section 7.1)."""
    error = ', error="invalid_dpop_proof"' if isinstance(problem, InvalidProof) else ""
    return f'DPoP algs="{" ".join(dpop.NAMES)}"{error}'


def responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """Document a route's errors, those that any route can have included."""
    by_status: dict[int, dict[str, type[Problem]]] = defaultdict(dict)
    signed = (InvalidProof, TooManyRequests) if NotAuthenticated in problems else ()
    for problem in ALWAYS + problems + signed:
        by_status[problem.status][problem.code] = problem
    return {
        status: {
            "description": "; ".join(f"`{code}`: {each.title}" for code, each in sorted(kinds.items())),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, kinds in sorted(by_status.items())
    }


def install(app: FastAPI) -> None:
    """Answer every error as a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _fault)


async def _problem(request: Request, error: Exception) -> Response:
    return ProblemResponse(error if isinstance(error, Problem) else InternalFault(), request.scope[REQUEST_ID])


class _Unanswered(Response):
    """Nothing: the gate will log the fault, and answer it."""

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        return None


async def _fault(_request: Request, _error: Exception) -> Response:
    """Keep the framework from answering a fault of ours before it lets it pass on."""
    return _Unanswered()


async def _invalid(request: Request, error: Exception) -> Response:
    problem = invalid(error.errors() if isinstance(error, RequestValidationError) else [])
    return ProblemResponse(problem, request.scope[REQUEST_ID])


def invalid(errors: Sequence[Any]) -> Problem:
    """Say what is wrong with a request, from a list of Pydantic's errors."""
    if any(item["type"] == "json_invalid" for item in errors):
        return InvalidJson()
    if any(item["type"] in {"bytes_too_long", "too_long"} and "message" in item["loc"] for item in errors):
        return TooLarge()
    # Where and what, never the value: it may be a key or a token, and answers are kept by proxies.
    shown = [f"{_place(item['loc'])}: {_words(item)}" for item in errors[:SHOWN_MAX]]
    return InvalidRequest(f"{'; '.join(shown)}." if shown else None)


def _words(item: dict[str, Any]) -> str:
    """Say what is wrong; the library's words for a UUID quote a character of the value."""
    return "must be a UUID" if item["type"].startswith("uuid") else str(item["msg"])


def _place(location: tuple[int | str, ...]) -> str:
    """Name a field or a place in a list; anything else that stands where a field should may be a secret."""
    parts = [str(part) for part in location if part != "body"]
    return ".".join(part if _FIELD.fullmatch(part) else "a field" for part in parts) or "body"


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException) or error.status_code not in _BY_STATUS:
        log_fault("unexpected_http_error", error, request_id=request.scope[REQUEST_ID])
        return ProblemResponse(InternalFault(), request.scope[REQUEST_ID])
    answer = of_status(error, request.scope[REQUEST_ID])
    if error.status_code == MethodNotAllowed.status:
        # The framework names the methods of one route alone, and a path can have several.
        operations = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", None))
        if operations:
            answer.headers["Allow"] = ", ".join(sorted(operations)).upper()
    return answer


def of_status(error: HTTPException, request_id: str) -> Response:
    """Answer an error of the framework's as the problem of its status."""
    return ProblemResponse(_BY_STATUS[error.status_code](), request_id, dict(error.headers or {}))
