"""Streams: who may open one, what goes through it, what bounds it, and how it ends."""

import asyncio
import json
import socket as python_socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.embedded import StoreUrls
from blindpost.core.hub import Hub
from blindpost.routers import socket as socket_router
from blindpost.routers import websocket
from blindpost.services import stream as stream_service
from checks import PATIENCE_S, Waiting, another_session, client_of, ids_waiting, refusal, success, until
from sockets import (
    CLOSE,
    PING,
    PONG,
    WAYS,
    Closed,
    Frame,
    Reader,
    Refused,
    Ws,
    events,
    frame,
    handshake,
    reading,
    socket,
)
from support import Person, b64, contacts, person, running_in_thread, settings_for

LOG_IN, GOING_AWAY, TOO_SLOW, SILENT, LATER = 4100, 4200, 4201, 4202, 4300


@pytest.fixture
async def pair(http: httpx.AsyncClient) -> tuple[Person, Person]:
    return await contacts(http)


@pytest.fixture
async def both(pair: tuple[Person, Person], router: Running) -> AsyncIterator[tuple[Ws, Ws]]:
    """Alice's and Bob's WebSockets."""
    async with socket(pair[0], router.origin) as alice, socket(pair[1], router.origin) as bob:
        yield alice, bob


async def refused(someone: Person, router: Running, status: int, code: str, **given: Any) -> None:
    with pytest.raises(Refused) as caught:
        async with socket(someone, router.origin, **given):
            pass
    assert (caught.value.status, caught.value.code) == (status, code)


# Who may open one


async def test_a_stream_needs_a_session_and_its_key(http: httpx.AsyncClient, router: Running) -> None:
    alice, thief = await person(http), Person(http)
    await refused(thief, router, 401, "invalid_proof", Authorization=f"DPoP {alice.token}")
    await refused(alice, router, 401, "not_authenticated", Authorization="")
    await refused(alice, router, 401, "invalid_proof", DPoP="")
    await refused(alice, router, 401, "not_authenticated", Authorization=f"Bearer {alice.token}")


async def test_a_proof_opens_one_stream_and_only_of_its_kind(http: httpx.AsyncClient, router: Running) -> None:
    alice = await person(http)
    headers = alice.signed("GET", f"{router.origin}/messages/ws")
    async with socket(alice, router.origin, **headers):
        await refused(alice, router, 401, "invalid_proof", **headers)
    other = alice.signed("GET", f"{router.origin}/messages/events")
    await refused(alice, router, 401, "invalid_proof", **other)


async def test_an_ended_session_opens_no_stream(http: httpx.AsyncClient, router: Running) -> None:
    alice = await person(http)
    ticket = success(await alice.post("/auth/ticket"))["ticket"]
    success(await alice.post("/auth/logout"))
    await refused(alice, router, 401, "not_authenticated")
    await refused(alice, router, 401, "not_authenticated", ticket=ticket)


async def test_a_ticket_opens_one_stream_as_its_owner(pair: tuple[Person, Person], router: Running) -> None:
    alice, bob = pair
    answer = success(await bob.post("/auth/ticket"))
    assert answer["expires_in"] == 30
    async with socket(bob, router.origin, ticket=answer["ticket"]) as ws:
        sent = success(await alice.send(bob), 201)
        assert (await ws.next("message"))["id"] == sent["id"]
        await refused(bob, router, 401, "not_authenticated", ticket=answer["ticket"])
    await refused(bob, router, 401, "not_authenticated", ticket="guessed")
    await refused(bob, router, 401, "not_authenticated", ticket="")


async def test_a_ticket_used_by_many_at_once_opens_one_stream(http: httpx.AsyncClient, router: Running) -> None:
    alice = await person(http)
    ticket = success(await alice.post("/auth/ticket"))["ticket"]
    path = f"/messages/ws?ticket={ticket}"
    opened = await asyncio.gather(*(Ws.connect(router.origin, path, {}) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, Ws) for each in opened) == 1
    for each in opened:
        if isinstance(each, Ws):
            await each.vanish()


async def test_a_ticket_opens_nothing_but_streams_and_goes_with_no_other_proof(
    http: httpx.AsyncClient, router: Running
) -> None:
    alice = await person(http)
    ticket = success(await alice.post("/auth/ticket"))["ticket"]
    refusal(await http.get("/auth/me", params={"ticket": ticket}), 401, "not_authenticated")
    refusal(await alice.get("/messages/events", ticket=ticket), 401, "not_authenticated")
    twice = f"/messages/ws?ticket={ticket}&ticket={ticket}"
    with pytest.raises(Refused):
        await Ws.connect(router.origin, twice, {})
    async with socket(alice, router.origin, ticket=ticket):
        pass


async def test_what_redis_keeps_of_a_ticket_names_nobody(http: httpx.AsyncClient, cache: Any) -> None:
    alice = await person(http)
    before = set(await cache.keys("ticket:*"))
    ticket = success(await alice.post("/auth/ticket"))["ticket"]
    (key,) = set(await cache.keys("ticket:*")) - before
    kept = key + await cache.get(key)
    assert ticket.encode() not in kept
    assert UUID(alice.id).bytes not in kept
    assert 0 < await cache.ttl(key) <= 30


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "", "Connection": ""},
        {"Upgrade": "h2c"},
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Key": "c2hvcnQ="},
        {"Sec-WebSocket-Key": "not base64"},
        {"Sec-WebSocket-Key": ""},
    ],
    ids=lambda headers: " ".join(f"{name}={value}" for name, value in headers.items()),
)
async def test_what_is_no_handshake_is_told_so_in_http(
    http: httpx.AsyncClient, router: Running, headers: dict[str, str]
) -> None:
    alice = await person(http)
    with pytest.raises(Refused) as caught:
        async with socket(alice, router.origin, **headers):
            pass
    assert (caught.value.status, caught.value.code) == (426, "upgrade_required")
    assert "sec-websocket-version: 13" in caught.value.headers.lower()


async def test_no_extension_is_agreed_on(http: httpx.AsyncClient, router: Running) -> None:
    """Compression would tell by sizes what is alike; `Ws.connect` demands that the answer names none."""
    alice = await person(http)
    async with socket(alice, router.origin, **{"Sec-WebSocket-Extensions": "permessage-deflate"}) as ws:
        ws.write(b"\xc1\x81\x00\x00\x00\x00{")
        assert await ws.closed() == 1002


# What holds by whatever way one receives: polls, Server-Sent Events or a WebSocket


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def given(reader: Reader, count: int) -> list[str]:
    """Receive so many messages, and return their ids."""
    return [(await reader.next("message"))["id"] for _ in range(count)]


PATHS = {"poll": "/messages/poll", "events": "/messages/events", "websocket": "/messages/ws"}


async def test_receiving_needs_a_session_its_key_and_a_proof_for_this_path(
    way: str, http: httpx.AsyncClient, router: Running
) -> None:
    """And what is refused is refused in HTTP, the upgrade too."""
    alice, thief = await person(http), Person(http)
    path = PATHS[way]
    url = router.origin + path
    stolen = thief.signed("GET", url) | {"Authorization": f"DPoP {alice.token}"}
    elsewhere = alice.signed("GET", f"{router.origin}/auth/me")
    for headers, code in ((stolen, "invalid_proof"), (elsewhere, "invalid_proof"), ({}, "not_authenticated")):
        refusal(await http.get(path, headers=headers), 401, code)
    headers = alice.signed("GET", url)
    success(await alice.post("/auth/logout"))
    refusal(await http.get(path, headers=headers), 401, "not_authenticated")


async def test_what_waits_is_given_oldest_first_and_then_what_comes_later(
    way: str, pair: tuple[Person, Person], router: Running
) -> None:
    alice, bob = pair
    before = [success(await alice.send(bob), 201)["id"] for _ in range(5)]
    async with reading(way, bob, router.origin) as reader:
        after = [success(await alice.send(bob), 201)["id"] for _ in range(5)]
        assert await given(reader, 10) == before + after


async def test_what_comes_while_one_waits_is_given_at_once(
    way: str, pair: tuple[Person, Person], router: Running, waiting: Waiting
) -> None:
    alice, bob = pair
    async with reading(way, bob, router.origin) as reader:
        coming = asyncio.create_task(reader.next("message"))
        await until(lambda: waiting.of(bob) == 1)
        sent = success(await alice.send(bob, b"sealed"), 201)
        assert await coming == {
            "type": "message",
            "id": sent["id"],
            "sender_id": alice.id,
            "recipient_id": bob.id,
            "message": b64(b"sealed"),
            "timestamp": sent["timestamp"],
            "is_delivered": False,
        }


async def test_the_largest_message_is_given(way: str, pair: tuple[Person, Person], router: Running) -> None:
    success(await pair[0].send(pair[1], bytes(65_536)), 201)
    async with reading(way, pair[1], router.origin) as reader:
        assert (await reader.next("message"))["message"] == b64(bytes(65_536))


@pytest.mark.parametrize("other_way", WAYS)
async def test_what_is_acknowledged_is_not_given_again_and_what_is_not_is(
    way: str, other_way: str, pair: tuple[Person, Person], router: Running
) -> None:
    alice, bob = pair
    sent = [success(await alice.send(bob), 201)["id"] for _ in range(4)]
    async with reading(way, bob, router.origin) as reader:
        assert await given(reader, 4) == sent
        assert sorted(await reader.acknowledge(sent[0], sent[2])) == sorted([sent[0], sent[2]])
        assert await reader.acknowledge(sent[0]) == []
    last = success(await alice.send(bob), 201)["id"]
    async with reading(other_way, bob, router.origin) as reader:
        assert await given(reader, 3) == [sent[1], sent[3], last]


@pytest.mark.parametrize("other_way", WAYS)
async def test_two_who_receive_as_one_person_are_both_given_everything(
    way: str, other_way: str, pair: tuple[Person, Person], router: Running
) -> None:
    alice, bob = pair
    tablet = await another_session(bob)
    first = success(await alice.send(bob), 201)["id"]
    async with reading(way, bob, router.origin) as one, reading(other_way, tablet, router.origin) as two:
        second = success(await alice.send(bob), 201)["id"]
        assert await given(one, 2) == await given(two, 2) == [first, second]


async def test_a_stranger_is_given_nothing_and_acknowledges_nothing(
    way: str, pair: tuple[Person, Person], router: Running
) -> None:
    alice, bob = pair
    mallory, friend = await contacts(alice.http)
    async with reading(way, mallory, router.origin) as reader:
        sent = success(await alice.send(bob), 201)["id"]
        assert await reader.acknowledge(sent) == []
        own = success(await friend.send(mallory), 201)["id"]
        assert await given(reader, 1) == [own]
    assert await ids_waiting(bob) == [sent]


async def test_a_receipt_is_told_once(way: str, pair: tuple[Person, Person], router: Running) -> None:
    alice, bob = pair
    sent = success(await alice.send(bob), 201)["id"]
    async with reading(way, alice, router.origin) as reader:
        success(await bob.post("/messages/ack", message_ids=[sent]))
        assert (await reader.next("receipt"))["delivered"] == [sent]
    assert (await alice.poll(0))["delivered"] == []


async def test_a_change_among_the_contacts_is_told_to_each_session(
    way: str, http: httpx.AsyncClient, router: Running
) -> None:
    alice, bob = await person(http), await person(http)
    await bob.drain()
    async with reading(way, bob, router.origin) as reader:
        success(await alice.post("/contacts/send-contact-request", receiver_id=bob.id), 201)
        assert await reader.next("contact") == {"type": "contact"}


async def test_an_end_of_the_session_ends_the_receiving_on_every_node(
    way: str, http: httpx.AsyncClient, router: Running, second_node: Running, second_http: httpx.AsyncClient
) -> None:
    alice = await person(http)
    await alice.drain()
    there = Person(second_http, alice.name, alice.ecdsa, alice.ecdh, alice.id, alice.token, alice.key)
    nodes = [await Waiting.at(router), await Waiting.at(second_node)]
    async with reading(way, alice, router.origin) as here, reading(way, there, second_node.origin) as elsewhere:
        ends = [asyncio.create_task(each.next("message")) for each in (here, elsewhere)]
        await until(lambda: all(node.of(alice) == 1 for node in nodes))
        success(await alice.post("/auth/logout"))
        for each in ends:
            with pytest.raises(Closed) as caught:
                await each
            assert caught.value.code == LOG_IN


@pytest.mark.parametrize("other_way", WAYS)
async def test_one_may_change_the_way_between_any_two_messages(
    way: str, other_way: str, pair: tuple[Person, Person], router: Running
) -> None:
    """Sent by turns in a call and over a WebSocket, received by turns: nothing is lost, doubled or out of order."""
    alice, bob = pair
    sent, received = [], []
    async with socket(alice, router.origin) as ws:
        for number in range(6):
            if number % 2:
                sent.append(success(await alice.send(bob), 201)["id"])
            else:
                ws.send(bob)
                sent.append((await ws.next("sent"))["id"])
            async with reading(other_way if number % 2 else way, bob, router.origin) as reader:
                received += await given(reader, 1)
                await reader.acknowledge(received[-1])
    assert received == sent
    assert await ids_waiting(bob) == []


# What goes through


async def test_a_message_is_sent_delivered_acknowledged_and_receipted(
    both: tuple[Ws, Ws], pair: tuple[Person, Person]
) -> None:
    alice, bob = both
    identifier = alice.send(pair[1], b"sealed")
    sent = await alice.next("sent")
    message = await bob.next("message")
    assert sent == {
        "type": "sent",
        "client_message_id": identifier,
        "id": message["id"],
        "timestamp": message["timestamp"],
        "status": "sent",
    }
    assert message == {
        "type": "message",
        "id": sent["id"],
        "sender_id": pair[0].id,
        "recipient_id": pair[1].id,
        "message": b64(b"sealed"),
        "timestamp": sent["timestamp"],
        "is_delivered": False,
    }
    assert await ids_waiting(pair[1]) == [sent["id"]]
    bob.ack(sent["id"])
    assert await bob.next("acknowledged") == {"type": "acknowledged", "acknowledged": [sent["id"]]}
    assert await alice.next("receipt") == {"type": "receipt", "delivered": [sent["id"]]}
    assert await ids_waiting(pair[1]) == []
    assert (await pair[0].poll(0))["delivered"] == []


async def test_a_stream_and_the_calls_over_http_see_the_same(both: tuple[Ws, Ws], pair: tuple[Person, Person]) -> None:
    alice, bob = both
    sent = success(await pair[0].send(pair[1], b"by a call"), 201)
    message = await bob.next("message")
    assert (message["id"], message["timestamp"]) == (sent["id"], sent["timestamp"])
    success(await pair[1].post("/messages/ack", message_ids=[sent["id"]]))
    assert (await alice.next("receipt"))["delivered"] == [sent["id"]]
    alice.send(pair[1])
    identifier = (await alice.next("sent"))["id"]
    assert [each["id"] for each in (await pair[1].poll())["messages"]] == [identifier]


async def test_a_change_among_the_contacts_is_told(http: httpx.AsyncClient, router: Running) -> None:
    alice, bob = await person(http), await person(http)
    await bob.drain()
    async with socket(bob, router.origin) as ws, events(bob) as stream:
        success(await alice.post("/contacts/send-contact-request", receiver_id=bob.id), 201)
        told = {asyncio.create_task(ws.next("contact")), asyncio.ensure_future(anext(stream))}
        done, pending = await asyncio.wait(told, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        for each in pending:  # one session is told once
            each.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        assert [each.result() for each in done] == [{"type": "contact"}] * len(done) != []


async def test_messages_of_one_connection_are_stored_in_the_order_of_their_coming(
    both: tuple[Ws, Ws], pair: tuple[Person, Person]
) -> None:
    alice, bob = both
    identifiers = [alice.send(pair[1], str(number).encode()) for number in range(300)]
    received = [(await bob.next("message"))["message"] for _ in identifiers]
    assert received == [b64(str(number).encode()) for number in range(300)]
    answers = [await alice.next("sent") for _ in identifiers]
    assert sorted(each["client_message_id"] for each in answers) == sorted(identifiers)


async def test_order_holds_where_redis_and_postgresql_must_be_asked(stores: StoreUrls, data_dir: Any) -> None:
    """Every thirtieth send is settled with Redis, and a small mailbox is counted again and again."""
    limits = {"rate_limits": "on", "mailbox_messages_max": 500}
    with running_in_thread(settings_for(stores, data_dir / "counting", **limits)) as router:
        async with client_of(router) as http:
            alice, bob = await contacts(http)
            async with socket(alice, router.origin) as ws, socket(bob, router.origin) as other:
                for number in range(100):
                    ws.send(bob, str(number).encode())
                received = [(await other.next("message"))["message"] for _ in range(100)]
                assert received == [b64(str(number).encode()) for number in range(100)]


async def test_the_same_message_twice_is_stored_once_and_answered_the_same(
    both: tuple[Ws, Ws], pair: tuple[Person, Person]
) -> None:
    alice, bob = both
    identifier = alice.send(pair[1])
    first = await alice.next("sent")
    alice.send(pair[1], client_message_id=identifier)
    assert await alice.next("sent") == first
    assert (await bob.next("message"))["id"] == first["id"]
    alice.send(pair[1])
    assert (await bob.next("message"))["id"] == (await alice.next("sent"))["id"] != first["id"]


async def test_a_stranger_cannot_send_or_acknowledge(both: tuple[Ws, Ws], pair: tuple[Person, Person]) -> None:
    alice, bob = both
    stranger = await person(pair[0].http)
    identifier = alice.send(stranger)
    refused = await alice.next("error")
    assert (refused["code"], refused["status"], refused["client_message_id"]) == ("not_a_contact", 403, identifier)
    alice.send(pair[1])
    message = await bob.next("message")
    alice.ack(message["id"])
    assert (await alice.next("acknowledged"))["acknowledged"] == []
    assert await ids_waiting(pair[1]) == [message["id"]]


# Frames good and bad

KEY = "0d7f9a52-31f5-4f0e-9d54-0a2b8a7b3c11"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_request"),
        ("{}", "invalid_request"),
        ('{"type":"send"}', "invalid_request"),
        ('{"type":"ack","message_ids":[]}', "invalid_request"),
        ('{"type":"ack","message_ids":["x"]}', "invalid_request"),
        ('{"type":"ack","message_ids":[],"message_ids":[]}', "invalid_json"),
        ('{"type":"message"}', "invalid_request"),
        ('{"type":["send"]}', "invalid_request"),
        ('{"type":"ack\\u0000"}', "invalid_json"),
        ("[" * 90_000, "invalid_json"),
    ],
    ids=range(11),
)
async def test_a_frame_that_means_nothing_is_refused_and_the_stream_goes_on(
    both: tuple[Ws, Ws], pair: tuple[Person, Person], text: str, code: str
) -> None:
    alice, _ = both
    alice.write(frame(text.encode()))
    error = await alice.next("error")
    assert set(error) == {"type", "code", "status", "detail", "client_message_id", "retry_after"}
    assert (error["code"], error["status"], error["client_message_id"]) == (code, 400, None)
    alice.send(pair[1])
    assert (await alice.next("sent"))["status"] == "sent"


async def test_a_send_that_is_not_valid_names_its_own_id(both: tuple[Ws, Ws], pair: tuple[Person, Person]) -> None:
    alice, _ = both
    right = {"type": "send", "recipient_id": pair[1].id, "message": b64(b"x"), "client_message_id": KEY}
    for wrong in ({"message": "?"}, {"recipient_id": 1}, {"more": 1}, {"message": b64(bytes(65_537))}):
        alice.say(**(right | wrong))
        error = await alice.next("error")
        assert (error["client_message_id"], error["status"]) == (KEY, 413 if len(str(wrong)) > 1_000 else 400)
    alice.say(**{name: value for name, value in right.items() if name != "client_message_id"})
    assert (await alice.next("error"))["code"] == "invalid_request"


CLOSES = {
    "a binary frame": (frame(b"x", 2), 1003),
    "text that is not UTF-8": (frame(b'"\xff"'), 1007),
    "a frame that is too long": (frame(bytes(98_305)), 1009),
    "a length that will never come": (b"\x81\xff" + b"\x7f" * 8 + bytes(4), 1009),
    "no mask": (frame(b"{}", mask=None), 1002),
    "a reserved bit": (b"\xc1\x80" + bytes(4), 1002),
    "an opcode that is not defined": (frame(b"", 3), 1002),
    "a control opcode that is not defined": (frame(b"", 11), 1002),
    "a control frame that is too long": (frame(bytes(126), PING), 1002),
    "a control frame in parts": (frame(b"", PING, final=False), 1002),
    "a length written too long": (b"\x81\xfe\x00\x02" + bytes(4) + b"{}", 1002),
    "a continuation of nothing": (frame(b"{}", 0), 1002),
    "a text within a text": (frame(b"{", final=False) + frame(b"{}"), 1002),
    "parts that are too long together": (frame(bytes(98_304), final=False) + frame(b"x", 0), 1009),
    "a close with half a code": (frame(b"\x03", CLOSE), 1002),
    "a close with a code that is none": (frame(b"\x03\xed", CLOSE), 1002),
    "a close with a reason that is not UTF-8": (frame(b"\x03\xe8\xff", CLOSE), 1007),
    "a close": (frame(b"\x03\xe8bye", CLOSE), 1000),
    "a close without a code": (frame(b"", CLOSE), 1000),
    "a close with a code of its own": (frame(b"\x0f\xa0", CLOSE), 4000),
}


@pytest.mark.parametrize(("data", "code"), CLOSES.values(), ids=CLOSES)
async def test_what_the_protocol_forbids_or_ends_closes_with_a_code(
    both: tuple[Ws, Ws], data: bytes, code: int
) -> None:
    both[0].write(data)
    assert await both[0].closed() == code
    with suppress(ConnectionResetError):  # it had closed before it read our answer
        assert await both[0].reader.read() == b""


async def test_a_frame_may_come_in_parts_in_pieces_and_with_pings_between(
    both: tuple[Ws, Ws], pair: tuple[Person, Person]
) -> None:
    members = {"type": "send", "recipient_id": pair[1].id, "message": b64(bytes(3_000)), "client_message_id": KEY}
    text = json.dumps(members).encode()
    data = frame(text[:7], final=False) + frame(b"sign", PING) + frame(text[7:], 0) + frame(b"", PONG)
    for start in range(0, len(data), 997):
        both[0].write(data[start : start + 997])
        await both[0].writer.drain()
    assert await both[0].raw() == (PONG, b"sign")
    assert (await both[0].next("sent"))["client_message_id"] == KEY


async def test_the_largest_message_passes(both: tuple[Ws, Ws], pair: tuple[Person, Person]) -> None:
    both[0].send(pair[1], bytes(65_536))
    assert (await both[1].next("message"))["message"] == b64(bytes(65_536))


# Bounds


async def test_a_client_that_acknowledges_nothing_is_given_a_window_and_then_the_rest(
    both: tuple[Ws, Ws], pair: tuple[Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_service, "WINDOW_MESSAGES", 10)
    alice, bob = both
    sent = []
    for _ in range(25):
        alice.send(pair[1])
        sent.append((await alice.next("sent"))["id"])
    first = [(await bob.next("message"))["id"] for _ in range(10)]
    bob.say(type="ack", message_ids=[str(uuid4())])  # nothing of it: its answer shows that no more has come
    assert (await bob.any())["type"] == "acknowledged"
    bob.ack(*first)
    second = [(await bob.next("message"))["id"] for _ in range(10)]
    bob.ack(*second)
    third = [(await bob.next("message"))["id"] for _ in range(5)]
    assert first + second + third == sent


async def test_acknowledgements_over_http_move_the_window_too(
    pair: tuple[Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_service, "WINDOW_MESSAGES", 10)
    alice, bob = pair
    sent = [success(await alice.send(bob), 201)["id"] for _ in range(25)]
    received: list[str] = []
    async with events(bob) as stream:
        async for each in stream:
            received.append(each["id"])
            if len(received) % 5 == 0:
                success(await bob.post("/messages/ack", message_ids=received[-5:]))
            if len(received) == 25:
                break
    assert received == sent


async def test_more_frames_at_once_than_may_be_in_flight_are_all_answered(
    both: tuple[Ws, Ws], pair: tuple[Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_router, "IN_FLIGHT_MAX", 4)
    identifiers = {both[0].send(pair[1]) for _ in range(200)}
    assert {(await both[0].next("sent"))["client_message_id"] for _ in range(200)} == identifiers


async def test_a_client_that_does_not_read_is_let_go(
    pair: tuple[Person, Person], router: Running, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "STALL_S", 0.3)
    alice, bob = pair
    async with socket(bob, router.origin) as ws:
        assert waiting.of(bob) == 1
        # How much the system takes up for one who does not read is its own affair.
        async with asyncio.timeout(PATIENCE_S):
            while waiting.of(bob):
                success(await alice.send(bob, bytes(65_536)), 201)
        assert await ws.closed() in {TOO_SLOW, 1006}  # whether the close got through depends on what lay before it
    async with socket(bob, router.origin) as ws:
        assert (await ws.next("message"))["message"]


async def test_a_client_that_vanished_is_noticed_and_one_that_answers_pings_stays(
    both: tuple[Ws, Ws], pair: tuple[Person, Person], router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "SILENCE_S", 0.1)
    async with socket(pair[0], router.origin) as silent, socket(pair[0], router.origin) as alive:
        answering = asyncio.create_task(alive.next("message"))
        while (silence := await silent.raw())[0] != CLOSE:
            pass
        assert int.from_bytes(silence[1][:2], "big") == SILENT
        both[1].send(pair[0])
        assert (await answering)["sender_id"] == pair[1].id


@pytest.fixture
def narrow(stores: StoreUrls, data_dir: Any) -> Iterator[Running]:
    """A router with room for three streams and polls, two of one person."""
    limits = {"waiting_max": 3, "waiting_per_user_max": 2}
    with running_in_thread(settings_for(stores, data_dir / "narrow", **limits)) as running:
        yield running


async def test_streams_and_polls_are_counted_together_and_places_are_given_back(narrow: Running) -> None:
    async with client_of(narrow) as http:
        alice, bob = await contacts(http)
        hub = await narrow.container.get(Hub)
        for _ in range(3):
            async with socket(alice, narrow.origin), events(alice):
                await refused(alice, narrow, 429, "too_many_waiting")
                refusal(await alice.get("/messages/events"), 429, "too_many_waiting")
                refusal(await alice.get("/messages/poll", timeout=0), 429, "too_many_waiting")
                async with socket(bob, narrow.origin):
                    await refused(bob, narrow, 429, "too_many_waiting")
            await until(lambda: hub._count == 0)


# The end


async def test_a_logout_ends_streams_at_once_on_every_node(
    http: httpx.AsyncClient, router: Running, second_node: Running
) -> None:
    alice = await person(http)
    other = await another_session(alice)
    there = Person(http, alice.name, alice.ecdsa, alice.ecdh, alice.id, alice.token, alice.key, second_node.origin)
    async with (
        socket(alice, router.origin) as here,
        socket(there, second_node.origin) as elsewhere,
        events(alice) as stream,
        socket(other, router.origin) as stays,
    ):
        success(await alice.post("/auth/logout"))
        assert await here.closed() == LOG_IN
        assert await elsewhere.closed() == LOG_IN
        assert [each["code"] async for each in stream if each["type"] == "close"] == [LOG_IN]
        stays.say(type="ack", message_ids=[KEY])
        assert (await stays.next("acknowledged"))["acknowledged"] == []


async def test_a_router_that_stops_answers_what_it_has_and_says_come_back(stores: StoreUrls, data_dir: Any) -> None:
    with running_in_thread(settings_for(stores, data_dir / "stopping")) as running:
        async with client_of(running) as http:
            alice, bob = await contacts(http)
            ws = await Ws.connect(running.origin, "/messages/ws", alice.signed("GET", f"{running.origin}/messages/ws"))
            identifier = ws.send(bob)
            assert (await ws.next("sent"))["client_message_id"] == identifier
            hub = await running.container.get(Hub)
            reading = asyncio.create_task(collect(bob))
            await until(lambda: hub._count == 2)
            closing = asyncio.create_task(ws.closed())
            await asyncio.get_running_loop().run_in_executor(None, _close, running, hub)
            assert await closing == GOING_AWAY
            assert (await reading)[-1] == {"type": "close", "code": GOING_AWAY, "reason": "shutting_down"}
            await ws.vanish()


async def collect(someone: Person) -> list[Frame]:
    async with events(someone) as stream:
        return [each async for each in stream]


def _close(_running: Running, hub: Hub) -> None:
    """Close the hub in its own loop, as the router does when it stops."""
    assert hub.listening._loop is not None  # type: ignore[attr-defined]
    hub.listening._loop.call_soon_threadsafe(hub.close)  # type: ignore[attr-defined]


# Attacks on the connection


@pytest.mark.parametrize(
    "piece", [frame(b"", PING), frame(b"", PONG), frame(b"x", final=False) + frame(b"", 0, final=False)]
)
async def test_who_sends_frames_without_end_that_are_no_texts_is_let_go(
    pair: tuple[Person, Person], router: Running, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "OTHERS_MAX", 100)
    async with socket(pair[0], router.origin) as ws:
        ws.write(piece + (frame(b"", 0, final=False) if piece[0] < 0x80 else piece) * 101)
        while (answer := await ws.raw())[0] != CLOSE:
            pass
        assert int.from_bytes(answer[1][:2], "big") == LATER


async def deaf(someone: Person, router: Running, *paths: str) -> "asyncio.Transport":
    """Make requests on one connection that reads nothing; returns what writes more."""
    parts = urlsplit(router.origin)
    raw = python_socket.socket()
    raw.setsockopt(python_socket.SOL_SOCKET, python_socket.SO_RCVBUF, 4_096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, (str(parts.hostname), int(parts.port or 0)))
    for path in paths:
        headers = someone.signed("GET", router.origin + path.partition("?")[0])
        await loop.sock_sendall(raw, handshake(path, headers) if path.endswith("/ws") else plain(path, headers))
    transport, protocol = await loop.create_connection(asyncio.Protocol, sock=raw)
    assert isinstance(protocol, asyncio.Protocol)
    transport.pause_reading()
    return transport


def plain(path: str, headers: dict[str, str]) -> bytes:
    lines = (f"GET {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items()))
    return "\r\n".join((*lines, "", "")).encode()


async def test_a_stream_behind_an_answer_that_nobody_reads_is_bounded_like_any(
    pair: tuple[Person, Person], router: Running, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "STALL_S", 0.3)
    alice, bob = pair
    for _ in range(66):
        success(await alice.send(bob, bytes(65_536)), 201)
    transport = await deaf(bob, router, "/messages/get-undelivered-messages?limit=500", "/messages/ws")
    try:
        await until(lambda: waiting.of(bob) == 1)
        await until(lambda: waiting.of(bob) == 0)
    finally:
        transport.abort()


async def test_a_session_that_ended_sends_nothing_although_its_client_reads_nothing(
    pair: tuple[Person, Person], router: Running, waiting: Waiting
) -> None:
    alice, bob = pair
    thief = await another_session(bob)
    for _ in range(66):
        success(await alice.send(bob, bytes(65_536)), 201)
    transport = await deaf(thief, router, "/messages/ws")
    try:
        await until(lambda: waiting.of(bob) == 1)
        hub = await router.container.get(Hub)
        stream: Any = next(iter(hub._subscriptions[UUID(bob.id)]))
        await until(lambda: not stream.hears_receipts)  # it is paused: the client takes nothing
        success(await thief.post("/auth/logout"))
        await until(lambda: waiting.of(bob) == 0 or stream._is_over)
        send = {"type": "send", "recipient_id": alice.id, "message": b64(b"late"), "client_message_id": str(uuid4())}
        transport.write(frame(json.dumps(send).encode()) * 10)
        transport.resume_reading()
        await until(lambda: waiting.of(bob) == 0)
    finally:
        transport.abort()
    assert await ids_waiting(alice) == []


async def test_events_with_a_request_behind_them_end_with_their_connection(
    pair: tuple[Person, Person], router: Running, waiting: Waiting
) -> None:
    transport = await deaf(pair[0], router, "/messages/events", "/health/live")
    await until(lambda: waiting.of(pair[0]) == 1)
    transport.abort()
    await until(lambda: waiting.of(pair[0]) == 0)
