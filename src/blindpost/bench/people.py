"""Pairs of contacts, logged in, for a benchmark to write between."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from blindpost.bench.wire import request
from blindpost.client import Client, HttpTransport, Identity, Store
from blindpost.client.transport import Sign
from blindpost.protocol.encoding import b64encode

MESSAGE_BYTES: Final = 512
AT_ONCE: Final = 16


class Recording(HttpTransport):
    """A transport that keeps how its requests are signed: the benchmark's bare ones are signed in the same way."""

    sign: Sign

    async def request(self, *arguments: Any, **options: Any) -> Any:
        if sign := options.get("sign"):
            self.sign = sign
        return await super().request(*arguments, **options)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two contacts. What they send is written for the router of an origin, as it is signed for it."""

    sender: Sign
    recipient: Sign
    recipient_id: UUID

    def send(self, origin: str) -> bytes:
        """Write a send of a new message."""
        body = {
            "recipient_id": str(self.recipient_id),
            "message": b64encode(os.urandom(MESSAGE_BYTES)),
            "client_message_id": str(uuid4()),
        }
        return request("POST", f"{origin}/messages/send", self.sender, body)

    def poll(self, origin: str, timeout_s: float) -> bytes:
        return request("GET", f"{origin}/messages/poll?timeout={timeout_s}", self.recipient)

    def fetch(self, origin: str) -> bytes:
        return request("GET", f"{origin}/messages/get-undelivered-messages?limit=500", self.recipient)

    def ack(self, origin: str, ids: list[str]) -> bytes:
        return request("POST", f"{origin}/messages/ack", self.recipient, {"message_ids": ids})


async def make_pairs(origin: str, count: int, *, signed: bool = True) -> list[Pair]:
    """Register 2 x count people and make each pair contacts; unsigned, they hold plain bearer tokens."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> Pair:
        async with gate:
            return await _pair(origin, signed=signed)

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def _pair(origin: str, *, signed: bool) -> Pair:
    async with AsyncExitStack() as stack:
        (sender, sends), (recipient, receives) = [await stack.enter_async_context(_person(origin)) for _ in range(2)]
        await sender.request_contact(recipient.identity.account)
        await recipient.request_contact(sender.identity.account)
        for client in (sender, recipient):
            await client.receive_once()  # takes the news of the contact, so that the next poll waits
        if not signed:
            return Pair(await _bearer(sender, sends), await _bearer(recipient, receives), recipient.identity.account)
        return Pair(sends.sign, receives.sign, recipient.identity.account)


async def _bearer(client: Client, transport: HttpTransport) -> Sign:
    """Log in without showing a key, as the SDK never does."""
    name = client.identity.username
    challenge = (await transport.request("GET", f"/auth/challenge/{name}"))["challenge"]
    signature = b64encode(client.identity.sign(challenge.encode()))
    login = {"username": name, "challenge": challenge, "signature": signature}
    token = (await transport.request("POST", "/auth/login", json=login))["access_token"]
    return lambda _method, _url, _body: {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def _person(origin: str) -> AsyncIterator[tuple[Client, Recording]]:
    identity = Identity.generate(f"bench_{uuid4().hex[:16]}")
    transport = Recording(origin)
    async with Client(origin, identity, Store.in_memory(identity), transport=transport) as client:
        await client.register()
        await client.login()
        yield client, transport
