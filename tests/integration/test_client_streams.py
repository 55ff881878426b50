"""The SDK over WebSockets on a real router, through a relay that does what networks and proxies do."""

import asyncio
import json
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from blindpost.app import Running
from blindpost.client import (
    Client,
    Delivered,
    Event,
    HttpTransport,
    Identity,
    Received,
    Refused,
    Store,
    Unreachable,
    UntrustedAnswer,
)
from blindpost.client import pauses as pauses_module
from blindpost.client import websocket as websocket_module
from blindpost.client.websocket import Lost
from blindpost.core.embedded import StoreUrls
from blindpost.core.hub import Hub
from certificates import Authority
from checks import until
from relays import Relay
from sockets import frame
from support import running_in_thread, settings_for, unique_name

WS, POLL, SEND, ACK = "GET /messages/ws", "GET /messages/poll", "POST /messages/send", "POST /messages/ack"


@dataclass
class Town:
    """Alice and Bob, who meet through a relay."""

    relay: Relay
    router: Running
    alice: Client
    bob: Client

    def client(self, of: Client) -> Client:
        """Return another client of somebody."""
        return Client(self.relay.origin, of.identity, of._store)

    async def send(self, text: str) -> None:
        await self.alice.send(self.bob.identity.account, text)


@pytest.fixture(scope="module")
def listening() -> Iterator[socket.socket]:
    """Where the relays of this module listen, one after the other: a router is known by one origin."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="module")
def behind(listening: socket.socket, stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with running_in_thread(settings_for(stores, data_dir / "behind-a-relay", public_origin=origin)) as router:
        yield router


@pytest.fixture
async def relay(listening: socket.socket) -> AsyncIterator[Relay]:
    async with Relay(listening.dup()).running() as running:
        yield running


@pytest.fixture
async def town(relay: Relay, behind: Running) -> AsyncIterator[Town]:
    relay.before(behind)
    people = [Identity.generate(unique_name()) for _ in range(2)]
    async with (
        Client(relay.origin, people[0], Store.in_memory(people[0])) as alice,
        Client(relay.origin, people[1], Store.in_memory(people[1])) as bob,
    ):
        for each in (alice, bob):
            await each.register()
        await alice.request_contact(bob.identity.username)
        await bob.accept(alice.identity.username)
        for each in (alice, bob):
            await each.events_once()
        relay.requests.clear()
        yield Town(relay, behind, alice, bob)
    hub = await behind.container.get(Hub)
    await until(lambda: hub._count == 0)
    assert not tasks_of_clients()


async def next_of(events: AsyncIterator[Event]) -> Any:
    return await asyncio.wait_for(anext(events), 20)


async def text_of(events: AsyncIterator[Event]) -> str | None:
    while not isinstance(event := await next_of(events), Received):
        pass
    return event.text


async def test_a_follower_receives_acknowledges_and_sends_over_one_websocket(town: Town) -> None:
    async with aclosing(town.bob.events()) as events:
        for number in range(5):
            await town.send(str(number))
            assert await text_of(events) == str(number)
            await town.bob.send(town.alice.identity.account, f"I read {number}")
        assert (town.relay.count(WS), town.relay.count(POLL), town.relay.count(ACK)) == (1, 0, 0)
        assert town.relay.count(SEND) == 5, "those of Alice, who follows nothing"
    assert [each.text for each in await town.alice.receive_once()] == [f"I read {number}" for number in range(5)]


async def test_what_one_client_sends_is_received_in_its_order(town: Town) -> None:
    texts = [str(number) for number in range(40)]
    async with aclosing(town.alice.events()) as mine, aclosing(town.bob.events()) as events:
        waiting = asyncio.create_task(next_of(mine))
        await until(lambda: bool(town.alice._outlet._streams))
        for text in texts:
            await town.send(text)
        assert [await text_of(events) for _ in texts] == texts
        assert town.relay.count(SEND) == 0
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


REFUSALS = {
    "a proxy that forbids it": (403, b""),
    "an older router": (404, b""),
    "a router without the method": (405, b""),
    "a proxy that drops the upgrade": (426, b""),
    "a proxy that answers itself": (200, b""),
    "a redirect": (307, b"Location: /messages/ws\r\n"),
    "a gateway": (502, b""),
    "a faulty proxy": (500, b""),
}


@pytest.mark.parametrize(("status", "more"), REFUSALS.values(), ids=REFUSALS)
async def test_where_the_upgrade_is_refused_polls_do(town: Town, status: int, more: bytes) -> None:
    town.relay.refuse(status, more)
    async with aclosing(town.bob.events()) as events:
        await town.send("one")
        assert await text_of(events) == "one"
        await town.bob.send(town.alice.identity.account, "I read one")
        assert town.relay.count(WS) == 1
        assert town.relay.count(SEND) == 2
        assert town.relay.count(POLL) >= 1


@pytest.mark.parametrize("how", ["mute", "nonsense", "cut"])
async def test_where_a_handshake_comes_to_nothing_polls_do(
    how: str, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_module, "OPEN_TIMEOUT_S", 0.2)
    town.relay.is_mute = how == "mute"
    town.relay.refusal = {"nonsense": b"HELLO\r\n\r\n", "cut": b"HTTP/1.1 101 Switching Protocols\r\n\r\n"}.get(how)
    async with aclosing(town.bob.events()) as events:
        await town.send("one")
        assert await text_of(events) == "one"
        assert town.relay.count(WS) == 1


async def test_a_websocket_is_tried_again_and_taken_when_it_can_be_had(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses_module, "REFUSED_S", 0.01)
    town.relay.refuse(426)
    async with aclosing(town.bob.events()) as events:
        await town.send("one")
        assert await text_of(events) == "one"
        town.relay.heal()
        waiting = asyncio.create_task(text_of(events))
        await until(lambda: any(stream.is_open for stream in town.bob._outlet._streams))
        await town.send("two")
        assert await waiting == "two"


AT_ONCE, LATER, NEVER = (4200, 4201, 4202), (4300,), (1002, 1003, 1007, 1009)


@pytest.mark.parametrize("code", [*AT_ONCE, 1000, 1001, 1011, 4999, None])
async def test_a_close_that_asks_to_come_back_is_followed_by_another_websocket(code: int | None, town: Town) -> None:
    async with aclosing(town.bob.events()) as events:
        await town.send("one")
        assert await text_of(events) == "one"
        waiting = asyncio.create_task(text_of(events))
        [wire] = town.relay.websockets
        wire.close(code)
        await until(lambda: town.relay.count(WS) == 2)
        await town.send("two")
        assert await waiting == "two"
        assert (town.relay.count(POLL), town.relay.count("POST /auth/login")) == (0, 0)


async def test_a_session_that_ended_is_followed_by_a_login_and_another_websocket(town: Town) -> None:
    async with aclosing(town.bob.events()) as events:
        await town.send("one")
        assert await text_of(events) == "one"
        waiting = asyncio.create_task(text_of(events))
        async with town.client(town.bob) as elsewhere:
            assert await elsewhere.end_other_sessions() == 1
        await until(lambda: town.relay.count(WS) == 2)
        await town.send("two")
        assert await waiting == "two"
        assert town.relay.count("POST /auth/login") == 2, "elsewhere, and here"


@pytest.mark.parametrize("code", [*LATER, *NEVER])
async def test_a_close_that_asks_not_to_come_back_at_once_is_followed_by_polls(code: int, town: Town) -> None:
    async with aclosing(town.bob.events()) as events:
        await town.send("one")
        assert await text_of(events) == "one"
        waiting = asyncio.create_task(text_of(events))
        town.relay.websockets[0].close(code)
        await until(lambda: town.relay.count(POLL) == 1)
        await town.send("two")
        assert await waiting == "two"
        assert town.relay.count(WS) == 1


async def test_who_was_asked_to_come_later_comes_then(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses_module, "LATER_S", 0.01)
    async with aclosing(town.bob.events()) as events:
        await town.send("one")
        assert await text_of(events) == "one"
        waiting = asyncio.create_task(text_of(events))
        town.relay.websockets[0].close(4300)
        await until(lambda: town.relay.count(WS) == 2)
        await town.send("two")
        assert await waiting == "two"


async def test_a_websocket_that_breaks_again_and_again_is_given_up_for_a_while(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses_module, "JITTER_S", 4.0)
    town.relay.on_data = lambda wire, _data, from_client: wire.cut() if wire.is_websocket and not from_client else None
    async with aclosing(town.bob.events()) as events:
        for number in range(3):
            await town.send(str(number))
            assert await text_of(events) == str(number)
        assert town.relay.count(POLL) >= 1


async def test_sends_in_flight_when_the_connection_breaks_are_stored_once(town: Town) -> None:
    async with aclosing(town.bob.events()) as events:
        waiting = asyncio.create_task(next_of(events))
        await until(lambda: bool(town.bob._outlet._streams))

        def cut_at_an_answer(wire: Any, data: bytes, from_client: bool) -> None:  # noqa: FBT001
            if wire.is_websocket and not from_client and b'"sent"' in data:
                wire.cut()

        town.relay.on_data = cut_at_an_answer
        alice_id = town.alice.identity.account
        await asyncio.gather(*(town.bob.send(alice_id, str(number)) for number in range(60)))
        assert town.bob.unsent() == {}
        assert town.relay.count(SEND) >= 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    received = await town.alice.receive_once()
    assert sorted(int(each.text or "") for each in received) == list(range(60))


async def test_a_receipt_that_went_with_the_connection_is_told_after_it(town: Town) -> None:
    async with aclosing(town.alice.events()) as events:
        waiting = asyncio.create_task(next_of(events))
        await until(lambda: bool(town.alice._outlet._streams))
        sent = await town.alice.send(town.bob.identity.account, "hello")
        town.relay.on_data = lambda wire, data, _: wire.cut() if wire.is_websocket and b"receipt" in data else None
        await town.bob.ack(*await town.bob.receive_once())
        assert await waiting == Delivered((sent.id,))


async def test_a_router_that_stops_and_another_that_starts_lose_nothing(
    relay: Relay, stores: StoreUrls, data_dir: Path
) -> None:
    settings = settings_for(stores, data_dir / "stopping-relayed", public_origin=relay.origin)
    people = [Identity.generate(unique_name()) for _ in range(2)]
    async with (
        Client(relay.origin, people[0], Store.in_memory(people[0])) as alice,
        Client(relay.origin, people[1], Store.in_memory(people[1])) as bob,
        aclosing(bob.messages()) as messages,
    ):
        texts = []
        for round_ in range(2):
            with running_in_thread(settings) as router:
                relay.before(router)
                if not round_:
                    for each in (alice, bob):
                        await each.register()
                    await alice.request_contact(bob.identity.username)
                    await bob.accept(alice.identity.username)
                await alice.send(bob.identity.account, str(round_))
                texts.append((await asyncio.wait_for(anext(messages), 30)).text)
        assert texts == ["0", "1"]


@pytest.mark.parametrize("count", range(1, 25, 3))
async def test_a_follower_cancelled_at_any_moment_leaves_no_task_no_socket_and_no_place_taken(
    count: int, town: Town
) -> None:
    """From the first byte of the login on; before it, and between, tests/unit/test_client_stream.py counts steps."""
    for number in range(12):
        await town.send(str(number))
    town.relay.cut()
    passed = 0

    async def follow() -> None:
        async with town.client(town.bob) as client, aclosing(client.messages()) as messages:
            async for message in messages:
                await client.send(town.alice.identity.account, f"I read {message.text}")

    def cancel_in_time(_wire: Any, _data: bytes, _from_client: bool) -> None:  # noqa: FBT001
        nonlocal passed
        passed += 1
        if passed == count:
            task.cancel()

    task = asyncio.create_task(follow())
    town.relay.on_data = cancel_in_time
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 20)
    await asyncio.sleep(0)  # what was cancelled last ends now
    assert not tasks_of_clients()
    hub = await town.router.container.get(Hub)
    await until(lambda: not town.relay.websockets and hub._count == 0)


def tasks_of_clients() -> list[asyncio.Task[Any]]:
    """Return tasks of the SDK and of the library that it uses; others are the tests' own."""
    return [task for task in asyncio.all_tasks() if re.search("/blindpost/client/|/websockets/asyncio/", repr(task))]


# What is asked and trusted


Raw = tuple[str, list[bytes]]


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[Raw]:
    """A server that gives these answers to heads, and keeps them."""
    heads: list[bytes] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(left.pop(0) if left else b"")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


def sign(_method: str, _url: str, _body: bytes) -> dict[str, str]:
    return {"Authorization": "DPoP secret-token", "DPoP": "proof"}


@pytest.fixture
async def transport_to() -> AsyncIterator[Any]:
    made: list[HttpTransport] = []

    def make(origin: str) -> HttpTransport:
        made.append(HttpTransport(origin))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


async def test_a_handshake_says_no_more_than_it_must(transport_to: Any) -> None:
    """No compression and no other extension, no name of a program, no origin of a page."""
    async with answering(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n") as (origin, heads):
        with pytest.raises(Refused):
            await transport_to(origin).open("/messages/ws", sign=sign)
    names = {line.partition(b":")[0].lower() for line in heads[0].split(b"\r\n")[1:] if line}
    expected = {b"host", b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version"}
    assert names == expected | {b"authorization", b"dpop"}


async def test_no_redirect_is_followed(transport_to: Any) -> None:
    async with answering() as (elsewhere, heads):
        there = f"HTTP/1.1 307 No\r\nContent-Length: 0\r\nLocation: {elsewhere}/\r\n\r\n".replace("http:", "ws:")
        async with answering(there.encode()) as (origin, _):
            with pytest.raises(Refused) as caught:
                await transport_to(origin).open("/messages/ws", sign=sign)
    assert caught.value.status == 307
    assert heads == []


async def test_what_is_refused_is_the_routers_problem_and_can_be_shown(transport_to: Any) -> None:
    body = json.dumps({"type": "t", "title": "t", "status": 429, "detail": "no\x1b[2J", "code": "too_many_waiting"})
    answer = f"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    async with answering(answer.encode()) as (origin, _):
        with pytest.raises(Refused) as caught:
            await transport_to(origin).open("/messages/ws", sign=sign)
    assert (caught.value.status, caught.value.code, caught.value.detail) == (429, "too_many_waiting", "no[2J")
    assert caught.value.retry_after == 7


async def test_a_refusal_without_end_is_not_read(transport_to: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_module, "OPEN_TIMEOUT_S", 5.0)
    async with answering(b"HTTP/1.1 404 No\r\n\r\n" + bytes(4_000_000)) as (origin, _):
        with pytest.raises((Refused, Unreachable)):
            await transport_to(origin).open("/messages/ws", sign=sign)


@asynccontextmanager
async def opened(transport: Any, someone: Client) -> AsyncIterator[Any]:
    await someone.login()
    credentials = someone._session._credentials
    assert credentials is not None
    socket = await transport.open("/messages/ws", sign=credentials.sign)
    try:
        yield socket
    finally:
        await socket.aclose()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (frame(b"{}", 2, mask=None), UntrustedAnswer),
        (frame(b"\xff", mask=None), Lost),
        (frame(bytes(98_305), mask=None), Lost),
        (b"\xc1\x02{}", Lost),
        (b"\x81\x7f" + b"\x7f" * 8, Lost),
    ],
    ids=["binary", "not UTF-8", "too long", "compressed", "a length that never comes"],
)
async def test_frames_that_break_the_protocol_end_the_connection(
    data: bytes, error: type[Exception], town: Town, transport_to: Any
) -> None:
    async with opened(transport_to(town.relay.origin), town.bob) as socket:
        town.relay.websockets[0].client[1].write(data)
        with pytest.raises(error):
            await socket.receive()


async def test_no_log_has_the_token(town: Town, transport_to: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with opened(transport_to(town.relay.origin), town.bob):
            pass
    assert not [record for record in caplog.records if "websocket" in record.name]


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ws_proxy", "socks_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_a_websocket_goes_through_the_proxy_that_requests_go_through(
    variable: str, clean_environment: pytest.MonkeyPatch, transport_to: Any
) -> None:
    refusal = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
    async with answering(refusal, refusal) as (proxy, heads), answering() as (origin, direct):
        clean_environment.setenv(variable, proxy)
        transport = transport_to(origin)
        with pytest.raises(Refused):
            await transport.request("GET", "/x")
        with pytest.raises(Unreachable):
            await transport.open("/messages/ws", sign=sign)
        assert [head.split()[0] for head in heads] == [b"GET", b"CONNECT"]
        assert b"secret-token" not in heads[1]
        assert direct == []


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "WS_PROXY", "SOCKS_PROXY"])
async def test_a_websocket_takes_no_proxy_that_requests_do_not_take(
    variable: str, clean_environment: pytest.MonkeyPatch, transport_to: Any
) -> None:
    async with answering() as (proxy, heads), answering(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n") as (origin, _):
        clean_environment.setenv(variable, proxy)
        with pytest.raises(Refused):
            await transport_to(origin).open("/messages/ws", sign=sign)
    assert heads == []


@pytest.mark.parametrize("exception", ["127.0.0.1", "*", "example.org, 127.0.0.1"])
async def test_what_is_excepted_from_the_proxy_goes_straight(
    exception: str, clean_environment: pytest.MonkeyPatch, transport_to: Any
) -> None:
    refusal = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
    async with answering() as (proxy, heads), answering(refusal, refusal) as (origin, direct):
        clean_environment.setenv("HTTP_PROXY", proxy)
        clean_environment.setenv("NO_PROXY", exception)
        transport = transport_to(origin)
        with pytest.raises(Refused):
            await transport.request("GET", "/x")
        with pytest.raises(Refused):
            await transport.open("/messages/ws", sign=sign)
    assert (len(heads), len(direct)) == (0, 2)


async def test_where_an_httpx_transport_is_given_there_are_no_websockets() -> None:
    transport = HttpTransport("http://127.0.0.1", transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    with pytest.raises(Unreachable):
        await transport.open("/messages/ws", sign=sign)
    await transport.aclose()


async def test_a_closed_transport_opens_nothing(transport_to: Any) -> None:
    transport = transport_to("http://127.0.0.1:9")
    await transport.aclose()
    with pytest.raises(RuntimeError):
        await transport.open("/messages/ws", sign=sign)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_websocket_over_tls_trusts_what_requests_trust(
    authority: Authority, stores: StoreUrls, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = authority.issue("127.0.0.1")
    settings = settings_for(stores, data_dir / "tls-streams", tls_cert=pair.cert, tls_key=pair.key)
    with running_in_thread(settings) as router:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        identity = Identity.generate(unique_name())
        async with Client(router.origin, identity, Store.in_memory(identity)) as client:
            await client.register()
            hub = await router.container.get(Hub)
            async with aclosing(client.events()) as events:
                waiting = asyncio.create_task(anext(events))
                await until(lambda: hub._count == 1 and bool(client._outlet._streams))
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        monkeypatch.delenv("SSL_CERT_FILE")
        strict = HttpTransport(router.origin)
        with pytest.raises(Unreachable, match="not trusted") as caught:
            await strict.open("/messages/ws", sign=sign)
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert not caught.value.sent
        await strict.aclose()
