"""Every endpoint, tried by everybody: no one, a garbage token, an ended session, a stranger, and each party."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import httpx
import pytest

from blindpost.protocol import transcripts
from checks import another_session, ids_waiting, refusal, said_by, session_of, success
from prekeys import upload_of
from support import Person, b64, contacts, new_key, person, public, sign

Body = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """Alice asked Bob, and waits; Carol and Dave are contacts, and Carol wrote to Dave. Mallory knows nobody.

    Of all of them only Dave has published keys.
    """

    alice: Person
    bob: Person
    carol: Person
    dave: Person
    mallory: Person
    message_id: str


@pytest.fixture
async def scene(http: httpx.AsyncClient) -> Scene:
    alice, bob, mallory = [await person(http) for _ in range(3)]
    carol, dave = await contacts(http)
    success(await alice.post("/contacts/send-contact-request", receiver_id=bob.id), 201)
    sent = success(await carol.send(dave), 201)
    success(await dave.call("POST", "/keys", upload_of(dave)))
    return Scene(alice, bob, carol, dave, mallory, sent["id"])


@dataclass(frozen=True)
class Row:
    """One endpoint: how to call it rightly, and what comes of it for a stranger and for each party.

    The request is made for a person, and aims at what is the parties': so a stranger's is a try at theirs.
    An outcome is a status, or a problem's code, or a check of the body of a 200.
    """

    stranger: Any
    parties: tuple[tuple[str, Any], ...] = ()
    path: Callable[[Scene], str] | None = None
    body: Callable[[Scene, Person], Body] | None = None


def _rotation(_: Scene, who: Person) -> Body:
    """Sign with the keys of whoever calls: right for them, and wrong for anybody else's account."""
    new = new_key()
    signed = transcripts.rotate_ecdsa(UUID(who.id), public(who.ecdsa), public(new))
    return {
        "ecdsa_public_key": public(new).pem,
        "ecdh_signature": sign(new, transcripts.register(who.name, public(new), public(who.ecdh))),
        "old_key_signature": sign(who.ecdsa, signed),
        "new_key_signature": sign(new, signed),
    }


def _ecdh_update(_: Scene, who: Person) -> Body:
    new = new_key()
    signed = transcripts.register(who.name, public(who.ecdsa), public(new))
    return {"ecdh_public_key": public(new).pem, "ecdh_signature": sign(who.ecdsa, signed)}


def _deletion(_: Scene, who: Person) -> Body:
    return {"signature": sign(who.ecdsa, transcripts.delete_account(UUID(who.id)))}


def _all_about(name: str) -> Callable[[Any, Scene], bool]:
    """Check that an answer is about this person alone."""
    return lambda body, scene: body["id"] == getattr(scene, name).id


def _is(expected: Any) -> Callable[[Any, Scene], bool]:
    return lambda body, _: body == expected


def _users(body: Any, scene: Scene) -> bool:
    return [user["id"] for user in body] == [scene.alice.id]


def _request_of_alice(body: Any, scene: Scene) -> bool:
    return [(each["sender_id"], each["receiver_id"]) for each in body] == [(scene.alice.id, scene.bob.id)]


def _contact_is(name: str) -> Callable[[Any, Scene], bool]:
    return lambda body, scene: [each["user_id"] for each in body] == [getattr(scene, name).id]


def _no_messages(body: Any, _: Scene) -> bool:
    return body["messages"] == [] and not body.get("delivered")


def _the_message(body: Any, scene: Scene) -> bool:
    return [message["id"] for message in body["messages"]] == [scene.message_id]


def _no_events(events: Any, _: Scene) -> bool:
    return not any("message" in each for each in events)


def _the_event(events: Any, scene: Scene) -> bool:
    return [each["id"] for each in events if "message" in each] == [scene.message_id]


def _acknowledged(body: Any, scene: Scene) -> bool:
    return bool(body["acknowledged"] == [scene.message_id])


def _keys_of_alice(body: Any, scene: Scene) -> bool:
    return bool(body["user_id"] == scene.alice.id)


def _queued(body: Any, scene: Scene) -> bool:
    return bool(body == {scene.message_id: "queued"})


def _decision(scene: Scene, _: Person) -> Body:
    return {"sender_id": scene.alice.id}


def _one_session(body: Any, _: Scene) -> bool:
    return [each["is_current"] for each in body] == [True]


def _one_time_prekeys(count: int) -> Callable[[Any, Scene], bool]:
    return lambda body, _: (body["one_time_prekeys"], body["one_time_kem_prekeys"]) == (count, count)


def _keys_of_dave(body: Any, scene: Scene) -> bool:
    return bool(body["user_id"] == scene.dave.id)


_none_ended = _is({"status": "ok", "ended": 0})
_decisions: Final = Row("not_found", (("alice", "not_found"), ("bob", 200)), body=_decision)

CLOSED: Final[dict[tuple[str, str], Row]] = {
    ("POST", "/auth/logout"): Row(200, (("alice", 200),)),
    ("POST", "/auth/ticket"): Row(200, (("alice", 200),)),
    ("GET", "/auth/sessions"): Row(_one_session, (("alice", _one_session),)),
    ("DELETE", "/auth/sessions"): Row(
        _is({"status": "ok", "ended": 0}), (("alice", _is({"status": "ok", "ended": 0})),)
    ),
    ("DELETE", "/auth/sessions/{session_id}"): Row(
        "not_found",
        (("alice", 200), ("bob", "not_found")),
        path=lambda scene: f"/auth/sessions/{session_of(scene.alice)}",
    ),
    ("GET", "/auth/public-keys/{user_id}"): Row(
        _keys_of_alice,
        (("alice", _keys_of_alice), ("bob", _keys_of_alice)),
        path=lambda scene: f"/auth/public-keys/{scene.alice.id}",
    ),
    ("PUT", "/auth/ecdsa-update-key"): Row(200, (("alice", 200),), body=_rotation),
    ("PUT", "/auth/ecdh-update-key"): Row(200, (("alice", 200),), body=_ecdh_update),
    ("GET", "/auth/me"): Row(_all_about("mallory"), (("alice", _all_about("alice")),)),
    ("DELETE", "/auth/me"): Row(200, (("alice", 200),), body=_deletion),
    ("GET", "/contacts/search-users"): Row(
        _users,
        (("alice", _is([])), ("bob", _users)),
        path=lambda scene: f"/contacts/search-users?username={scene.alice.name}",
    ),
    ("GET", "/contacts/users-by-ids"): Row(
        _users,
        (("alice", _users), ("bob", _users)),
        path=lambda scene: f"/contacts/users-by-ids?users_ids={scene.alice.id}",
    ),
    ("GET", "/contacts/get-contacts"): Row(
        _is([]), (("alice", _is([])), ("carol", _contact_is("dave")), ("dave", _contact_is("carol")))
    ),
    ("POST", "/contacts/send-contact-request"): Row(
        201,
        (("alice", "contact_request_exists"), ("bob", "invalid_request"), ("carol", 201)),
        body=lambda scene, _: {"receiver_id": scene.bob.id},
    ),
    ("GET", "/contacts/get-contact-requests"): Row(
        _is([]), (("alice", _is([])), ("bob", _request_of_alice), ("carol", _is([])))
    ),
    ("PUT", "/contacts/accept-contact-request"): _decisions,
    ("PUT", "/contacts/reject-contact-request"): _decisions,
    ("POST", "/keys"): Row(
        _one_time_prekeys(1),
        (("alice", _one_time_prekeys(1)), ("dave", _one_time_prekeys(2))),
        body=lambda _, who: upload_of(who),
    ),
    ("GET", "/keys/status"): Row(
        _one_time_prekeys(0), (("alice", _one_time_prekeys(0)), ("dave", _one_time_prekeys(1)))
    ),
    ("POST", "/keys/claim"): Row(
        "not_a_contact",
        (("alice", "not_a_contact"), ("carol", _keys_of_dave), ("dave", "invalid_request")),
        body=lambda scene, _: {"user_id": scene.dave.id},
    ),
    ("POST", "/messages/send"): Row(
        "not_a_contact",
        (("alice", "not_a_contact"), ("bob", "not_a_contact"), ("carol", 201), ("dave", "not_a_contact")),
        body=lambda scene, _: {"recipient_id": scene.dave.id, "message": b64(b"opaque")},
    ),
    ("GET", "/messages/get-undelivered-messages"): Row(_no_messages, (("carol", _no_messages), ("dave", _the_message))),
    ("GET", "/messages/poll"): Row(
        _no_messages,
        (("carol", _no_messages), ("dave", _the_message)),
        path=lambda _: "/messages/poll?timeout=0",
    ),
    ("POST", "/messages/ack"): Row(
        _is({"status": "ok", "acknowledged": []}),
        (("carol", _is({"status": "ok", "acknowledged": []})), ("dave", _acknowledged)),
        body=lambda scene, _: {"message_ids": [scene.message_id]},
    ),
    ("POST", "/messages/poll"): Row(
        _no_messages,
        (("carol", _no_messages), ("dave", _acknowledged)),
        body=lambda scene, _: {"message_ids": [scene.message_id], "timeout": 0},
    ),
    ("GET", "/messages/ws"): Row("upgrade_required", (("dave", "upgrade_required"),)),
    ("GET", "/messages/events"): Row(_no_events, (("carol", _no_events), ("dave", _the_event))),
    ("GET", "/messages/status"): Row(
        _is({}),
        (("carol", _queued), ("dave", _is({}))),
        path=lambda scene: f"/messages/status?ids={scene.message_id}",
    ),
}

OPEN: Final = {
    ("POST", "/auth/register"),
    ("GET", "/auth/challenge/{username}"),
    ("POST", "/auth/login"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
}
"""What needs no session: the ways to one, and what a supervisor asks."""

READS: Final = [endpoint for endpoint in CLOSED if endpoint[0] == "GET"]
WRITES: Final = [endpoint for endpoint in CLOSED if endpoint[0] != "GET"]


def operations(description: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }


def path_of(endpoint: tuple[str, str], scene: Scene) -> str:
    make = CLOSED[endpoint].path
    return make(scene) if make else endpoint[1]


def body_of(endpoint: tuple[str, str], scene: Scene, who: Person) -> Body | None:
    make = CLOSED[endpoint].body
    return make(scene, who) if make else None


async def call(endpoint: tuple[str, str], scene: Scene, who: Person) -> httpx.Response:
    if endpoint[1] == "/messages/events":
        return await first_events(who)
    return await who.call(endpoint[0], path_of(endpoint, scene), body_of(endpoint, scene, who))


async def first_events(who: Person) -> httpx.Response:
    """Read what a stream gives before a message that is sent now: all that was there."""
    other = await person(who.http)
    await other.befriend(who)
    async with who.http.stream("GET", "/messages/events", auth=who.auth) as answer:
        success_of_stream(answer)
        last = success(await other.send(who), 201)["id"]
        events: list[Any] = []
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
            if events and events[-1].get("id") == last:
                return httpx.Response(200, json=events[:-1])
    raise AssertionError("the stream ended")


def success_of_stream(answer: httpx.Response) -> None:
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/event-stream"


def demand(answer: httpx.Response, outcome: Any, scene: Scene) -> None:
    if isinstance(outcome, int):
        success(answer, outcome)
    elif isinstance(outcome, str):
        assert refusal(answer, answer.status_code)["code"] == outcome
    else:
        assert outcome(success(answer), scene), answer.text


async def test_the_matrix_holds_every_endpoint(http: httpx.AsyncClient) -> None:
    """A new endpoint fails here until it is written into the matrix."""
    described = operations(success(await http.get("/openapi.json")))
    assert set(described) == CLOSED.keys() | OPEN


async def test_the_description_tells_which_endpoints_need_a_session(http: httpx.AsyncClient) -> None:
    described = operations(success(await http.get("/openapi.json")))
    closed = {endpoint for endpoint, operation in described.items() if operation.get("security")}
    assert closed == CLOSED.keys()
    assert all("401" in described[endpoint]["responses"] for endpoint in closed)


async def test_what_needs_no_session_works_without_one(http: httpx.AsyncClient) -> None:
    alice = Person(http)
    success(await http.get(f"/auth/challenge/{alice.name}"))
    await (await alice.register()).login()
    success(await http.get("/health/live"))
    success(await http.get("/health/ready"))


async def test_without_a_session_that_lives_every_other_endpoint_is_closed(
    http: httpx.AsyncClient, scene: Scene
) -> None:
    ended = await another_session(scene.alice)
    success(await ended.post("/auth/logout"))
    shown = ["DPoP garbage", "DPoP", "Bearer", f"Basic {scene.alice.token}", f"Bearer {scene.alice.token}"]
    for endpoint in CLOSED:
        method, path, body = endpoint[0], path_of(endpoint, scene), body_of(endpoint, scene, scene.alice)
        answers = [await http.request(method, path, json=body)]
        answers += [await http.request(method, path, json=body, headers={"Authorization": each}) for each in shown]
        answers += [await ended.at(http).call(method, path, body)]
        for answer in answers:
            refusal(answer, 401, "not_authenticated")
            assert answer.headers["WWW-Authenticate"] == 'DPoP algs="ES256 ES384"'
        assert len({said_by(answer) for answer in answers}) == 1
    await demand_untouched(scene)


async def test_a_stranger_reads_what_is_theirs_and_nothing_of_the_parties(scene: Scene) -> None:
    for endpoint in READS:
        demand(await call(endpoint, scene, scene.mallory), CLOSED[endpoint].stranger, scene)


async def test_each_party_reads_its_part(scene: Scene) -> None:
    for endpoint in READS:
        for name, outcome in CLOSED[endpoint].parties:
            demand(await call(endpoint, scene, getattr(scene, name)), outcome, scene)


@pytest.mark.parametrize("endpoint", WRITES, ids=" ".join)
async def test_a_stranger_changes_nothing_of_the_parties(scene: Scene, endpoint: tuple[str, str]) -> None:
    demand(await call(endpoint, scene, scene.mallory), CLOSED[endpoint].stranger, scene)
    await demand_untouched(scene)


@pytest.mark.parametrize(
    ("endpoint", "name", "outcome"),
    [(endpoint, name, outcome) for endpoint in WRITES for name, outcome in CLOSED[endpoint].parties],
    ids=[f"{' '.join(endpoint)} as {name}" for endpoint in WRITES for name, _ in CLOSED[endpoint].parties],
)
async def test_each_party_changes_its_part(scene: Scene, endpoint: tuple[str, str], name: str, outcome: Any) -> None:
    demand(await call(endpoint, scene, getattr(scene, name)), outcome, scene)


@pytest.mark.parametrize(
    ("endpoint", "make"),
    [
        (("PUT", "/auth/ecdsa-update-key"), _rotation),
        (("PUT", "/auth/ecdh-update-key"), _ecdh_update),
        (("DELETE", "/auth/me"), _deletion),
        (("POST", "/keys"), lambda _, who: upload_of(who)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_what_a_stranger_signed_changes_nothing_with_a_stolen_token(
    scene: Scene, endpoint: tuple[str, str], make: Callable[[Scene, Person], Body]
) -> None:
    answer = await scene.alice.call(*endpoint, make(scene, scene.mallory))
    refusal(answer, 400, "invalid_signature")
    await demand_untouched(scene)


async def demand_untouched(scene: Scene) -> None:
    """The parties' request, contact, message, sessions, keys and prekeys are as they were."""
    asked = success(await scene.bob.get("/contacts/get-contact-requests"))
    assert [each["status"] for each in asked if each["sender_id"] == scene.alice.id] == ["pending"]
    assert _contact_is("dave")(success(await scene.carol.get("/contacts/get-contacts")), scene)
    assert await ids_waiting(scene.dave) == [scene.message_id]
    assert _one_time_prekeys(1)(success(await scene.dave.get("/keys/status")), scene)
    account = success(await scene.alice.get("/auth/me"))
    assert account["ecdsa_public_key"] == public(scene.alice.ecdsa).pem
    assert account["ecdh_public_key"] == public(scene.alice.ecdh).pem
