"""How a client is connected: over WebSockets where they can be had, with polls and calls where not.

The two may change at any moment. Nothing is lost or doubled by it: the router gives what is not acknowledged, and knows
a message by the id that its sender gave it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from blindpost.client.errors import LoginRefused, Refused, Unreachable
from blindpost.client.inbox import Inbox
from blindpost.client.pauses import LOG_IN, Pauses
from blindpost.client.session import Session
from blindpost.client.stream import Stream
from blindpost.client.transport import parse
from blindpost.client.websocket import Lost
from blindpost.services.models.messages import Acknowledged, AckRequest, MessageStatus, PollAnswer, SendRequest
from blindpost.services.models.messages import Sent as SentAnswer

PATH: Final = "/messages/ws"
SHORT_S: Final = 2.0
"""A pause that is waited for; in a longer one polls take over."""

Statuses = Callable[[Iterable[UUID]], Awaitable[dict[UUID, MessageStatus]]]


class Outlet:
    """What goes out: over a stream that is open, or by a call. What a stream lost is repeated by a call, as it was."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._streams: dict[Stream, None] = {}

    def add(self, stream: Stream) -> None:
        self._streams[stream] = None

    def wake(self) -> None:
        """Have those who read look again at once."""
        for stream in self._streams:
            stream.wake()

    def _open(self) -> Stream | None:
        return next((stream for stream in self._streams if stream.is_open), None)

    async def send(self, request: SendRequest, renewed: Callable[[], Awaitable[object]]) -> SentAnswer:
        """Send a message with an id of its own; `renewed` is that of `Session.call`, and so is what is raised."""
        if (stream := self._open()) is not None:
            with suppress(Lost):
                return await self._session.retry.run(lambda: stream.send(request), repeatable=True)
        json = request.model_dump(mode="json")
        return parse(SentAnswer, await self._session.call("POST", "/messages/send", json=json, renewed=renewed))

    async def acknowledge(self, message_ids: Sequence[UUID]) -> None:
        """Acknowledge messages, at most a page of them; raises what `Session.call` raises."""
        if (stream := self._open()) is not None:
            with suppress(Lost):
                await stream.acknowledge(message_ids)
                return
        request = AckRequest(message_ids=list(message_ids)).model_dump(mode="json")
        parse(Acknowledged, await self._session.call("POST", "/messages/ack", json=request))

    async def close(self, stream: Stream) -> None:
        self._streams.pop(stream, None)
        await stream.aclose()

    async def aclose(self) -> None:
        """Close what readers left open."""
        await asyncio.gather(*map(self.close, list(self._streams)))


class Line:
    """What comes in, for one reader. Use it as an async context manager: it leaves no connection open."""

    def __init__(self, session: Session, outlet: Outlet, inbox: Inbox, statuses: Statuses) -> None:
        self._session = session
        self._outlet = outlet
        self._inbox = inbox
        self._statuses = statuses
        self._pauses = Pauses(session.retry.random)
        self._due = monotonic()
        """When a stream is tried next."""
        self._stream: Stream | None = None
        self._opened = 0.0
        self._logins = 0
        self._has_lost = bool(inbox.awaited)
        """Whether receipts may have gone with a stream, or with an earlier run."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is not None:
            await self._outlet.close(self._stream)

    @property
    def is_stream(self) -> bool:
        """Whether news come by themselves: a poll that is answered at once must be followed by a pause."""
        return self._stream is not None

    async def news(self, timeout_s: float) -> PollAnswer:
        """Wait for news, about so long; raises UntrustedAnswer or what `Session.call` raises."""
        while True:
            if self._stream is None and (pause_s := self._due - monotonic()) < SHORT_S:
                await self._session.retry.sleep(max(pause_s, 0.0))
                await self._open()
            if self._has_lost and (answer := await self._lost_receipts()) is not None:
                return answer
            if self._stream is None:
                return await self._poll(timeout_s)
            try:
                return self._inbox.take_in(await self._stream.news(timeout_s))
            except Lost as lost:
                await self._lose(self._stream, lost.code)

    async def _open(self) -> None:
        try:
            socket = await self._session.open(PATH)
        except LoginRefused:
            raise
        except (Unreachable, Refused) as error:
            self._due = monotonic() + self._pauses.refused(error)
            return
        self._stream = Stream(socket, self._inbox.contacts_changed)
        self._outlet.add(self._stream)
        self._opened, self._logins = monotonic(), self._session.logins

    async def _lose(self, stream: Stream, code: int | None) -> None:
        self._stream, self._has_lost = None, True
        self._due = monotonic() + self._pauses.closed(code, monotonic() - self._opened)
        if code == LOG_IN and self._session.logins == self._logins:
            self._session.forget()
        await self._outlet.close(stream)

    async def _poll(self, timeout_s: float) -> PollAnswer:
        try:
            return await self._inbox.poll(min(timeout_s, self._due - monotonic()))
        except Unreachable:
            self._due = monotonic() + self._pauses.away()
            raise

    async def _lost_receipts(self) -> PollAnswer | None:
        """Ask for receipts that a lost stream may have had: they are told once. After a new one listens, if any."""
        awaited = self._inbox.awaited
        statuses = await self._statuses(awaited)
        self._has_lost = False
        delivered = [each for each, status in statuses.items() if status is MessageStatus.DELIVERED]
        self._inbox.delivered(delivered)
        self._inbox.expired([each for each, status in statuses.items() if status is MessageStatus.EXPIRED])
        self._inbox.give_up(each for each in awaited if each not in statuses)
        if not delivered:
            return None
        return PollAnswer(has_messages=False, has_more=False, messages=[], contacts_changed=False, delivered=delivered)
