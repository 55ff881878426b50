"""/contacts: who may write to whom."""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.services import contacts as service
from checks import Waiting, another_session, refusal, said_by, success
from support import Person, contacts, person, unique_name

if TYPE_CHECKING:
    import asyncpg

NIL = UUID(int=0)
OBJECT_FIELDS = {"id", "sender_id", "receiver_id", "status", "created_at", "updated_at", "user_id", "username"}


async def ask(one: Person, two: Person) -> httpx.Response:
    return await one.post("/contacts/send-contact-request", receiver_id=two.id)


async def accept(one: Person, sender: Person) -> httpx.Response:
    return await one.put("/contacts/accept-contact-request", sender_id=sender.id)


async def reject(one: Person, sender: Person) -> httpx.Response:
    return await one.put("/contacts/reject-contact-request", sender_id=sender.id)


async def contacts_of(someone: Person) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = success(await someone.get("/contacts/get-contacts"))
    return listed


async def requests_of(someone: Person, **direction: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = success(await someone.get("/contacts/get-contact-requests", **direction))
    return listed


async def people(http: httpx.AsyncClient, count: int = 2) -> list[Person]:
    return [await person(http) for _ in range(count)]


async def rows_between(database: "asyncpg.Connection[Any]", one: Person, two: Person) -> list[str]:
    sql = "SELECT status FROM contact_requests WHERE sender_id = ANY($1) AND receiver_id = ANY($1)"
    return [row["status"] for row in await database.fetch(sql, [UUID(one.id), UUID(two.id)])]


# Requests


async def test_a_request_is_pending_and_each_party_sees_the_other_in_it(http: httpx.AsyncClient) -> None:
    alice, bob = await people(http)
    sent = success(await ask(alice, bob), 201)
    assert set(sent) == OBJECT_FIELDS
    assert (sent["sender_id"], sent["receiver_id"], sent["status"]) == (alice.id, bob.id, "pending")
    assert (sent["user_id"], sent["username"]) == (bob.id, bob.name)
    assert datetime.fromisoformat(sent["created_at"]).utcoffset() is not None
    assert await requests_of(alice, direction="sent") == [sent]
    assert await requests_of(bob) == [sent | {"user_id": alice.id, "username": alice.name}]
    assert await requests_of(bob, direction="received") == await requests_of(bob)
    assert await requests_of(alice) == await requests_of(bob, direction="sent") == []
    assert await contacts_of(alice) == await contacts_of(bob) == []


async def test_an_accepted_request_makes_both_contacts(http: httpx.AsyncClient) -> None:
    alice, bob = await people(http)
    sent = success(await ask(alice, bob), 201)
    accepted = success(await accept(bob, alice))
    assert accepted["id"] == sent["id"]
    assert accepted["status"] == "accepted"
    assert accepted["updated_at"] > sent["updated_at"]
    assert await contacts_of(bob) == [accepted]
    assert await contacts_of(alice) == [accepted | {"user_id": bob.id, "username": bob.name}]
    assert await requests_of(alice, direction="sent") == await requests_of(bob) == []


async def test_a_rejected_request_makes_nobody_a_contact(http: httpx.AsyncClient) -> None:
    alice, bob = await people(http)
    success(await ask(alice, bob), 201)
    assert success(await reject(bob, alice))["status"] == "rejected"
    assert await contacts_of(alice) == await contacts_of(bob) == []
    assert await requests_of(alice, direction="sent") == await requests_of(bob) == []


async def test_a_request_that_stands_cannot_be_sent_again(http: httpx.AsyncClient) -> None:
    alice, bob = await people(http)
    success(await ask(alice, bob), 201)
    refusal(await ask(alice, bob), 409, "contact_request_exists")
    success(await accept(bob, alice))
    for one, two in ((alice, bob), (bob, alice)):
        refusal(await ask(one, two), 409, "contact_request_exists")


async def test_a_request_that_crosses_another_accepts_it(http: httpx.AsyncClient) -> None:
    alice, bob = await people(http)
    sent = success(await ask(alice, bob), 201)
    crossed = success(await ask(bob, alice), 201)
    assert (crossed["id"], crossed["status"]) == (sent["id"], "accepted")
    assert (crossed["user_id"], crossed["username"]) == (alice.id, alice.name)


async def test_requests_that_cross_at_the_same_moment_make_one_accepted_row(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    for _ in range(5):
        alice, bob = await people(http)
        answers = await asyncio.gather(ask(alice, bob), ask(bob, alice))
        assert sorted(success(answer, 201)["status"] for answer in answers) == ["accepted", "pending"]
        assert await rows_between(database, alice, bob) == ["accepted"]


async def test_of_one_request_sent_many_times_at_once_one_is_stored(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await people(http)
    answers = await asyncio.gather(*(ask(alice, bob) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + 7 * [409]
    assert await rows_between(database, alice, bob) == ["pending"]


async def test_nobody_is_a_contact_of_their_own(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    refusal(await ask(alice, alice), 400, "invalid_request")
    refusal(await accept(alice, alice), 404, "not_found")


async def test_a_request_to_nobody_is_not_found(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    refusal(await ask(alice, Person(http, id=str(uuid4()))), 404, "user_not_found")


async def test_the_actor_is_never_a_field(http: httpx.AsyncClient) -> None:
    alice, bob, mallory = await people(http, 3)
    forged = {"receiver_id": bob.id, "sender_id": alice.id}
    refusal(await mallory.post("/contacts/send-contact-request", **forged), 400, "invalid_request")
    success(await ask(alice, bob), 201)
    forged = {"sender_id": alice.id, "receiver_id": bob.id}
    refusal(await mallory.put("/contacts/accept-contact-request", **forged), 400, "invalid_request")
    assert len(await requests_of(bob)) == 1


# Decisions


async def test_the_same_decision_again_changes_nothing(http: httpx.AsyncClient) -> None:
    alice, bob, carol = await people(http, 3)
    success(await ask(alice, bob), 201)
    success(await ask(carol, bob), 201)
    assert success(await accept(bob, alice)) == success(await accept(bob, alice))
    assert success(await reject(bob, carol)) == success(await reject(bob, carol))


async def test_decisions_at_the_same_moment_agree(http: httpx.AsyncClient, database: "asyncpg.Connection[Any]") -> None:
    alice, bob = await people(http)
    success(await ask(alice, bob), 201)
    answers = await asyncio.gather(*(accept(bob, alice) for _ in range(6)))
    assert len({success(answer)["updated_at"] for answer in answers}) == 1
    assert await rows_between(database, alice, bob) == ["accepted"]


async def test_of_an_acceptance_and_a_rejection_at_once_one_wins_and_the_other_is_told(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await people(http)
    success(await ask(alice, bob), 201)
    accepting, rejecting = await asyncio.gather(accept(bob, alice), reject(bob, alice))
    assert sorted((accepting.status_code, rejecting.status_code)) == [200, 409]
    won = "accepted" if accepting.status_code == 200 else "rejected"
    assert await rows_between(database, alice, bob) == [won]


@pytest.mark.parametrize("decide", [accept, reject])
async def test_only_the_receiver_decides_and_others_see_nothing_there(
    http: httpx.AsyncClient, decide: Any, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob, mallory = await people(http, 3)
    success(await ask(alice, bob), 201)
    nobody = Person(http, id=str(uuid4()))
    tries = [await decide(alice, bob), await decide(alice, alice), await decide(mallory, alice)]
    tries += [await decide(mallory, bob), await decide(bob, mallory), await decide(bob, nobody)]
    for answer in tries:
        refusal(answer, 404, "not_found")
    assert len({said_by(answer) for answer in tries}) == 1
    assert await rows_between(database, alice, bob) == ["pending"]


@pytest.mark.parametrize("decide", [accept, reject])
async def test_a_decision_on_what_nobody_asked_locks_nobody(
    http: httpx.AsyncClient, decide: Any, database: "asyncpg.Connection[Any]"
) -> None:
    alice, mallory = await people(http)
    async with database.transaction():
        await database.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", alice.id)
        # Whoever waits for the lock is answered 503 in the end.
        refusal(await decide(mallory, alice), 404, "not_found")


async def test_a_decision_stands(http: httpx.AsyncClient) -> None:
    alice, bob, carol = await people(http, 3)
    success(await ask(alice, bob), 201)
    success(await accept(bob, alice))
    refusal(await reject(bob, alice), 409, "conflict")
    assert len(await contacts_of(alice)) == 1
    success(await ask(carol, bob), 201)
    success(await reject(bob, carol))
    refusal(await accept(bob, carol), 409, "conflict")
    assert await contacts_of(carol) == []


async def test_the_rejected_cannot_ask_again_and_the_one_who_rejected_can(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await people(http)
    success(await ask(alice, bob), 201)
    success(await reject(bob, alice))
    refusal(await ask(alice, bob), 409, "contact_request_exists")
    refusal(await accept(alice, bob), 404, "not_found")
    asked = success(await ask(bob, alice), 201)
    assert (asked["status"], asked["sender_id"], asked["receiver_id"]) == ("pending", bob.id, alice.id)
    refusal(await accept(bob, alice), 404, "not_found")
    success(await accept(alice, bob))
    assert await rows_between(database, alice, bob) == ["accepted"]


# Finding people


async def search(someone: Person, prefix: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = success(await someone.get("/contacts/search-users", username=prefix))
    return found


async def test_a_search_finds_by_prefix_in_any_case_and_never_oneself(http: httpx.AsyncClient) -> None:
    stem = unique_name("Find")
    seeker = await person(http, f"{stem}_me")
    alice = await Person(http, f"{stem}_Alice").register()
    found = {"id": alice.id, "username": alice.name, "status": None}
    for prefix in (stem, stem.upper(), stem.lower(), alice.name):
        assert await search(seeker, prefix) == [found]
    assert await search(seeker, stem[1:]) == []
    assert await search(seeker, seeker.name) == []


async def test_a_search_shows_how_one_stands_to_the_found(http: httpx.AsyncClient) -> None:
    alice, bob, carol, dave = await people(http, 4)
    for each in (bob, carol, dave):
        success(await ask(alice, each), 201)
    success(await accept(bob, alice))
    success(await reject(carol, alice))
    for each, status in ((bob, "accepted"), (carol, "rejected"), (dave, "pending")):
        assert [found["status"] for found in await search(alice, each.name)] == [status]
        assert [found["status"] for found in await search(each, alice.name)] == [status]
    assert [found["status"] for found in await search(bob, carol.name)] == [None]


async def test_a_search_returns_ten_at_most_in_the_order_of_names(http: httpx.AsyncClient) -> None:
    seeker, stem = await person(http), unique_name()
    names = [f"{stem}_{number:02}" for number in range(12)]
    for name in reversed(names):
        await Person(http, name).register()
    assert [found["username"] for found in await search(seeker, stem)] == names[:10]


async def test_an_underscore_in_a_search_stands_for_itself(http: httpx.AsyncClient) -> None:
    seeker, stem = await person(http), unique_name()
    for name in (f"{stem}_x", f"{stem}yx", f"{stem}0x"):
        await Person(http, name).register()
    assert [found["username"] for found in await search(seeker, f"{stem}_")] == [f"{stem}_x"]


@pytest.mark.parametrize("prefix", ["", "ab", "a" * 51, "ab%", "a*c", "al ice", "ab\\", "\u0430lice", "abc\x00", "%%%"])
async def test_a_search_takes_three_to_fifty_characters_of_a_name(http: httpx.AsyncClient, prefix: str) -> None:
    alice = await person(http)
    refusal(await alice.get("/contacts/search-users", username=prefix), 400, "invalid_request")


async def users_by_ids(someone: Person, ids: str) -> httpx.Response:
    return await someone.get("/contacts/users-by-ids", users_ids=ids)


async def test_users_are_read_by_id_and_those_that_do_not_exist_are_left_out(http: httpx.AsyncClient) -> None:
    alice, bob, carol = await people(http, 3)
    success(await ask(bob, alice), 201)
    found = success(await users_by_ids(alice, f"{bob.id},{uuid4()}, {carol.id.upper()},{bob.id}"))
    assert len(found) == 2
    assert {"id": bob.id, "username": bob.name, "status": "pending"} in found
    assert {"id": carol.id, "username": carol.name, "status": None} in found


async def test_a_hundred_users_can_be_read_by_id_and_not_one_more(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    ids = [str(uuid4()) for _ in range(101)]
    assert success(await users_by_ids(alice, ",".join(ids[:100]))) == []
    refusal(await users_by_ids(alice, ",".join(ids)), 400, "invalid_request")


@pytest.mark.parametrize("ids", ["", ",", "1", "alice", "x" * 36, f"{NIL},", f"{NIL};{NIL}", "\x00"])
async def test_what_is_no_list_of_ids_is_refused(http: httpx.AsyncClient, ids: str) -> None:
    alice = await person(http)
    refusal(await users_by_ids(alice, ids), 400, "invalid_request")


# News


async def test_both_are_told_of_every_change_in_real_time(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob = await people(http)
    for who, change, other in ((alice, ask, bob), (bob, reject, alice), (bob, ask, alice), (alice, accept, bob)):
        polls = [await waiting.one_poll(each) for each in (alice, bob)]
        success(await change(who, other), 201 if change is ask else 200)
        for poll in polls:
            assert success(await poll)["contacts_changed"]


async def test_one_who_was_away_is_told_on_return(http: httpx.AsyncClient) -> None:
    alice, bob = await person(http), await Person(http).register()
    success(await ask(alice, bob), 201)
    await bob.login()
    assert (await bob.poll(0))["contacts_changed"]
    assert not (await bob.poll(0))["contacts_changed"]


async def test_a_session_that_did_not_poll_is_told_when_it_does(http: httpx.AsyncClient) -> None:
    alice, bob = await people(http)
    success(await ask(alice, bob), 201)
    assert (await bob.poll(0))["contacts_changed"]
    success(await accept(bob, alice))
    for each in (alice, bob):
        assert (await each.poll(0))["contacts_changed"]


async def test_each_session_is_told_once_of_a_change(http: httpx.AsyncClient) -> None:
    alice, bob = await people(http)
    phone = await another_session(bob)
    success(await ask(alice, bob), 201)
    for session in (alice, bob, phone):
        assert (await session.poll(0))["contacts_changed"]
    for session in (alice, bob, phone):
        assert not (await session.poll(0))["contacts_changed"]


async def test_a_refused_change_is_no_news(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    refusal(await ask(alice, bob), 409)
    refusal(await reject(alice, bob), 404)
    success(await accept(bob, alice))
    for each in (alice, bob):
        assert not (await each.poll(0))["contacts_changed"]


async def test_a_change_between_others_is_no_news(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob, carol = await people(http, 3)
    poll = await waiting.one_poll(carol)
    success(await ask(alice, bob), 201)
    success(await accept(bob, alice))
    success(await ask(alice, carol), 201)
    assert success(await poll)["contacts_changed"]
    assert not (await carol.poll(0))["contacts_changed"]


# How many


async def test_requests_that_wait_for_one_person_are_bounded(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PENDING_MAX", 2)
    bob, carol, *others = await people(http, 5)
    for other in others[:2]:
        success(await ask(other, bob), 201)
    answer = await ask(others[2], bob)
    refusal(answer, 429, "too_many_pending")
    assert int(answer.headers["Retry-After"]) > 0
    assert await requests_of(others[2], direction="sent") == []
    success(await ask(others[2], carol), 201)
    success(await reject(bob, others[0]))
    success(await ask(others[2], bob), 201)


async def test_requests_of_one_person_that_wait_are_bounded(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PENDING_MAX", 2)
    alice, *others = await people(http, 4)
    for other in others[:2]:
        success(await ask(alice, other), 201)
    refusal(await ask(alice, others[2]), 429, "too_many_pending")
    success(await accept(others[0], alice))
    success(await ask(alice, others[2]), 201)


async def test_a_full_list_of_requests_keeps_nobody_from_answering_or_crossing(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PENDING_MAX", 1)
    alice, bob, carol = await people(http, 3)
    success(await ask(bob, carol), 201)
    success(await ask(alice, bob), 201)
    assert success(await ask(carol, bob), 201)["status"] == "accepted"
    assert success(await ask(bob, alice), 201)["status"] == "accepted"


async def test_at_the_same_moment_not_one_more_request_waits(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PENDING_MAX", 3)
    bob, *others = await people(http, 9)
    answers = await asyncio.gather(*(ask(other, bob) for other in others))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 5
    assert len(await requests_of(bob)) == 3


async def test_contacts_are_bounded_and_a_request_beyond_them_goes_on_waiting(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CONTACTS_MAX", 1)
    alice, bob, carol, dave = await people(http, 4)
    await alice.befriend(bob)
    success(await ask(carol, alice), 201)
    refusal(await accept(alice, carol), 409, "too_many_contacts")
    refusal(await ask(alice, carol), 409, "too_many_contacts")
    success(await ask(alice, dave), 201)
    refusal(await accept(dave, alice), 409, "too_many_contacts")
    assert [each["user_id"] for each in await requests_of(alice)] == [carol.id]
    assert [each["user_id"] for each in await contacts_of(alice)] == [bob.id]
    success(await reject(alice, carol))


async def test_at_the_same_moment_not_one_more_becomes_a_contact(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CONTACTS_MAX", 2)
    bob, *others = await people(http, 7)
    for other in others:
        success(await ask(other, bob), 201)
    answers = await asyncio.gather(*(accept(bob, other) for other in others))
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [409] * 4
    assert len(await contacts_of(bob)) == 2
