"""WebSockets of the lying router: honest until a test says otherwise."""

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from blindpost.client import Client, HttpTransport, Identity, Refused, Retry, Store
from blindpost.client.transport import Sign, Socket
from blindpost.client.websocket import Lost
from lying_router import NOW, ORIGIN, LyingRouter, no_sleep

if TYPE_CHECKING:
    from collections.abc import Callable

Members = dict[str, Any]


class LyingSocket:
    """The router's end and the client's in one."""

    def __init__(self, router: LyingRouter, user_id: UUID) -> None:
        self._router = router
        self._user_id = user_id
        self._texts: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.said: list[Members] = []
        self.hears: Callable[[Members], None] = self.be_honest
        self.is_closed = False

    # The client's end

    async def send(self, text: str) -> None:
        if self.is_closed:
            raise Lost
        members = json.loads(text)
        self.said.append(members)
        self.hears(members)

    async def receive(self) -> str:
        text = await self._texts.get()
        if isinstance(text, Exception):
            self._texts.put_nowait(text)
            raise text
        return text

    async def aclose(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.close()

    # The router's end

    def tell(self, **members: Any) -> None:
        self._texts.put_nowait(json.dumps(members))

    def tell_text(self, text: str) -> None:
        self._texts.put_nowait(text)

    def close(self, code: int | None = None) -> None:
        self.is_closed = True
        self._texts.put_nowait(Lost(code))

    def give(self) -> None:
        """Give what waits."""
        for item in self._router.queues[self._user_id]:
            self.tell(type="message", **item)

    def be_honest(self, members: Members) -> None:
        if members["type"] == "ack":
            queue = self._router.queues[self._user_id]
            queue[:] = [item for item in queue if item["id"] not in members["message_ids"]]
            self.tell(type="acknowledged", acknowledged=members["message_ids"])
        else:
            self.tell(type="sent", client_message_id=members["client_message_id"], **self.store(members))

    def store(self, members: Members) -> Members:
        key = (self._user_id, members["client_message_id"])
        if key not in self._router.sent:
            self._router.sent[key] = {"id": members["client_message_id"], "timestamp": NOW, "status": "sent"}
            recipient = UUID(members["recipient_id"])
            self._router.deliver(self._user_id, recipient, members["message"], members["client_message_id"])
        return self._router.sent[key]


class WithSockets(HttpTransport):
    """The lying router's transport, with WebSockets. What opens one may be scripted: an error, or None."""

    def __init__(self, router: LyingRouter) -> None:
        super().__init__(ORIGIN, transport=httpx.MockTransport(router.answer))
        self._router = router
        self.sockets: list[LyingSocket] = []
        self.opening: list[Exception | None] = []
        self.tries = 0

    async def open(self, path: str, *, sign: Sign) -> Socket:
        headers = sign("GET", ORIGIN + path, b"")
        self.tries += 1
        if self.opening and (error := self.opening.pop(0)) is not None:
            raise error
        user_id = self._router.tokens.get(headers["Authorization"].removeprefix("DPoP "))
        if user_id is None:
            raise Refused(401, "not_authenticated", "no")
        self.sockets.append(LyingSocket(self._router, user_id))
        self.sockets[-1].give()
        return self.sockets[-1]


def streaming(router: LyingRouter, identity: Identity, store: Store | None = None) -> tuple[Client, WithSockets]:
    """Return a client that can have WebSockets, and its transport."""
    transport = WithSockets(router)
    retry = Retry(attempts=3, sleep=no_sleep, random=lambda: 0.0)
    return Client(ORIGIN, identity, store or Store.in_memory(identity), transport=transport, retry=retry), transport
