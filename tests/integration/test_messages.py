"""/messages: what is sent arrives, once it is on disk, and nobody else's."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.hub import Hub
from blindpost.core.notify_bus import NotifyBus
from blindpost.core.writer import Ack, MessageWriter, NewMessage
from blindpost.errors import Problem
from blindpost.protocol import transcripts
from blindpost.protocol.limits import MESSAGE_MAX_BYTES
from checks import Waiting, another_session, client_of, ids_waiting, refusal, said_by, success, until
from support import Person, b64, contacts, person, running_in_thread, settings_for, sign

if TYPE_CHECKING:
    import asyncpg

MESSAGE_FIELDS = {"id", "sender_id", "recipient_id", "message", "timestamp", "is_delivered"}
PAGE_FIELDS = {"has_messages", "has_more", "messages"}
WAITING_PER_USER_MAX = 16


async def sent_id(sender: Person, recipient: Person, data: bytes = b"opaque", **more: Any) -> str:
    answer = success(await sender.send(recipient, data, **more), 201)
    identifier: str = answer["id"]
    return identifier


async def ack(someone: Person, *ids: str) -> list[str]:
    body = success(await someone.post("/messages/ack", message_ids=list(ids)))
    assert set(body) == {"status", "acknowledged"}
    assert body["status"] == "ok"
    acknowledged: list[str] = body["acknowledged"]
    return acknowledged


async def page_of(someone: Person, **params: int) -> dict[str, Any]:
    page: dict[str, Any] = success(await someone.get("/messages/get-undelivered-messages", **params))
    return page


async def status_of(someone: Person, *ids: str) -> dict[str, str]:
    statuses: dict[str, str] = success(await someone.get("/messages/status", ids=",".join(ids)))
    return statuses


async def delete(someone: Person) -> None:
    signature = sign(someone.ecdsa, transcripts.delete_account(UUID(someone.id)))
    success(await someone.call("DELETE", "/auth/me", {"signature": signature}))


@pytest.fixture
async def open_http(stores: StoreUrls, data_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a router on which anybody can write to anybody."""
    settings = settings_for(stores, data_dir / "open-node", require_contact=False)
    with running_in_thread(settings) as running:
        async with client_of(running) as client:
            yield client


# Sending and reading


async def test_a_message_arrives_as_it_was_sent(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    data = os.urandom(1_000)
    sent = success(await alice.send(bob, data), 201)
    assert set(sent) == {"id", "timestamp", "status"}
    assert sent["status"] == "sent"
    assert datetime.fromisoformat(sent["timestamp"]).utcoffset() is not None
    page = await page_of(bob)
    assert set(page) == PAGE_FIELDS
    assert (page["has_messages"], page["has_more"]) == (True, False)
    assert page["messages"] == [
        {
            "id": sent["id"],
            "sender_id": alice.id,
            "recipient_id": bob.id,
            "message": b64(data),
            "timestamp": sent["timestamp"],
            "is_delivered": False,
        }
    ]
    polled = await bob.poll(0)
    assert {name: polled[name] for name in PAGE_FIELDS} == page


@pytest.mark.parametrize("size", [1, 2, 3, MESSAGE_MAX_BYTES - 1, MESSAGE_MAX_BYTES])
async def test_a_message_has_1_to_65536_bytes(http: httpx.AsyncClient, size: int) -> None:
    alice, bob = await contacts(http)
    data = os.urandom(size)
    await sent_id(alice, bob, data, client_message_id=str(uuid4()))
    (message,) = (await page_of(bob))["messages"]
    assert base64.b64decode(message["message"]) == data


async def test_an_empty_message_is_refused(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    refusal(await alice.send(bob, b""), 400, "invalid_request")
    assert await ids_waiting(bob) == []


@pytest.mark.parametrize("size", [MESSAGE_MAX_BYTES + 1, 70_000, 200_000])
async def test_a_larger_message_is_too_large(http: httpx.AsyncClient, size: int) -> None:
    alice, bob = await contacts(http)
    refusal(await alice.send(bob, bytes(size)), 413, "too_large")
    assert await ids_waiting(bob) == []


async def test_any_bytes_are_a_message(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    bodies = [
        b"\x00",
        b"\xff" * 3,
        bytes(range(256)),
        b"'; DROP TABLE messages; --",
        "\ud800".encode("utf-16", "surrogatepass"),
    ]
    for body in bodies:
        await sent_id(alice, bob, body)
    assert [base64.b64decode(each["message"]) for each in (await page_of(bob))["messages"]] == bodies


@pytest.mark.parametrize("text", ["!", "A", "AA", "AAA", "AB==", "AA==\n", " AA==", "_-__", "AA==AA==", "====", "é"])
async def test_a_message_is_base64_in_its_one_form(http: httpx.AsyncClient, text: str) -> None:
    alice = await person(http)
    answer = await alice.post("/messages/send", recipient_id=alice.id, message=text)
    refusal(answer, 400, "invalid_request")


async def test_messages_are_read_oldest_first(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    carol = await person(http)
    await carol.befriend(bob)
    sent = [await sent_id(sender, bob) for sender in (alice, carol, alice, alice, carol)]
    assert await ids_waiting(bob) == sent
    assert [message["id"] for message in (await bob.poll(0))["messages"]] == sent


async def test_a_page_holds_what_was_asked_for_and_says_whether_there_is_more(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    sent = [await sent_id(alice, bob) for _ in range(3)]
    for limit, has_more in ((1, True), (2, True), (3, False), (500, False)):
        for page in (await page_of(bob, limit=limit), await bob.poll(0, limit=limit)):
            assert [message["id"] for message in page["messages"]] == sent[:limit]
            assert page["has_more"] is has_more


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "", "1.5", "99999999999999999999"])
@pytest.mark.parametrize("path", ["/messages/get-undelivered-messages", "/messages/poll"])
async def test_a_page_has_1_to_500_messages(http: httpx.AsyncClient, path: str, limit: str) -> None:
    alice = await person(http)
    refusal(await alice.get(path, limit=limit, **({"timeout": 0} if "poll" in path else {})), 400, "invalid_request")


# Repeats


async def test_a_repeat_with_the_same_client_message_id_is_stored_once_and_answers_the_same(
    http: httpx.AsyncClient,
) -> None:
    alice, bob = await contacts(http)
    client_id = str(uuid4())
    first = success(await alice.send(bob, b"one", client_message_id=client_id), 201)
    assert success(await alice.send(bob, b"one", client_message_id=client_id.upper()), 201) == first
    assert await ids_waiting(bob) == [first["id"]]


async def test_a_repeat_answers_the_same_after_the_delivery_and_delivers_nothing_again(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    client_id = str(uuid4())
    first = success(await alice.send(bob, client_message_id=client_id), 201)
    await ack(bob, first["id"])
    assert success(await alice.send(bob, client_message_id=client_id), 201) == first
    assert await ids_waiting(bob) == []


async def test_of_many_repeats_at_once_one_is_stored(
    http: httpx.AsyncClient, second_http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    elsewhere = alice.at(second_http)
    client_id = uuid4()
    both = [alice, elsewhere] * 10
    answers = await asyncio.gather(*(each.send(bob, client_message_id=str(client_id)) for each in both))
    assert len({said_by(answer) for answer in answers}) == 1
    assert await ids_waiting(bob) == [success(answers[0], 201)["id"]]
    sql = "SELECT count(*) FROM traces WHERE client_message_id = $1"
    assert await database.fetchval(sql, client_id) == 1


async def _nothing(_: object) -> dict[Any, Any]:
    return {}


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[MessageWriter]:
    """A writer whose queue is filled before it runs, so that all goes into one batch."""
    async with Database(database_url, pool_size=1) as database:
        bounds = {"waiting_max": 1, "waiting_per_user_max": 1, "waiting_per_address_max": 1}
        hub = Hub(NotifyBus(database), _nothing, _nothing, sweep_interval_s=1, **bounds)
        yield MessageWriter(database, hub, require_contact=True)


async def in_one_batch(writer: MessageWriter, *work: Any) -> list[Any]:
    waiting = [asyncio.ensure_future(each) for each in work]
    running = asyncio.create_task(writer.run())
    results: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)
    writer.close()
    await running
    return results


async def test_of_repeats_in_one_batch_one_is_stored(http: httpx.AsyncClient, writer: MessageWriter) -> None:
    alice, bob = await contacts(http)
    message = NewMessage(UUID(alice.id), UUID(bob.id), b"opaque", uuid4())
    results = await in_one_batch(writer, *(writer.send(message) for _ in range(20)))
    assert len(set(results)) == 1
    assert await ids_waiting(bob) == [str(results[0].id)]


async def test_a_refused_message_in_a_batch_refuses_no_other(http: httpx.AsyncClient, writer: MessageWriter) -> None:
    alice, bob = await contacts(http)
    mallory = await person(http)
    bad = NewMessage(UUID(mallory.id), UUID(bob.id), b"x", uuid4())
    unknown = NewMessage(UUID(alice.id), uuid4(), b"x", None)
    gone = NewMessage(uuid4(), UUID(bob.id), b"x", None)
    good = NewMessage(UUID(alice.id), UUID(bob.id), b"x", None)
    results = await in_one_batch(writer, *(writer.send(each) for each in (bad, good, unknown, good, gone)))
    assert [isinstance(result, Problem) and result.code for result in results] == [
        "not_a_contact", False, "not_a_contact", False, "not_a_contact",
    ]  # fmt: skip
    assert await ids_waiting(bob) == [str(results[1].id), str(results[3].id)]


async def test_two_senders_may_use_the_same_client_message_id(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    carol = await person(http)
    await carol.befriend(bob)
    client_id = str(uuid4())
    sent = [await sent_id(sender, bob, client_message_id=client_id) for sender in (alice, carol)]
    assert await ids_waiting(bob) == sent


async def test_messages_without_a_client_message_id_are_all_stored(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    sent = {await sent_id(alice, bob) for _ in range(3)}
    sent.add(await sent_id(alice, bob, client_message_id=None))
    assert set(await ids_waiting(bob)) == sent
    assert len(sent) == 4


# Who may write to whom


async def test_only_accepted_contacts_can_write_and_all_refusals_are_alike(http: httpx.AsyncClient) -> None:
    alice, asked, asker, rejected, rejecter, stranger = [await person(http) for _ in range(6)]
    for one, two in ((alice, asked), (asker, alice), (rejected, alice), (alice, rejecter)):
        success(await one.post("/contacts/send-contact-request", receiver_id=two.id), 201)
    success(await alice.put("/contacts/reject-contact-request", sender_id=rejected.id))
    success(await rejecter.put("/contacts/reject-contact-request", sender_id=alice.id))
    unknown = Person(http, id=str(uuid4()))
    others = [asked, asker, rejected, rejecter, stranger, unknown, alice]
    answers = [await alice.send(each) for each in others]
    answers += [await each.send(alice) for each in others[:5]]
    answers += [await alice.send(stranger, client_message_id=str(uuid4()))]
    for answer in answers:
        refusal(answer, 403, "not_a_contact")
    assert len({said_by(answer) for answer in answers}) == 1
    assert await ids_waiting(alice) == []


async def test_a_client_message_id_of_another_sender_tells_nothing(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    mallory = await person(http)
    client_id = str(uuid4())
    await sent_id(alice, bob, client_message_id=client_id)
    refusal(await mallory.send(bob, client_message_id=client_id), 403, "not_a_contact")


async def test_on_an_open_server_anybody_can_write_to_anybody_who_exists(open_http: httpx.AsyncClient) -> None:
    alice, bob = await person(open_http), await person(open_http)
    sent = await sent_id(alice, bob)
    assert await ids_waiting(bob) == [sent]
    refusal(await alice.send(Person(open_http, id=str(uuid4()))), 403, "not_a_contact")
    await delete(bob)
    refusal(await alice.send(bob), 403, "not_a_contact")


async def test_nobody_can_write_to_a_deleted_account_and_what_it_sent_is_gone(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    hers = await sent_id(alice, bob)
    his = await sent_id(bob, alice)
    await delete(alice)
    refusal(await bob.send(alice), 403, "not_a_contact")
    assert await ids_waiting(bob) == []
    assert await ack(bob, hers) == []
    assert await status_of(bob, his) == {}


# Acknowledging


async def test_an_acknowledged_message_is_gone(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    first, second = await sent_id(alice, bob), await sent_id(alice, bob)
    assert await ack(bob, first) == [first]
    assert await ids_waiting(bob) == [second]
    assert await ack(bob, first) == []


async def test_a_delivered_message_leaves_neither_ciphertext_nor_recipient(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    sent = await sent_id(alice, bob, client_message_id=str(uuid4()))
    await ack(bob, sent)
    assert await database.fetchrow("SELECT FROM messages WHERE id = $1", UUID(sent)) is None
    for row in [
        await database.fetchrow("SELECT * FROM traces WHERE id = $1", UUID(sent)),
        await database.fetchrow("SELECT * FROM receipts WHERE message_id = $1", UUID(sent)),
    ]:
        assert row is not None
        assert UUID(bob.id) not in row.values()
        assert not any(isinstance(value, bytes) for value in row.values())


async def test_a_foreign_message_cannot_be_acknowledged_and_looks_like_an_unknown_one(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    mallory = await person(http)
    sent = await sent_id(alice, bob)
    answers = [await each.post("/messages/ack", message_ids=[sent]) for each in (mallory, alice)]
    answers += [await mallory.post("/messages/ack", message_ids=[str(uuid4())])]
    assert len({said_by(answer) for answer in answers}) == 1
    assert success(answers[0])["acknowledged"] == []
    assert await status_of(alice, sent) == {sent: "queued"}
    assert await ids_waiting(bob) == [sent]


async def test_foreign_and_unknown_ids_are_passed_over_among_ones_own(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    mine = [await sent_id(alice, bob) for _ in range(2)]
    foreign = await sent_id(bob, alice)
    assert await ack(bob, mine[0], foreign, str(uuid4()), mine[1], mine[0]) == mine
    assert await ids_waiting(alice) == [foreign]


async def test_a_foreign_acknowledgement_in_the_owners_batch_gets_nothing(
    http: httpx.AsyncClient, writer: MessageWriter
) -> None:
    alice, bob = await contacts(http)
    mallory = await person(http)
    sent = UUID(await sent_id(alice, bob))
    acks = [Ack(UUID(each.id), [sent, uuid4()]) for each in (mallory, alice, bob, bob, mallory)]
    assert await in_one_batch(writer, *(writer.acknowledge(each) for each in acks)) == [[], [], [sent], [], []]


async def test_of_acknowledgements_at_once_one_claims_the_message(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    phone = await another_session(bob)
    sent = await sent_id(alice, bob)
    claimed = await asyncio.gather(*(ack(each, sent) for each in (bob, phone) * 5))
    assert sorted(claimed) == 9 * [[]] + [[sent]]
    assert (await alice.poll())["delivered"] == [sent]


async def test_500_messages_can_be_acknowledged_at_once_and_not_one_more(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    ids = [str(uuid4()) for _ in range(501)]
    assert await ack(alice, *ids[:500]) == []
    refusal(await alice.post("/messages/ack", message_ids=ids), 400, "invalid_request")
    refusal(await alice.post("/messages/ack", message_ids=[]), 400, "invalid_request")


async def test_an_acknowledgement_wakes_the_senders_poll_once(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob = await contacts(http)
    sent = [await sent_id(alice, bob) for _ in range(2)]
    poll = await waiting.one_poll(alice)
    await ack(bob, *sent)
    answer = success(await poll)
    assert answer["delivered"] == sent
    assert not answer["has_messages"]
    phone = await another_session(alice)
    for session in (alice, phone):
        assert (await session.poll(0))["delivered"] == []


async def test_a_sender_who_was_away_is_told_of_deliveries_on_return(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    sent = await sent_id(alice, bob)
    success(await alice.post("/auth/logout"))
    await ack(bob, sent)
    await alice.login()
    assert (await alice.poll(0))["delivered"] == [sent]


# Polls that acknowledge


async def poll_and_ack(someone: Person, *ids: str, **more: int) -> dict[str, Any]:
    answer: dict[str, Any] = success(await someone.post("/messages/poll", message_ids=list(ids), **more))
    return answer


async def test_a_poll_acknowledges_and_then_gives_what_is_left(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    first, second = await sent_id(alice, bob), await sent_id(alice, bob)
    answer = await poll_and_ack(bob, first, str(uuid4()))
    assert answer["acknowledged"] == [first]
    assert [message["id"] for message in answer["messages"]] == [second]
    assert await status_of(alice, first, second) == {first: "delivered", second: "queued"}
    assert (await alice.poll(0))["delivered"] == [first]


async def test_a_poll_that_acknowledged_waits_and_is_given_the_next_message(
    http: httpx.AsyncClient, waiting: Waiting
) -> None:
    alice, bob = await contacts(http)
    first = await sent_id(alice, bob)
    await bob.poll(0)
    polling = asyncio.create_task(poll_and_ack(bob, first, timeout=60))
    await until(lambda: waiting.of(bob) == 1 or polling.done())
    second = await sent_id(alice, bob)
    answer = await polling
    assert answer["acknowledged"] == [first]
    assert [message["id"] for message in answer["messages"]] == [second]


async def test_a_poll_that_acknowledges_nothing_is_a_poll(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    sent = await sent_id(alice, bob)
    for answer in (await poll_and_ack(bob, timeout=0), success(await bob.call("POST", "/messages/poll", {}))):
        assert answer["acknowledged"] == []
        assert [message["id"] for message in answer["messages"]] == [sent]


async def test_nobody_else_s_messages_are_acknowledged_by_a_poll(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    sent = await sent_id(alice, bob)
    assert (await poll_and_ack(alice, sent, timeout=0))["acknowledged"] == []
    assert await ids_waiting(bob) == [sent]


@pytest.mark.parametrize("wrong", [{"timeout": 61}, {"limit": 0}, {"limit": 501}, {"message_ids": ["x"]}, {"more": 1}])
async def test_a_wrong_poll_that_acknowledges_is_refused_and_acknowledges_nothing(
    http: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    alice, bob = await contacts(http)
    sent = await sent_id(alice, bob)
    refusal(await bob.post("/messages/poll", **({"message_ids": [sent]} | wrong)), 400, "invalid_request")
    assert await ids_waiting(bob) == [sent]


# Status


async def test_the_sender_can_ask_what_became_of_messages(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    first, second = await sent_id(alice, bob), await sent_id(alice, bob)
    await ack(bob, first)
    assert await status_of(alice, first, second, str(uuid4())) == {first: "delivered", second: "queued"}


async def test_nobody_else_is_told_what_became_of_a_message(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    mallory = await person(http)
    sent = await sent_id(alice, bob)
    assert await status_of(bob, sent) == await status_of(mallory, sent) == {}
    await ack(bob, sent)
    assert await status_of(bob, sent) == await status_of(mallory, sent) == {}


@pytest.mark.parametrize("ids", ["", ",", "x", "1,2"])
async def test_a_status_is_asked_for_by_ids(http: httpx.AsyncClient, ids: str) -> None:
    alice = await person(http)
    refusal(await alice.get("/messages/status", ids=ids), 400, "invalid_request")


async def test_500_statuses_can_be_asked_for_at_once_and_not_one_more(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    ids = [str(uuid4()) for _ in range(501)]
    assert await status_of(alice, *ids[:500]) == {}
    refusal(await alice.get("/messages/status", ids=",".join(ids)), 400, "invalid_request")


# Waiting


async def test_news_between_two_polls_is_not_missed(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob = await contacts(http)
    for number in range(5):
        poll = await waiting.one_poll(bob)
        first = await sent_id(alice, bob)
        assert [message["id"] for message in success(await poll)["messages"]] == [first]
        second = await sent_id(alice, bob, bytes([number]))
        assert [message["id"] for message in (await bob.poll())["messages"]] == [first, second]
        await ack(bob, first, second)
        assert sorted((await alice.poll())["delivered"]) == sorted((first, second))


async def test_a_message_through_one_node_answers_a_poll_at_another(
    http: httpx.AsyncClient, second_http: httpx.AsyncClient, waiting: Waiting
) -> None:
    alice, bob = await contacts(http)
    poll = await waiting.one_poll(bob)
    sent = await sent_id(alice.at(second_http), bob)
    assert [message["id"] for message in success(await poll)["messages"]] == [sent]


async def test_every_device_gets_a_message_until_one_acknowledges_it(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob = await contacts(http)
    phone = await another_session(bob)
    polls = [await waiting.one_poll(each) for each in (bob, phone)]
    sent = await sent_id(alice, bob)
    for poll in polls:
        assert [message["id"] for message in success(await poll)["messages"]] == [sent]
    assert await ids_waiting(phone) == [sent]
    await ack(bob, sent)
    assert await ids_waiting(phone) == []


async def test_an_acknowledgement_during_a_poll_leaves_it_waiting_for_the_next_message(
    http: httpx.AsyncClient, waiting: Waiting
) -> None:
    alice, bob = await contacts(http)
    phone = await another_session(bob)
    first = await sent_id(alice, bob)
    _, racing = await asyncio.gather(ack(bob, first), phone.poll(0))
    assert [message["id"] for message in racing["messages"]] in ([], [first])
    poll = await waiting.one_poll(phone)
    second = await sent_id(alice, bob)
    assert [message["id"] for message in success(await poll)["messages"]] == [second]


async def test_a_poll_is_ended_by_its_own_time(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    for timeout_s in (0, 0.05):
        answer = await alice.poll(timeout_s)
        assert not answer["has_messages"]
        assert set(answer) == PAGE_FIELDS | {"contacts_changed", "delivered"}


@pytest.mark.parametrize("timeout", ["-1", "60.1", "nan", "inf", "-inf", "1e9", "x", ""])
async def test_a_poll_waits_60_seconds_at_most(http: httpx.AsyncClient, timeout: str) -> None:  # noqa: ASYNC109
    alice = await person(http)
    refusal(await alice.get("/messages/poll", timeout=timeout), 400, "invalid_request")


async def test_a_client_that_goes_away_frees_its_place(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice = await person(http)
    polls = await waiting.poll(alice, 3)
    for poll in polls:
        poll.cancel()
    await until(lambda: waiting.of(alice) == 0)
    success(await alice.get("/messages/poll", timeout=0))


async def test_too_many_polls_of_one_user_are_refused_and_nobody_else_is(
    http: httpx.AsyncClient, waiting: Waiting
) -> None:
    alice, bob = await contacts(http)
    polls = await waiting.poll(alice, WAITING_PER_USER_MAX)
    answer = await alice.get("/messages/poll", timeout=0)
    refusal(answer, 429, "too_many_waiting")
    assert int(answer.headers["Retry-After"]) > 0
    success(await bob.get("/messages/poll", timeout=0))
    sent = await sent_id(bob, alice)
    for poll in polls:
        assert [message["id"] for message in success(await poll)["messages"]] == [sent]
    success(await alice.get("/messages/poll", timeout=0))


@pytest.fixture
def small_router(stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    """A router with place for two waiting polls in all."""
    with running_in_thread(settings_for(stores, data_dir / "small-node", waiting_max=2)) as running:
        yield running


async def test_too_many_polls_in_all_are_refused(small_router: Running) -> None:
    async with client_of(small_router) as http:
        waiting = await Waiting.at(small_router)
        alice, bob, carol = [await person(http) for _ in range(3)]
        polls = [await waiting.one_poll(each) for each in (alice, bob)]
        refusal(await carol.get("/messages/poll", timeout=0), 429, "too_many_waiting")
        polls[0].cancel()
        await until(lambda: waiting.of(alice) == 0)
        success(await carol.get("/messages/poll", timeout=0))
        success(await bob.post("/auth/logout"))
        refusal(await polls[1], 401, "not_authenticated")


async def test_a_stopping_router_lets_the_waiting_go(stores: StoreUrls, data_dir: Path) -> None:
    with running_in_thread(settings_for(stores, data_dir / "stopping-node")) as router:
        http = client_of(router)
        poll = await (await Waiting.at(router)).one_poll(await person(http))
    assert not success(await poll)["has_messages"]
    await http.aclose()


async def test_a_page_ends_by_its_bytes_too_and_says_that_there_is_more(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    for _ in range(70):
        success(await alice.send(bob, bytes(65_536)), 201)
    received: list[str] = []
    pages = []
    while len(received) < 70:
        page = success(await bob.get("/messages/get-undelivered-messages", limit=500))
        ids = [message["id"] for message in page["messages"]]
        pages.append((len(ids), page["has_more"]))
        received += ids
        success(await bob.post("/messages/ack", message_ids=ids))
    assert pages == [(64, True), (6, False)]
    assert received == sorted(set(received))
