"""A router in a process of its own, the people it knows, knew and never knew, and a bare connection to it."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Self
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx

from blindpost.bench.routers import router
from blindpost.bench.wire import END
from blindpost.client.transport import Sign
from blindpost.core.embedded import StoreUrls
from blindpost.protocol import transcripts
from blindpost.protocol.dpop import ProofKey
from checks import session_of, success
from support import Person, person, settings_for, sign, signed, unique_name

CROWD: Final = 24
"""Of each sort: what one name or id costs by chance, such as its place in an index, must not pass for the sort's."""
TAIL_BITS: Final = 62


class Bare:
    """One kept-alive connection that blocks: nothing runs in this process between a request and its answer."""

    def __init__(self, origin: str) -> None:
        parts = urlsplit(origin)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, request: bytes) -> tuple[float, bytes]:
        """Send a request; returns the seconds to the end of its answer, and the answer with its head."""
        answer, length = b"", None
        began = perf_counter()
        self._socket.sendall(request)
        while length is None or len(answer) < length:
            answer += self._socket.recv(65_536)
            ended = perf_counter()
            assert answer, "the router closed the connection"
            length = length or _length(answer)
        return ended - began, answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def request(method: str, url: str, sign: Sign, body: Any = None) -> bytes:
    """Write a request with its headers, signed."""
    content = b"" if body is None else json.dumps(body).encode()
    bare, _, _ = url.partition("?")
    headers = {
        "Host": urlsplit(url).netloc,
        **sign(method, bare, content),
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
    }
    lines = (f"{method} {url[url.index('/', len('https://')) :]} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()))
    return "\r\n".join((*lines, "", "")).encode() + content


def _length(answer: bytes) -> int | None:
    """Return how long the answer is as a whole, once its head is there."""
    head, end, _ = answer.partition(END)
    if not end:
        return None
    fields = dict(line.partition(b":")[::2] for line in head.lower().split(b"\r\n")[1:])
    return len(head) + len(END) + int(fields[b"content-length"])


@dataclass(frozen=True)
class Town:
    """Who is there, and how to write to the router as one of them."""

    origin: str
    me: Person
    known: list[Person]
    """Not my contacts; none asked to be."""
    deleted: list[Person]
    blocking: list[Person]
    """They rejected my request."""
    foreign_messages: list[UUID]
    foreign_sessions: list[UUID]
    unused_names: list[str] = field(default_factory=lambda: [unique_name() for _ in range(CROWD)])
    unused_ids: list[str] = field(default_factory=lambda: [str(uuid4()) for _ in range(CROWD)])
    stranger: Person = field(default_factory=lambda: Person(httpx.AsyncClient()))
    """Keys without an account."""
    shown: ProofKey = field(default_factory=ProofKey)
    """What every login shows for the session that it will not get."""

    def mine(self, method: str, path: str, body: Any = None) -> bytes:
        """Write a request of my session's, freshly signed."""
        return request(method, self.origin + path, self.me.signed, body)

    def challenge(self, name: str) -> bytes:
        """Write a request for a challenge."""
        return request("GET", f"{self.origin}/auth/challenge/{name}", lambda *_: {})

    def registration(self, name: str) -> bytes:
        """Write a registration, correct in all but that the name may be taken."""
        self.stranger.name = name
        return request("POST", f"{self.origin}/auth/register", lambda *_: {}, self.stranger.registration())

    def login(self, name: str, challenge: str) -> bytes:
        """Write a login whose signature is by a key that nobody registered."""
        body = {"username": name, "challenge": challenge, "signature": sign(self.stranger.ecdsa, challenge.encode())}

        def show(method: str, url: str, content: bytes) -> dict[str, str]:
            return signed(method, url, self.shown, None, content)

        return request("POST", f"{self.origin}/auth/login", show, body)


def neighbour(message_id: UUID) -> UUID:
    """Return an id of the same millisecond that no message has: a UUIDv7 of another random end."""
    return UUID(int=message_id.int & ~((1 << TAIL_BITS) - 1) | random.getrandbits(TAIL_BITS))


@asynccontextmanager
async def town(stores: StoreUrls, data_dir: Path) -> AsyncIterator[Town]:
    """Start a router without rate limits, and let people move in and out."""
    async with router(settings_for(stores, data_dir), data_dir, rate_limits="off") as process:
        async with httpx.AsyncClient(base_url=process.origin, timeout=60) as http:
            made = await _gather(http, process.origin)
        yield made


async def _gather(http: httpx.AsyncClient, origin: str) -> Town:
    me = await person(http)
    known, deleted, blocking = [await _crowd(http) for _ in range(3)]
    for each in blocking:
        success(await me.post("/contacts/send-contact-request", receiver_id=each.id), 201)
        success(await each.put("/contacts/reject-contact-request", sender_id=me.id))
    writer, reader = known[:2]
    await writer.befriend(reader)
    sent = [success(await writer.send(reader), 201)["id"] for _ in range(CROWD)]
    for each in deleted:
        signature = sign(each.ecdsa, transcripts.delete_account(UUID(each.id)))
        success(await each.call("DELETE", "/auth/me", {"signature": signature}))
    sessions = [UUID(session_of(each)) for each in known]
    return Town(origin, me, known, deleted, blocking, [UUID(each) for each in sent], sessions)


async def _crowd(http: httpx.AsyncClient) -> list[Person]:
    return list(await asyncio.gather(*(person(http) for _ in range(CROWD))))


def any_of(choices: list[Any], write: Callable[[Any], bytes]) -> Callable[[bytes], bytes]:
    """Write each request about another one of these, chosen at random."""
    return lambda _: write(random.choice(choices))  # noqa: S311 - no secret
