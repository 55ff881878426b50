"""The router against its own description: made-up requests of every endpoint, right ones and wrong ones.

No 5xx, no status or content type that is not described, no answer of another shape, and no wrong request accepted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from dishka import make_async_container
from hypothesis import HealthCheck, Phase, settings
from requests import PreparedRequest
from requests.auth import AuthBase
from schemathesis import BaseSchema, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from blindpost.app import Components, Running, create_app
from blindpost.config import Settings
from checks import client_of
from support import Person, b64, contacts

EXAMPLES = 30
POLL_S = 0.05
POLL_MAX_S = 60
SEED = 20_250_101
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def description() -> dict[str, Any]:
    """Describe the API without a router: the tests are collected before there is one."""
    app = create_app(make_async_container(Components(), context={Settings: Settings()}))
    return app.openapi()


def schema_with(*modes: GenerationMode) -> BaseSchema:
    generation = GenerationConfig(
        modes=list(modes),
        deterministic=True,
        max_examples=EXAMPLES,
        database="none",
        with_security_parameters=False,  # the session is the caller's; the access matrix tries others
    )
    project = ProjectConfig(generation=generation)
    config = SchemathesisConfig(projects=ProjectsConfig(default=project), seed=SEED)
    return schemathesis.openapi.from_dict(description(), config=config)


ANY = schema_with(GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
RIGHT = schema_with(GenerationMode.POSITIVE)

bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


async def _scene(http: httpx.AsyncClient) -> tuple[Person, Person]:
    """Two contacts, and a message that waits for the first."""
    me, other = await contacts(http)
    assert (await other.send(me)).status_code == 201
    return me, other


class Sign(AuthBase):
    """Signs what is made up like what any client sends."""

    def __init__(self, someone: Person) -> None:
        self._someone = someone

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        body = request.body or b""
        content = body.encode() if isinstance(body, str) else body
        assert isinstance(content, bytes)
        request.headers.update(self._someone.signed(str(request.method), str(request.url), content))
        return request


class Caller:
    """A real user, who logs in again when a case has logged them out, and a contact of theirs."""

    me: Person
    other: Person

    def __init__(self, router: Running) -> None:
        self._router = router
        self.me, self.other = self._run(_scene)

    def _run(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with client_of(self._router) as http:
                return await work(http)

        return asyncio.run(run())

    def try_case(self, case: "Case[Any]") -> None:
        """Make the request as the user, and hold the answer against the description."""
        _hasten(case)
        response = case.call(base_url=self._router.origin, auth=Sign(self.me))
        if case.path == "/auth/logout" and response.status_code == 200:
            self._relogin()
        case.validate_response(response, checks=CHECKS)

    def _relogin(self) -> None:
        async def login(http: httpx.AsyncClient) -> str:
            return (await self.me.at(http).login()).token

        self.me.token = str(self._run(login))


def _hasten(case: "Case[Any]") -> None:
    """Keep polls from waiting, where nothing else ends them."""
    place = case.query if case.method == "GET" else case.body
    if case.path == "/messages/poll" and isinstance(place, dict):
        timeout_s: Any = place.get("timeout", 0)
        with suppress(TypeError, ValueError):
            if not isinstance(timeout_s, bool) and 0 <= float(timeout_s) <= POLL_MAX_S:
                place["timeout"] = POLL_S


def _plant(case: "Case[Any]", caller: Caller) -> None:
    """Put real ids where made-up ones would find nobody."""
    real = {"user_id": caller.other.id, "users_ids": caller.other.id, "ids": caller.other.id}
    real |= {"receiver_id": caller.other.id, "sender_id": caller.other.id, "recipient_id": caller.other.id}
    for place in (case.path_parameters, case.query, case.body):
        if isinstance(place, dict):
            place.update({name: value for name, value in real.items() if name in place})
    if isinstance(case.body, dict) and "message" in case.body:
        case.body["message"] = b64(b"opaque")


@pytest.fixture(scope="module")
def caller(router: Running) -> Caller:
    return Caller(router)


@ANY.parametrize()
@bounded
def test_no_request_gets_an_answer_that_is_not_described(case: "Case[Any]", caller: Caller) -> None:
    caller.try_case(case)


@RIGHT.parametrize()
@bounded
def test_right_requests_about_real_people_get_answers_as_described(case: "Case[Any]", caller: Caller) -> None:
    _plant(case, caller)
    caller.try_case(case)
