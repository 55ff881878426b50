"""What a connection may cost before anybody has logged in."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from blindpost.app import Running
from blindpost.routers import connection
from support import contacts, person

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
