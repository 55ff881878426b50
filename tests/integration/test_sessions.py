"""One's sessions: seen, and ended, by their owner alone."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.services import auth
from checks import Waiting, another_session, refusal, session_of, success
from support import person

if TYPE_CHECKING:
    import asyncpg


async def test_sessions_are_listed_oldest_first_and_ones_own_is_marked(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    phone = await another_session(alice)
    listed = success(await phone.get("/auth/sessions"))
    assert [each["id"] for each in listed] == [session_of(alice), session_of(phone)]
    assert [each["is_current"] for each in listed] == [False, True]
    for each in listed:
        assert set(each) == {"id", "created_at", "expires_at", "is_current"}
        lasts = datetime.fromisoformat(each["expires_at"]) - datetime.fromisoformat(each["created_at"])
        assert lasts == timedelta(hours=12)
        assert abs(datetime.fromisoformat(each["created_at"]) - datetime.now(UTC)) < timedelta(minutes=5)


async def test_a_session_that_expired_is_not_listed(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice = await person(http)
    phone = await another_session(alice)
    await database.execute("UPDATE sessions SET expires_at = now() WHERE id = $1", UUID(session_of(phone)))
    assert [each["id"] for each in success(await alice.get("/auth/sessions"))] == [session_of(alice)]


async def test_a_session_is_ended_by_another_of_its_user_at_once_and_on_every_node(
    http: httpx.AsyncClient, second_http: httpx.AsyncClient, waiting: Waiting
) -> None:
    alice = await person(http)
    phone = await another_session(alice)
    success(await phone.at(second_http).get("/auth/me"))
    poll = await waiting.one_poll(phone)
    assert success(await alice.call("DELETE", f"/auth/sessions/{session_of(phone)}")) == {"status": "ok"}
    refusal(await poll, 401, "not_authenticated")
    for each in (phone, phone.at(second_http)):
        refusal(await each.get("/auth/me"), 401, "not_authenticated")
    success(await alice.get("/auth/me"))


async def test_ending_ones_own_session_is_a_logout(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    success(await alice.call("DELETE", f"/auth/sessions/{session_of(alice)}"))
    refusal(await alice.get("/auth/me"), 401, "not_authenticated")


async def test_all_others_are_ended_in_one_call(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    others = [await another_session(alice) for _ in range(3)]
    assert success(await alice.call("DELETE", "/auth/sessions")) == {"status": "ok", "ended": 3}
    for each in others:
        refusal(await each.get("/auth/me"), 401, "not_authenticated")
    assert success(await alice.call("DELETE", "/auth/sessions")) == {"status": "ok", "ended": 0}


async def test_foreign_ended_and_unknown_sessions_are_told_apart_by_nobody(http: httpx.AsyncClient) -> None:
    alice, mallory = await person(http), await person(http)
    ended = await another_session(mallory)
    success(await ended.post("/auth/logout"))
    answers = [
        await mallory.call("DELETE", f"/auth/sessions/{each}")
        for each in (session_of(alice), session_of(ended), str(uuid4()))
    ]
    for answer in answers:
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    told = [answer.json() | {"request_id": ""} for answer in answers]
    assert told == [told[0]] * 3
    assert {answer.status_code for answer in answers} == {404}
    refusal(answers[0], 404, "not_found")
    success(await alice.get("/auth/me"))


async def test_a_user_has_at_most_so_many_sessions_and_the_oldest_ends(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "SESSIONS_MAX", 3)
    alice = await person(http)
    success(await alice.get("/auth/me"))
    others = [await another_session(alice) for _ in range(3)]
    refusal(await alice.get("/auth/me"), 401, "not_authenticated")
    assert [each["id"] for each in success(await others[0].get("/auth/sessions"))] == [session_of(o) for o in others]
