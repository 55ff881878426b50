"""What the tests of the HTTP API ask again and again."""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import jwt

from blindpost.app import Running
from blindpost.core.hub import Hub
from support import Person

PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "request_id"}
PATIENCE_S = 30
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client_of(router: Running, **headers: str) -> httpx.AsyncClient:
    """Make a client of a router; reading the world's certificates for each would take longer than most tests."""
    return httpx.AsyncClient(base_url=router.origin, headers=headers, timeout=90, verify=_NO_TLS)


def refusal(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Demand a problem (RFC 9457) of this status and code, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == PROBLEM_FIELDS
    assert body["status"] == status
    assert body["type"] == f"urn:blindpost:problem:{body['code']}"
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["X-Request-Id"]
    if code is not None:
        assert body["code"] == code, answer.text
    return body


def said_by(answer: httpx.Response) -> bytes:
    """Return what an answer says, without the random name of its request."""
    return answer.content.replace(answer.headers["X-Request-Id"].encode(), b"")


def success(answer: httpx.Response, status: int = 200) -> Any:
    """Demand this status, and return the body."""
    assert answer.status_code == status, answer.text
    return answer.json()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another thread, where there is nothing to await."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


class Waiting:
    """How many polls of each person wait in a router."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @classmethod
    async def at(cls, router: Running) -> "Waiting":
        return cls(await router.container.get(Hub))

    def of(self, someone: Person) -> int:
        return len(self._hub._subscriptions.get(UUID(someone.id), ()))

    async def poll(self, someone: Person, count: int = 1) -> list[asyncio.Task[httpx.Response]]:
        """Open polls of somebody without news, and return when they all wait."""
        wanted = self.of(someone) + count
        tasks = [asyncio.create_task(someone.get("/messages/poll", timeout=60)) for _ in range(count)]
        await until(lambda: self.of(someone) == wanted or any(task.done() for task in tasks))
        assert self.of(someone) == wanted, "there was news, or a refusal"
        return tasks

    async def one_poll(self, someone: Person) -> asyncio.Task[httpx.Response]:
        return (await self.poll(someone))[0]


async def another_session(someone: Person) -> Person:
    """Log the same person in once more, as on another device."""
    twin = Person(someone.http, someone.name, someone.ecdsa, someone.ecdh, someone.id)
    return await twin.login()


def session_of(someone: Person) -> str:
    """Return the id of somebody's session."""
    return str(jwt.decode(someone.token, options={"verify_signature": False})["jti"])


async def ids_waiting(someone: Person) -> list[str]:
    """Read the ids of the messages that wait for somebody."""
    page = success(await someone.get("/messages/get-undelivered-messages", limit=500))
    return [message["id"] for message in page["messages"]]
