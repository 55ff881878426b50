"""What a connection may cost before anybody has logged in."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.embedded import StoreUrls
from blindpost.errors import ConfigurationError
from blindpost.routers import connection
from blindpost.routers.addresses import Places
from blindpost.routers.connection import PIPELINE_MAX
from blindpost.telemetry import CONNECTIONS_REFUSED
from checks import Waiting, client_of, refusal, success, until
from support import Person, contacts, person, running_in_thread, settings_for

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(router: Running) -> Streams:
    parts = urlsplit(router.origin)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def answer_to(streams: Streams, data: bytes) -> bytes:
    """Send, and read until the router closes the connection."""
    reader, writer = streams
    writer.write(data)
    answer = b""
    try:
        async with asyncio.timeout(20):
            answer = await reader.read()
    except ConnectionResetError:
        pass  # it closed while there was more to read
    finally:
        await closed(writer)
    return answer


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100_000,
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + b"X-Many: b\r\n" * 10_000,
        b"GET /" + b"c" * 100_000,
        b"POST /auth/login HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n0\r\n" + b"X-Late: d\r\n" * 10_000,
        b"POST /auth/login HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n2;" + b"e" * 100_000,
    ],
    ids=["one header", "many headers", "the target", "trailers", "an extension of a chunk"],
)
async def test_a_head_without_an_end_is_refused(router: Running, head: bytes) -> None:
    answer = await answer_to(await opened(router), head)
    assert answer == b"" or b" 413 " in answer.splitlines()[0] or b" 400 " in answer.splitlines()[0]


async def test_what_is_no_http_is_answered_with_a_problem(router: Running) -> None:
    answer = await answer_to(await opened(router), b"\x16\x03\x01 this is TLS\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET /health/live HTTP/1.1\r\nHost:", b"POST /auth/login HTTP/1.1\r\nContent-Length: 9\r\nHost: x\r\n\r\n{"],
    ids=["nothing", "half a head", "half a body"],
)
async def test_a_request_that_does_not_come_to_its_end_is_given_up(
    router: Running, beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.3)
    assert await answer_to(await opened(router), beginning) == b""


async def test_a_poll_may_wait_for_longer_than_a_request_may_take_to_arrive(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.1)
    alice = await person(http)
    assert (await alice.poll(0.6))["messages"] == []


async def test_answers_that_nobody_reads_have_a_bound_together(
    http: httpx.AsyncClient, router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One account asks for its largest page on many connections, and reads none of them."""
    monkeypatch.setattr(connection, "UNSENT_MAX_BYTES", 8 * 1024 * 1024)
    alice, bob = await contacts(http)
    for _ in range(40):
        await alice.send(bob, bytes(65_536))
    path = "/messages/get-undelivered-messages"
    writers = []
    for _ in range(6):
        _, writer = await opened(router)
        for _ in range(8):  # more than the kernel takes up
            signed = bob.signed("GET", router.origin + path)
            head = (f"GET {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in signed.items()))
            writer.write("\r\n".join((*head, "", "")).encode())
        writers.append(writer)
    await until(lambda: connection.Connection.unsent > 0)
    refused = CONNECTIONS_REFUSED.labels("unsent")
    await until(lambda: refused._value.get() > 0)
    assert connection.Connection.unsent <= 12 * 1024 * 1024
    for writer in writers:
        writer.transport.abort()
    await until(lambda: connection.Connection.unsent == 0)


async def test_a_client_that_does_not_read_its_answer_is_let_go(
    http: httpx.AsyncClient, router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_S", 0.3)
    alice, bob = await contacts(http)
    for _ in range(40):
        await alice.send(bob, bytes(65_536))
    _, writer = await opened(router)
    path = "/messages/get-undelivered-messages"
    for _ in range(8):
        signed = bob.signed("GET", router.origin + path)
        head = (f"GET {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in signed.items()))
        writer.write("\r\n".join((*head, "", "")).encode())
    async with asyncio.timeout(20):
        while not writer.transport.is_closing():  # a closed connection refuses further bytes
            writer.write(b"\r\n")
            await asyncio.sleep(0.05)
    await closed(writer)


async def read_answer(streams: Streams) -> bytes:
    """Read one answer of a connection that stays open, and return its status line."""
    head = await streams[0].readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await streams[0].readexactly(length)
    return head.partition(b"\r\n")[0]


async def test_empty_lines_do_not_keep_an_idle_connection_open(
    router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.3)
    streams = await opened(router)
    streams[1].write(LIVE)
    assert b" 200 " in await read_answer(streams)
    assert await answer_to(streams, b"\r\n") == b""


async def test_requests_behind_one_another_are_answered_up_to_a_number(router: Running) -> None:
    streams = await opened(router)
    streams[1].write(LIVE * PIPELINE_MAX)
    for _ in range(PIPELINE_MAX):
        assert b" 200 " in await read_answer(streams)
    await closed(streams[1])


async def test_more_requests_behind_one_another_are_refused_and_the_connection_closed(router: Running) -> None:
    """Each costs memory, and they come faster than they are answered."""
    answer = await answer_to(await opened(router), LIVE * 5_000)
    assert answer == b"" or answer.count(b"HTTP/1.1") <= PIPELINE_MAX + 2


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked",
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Content-Length: -1",
        b"Content-Length: " + b"9" * 5_000,
        b"Content-Length: 0x2",
        b"Transfer-Encoding: chunked, identity",
    ],
    ids=["two kinds", "two", "negative", "huge", "hexadecimal", "not chunked at last"],
)
async def test_a_length_that_can_be_read_in_two_ways_is_refused(router: Running, lengths: bytes) -> None:
    request = b"POST /auth/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lengths + b"\r\n\r\n{}"
    answer = await answer_to(await opened(router), request)
    assert answer.split(b" ")[1] in {b"400", b"413"}


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c", b"anything"])
async def test_an_upgrade_is_no_way_around_the_bounds(
    router: Running, upgrade: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.3)
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    streams = await opened(router)
    streams[1].write(head)
    assert b" 200 " in await read_answer(streams)
    answer = await answer_to(streams, b"x" * 10)
    assert answer == b"" or b" 400 " in answer.splitlines()[0]


# Many connections


MOST = 3


@pytest.fixture
def crowded(stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    """A router with three places for each address, behind a proxy on loopback."""
    limits = {"connections_per_address_max": MOST, "trusted_proxies": "127.0.0.1"}
    with running_in_thread(settings_for(stores, data_dir / "crowded", **limits)) as running:
        yield running


def refused() -> float:
    return float(CONNECTIONS_REFUSED.labels("address")._value.get())


async def test_an_address_has_so_many_connections_and_more_are_closed_at_once(
    crowded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Places, "_is_exempt", lambda *_: False)  # the tests have no address but loopback
    before = refused()
    streams = [await opened(crowded) for _ in range(MOST)]
    for each in streams:
        each[1].write(LIVE)
        assert b" 200 " in await read_answer(each)
    assert await answer_to(await opened(crowded), b"") == b""
    await until(lambda: refused() == before + 1)
    await closed(streams.pop()[1])
    async with asyncio.timeout(20):
        while not (
            answer := await answer_to(
                await opened(crowded), LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            )
        ):
            pass  # the router has not seen the other one go
    assert b" 200 " in answer
    for each in streams:
        await closed(each[1])


async def test_a_proxy_has_as_many_connections_as_it_wants(crowded: Running) -> None:
    streams = [await opened(crowded) for _ in range(3 * MOST)]
    for each in streams:
        each[1].write(LIVE)
        assert b" 200 " in await read_answer(each)
        await closed(each[1])


async def test_an_address_has_so_many_waiting_polls_whoever_is_there(crowded: Running) -> None:
    """By the forwarded address, an IPv6 network being one; from the proxy's own machine they are not counted."""
    waiting = await Waiting.at(crowded)
    async with client_of(crowded) as http:
        people = [await person(http) for _ in range(MOST + 1)]
        polls = [await waiting.one_poll(_from(f"2001:db8:7:7::{n:x}", who)) for n, who in enumerate(people[:MOST])]
        late = people[MOST]
        answer = await _from("2001:db8:7:7:ffff::", late).get("/messages/poll", timeout=0)
        refusal(answer, 429, "too_many_waiting")
        assert int(answer.headers["Retry-After"]) > 0
        for elsewhere in ("2001:db8:7:8::1", "198.51.100.1", "2001:db8:7:7::1, 198.51.100.1"):
            success(await _from(elsewhere, late).get("/messages/poll", timeout=0))
        polls += await waiting.poll(late, MOST + 1)
        polls[0].cancel()
        await until(lambda: waiting.of(people[0]) == 0)
        success(await _from("2001:db8:7:7::", late).get("/messages/poll", timeout=0))
        for who in people:
            success(await who.post("/auth/logout"))
        await asyncio.gather(*polls, return_exceptions=True)


def _from(address: str, someone: Person) -> Person:
    """Return the same person behind the proxy, at this address."""
    http = httpx.AsyncClient(transport=someone.http._transport, base_url=someone.http.base_url, timeout=90)
    http.headers["X-Forwarded-For"] = address
    return someone.at(http)


@pytest.mark.parametrize("proxies", ["*", "127.0.0.1,proxy"])
def test_a_router_does_not_start_that_would_believe_anybody(stores: StoreUrls, data_dir: Path, proxies: str) -> None:
    settings = settings_for(stores, data_dir / "gullible", trusted_proxies=proxies)
    with pytest.raises(ConfigurationError), running_in_thread(settings):
        pass


async def test_a_length_of_thousands_of_zeros_is_read_like_any_number(router: Running) -> None:
    reader, writer = await opened(router)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 5_000 + b"\r\n\r\n")
    assert b" 200 " in await read_answer((reader, writer))
    writer.write(
        b"POST /messages/send HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 5_000 + b"9" * 18 + b"\r\n\r\n"
    )
    assert b" 413 " in await read_answer((reader, writer))
    writer.close()
