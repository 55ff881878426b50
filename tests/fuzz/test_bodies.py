"""Every request body, changed in every way, in good hands: signed, at the running router, from somebody logged in.

What comes back is the success that the API describes, or a problem that it describes: never a fault of the server.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from blindpost.app import Running
from blindpost.protocol import transcripts
from checks import PROBLEM_FIELDS, client_of
from fuzz.corpus import inputs_of
from fuzz.mutate import mutated
from prekeys import upload_of
from support import Person, Signed, b64, contacts, new_key, person, public, sign

Body = dict[str, Any]
Make = Callable[[Person, Person], Awaitable[Body]]
bounded = settings(
    max_examples=60,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example is made of new keys: it cannot be made small
    suppress_health_check=list(HealthCheck),
)


async def _registration(me: Person, _other: Person) -> Body:
    return Person(me.http).registration()


async def _login(me: Person, _other: Person) -> Body:
    return await me.login_body()


async def _rotation(me: Person, _other: Person) -> Body:
    new = new_key()
    rotation = transcripts.rotate_ecdsa(UUID(me.id), public(me.ecdsa), public(new))
    return {
        "ecdsa_public_key": public(new).pem,
        "ecdh_signature": sign(new, transcripts.register(me.name, public(new), public(me.ecdh))),
        "old_key_signature": sign(me.ecdsa, rotation),
        "new_key_signature": sign(new, rotation),
    }


async def _ecdh_key(me: Person, _other: Person) -> Body:
    new = public(new_key())
    signature = sign(me.ecdsa, transcripts.register(me.name, public(me.ecdsa), new))
    return {"ecdh_public_key": new.pem, "ecdh_signature": signature}


async def _deletion(me: Person, _other: Person) -> Body:
    return {"signature": sign(me.ecdsa, transcripts.delete_account(UUID(me.id)))}


async def _contact_request(me: Person, _other: Person) -> Body:
    return {"receiver_id": (await Person(me.http).register()).id}


async def _decision(me: Person, _other: Person) -> Body:
    stranger = await person(me.http)
    await stranger.post("/contacts/send-contact-request", receiver_id=me.id)
    return {"sender_id": stranger.id}


async def _message(_me: Person, other: Person) -> Body:
    return {"recipient_id": other.id, "message": b64(b"opaque"), "client_message_id": str(uuid4())}


async def _acknowledgement(me: Person, other: Person) -> Body:
    return {"message_ids": [(await other.send(me)).json()["id"], str(uuid4())]}


async def _acknowledging_poll(me: Person, other: Person) -> Body:
    return await _acknowledgement(me, other) | {"timeout": 0, "limit": 1}


async def _prekeys(me: Person, _other: Person) -> Body:
    return upload_of(me)


async def _claim(me: Person, _other: Person) -> Body:
    owner = await person(me.http)
    await owner.befriend(me)
    await owner.call("POST", "/keys", upload_of(owner))
    return {"user_id": owner.id}


GOOD: dict[tuple[str, str], tuple[str, Make]] = {
    ("POST", "/auth/register"): ("RegisterRequest", _registration),
    ("POST", "/auth/login"): ("LoginRequest", _login),
    ("PUT", "/auth/ecdsa-update-key"): ("EcdsaUpdate", _rotation),
    ("PUT", "/auth/ecdh-update-key"): ("EcdhUpdate", _ecdh_key),
    ("DELETE", "/auth/me"): ("DeleteAccount", _deletion),
    ("POST", "/contacts/send-contact-request"): ("ContactRequest", _contact_request),
    ("PUT", "/contacts/accept-contact-request"): ("ContactDecision", _decision),
    ("PUT", "/contacts/reject-contact-request"): ("ContactDecision", _decision),
    ("POST", "/keys"): ("PrekeysUpload", _prekeys),
    ("POST", "/keys/claim"): ("ClaimRequest", _claim),
    ("POST", "/messages/send"): ("SendRequest", _message),
    ("POST", "/messages/ack"): ("AckRequest", _acknowledgement),
    ("POST", "/messages/poll"): ("PollRequest", _acknowledging_poll),
}
"""Each endpoint that takes a body: its model, and how a good one is made."""
ACCOUNT = {"/auth/ecdsa-update-key", "/auth/ecdh-update-key", "/auth/me"}
by_endpoint = pytest.mark.parametrize("endpoint", GOOD, ids=" ".join)


class Scene:
    """Two contacts at a router, and an event loop for what tests ask of it one by one."""

    def __init__(self, router: Running, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._http = client_of(router)
        self._good: dict[tuple[str, str], bytes] = {}
        self.paths: dict[str, Any] = self.run(self._http.get("/openapi.json")).json()["paths"]
        self.me, self.other = self.run(contacts(self._http))

    def run(self, work: Any) -> Any:
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self._http.aclose())

    def good(self, endpoint: tuple[str, str]) -> bytes:
        """Make a body that would be taken; the same one until it was, or a login used its challenge up."""
        if endpoint not in self._good or endpoint[1] == "/auth/login":
            self._good[endpoint] = json.dumps(self.run(GOOD[endpoint][1](self.me, self.other))).encode()
        return self._good[endpoint]

    def demand_described_answer(self, endpoint: tuple[str, str], body: bytes) -> int:
        """Send a body with a good proof; returns the status, which the API describes."""
        method, path = endpoint
        auth = Signed(self.me.key) if path == "/auth/login" else self.me.auth
        headers = {"Content-Type": "application/json"}
        answer = self.run(self._http.request(method, path, content=body, headers=headers, auth=auth))
        described = self.paths[path][method.lower()]["responses"]
        assert str(answer.status_code) in described, (answer.status_code, body)
        if answer.is_success:
            self._begin_anew(endpoint)
        else:
            _demand_problem(answer, body)
        return int(answer.status_code)

    def _begin_anew(self, endpoint: tuple[str, str]) -> None:
        self._good.pop(endpoint, None)
        if endpoint[1] in ACCOUNT:
            self._good.clear()
            self.me, self.other = self.run(contacts(self._http))


def _demand_problem(answer: httpx.Response, body: bytes) -> None:
    assert answer.status_code < 500, (answer.text, body)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert set(answer.json()) == PROBLEM_FIELDS


@pytest.fixture(scope="module")
def scene(router: Running) -> Iterator[Scene]:
    with asyncio.Runner() as runner:
        made = Scene(router, runner)
        yield made
        made.close()


def test_every_endpoint_that_takes_a_body_is_here(scene: Scene) -> None:
    taking = {
        (method.upper(), path)
        for path, operations in scene.paths.items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    assert taking == GOOD.keys()


@by_endpoint
def test_a_body_that_was_not_changed_is_taken(endpoint: tuple[str, str], scene: Scene) -> None:
    assert scene.demand_described_answer(endpoint, scene.good(endpoint)) in {200, 201}


@by_endpoint
@bounded
@given(seed=st.integers(0, 2**32))
def test_a_body_that_was_changed_is_taken_or_a_problem(endpoint: tuple[str, str], scene: Scene, seed: int) -> None:
    # Not Hypothesis's own randomness: the bodies differ from run to run, in their lengths too.
    scene.demand_described_answer(endpoint, mutated(Random(seed), scene.good(endpoint)))  # noqa: S311


@by_endpoint
def test_a_kept_body_is_taken_or_a_problem(endpoint: tuple[str, str], scene: Scene) -> None:
    """Those that led the search in the models, also at the router."""
    model = GOOD[endpoint][0].encode() + b"\n"
    bodies = [kept.removeprefix(model) for kept in inputs_of("body").values() if kept.startswith(model)]
    assert bodies
    for body in bodies:
        scene.demand_described_answer(endpoint, body)


def test_all_kept_json_is_a_problem(scene: Scene) -> None:
    """One endpoint stands for all: they read bodies in one place."""
    for body in inputs_of("json").values():
        assert scene.demand_described_answer(("POST", "/messages/send"), body) == 400
