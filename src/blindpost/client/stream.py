"""One open WebSocket: what comes is kept until it is acknowledged, what is sent waits for its answer."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar
from uuid import UUID

from blindpost.client import frames
from blindpost.client.errors import UntrustedAnswer
from blindpost.client.frames import ContactFrame, ErrorFrame, Frame, ReceiptFrame, SentFrame
from blindpost.client.pauses import LATER
from blindpost.client.retry import TOO_MANY
from blindpost.client.transport import TIMEOUT_S, Socket
from blindpost.client.websocket import Lost
from blindpost.services.models.messages import Acknowledged, Message, PollAnswer, SendRequest
from blindpost.services.models.messages import Sent as SentAnswer

T = TypeVar("T")

WAITING_MAX: Final = 1_000
"""Messages and receipts that the user has not taken: twice what a router gives before it waits for acknowledgements.
With several devices it may be more, for one that is slow."""
HELD_LOOK_S: Final = 5.0
"""How often held messages are looked at again: another process may have settled their senders' keys."""


class Stream:
    """A client's end of /messages/ws. It reads by itself, so that sends are answered while the user is busy.

    `news` gives what a poll would: all that is not acknowledged, whenever there is something new.
    """

    def __init__(self, socket: Socket, on_contacts: Callable[[], None]) -> None:
        self._socket = socket
        self._on_contacts = on_contacts
        self._waiting: dict[UUID, Message] = {}
        """What came and is not acknowledged, in order."""
        self._delivered: dict[UUID, None] = {}
        self._contacts_changed = False
        self._is_news = False
        self._stirred = asyncio.Event()
        """There is news, or an end."""
        self._sends: dict[UUID, asyncio.Future[SentAnswer]] = {}
        self._acks: deque[asyncio.Future[None]] = deque()
        """In the order of their frames, which is that of the answers."""
        self._end: Lost | UntrustedAnswer | None = None
        self._reader = asyncio.create_task(self._read())

    @property
    def is_open(self) -> bool:
        return self._end is None

    async def news(self, timeout_s: float) -> PollAnswer:
        """Wait for news, and return it as a poll does; raises Lost or UntrustedAnswer."""
        if self._waiting:
            timeout_s = min(timeout_s, HELD_LOOK_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._stirred.wait()
        if self._end is not None and not self._is_news:
            raise self._end
        return self._take_news()

    def _take_news(self) -> PollAnswer:
        answer = PollAnswer(
            has_messages=bool(self._waiting),
            has_more=False,
            messages=list(self._waiting.values()),
            contacts_changed=self._contacts_changed,
            delivered=list(self._delivered),
        )
        self._delivered.clear()
        self._contacts_changed = self._is_news = False
        if self._end is None:
            self._stirred.clear()
        return answer

    def wake(self) -> None:
        """Have `news` return now, with what there is: held messages may open by now."""
        self._is_news = True
        self._stirred.set()

    async def send(self, request: SendRequest) -> SentAnswer:
        """Send a message; raises Refused, or Lost if it must be repeated elsewhere, with the same id."""
        key = request.client_message_id
        if key is None or key in self._sends:
            raise Lost
        self._demand_open()
        answer = self._sends[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._ask(frames.send(request), answer)
        finally:
            del self._sends[key]

    async def acknowledge(self, message_ids: Sequence[UUID]) -> None:
        """Acknowledge messages; raises Lost if that must be repeated elsewhere."""
        self._demand_open()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._acks.append(answer)
        await self._ask(frames.ack(message_ids), answer)
        for message_id in message_ids:
            self._waiting.pop(message_id, None)

    def _demand_open(self) -> None:
        if self._end is not None:
            raise Lost

    async def _ask(self, text: str, answer: "asyncio.Future[T]") -> T:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._socket.send(text)
                return await answer
        except TimeoutError:
            # What is behind it would not be answered either.
            self._fail(Lost())
            raise Lost from None

    async def _read(self) -> None:
        """Take what comes, until the end; after it only the goodbye is waited for."""
        try:
            while True:
                text = await self._socket.receive()
                if self._end is None and (frame := frames.read(text)) is not None:
                    self._take(frame)
        except (Lost, UntrustedAnswer) as error:
            self._fail(error)
        finally:
            self._fail(Lost())

    def _take(self, frame: Frame) -> None:
        match frame:
            case SentFrame(client_message_id=key):
                if (answer := self._sends.get(key)) is not None and not answer.done():
                    answer.set_result(frame)
            case Acknowledged():
                if self._acks and not (done := self._acks.popleft()).done():
                    done.set_result(None)
            case ErrorFrame(client_message_id=key):
                if key is None:
                    # Nobody knows what it was about: an acknowledgement, or a send that was not even read. After too
                    # many frames the router closes, and says to come later: that need not be waited for.
                    self._fail(Lost(LATER if frame.status == TOO_MANY else None))
                elif (answer := self._sends.get(key)) is not None:
                    _refuse(answer, frame.refusal)
            case _:
                self._take_in(frame)

    def _take_in(self, frame: Frame) -> None:
        match frame:
            case Message():
                self._waiting[frame.id] = frame
            case ReceiptFrame():
                self._delivered |= dict.fromkeys(frame.delivered)
            case ContactFrame():
                self._contacts_changed = True
                self._on_contacts()
        self.wake()
        if len(self._waiting) > WAITING_MAX or len(self._delivered) > WAITING_MAX:
            # The user takes nothing. What is not acknowledged comes again once they do.
            self._fail(Lost())

    def _fail(self, error: Lost | UntrustedAnswer) -> None:
        self._finish(error)
        self._socket.abort()

    def _finish(self, error: Lost | UntrustedAnswer) -> None:
        """Have everybody who waits hear of the end; the first one counts."""
        if self._end is not None:
            return
        self._end = error
        answers: tuple[asyncio.Future[Any], ...] = (*self._sends.values(), *self._acks)
        for answer in answers:
            _refuse(answer, Lost())
        # News of changed contacts is told once, and may have been on its way.
        self._on_contacts()
        self._stirred.set()

    async def aclose(self) -> None:
        """Close it, and leave nothing behind."""
        self._finish(Lost())
        try:
            await self._socket.aclose()
        finally:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


def _refuse(answer: "asyncio.Future[Any]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        # Looked at, or asyncio would complain of one whose sender gave up while the frame was still being written.
        answer.exception()
