"""/auth where two things meet at one moment, and what is left behind: what mutation tests found to be unproven."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.audit import Audit, Event
from blindpost.protocol import transcripts
from checks import Waiting, another_session, refusal, session_of, success
from support import Person, Signed, new_key, person, public, sign

if TYPE_CHECKING:
    import asyncpg
    from redis.asyncio import Redis

Noted = list[tuple[Event, str | None, str | None]]


# Events of the audit


@pytest.fixture
async def noted(router: Running, monkeypatch: pytest.MonkeyPatch) -> Noted:
    """What the router takes note of, while the test runs."""
    audit = await router.container.get(Audit)
    events: Noted = []
    note = audit.note

    def noting(event: Event, *, subject: str | None = None, address: str | None = None) -> None:
        events.append((event, subject, address))
        note(event, subject=subject, address=address)

    monkeypatch.setattr(audit, "note", noting)
    return events


def ecdsa_update(someone: Person) -> dict[str, str]:
    new = new_key()
    rotation = transcripts.rotate_ecdsa(UUID(someone.id), public(someone.ecdsa), public(new))
    return {
        "ecdsa_public_key": public(new).pem,
        "ecdh_signature": sign(new, transcripts.register(someone.name, public(new), public(someone.ecdh))),
        "old_key_signature": sign(someone.ecdsa, rotation),
        "new_key_signature": sign(new, rotation),
    }


def ecdh_update(someone: Person) -> dict[str, str]:
    new = public(new_key())
    signature = sign(someone.ecdsa, transcripts.register(someone.name, public(someone.ecdsa), new))
    return {"ecdh_public_key": new.pem, "ecdh_signature": signature}


async def delete(someone: Person) -> httpx.Response:
    signature = sign(someone.ecdsa, transcripts.delete_account(UUID(someone.id)))
    return await someone.call("DELETE", "/auth/me", {"signature": signature})


async def test_a_failed_login_is_noted_under_the_name_in_lower_case_and_the_address(
    http: httpx.AsyncClient, noted: Noted
) -> None:
    alice = Person(http, "Alice_" + uuid4().hex[:8])
    body = {"username": alice.name, "challenge": "x", "signature": sign(new_key(), b"")}
    refusal(await http.post("/auth/login", json=body, auth=Signed(alice.key)), 401, "login_failed")
    assert noted == [(Event.LOGIN_FAILED, alice.name.lower(), "127.0.0.1")]


async def test_what_happens_to_an_account_is_noted_under_its_id(http: httpx.AsyncClient, noted: Noted) -> None:
    alice = await person(http)
    phone = await another_session(alice)
    assert noted == []
    success(await alice.call("DELETE", f"/auth/sessions/{session_of(phone)}"))
    success(await alice.call("DELETE", "/auth/sessions"))
    success(await alice.put("/auth/ecdh-update-key", **ecdh_update(alice)))
    alice = await person(http)
    success(await alice.put("/auth/ecdsa-update-key", **ecdsa_update(alice)))
    bob = await person(http)
    success(await delete(bob))
    events = [event for event, _, _ in noted]
    assert events == [
        Event.SESSIONS_ENDED,
        Event.SESSIONS_ENDED,
        Event.ENCRYPTION_KEY_CHANGED,
        Event.IDENTITY_KEY_CHANGED,
        Event.ACCOUNT_DELETED,
    ]
    assert [subject for _, subject, _ in noted[3:]] == [alice.id, bob.id]
    assert len({subject for _, subject, _ in noted[:3]}) == 1
    assert {address for _, _, address in noted} == {None}


async def test_what_was_refused_changed_nothing_and_is_not_noted(http: httpx.AsyncClient, noted: Noted) -> None:
    alice = await person(http)
    wrong = sign(new_key(), b"")
    refusal(await alice.call("DELETE", f"/auth/sessions/{uuid4()}"), 404)
    refusal(await alice.put("/auth/ecdh-update-key", **ecdh_update(alice) | {"ecdh_signature": wrong}), 400)
    refusal(await alice.put("/auth/ecdsa-update-key", **ecdsa_update(alice) | {"old_key_signature": wrong}), 400)
    refusal(await alice.call("DELETE", "/auth/me", {"signature": wrong}), 400)
    assert noted == []


# Two changes at one moment


@asynccontextmanager
async def held(database: "asyncpg.Connection[Any]", someone: Person) -> AsyncIterator[None]:
    """Hold a user's row, as another transaction that changes it does."""
    async with database.transaction():
        await database.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", UUID(someone.id))
        yield


async def waiting_for(database: "asyncpg.Connection[Any]", work: Awaitable[httpx.Response]) -> "asyncio.Task[Any]":
    """Start a request, and return when it waits for the row."""
    task = asyncio.ensure_future(work)
    while not task.done() and not await database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # it is PostgreSQL that waits
    assert not task.done(), "it did not wait"
    return task


async def replace_key(database: "asyncpg.Connection[Any]", someone: Person) -> None:
    await database.execute(
        "UPDATE users SET ecdsa_public_key = $2 WHERE id = $1", UUID(someone.id), public(new_key()).der
    )


async def test_a_login_whose_key_is_replaced_meanwhile_fails(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice = await Person(http).register()
    body = await alice.login_body()
    async with held(database, alice):
        login = await waiting_for(database, http.post("/auth/login", json=body, auth=Signed(alice.key)))
        await replace_key(database, alice)
    refusal(await login, 401, "login_failed")


@pytest.mark.parametrize("change", ["ecdsa", "ecdh", "delete"])
async def test_a_change_that_another_one_overtook_is_a_conflict(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]", change: str
) -> None:
    alice = await person(http)
    works = {
        "ecdsa": lambda: alice.put("/auth/ecdsa-update-key", **ecdsa_update(alice)),
        "ecdh": lambda: alice.put("/auth/ecdh-update-key", **ecdh_update(alice)),
        "delete": lambda: delete(alice),
    }
    async with held(database, alice):
        task = await waiting_for(database, works[change]())
        await replace_key(database, alice)
    refusal(await task, 409, "conflict")
    success(await alice.get("/auth/me"))


@pytest.mark.parametrize("change", ["ecdsa", "ecdh", "delete"])
async def test_a_change_that_a_deletion_overtook_finds_nobody(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]", change: str
) -> None:
    alice = await person(http)
    works = {
        "ecdsa": lambda: alice.put("/auth/ecdsa-update-key", **ecdsa_update(alice)),
        "ecdh": lambda: alice.put("/auth/ecdh-update-key", **ecdh_update(alice)),
        "delete": lambda: delete(alice),
    }
    async with held(database, alice):
        task = await waiting_for(database, works[change]())
        await database.execute("DELETE FROM users WHERE id = $1", UUID(alice.id))
    refusal(await task, 401, "not_authenticated")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/auth/me"), ("PUT", "/auth/ecdh-update-key"), ("DELETE", "/auth/me")]
)
async def test_a_session_that_redis_still_believes_in_shows_nothing_of_an_account_that_is_gone(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]", method: str, path: str
) -> None:
    alice = await person(http)
    success(await alice.get("/auth/me"))
    await database.execute("DELETE FROM users WHERE id = $1", UUID(alice.id))
    body = {"GET": None, "PUT": ecdh_update(alice), "DELETE": {"signature": sign(alice.ecdsa, b"")}}[method]
    refusal(await alice.call(method, path, body), 401, "not_authenticated")


# What is left behind


async def test_a_session_is_asked_for_once_and_then_remembered(
    http: httpx.AsyncClient, cache: "Redis", database: "asyncpg.Connection[Any]"
) -> None:
    """Or every request would cost a read of PostgreSQL."""
    alice = await person(http)
    before = set(await cache.keys("session:*"))
    success(await alice.get("/auth/me"))
    assert len(set(await cache.keys("session:*")) - before) == 1
    await database.execute("DELETE FROM sessions WHERE id = $1", UUID(session_of(alice)))
    success(await alice.get("/auth/me"))


async def test_a_session_that_ended_is_gone_from_postgresql_too(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    """Redis remembers an end for two minutes only."""
    alice = await person(http)
    session = UUID(session_of(alice))
    assert await database.fetchval("SELECT count(*) FROM sessions WHERE id = $1", session) == 1
    success(await alice.post("/auth/logout"))
    assert await database.fetchval("SELECT count(*) FROM sessions WHERE id = $1", session) == 0


async def test_a_deletion_is_told_to_those_who_were_only_asked(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob = await person(http), await person(http)
    success(await alice.post("/contacts/send-contact-request", receiver_id=bob.id), 201)
    await bob.drain()
    poll = await waiting.one_poll(bob)
    success(await delete(alice))
    assert success(await poll)["contacts_changed"]


async def test_a_change_of_keys_is_not_told_to_those_who_were_only_asked(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await person(http), await person(http)
    success(await alice.post("/contacts/send-contact-request", receiver_id=bob.id), 201)
    version = "SELECT contacts_version FROM users WHERE id = $1"
    before = await database.fetchval(version, UUID(bob.id))
    success(await alice.put("/auth/ecdh-update-key", **ecdh_update(alice)))
    assert await database.fetchval(version, UUID(bob.id)) == before


async def test_the_repeat_of_a_change_of_the_encryption_key_retires_nothing(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice = await person(http)
    body = ecdh_update(alice)
    for _ in range(2):
        success(await alice.put("/auth/ecdh-update-key", **body))
    count = "SELECT count(*) FROM retired_ecdh_keys WHERE user_id = $1"
    assert await database.fetchval(count, UUID(alice.id)) == 1


async def test_a_session_of_a_deleted_account_opens_nothing_else_either(
    http: httpx.AsyncClient, second_http: httpx.AsyncClient
) -> None:
    """Redis believed in it a moment ago, and not every answer needs the account."""
    alice = await person(http)
    phone = (await another_session(alice)).at(second_http)
    success(await phone.get("/contacts/get-contacts"))
    success(await delete(alice))
    for someone in (alice, phone):
        refusal(await someone.get("/contacts/get-contacts"), 401, "not_authenticated")
        refusal(await someone.get("/messages/get-undelivered-messages"), 401, "not_authenticated")
