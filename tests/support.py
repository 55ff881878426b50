"""People who speak the wire contract by hand: the tests of the router do not lean on the SDK."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.app import Running, running
from blindpost.config import Settings
from blindpost.core.embedded import StoreUrls
from blindpost.protocol import transcripts
from blindpost.protocol.dpop import ProofKey, SignedRequest
from blindpost.protocol.keys import ECDSA_SHA384, PublicKey

Opened = TypeVar("Opened")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def public(key: ec.EllipticCurvePrivateKey) -> PublicKey:
    return PublicKey.of(key.public_key())


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> str:
    return b64(key.sign(data, ECDSA_SHA384))


def unique_name(stem: str = "user") -> str:
    return f"{stem}_{uuid4().hex[:20]}"


def signed(method: str, url: str, key: ProofKey, token: str | None = None, body: bytes = b"") -> dict[str, str]:
    """Return the headers of a signed request (RFC 9449); without a token, those of a login."""
    proof = key.prove(SignedRequest(method, url.partition("?")[0], body, token), time.time())
    return {"DPoP": proof} | ({"Authorization": f"DPoP {token}"} if token else {})


class Signed(httpx.Auth):
    """Signs each request with a session's key."""

    requires_request_body = True

    def __init__(self, key: ProofKey | None = None, token: str | None = None, origin: str = "") -> None:
        self._key = key or ProofKey()
        self._token = token
        self._origin = origin

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        url = self._origin + request.url.raw_path.decode() if self._origin else str(request.url)
        request.headers.update(signed(request.method, url, self._key, self._token, request.content))
        yield request


@dataclass
class Person:
    """Somebody with two keys and, once logged in, a token and the key that goes with it."""

    http: httpx.AsyncClient
    name: str = field(default_factory=unique_name)
    ecdsa: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    ecdh: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    id: str = ""
    token: str = ""
    key: ProofKey = field(default_factory=ProofKey)
    origin: str = ""
    """What is signed in place of where the requests go, if that is another address of the same router."""

    def at(self, http: httpx.AsyncClient) -> "Person":
        """Return the same person in the same session, at another router or from another address."""
        return replace(self, http=http)

    @property
    def auth(self) -> Signed:
        return Signed(self.key, self.token, self.origin)

    def signed(self, method: str, url: str, body: bytes = b"") -> dict[str, str]:
        return signed(method, url, self.key, self.token, body)

    def registration(self) -> dict[str, str]:
        """Return a correct body for /auth/register."""
        return {
            "username": self.name,
            "ecdsa_public_key": public(self.ecdsa).pem,
            "ecdh_public_key": public(self.ecdh).pem,
            "ecdh_signature": sign(self.ecdsa, transcripts.register(self.name, public(self.ecdsa), public(self.ecdh))),
        }

    async def register(self) -> "Person":
        answer = await self.http.post("/auth/register", json=self.registration())
        assert answer.status_code == 201, answer.text
        self.id = answer.json()["id"]
        return self

    async def challenge(self) -> str:
        answer = await self.http.get(f"/auth/challenge/{self.name}")
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["challenge"]
        return text

    async def login_body(self) -> dict[str, str]:
        """Return a correct body for /auth/login, good for one use."""
        challenge = await self.challenge()
        signature = sign(self.ecdsa, challenge.encode())
        return {"username": self.name, "challenge": challenge, "signature": signature}

    async def login(self) -> "Person":
        answer = await self.http.post("/auth/login", json=await self.login_body(), auth=Signed(self.key))
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["access_token"]
        return self

    async def call(self, method: str, path: str, json: Any = None, **options: Any) -> httpx.Response:
        auth = Signed(self.key) if path == "/auth/login" else self.auth
        return await self.http.request(method, path, json=json, auth=auth, **options)

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.call("GET", path, params=params)

    async def post(self, path: str, **json: Any) -> httpx.Response:
        return await self.call("POST", path, json)

    async def put(self, path: str, **json: Any) -> httpx.Response:
        return await self.call("PUT", path, json)

    async def befriend(self, other: "Person") -> None:
        """Become contacts: a request, and the crossed one that accepts it."""
        for one, two in ((self, other), (other, self)):
            answer = await one.post("/contacts/send-contact-request", receiver_id=two.id)
            assert answer.status_code == 201, answer.text

    async def send(self, other: "Person", data: bytes = b"opaque", **more: Any) -> httpx.Response:
        return await self.post("/messages/send", recipient_id=other.id, message=b64(data), **more)

    async def poll(self, timeout_s: float = 20, **params: Any) -> dict[str, Any]:
        answer = await self.get("/messages/poll", timeout=timeout_s, **params)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def drain(self) -> None:
        """Take all news that there is, so that the next poll waits."""
        while True:
            page = await self.poll(0)
            ids = [message["id"] for message in page["messages"]]
            if ids:
                await self.post("/messages/ack", message_ids=ids)
            elif not page["contacts_changed"] and not page["delivered"]:
                return


async def person(http: httpx.AsyncClient, name: str | None = None) -> Person:
    """Return somebody registered and logged in."""
    someone = Person(http, name) if name else Person(http)
    await someone.register()
    return await someone.login()


async def contacts(http: httpx.AsyncClient) -> tuple[Person, Person]:
    """Return two people who are contacts and have no news."""
    one, two = await person(http), await person(http)
    await one.befriend(two)
    await one.drain()
    await two.drain()
    return one, two


def settings_for(stores: StoreUrls, data_dir: Path, **more: Any) -> Settings:
    """Settings on these stores, a free port, and no rate limits."""
    given = {
        "database_url": stores.database_url,
        "redis_url": stores.redis_url,
        "data_dir": data_dir,
        "port": 0,
        "rate_limits": "off",
    }
    return Settings(**(given | more))


def running_in_thread(settings: Settings) -> AbstractContextManager[Running]:
    """Run a router on an event loop of its own, for tests of any loop to talk to over HTTP."""
    return in_thread(lambda: running(settings))


@contextmanager
def in_thread(open_it: Callable[[], AbstractAsyncContextManager[Opened]]) -> Iterator[Opened]:
    """Keep something open on an event loop of its own."""
    ready = threading.Event()
    outcome: list[Opened | BaseException] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with open_it() as it:
            outcome.append(it)
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            outcome.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="router")
    thread.start()
    ready.wait()
    if isinstance(outcome[0], BaseException):
        thread.join()
        raise outcome[0]
    try:
        yield outcome[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        if isinstance(outcome[-1], BaseException):
            raise outcome[-1]
