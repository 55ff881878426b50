"""What a client does when the router lies over a WebSocket, breaks it, or is silent: nothing is lost or doubled."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.client import (
    Client,
    ContactsChanged,
    Delivered,
    Event,
    KeyChanged,
    Received,
    Refused,
    Unreachable,
    UntrustedAnswer,
    frames,
)
from blindpost.client import client as client_module
from blindpost.client import stream as stream_module
from checks import until
from lying_router import NOW, LyingRouter, pair, problem, says
from lying_socket import LyingSocket, Members, WithSockets, streaming


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "IDLE_PAUSE_MAX_S", 0.01)
    monkeypatch.setattr(client_module, "IDLE_PAUSE_S", 0.005)


@pytest.fixture
def router() -> LyingRouter:
    return LyingRouter()


async def next_of(stream: AsyncIterator[Any]) -> Any:
    return await asyncio.wait_for(anext(stream), 5)


@contextlib.asynccontextmanager
async def following(router: LyingRouter) -> AsyncIterator[tuple[Client, Client, WithSockets, AsyncIterator[Event]]]:
    """Alice, who calls; Bob, who follows over a WebSocket; its transport; and his events."""
    alice, _, bob, _ = await pair(router)
    client, transport = streaming(router, bob.identity, bob._store)
    async with client, aclosing(client.events()) as events:
        # Somebody who waits is needed for a connection to be opened.
        await alice.send("bob", "the first")
        assert (await next_of(events)).text == "the first"
        yield alice, client, transport, events
    assert all(socket.is_closed for socket in transport.sockets)
    assert len(asyncio.all_tasks()) == 1


def new_message(router: LyingRouter, socket: LyingSocket) -> None:
    """Give what was sent last."""
    socket.tell(type="message", **router.queues[socket._user_id][-1])


# The ordinary course


async def test_messages_come_and_are_acknowledged_over_the_stream(router: LyingRouter) -> None:
    async with following(router) as (alice, _, transport, events):
        [socket] = transport.sockets
        for text in ("one", "two", "three"):
            waiting = asyncio.create_task(next_of(events))
            await alice.send("bob", text)
            new_message(router, socket)
            assert (await waiting).text == text
        assert len(router.queues[socket._user_id]) == 1, "the one whose turn it is"
        assert "GET /messages/poll" not in router.calls
        assert "POST /messages/ack" not in router.calls


async def test_sends_go_over_the_stream_while_it_is_open_and_by_calls_before_and_after(router: LyingRouter) -> None:
    alice, _, bob, bob_id = await pair(router)
    client, transport = streaming(router, alice.identity, alice._store)
    async with client:
        await client.send("bob", "before")
        assert router.calls.count("POST /messages/send") == 1
        async with aclosing(client.events()) as events:
            waiting = asyncio.create_task(next_of(events))
            await until(lambda: bool(transport.sockets))
            sent = await client.send("bob", "while")
            assert [each["client_message_id"] for each in transport.sockets[0].said] == [str(sent.client_message_id)]
            assert router.calls.count("POST /messages/send") == 1
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await client.send("bob", "after")
        assert router.calls.count("POST /messages/send") == 2
    assert client.unsent() == {}
    assert [each.text for each in await bob.receive_once()] == ["before", "while", "after"]
    assert len(router.queues[bob_id]) == 3


async def test_many_sends_are_in_flight_at_once_and_answers_come_in_any_order(router: LyingRouter) -> None:
    async with following(router) as (_, bob, transport, _):
        heard: list[Members] = []
        [socket] = transport.sockets
        socket.hears = heard.append
        alice_id = await bob._resolve("alice")
        sending = asyncio.gather(*(bob.send(alice_id, str(number)) for number in range(20)))
        await until(lambda: len(heard) == 20)
        for members in reversed(heard):
            socket.be_honest(members)
        assert len({sent.client_message_id for sent in await sending}) == 20
        assert bob.unsent() == {}


async def test_news_of_deliveries_and_contacts_are_events(router: LyingRouter) -> None:
    async with following(router) as (_, bob, transport, events):
        delivered = uuid4()
        [socket] = transport.sockets
        await bob._directory.contact(await bob._resolve("alice"))
        socket.tell(type="receipt", delivered=[str(delivered)])
        socket.tell(type="contact")
        assert [await next_of(events), await next_of(events)] == [Delivered((delivered,)), ContactsChanged()]
        assert bob._directory._fresh == {}, "keys are asked for again"


async def test_what_is_of_a_newer_router_is_passed_over(router: LyingRouter) -> None:
    async with following(router) as (alice, _, transport, events):
        [socket] = transport.sockets
        socket.tell(type="presence", who="everybody")
        await alice.send("bob", "hello")
        socket.tell(type="message", **router.queues[socket._user_id][-1], reactions=["!"])
        assert (await next_of(events)).text == "hello"


# Falling back, and coming back


NO_UPGRADE = [
    Refused(426, "upgrade_required", "no"),
    Refused(404, "not_found", "no"),
    Refused(405, "method_not_allowed", "no"),
    Refused(403, "unknown", "a proxy"),
    Refused(302, "unknown", "a redirect"),
    Refused(503, "unavailable", "no", retry_after=30),
    Refused(429, "too_many_waiting", "no", retry_after=30),
    Unreachable("the handshake was not answered", sent=True),
    Unreachable("it cannot be reached", sent=False),
]


@pytest.mark.parametrize("error", NO_UPGRADE, ids=str)
async def test_who_gets_no_stream_polls(error: Exception, router: LyingRouter) -> None:
    alice, _, bob, _ = await pair(router)
    client, transport = streaming(router, bob.identity, bob._store)
    transport.opening = [error] * 9
    await alice.send("bob", "hello")
    async with client, aclosing(client.messages()) as messages:
        assert (await next_of(messages)).text == "hello"
        await alice.send("bob", "again")
        assert (await next_of(messages)).text == "again"
    assert transport.tries == 1


async def test_a_stream_is_tried_again_when_its_time_has_come(
    router: LyingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blindpost.client.pauses.REFUSED_S", 0.0)
    alice, _, bob, _ = await pair(router)
    client, transport = streaming(router, bob.identity, bob._store)
    transport.opening = [Refused(426, "upgrade_required", "no")] * 3
    async with client, aclosing(client.messages()) as messages:
        for number in range(4):
            await alice.send("bob", str(number))
            assert (await next_of(messages)).text == str(number)
    assert (transport.tries, len(transport.sockets)) == (4, 1)


@pytest.mark.parametrize("code", [None, 1000, 1001, 1011, 4100, 4200, 4201, 4202, 4999])
async def test_a_stream_that_ended_is_opened_again(code: int | None, router: LyingRouter) -> None:
    async with following(router) as (alice, _, transport, events):
        logins = router.calls.count("POST /auth/login")
        transport.sockets[0].close(code)
        await alice.send("bob", "hello")
        assert (await next_of(events)).text == "hello"
        assert len(transport.sockets) == 2
        assert router.calls.count("POST /auth/login") - logins == (code == 4100)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4300])
async def test_who_is_not_to_come_back_at_once_polls(code: int, router: LyingRouter) -> None:
    async with following(router) as (alice, _, transport, events):
        transport.sockets[0].close(code)
        await alice.send("bob", "hello")
        assert (await next_of(events)).text == "hello"
        assert transport.tries == 1
        assert "GET /messages/poll" in router.calls


async def test_what_was_in_flight_is_repeated_with_the_same_id(router: LyingRouter) -> None:
    """The router stored it, and the connection broke before it said so."""
    async with following(router) as (alice, bob, transport, _):
        [socket] = transport.sockets

        def store_and_break(members: Members) -> None:
            if members["type"] == "send":
                socket.store(members)
                socket.close()

        socket.hears = store_and_break
        await bob.send("alice", "hello")
        assert router.calls.count("POST /messages/send") == 2, "that of Alice, and the repetition"
        assert bob.unsent() == {}
        assert [each.text for each in await alice.receive_once()] == ["hello"]


async def test_an_acknowledgement_that_broke_is_repeated(router: LyingRouter) -> None:
    async with following(router) as (alice, _, transport, events):
        [socket] = transport.sockets
        socket.hears = lambda _: socket.close(4200)
        waiting = asyncio.create_task(next_of(events))
        await alice.send("bob", "hello")
        assert (await waiting).text == "hello"
        assert "POST /messages/ack" in router.calls
        assert len(router.queues[socket._user_id]) == 1


async def test_a_router_that_answers_nothing_loses_the_stream_and_not_the_message(
    router: LyingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "TIMEOUT_S", 0.05)
    async with following(router) as (alice, bob, transport, _):
        transport.sockets[0].hears = lambda _: None
        await bob.send("alice", "hello")
        assert transport.sockets[0].is_closed
        assert [each.text for each in await alice.receive_once()] == ["hello"]


async def test_a_refusal_of_a_send_is_the_same_as_by_a_call(router: LyingRouter) -> None:
    async with following(router) as (_, bob, transport, _):
        [socket] = transport.sockets
        refusal = {"type": "error", "code": "not_a_contact", "status": 403, "detail": "no\x1b[2J", "retry_after": None}
        socket.hears = lambda members: socket.tell(**refusal, client_message_id=members["client_message_id"])
        with pytest.raises(Refused) as caught:
            await bob.send("alice", "hello")
        assert (caught.value.status, caught.value.code, caught.value.detail) == (403, "not_a_contact", "no[2J")
        assert bob.unsent() == {}
        assert not socket.is_closed


async def test_a_send_that_may_pass_later_is_repeated_and_then_kept(router: LyingRouter) -> None:
    async with following(router) as (_, bob, transport, _):
        [socket] = transport.sockets
        refusal = {"type": "error", "code": "outcome_unknown", "status": 503, "detail": "no", "retry_after": 1}
        socket.hears = lambda members: socket.tell(**refusal, client_message_id=members["client_message_id"])
        with pytest.raises(Refused):
            await bob.send("alice", "hello")
        [waiting] = bob.unsent()
        assert {each["client_message_id"] for each in socket.said if each["type"] == "send"} == {str(waiting)}
        assert len([each for each in socket.said if each["type"] == "send"]) == 3


async def test_an_error_that_names_nothing_may_be_about_anything_so_all_is_repeated(router: LyingRouter) -> None:
    async with following(router) as (alice, bob, transport, _):
        [socket] = transport.sockets
        refusal = {"type": "error", "code": "unavailable", "status": 503, "detail": "no", "client_message_id": None}
        socket.hears = lambda _: socket.tell(**refusal)
        await bob.send("alice", "hello")
        assert socket.is_closed
        assert [each.text for each in await alice.receive_once()] == ["hello"]


async def test_who_sent_too_many_frames_polls_and_comes_back_later(router: LyingRouter) -> None:
    async with following(router) as (alice, bob, transport, events):
        [socket] = transport.sockets
        refusal = {"type": "error", "code": "too_many_requests", "status": 429, "detail": "no", "retry_after": 3}
        socket.hears = lambda _: socket.tell(**refusal, client_message_id=None)
        sent = await bob.send("alice", "hello")
        assert await next_of(events) == Delivered((sent.id,)), "asked for, as a receipt may have been lost"
        await alice.send("bob", "hello")
        assert (await next_of(events)).text == "hello"
        assert transport.tries == 1
        assert "GET /messages/poll" in router.calls


async def test_the_same_message_sent_by_two_tasks_at_once_is_one(router: LyingRouter) -> None:
    """Answers on a stream are told apart by that id: the second goes by a call."""
    async with following(router) as (alice, bob, transport, _):
        [socket] = transport.sockets
        heard: list[Members] = []
        socket.hears = heard.append
        alice_id = alice.identity.account
        first = asyncio.create_task(bob.send(alice_id, "hello"))
        await until(lambda: bool(heard))
        [again] = await bob.flush()
        socket.be_honest(heard[0])
        assert await first == again
        assert [each.text for each in await alice.receive_once()] == ["hello"]


# What a stream had and was not told again


async def test_receipts_that_went_with_a_stream_are_asked_for(router: LyingRouter) -> None:
    async with following(router) as (_, bob, transport, events):
        sent = await bob.send("alice", "hello")
        told = await bob.send("alice", "again")
        transport.sockets[0].tell(type="receipt", delivered=[str(told.id)])
        assert await next_of(events) == Delivered((told.id,))
        transport.sockets[0].close()
        assert await next_of(events) == Delivered((sent.id,))
        assert router.calls.count("GET /messages/status") == 1
        assert bob._inbox.awaited == ()


async def test_keys_are_asked_for_again_when_a_stream_broke(router: LyingRouter) -> None:
    """News of them may have gone with it."""
    async with following(router) as (alice, bob, transport, _):
        await bob.send("alice", "before")
        await alice.rotate_ecdsa_key()
        transport.sockets[0].close()
        await asyncio.sleep(0)
        with pytest.raises(KeyChanged):
            await bob.send("alice", "after")


async def test_a_message_that_comes_again_after_a_break_is_shown_once(router: LyingRouter) -> None:
    async with following(router) as (alice, _, transport, events):
        waiting = asyncio.create_task(next_of(events))
        await alice.send("bob", "hello")
        new_message(router, transport.sockets[0])
        assert (await waiting).text == "hello"
        transport.sockets[0].close()
        await alice.send("bob", "next")
        assert (await next_of(events)).text == "next"


async def test_a_held_message_opens_when_its_senders_key_is_confirmed(router: LyingRouter) -> None:
    async with following(router) as (alice, bob, transport, events):
        waiting = asyncio.create_task(next_of(events))
        await alice.rotate_ecdsa_key()
        await alice.send("bob", "after")
        transport.sockets[0].tell(type="contact")
        new_message(router, transport.sockets[0])
        assert await waiting == ContactsChanged()
        held = await next_of(events)
        assert isinstance(held.problem, KeyChanged)
        waiting = asyncio.create_task(next_of(events))
        transport.sockets[0].tell(type="contact")
        assert await waiting == ContactsChanged(), "and is not shown again"
        waiting = asyncio.create_task(next_of(events))
        await bob.confirm_keys("alice", held.problem.new_number)
        assert (await waiting).text == "after"


async def test_a_key_that_another_process_confirmed_is_noticed(
    router: LyingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "HELD_LOOK_S", 0.01)
    async with following(router) as (alice, bob, transport, events):
        await alice.rotate_ecdsa_key()
        await alice.send("bob", "after")
        bob._directory.expire()
        new_message(router, transport.sockets[0])
        held = await next_of(events)
        waiting = asyncio.create_task(next_of(events))
        assert bob._store.contacts.confirm(alice.identity.account, held.problem.new_number)
        assert (await waiting).text == "after"


# Bounds, and answers that are not what they should be


async def test_a_router_that_gives_without_end_is_cut_off_and_nothing_is_lost(
    router: LyingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "WAITING_MAX", 5)
    async with following(router) as (alice, _, transport, events):
        for number in range(20):
            await alice.send("bob", str(number))
            new_message(router, transport.sockets[0])
        await until(lambda: transport.sockets[0].is_closed)
        assert [(await next_of(events)).text for _ in range(20)] == [str(number) for number in range(20)]


async def test_receipts_without_end_are_cut_off(router: LyingRouter) -> None:
    async with following(router) as (_, _, transport, _):
        [socket] = transport.sockets
        for _ in range(20):
            socket.tell(type="receipt", delivered=[str(uuid4()) for _ in range(100)])
        await until(lambda: socket.is_closed)


STRANGE = {
    "no JSON": "<html>",
    "no object": "[]",
    "no type": "{}",
    "a type that is none": '{"type":["message"]}',
    "a message without its fields": '{"type":"message"}',
    "a message whose id is none": f'{{"type":"message","id":7,"sender_id":"{UUID(int=1)}"}}',
    "a receipt of text": '{"type":"receipt","delivered":["x"]}',
    "an error with a status that is none": '{"type":"error","code":"x","status":200,"detail":"x"}',
    "an error that asks to wait for ever": '{"type":"error","code":"x","status":503,"detail":"x","retry_after":1e999}',
    "deeply nested": "[" * 90_000,
    "a lone surrogate": '{"type":"\\ud800"}',
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
async def test_a_strange_frame_is_one_typed_error(text: str, router: LyingRouter) -> None:
    async with following(router) as (_, _, transport, events):
        transport.sockets[0].tell_text(text)
        with pytest.raises(UntrustedAnswer):
            await next_of(events)


async def test_a_send_outlives_a_strange_frame(router: LyingRouter) -> None:
    async with following(router) as (alice, bob, transport, _):
        transport.sockets[0].hears = lambda _: transport.sockets[0].tell_text("<html>")
        await bob.send("alice", "hello")
        assert [each.text for each in await alice.receive_once()] == ["hello"]


async def test_answers_to_what_was_not_asked_are_passed_over(router: LyingRouter) -> None:
    async with following(router) as (alice, _, transport, events):
        [socket] = transport.sockets
        socket.tell(type="acknowledged", acknowledged=[])
        socket.tell(type="sent", client_message_id=str(uuid4()), id=str(uuid4()), timestamp=NOW)
        socket.tell(type="error", code="x", status=403, detail="x", client_message_id=str(uuid4()))
        await alice.send("bob", "hello")
        new_message(router, socket)
        assert (await next_of(events)).text == "hello"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
members = st.fixed_dictionaries(
    {"type": st.sampled_from(["sent", "acknowledged", "message", "receipt", "contact", "error"])},
    optional=dict.fromkeys(
        (
            *("id", "client_message_id", "timestamp", "status", "sender_id", "recipient_id", "message"),
            *("delivered", "acknowledged", "code", "detail", "retry_after"),
        ),
        json_values,
    ),
)


@given(st.one_of(members.map(json.dumps), json_values.map(json.dumps), st.text()))
def test_reading_a_frame_gives_a_frame_nothing_or_one_typed_error(text: str) -> None:
    with contextlib.suppress(UntrustedAnswer):
        assert isinstance(frames.read(text), frames.Frame | None)


# The end


async def test_a_session_that_ended_is_renewed_and_no_other_is_forgotten(router: LyingRouter) -> None:
    """Another call may have logged in before the stream heard of its own end."""
    async with following(router) as (alice, bob, transport, events):
        router.tokens.clear()
        await bob.status([uuid4()])
        logins = router.calls.count("POST /auth/login")
        transport.sockets[0].close(4100)
        await alice.send("bob", "hello")
        assert (await next_of(events)).text == "hello"
        assert len(transport.sockets) == 2
        assert router.calls.count("POST /auth/login") == logins + 1, "that of Alice"


async def test_a_refused_login_ends_the_events_as_with_polls(router: LyingRouter) -> None:
    async with following(router) as (_, _, transport, events):
        router.tokens.clear()
        router.lies["POST /auth/login"] = says(problem(401, "login_failed"))
        transport.sockets[0].close(4100)
        with pytest.raises(Refused):
            await next_of(events)


@pytest.mark.parametrize("steps", range(40))
async def test_a_follower_can_be_cancelled_at_any_step_and_leaves_nothing(steps: int, router: LyingRouter) -> None:
    alice, _, bob, _ = await pair(router)
    client, transport = streaming(router, bob.identity, bob._store)
    for text in ("one", "two"):
        await alice.send("bob", text)

    async def follow() -> None:
        async with client, aclosing(client.messages()) as messages:
            async for message in messages:
                await client.send("alice", f"I read {message.text}")

    task = asyncio.create_task(follow())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(socket.is_closed for socket in transport.sockets)
    assert len(asyncio.all_tasks()) == 1


async def test_who_breaks_off_without_closing_leaves_nothing_once_the_client_is_closed(router: LyingRouter) -> None:
    alice, _, bob, _ = await pair(router)
    await alice.send("bob", "hello")
    client, transport = streaming(router, bob.identity, bob._store)
    async with client:
        messages = client.messages()
        received = await next_of(messages)
        assert isinstance(received, Received)
        await client.ack(received)
        assert [each["type"] for each in transport.sockets[0].said] == ["ack"]
    assert transport.sockets[0].is_closed
    assert client._outlet._streams == {}
