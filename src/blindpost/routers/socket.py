"""GET /messages/ws: sending, receiving and acknowledging over one WebSocket (spec/http.md).

A frame that needs no question to Redis or PostgreSQL is in the writer's queue when this returns: no task is made for
it. One that needs a question holds all behind it, so that messages are stored in the order in which they came.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from blindpost.core.hub import MessageRow
from blindpost.core.writer import NewMessage, Stored
from blindpost.errors import InternalFault, Problem, TooManyRequests, UpgradeRequired
from blindpost.protocol.limits import PAGE_MAX
from blindpost.routers import frames
from blindpost.routers.connection import UNSENT_MAX_BYTES, UPGRADE, Connection, Make
from blindpost.routers.frames import LATER, REASONS, SILENT, TOO_SLOW, close_code
from blindpost.routers.middleware import SWITCHED
from blindpost.routers.strict import StrictRequest
from blindpost.routers.websocket import NOT_TEXT, VERSION, WebSocket, accept
from blindpost.services.caller import Caller
from blindpost.services.messages import MessageService
from blindpost.services.models.messages import SendRequest
from blindpost.telemetry import FRAMES, PROBLEMS, STREAM_CLOSES, STREAMS, log_fault

IN_FLIGHT_MAX: Final = 64
"""Frames of one client that wait for their answer; then nothing is read until half of them have it."""

_OPEN: Final = STREAMS.labels("websocket")


def upgrade(request: StrictRequest, service: MessageService, caller: Caller, address: str | None) -> Response:
    """Give the request's connection to a Socket; raises UpgradeRequired, TooManyWaiting, ShuttingDown."""
    head = _handshake(request)
    extension = request.scope.get("extensions", {}).get(UPGRADE)
    if extension is None:
        raise UpgradeRequired
    give_up: Callable[[Make, bytes], None] = extension["give_up"]
    give_up(partial(Socket, service, caller, address), head)
    return _Switched()


class _Switched(Response):
    """An answer that is written already."""

    def __init__(self) -> None:
        self.status_code = SWITCHED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell the gate, for its metric."""
        del scope, receive
        await send({"type": "http.response.start", "status": SWITCHED, "headers": []})


def _handshake(request: StrictRequest) -> bytes:
    """Check a handshake, and write its answer: no subprotocol, and no extension whichever is offered."""
    headers = request.headers
    keys = headers.getlist("sec-websocket-key")
    answer = accept(keys[0]) if len(keys) == 1 else None
    versions = headers.getlist("sec-websocket-version")
    if answer is None or headers.get("upgrade", "").lower() != "websocket" or versions != [VERSION]:
        raise UpgradeRequired
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + answer
        + b"\r\n\r\n"
    )


class Socket(WebSocket):
    """One client's WebSocket, and the sink of its stream."""

    __slots__ = (
        *("_caller", "_ending", "_in_flight", "_is_full", "_on_lost", "_service", "_stream", "_task"),
        "_unsent",
    )

    def __init__(
        self, service: MessageService, caller: Caller, address: str | None, transport: asyncio.Transport
    ) -> None:
        self._stream = service.stream(caller, address, self)
        super().__init__(transport)
        self._service = service
        self._caller = caller
        self._on_lost: Callable[[], None]
        self._in_flight = 0
        self._is_full = False
        self._ending: int | None = None
        self._unsent = 0
        self._task: asyncio.Task[None] | None = None

    def start(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        _OPEN.inc()
        self._stream.start()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._count_unsent(0)
        _OPEN.dec()
        self._stream.close()
        if self._task is not None:
            self._task.cancel()
        self._on_lost()

    # What the client says

    def text_received(self, text: bytes) -> None:
        if self._service.has_credit(self._caller):
            self._take_text(text)
        else:
            self._slowly(self._take_text_slowly(text))

    async def _take_text_slowly(self, text: bytes) -> None:
        try:
            await self._service.spend(self._caller)
        except TooManyRequests as problem:
            # Frames are cheap to write and dear to read: whoever writes so many is let go.
            self._refuse(problem)
            self.end(LATER)
        except Problem as problem:
            self._refuse(problem)
        else:
            self._task = None
            self._take_text(text)

    def _take_text(self, text: bytes) -> None:
        try:
            frame = frames.read(text)
        except frames.Unreadable as error:
            if error.problem is None:
                self.end(NOT_TEXT)
            else:
                self._refuse(error.problem, error.client_message_id)
            return
        if isinstance(frame, frames.Sending):
            self._take_send(frame)
        else:
            self._take_ack(frame)

    def _take_send(self, frame: frames.Sending) -> None:
        FRAMES["send"] += 1
        recipient_id, message, client_message_id, text = frame
        new = NewMessage(self._caller.user_id, recipient_id, message, client_message_id, text)
        try:
            is_taken = self._service.send_soon(new, partial(self._sent, client_message_id))
        except Problem as problem:
            self._refuse(problem, client_message_id)
            return
        if is_taken:
            self._begin()
        else:
            self._slowly(self._send_slowly(frame))

    def _sent(self, client_message_id: UUID, stored: Stored | Problem) -> None:
        if isinstance(stored, Problem):
            self._refuse(stored, client_message_id)
        else:
            FRAMES["sent"] += 1
            self.send_text(frames.sent(client_message_id, stored))
        self._finish()

    async def _send_slowly(self, frame: frames.Sending) -> None:
        """Send where Redis or PostgreSQL must be asked before."""
        request = SendRequest.model_construct(**frame._asdict())
        try:
            sent = await self._service.send(self._caller, request)
        except Exception as error:  # noqa: BLE001 - it is answered, and logged if it is ours
            self._fail(error, frame.client_message_id)
        else:
            FRAMES["sent"] += 1
            self.send_text(frames.sent(frame.client_message_id, Stored(sent.id, sent.timestamp)))

    def _take_ack(self, message_ids: list[UUID]) -> None:
        FRAMES["ack"] += 1
        try:
            self._service.acknowledge_soon(self._stream, message_ids, self._acknowledged)
        except Problem as problem:
            self._refuse(problem)
        else:
            self._begin()

    def _acknowledged(self, erased: list[UUID] | Problem) -> None:
        if isinstance(erased, Problem):
            self._refuse(erased)
        else:
            FRAMES["acknowledged"] += 1
            self.send_later(frames.acknowledged(erased))
        self._finish()

    # What the stream says

    def messages(self, rows: Sequence[MessageRow]) -> None:
        FRAMES["message"] += len(rows)
        if len(rows) == 1:
            self.send_text(frames.message(rows[0]))
        else:
            self.send_texts(map(frames.message, rows))

    def delivered(self, message_ids: Sequence[UUID]) -> None:
        FRAMES["receipt"] += len(message_ids)
        for start in range(0, len(message_ids), PAGE_MAX):
            self.send_later(frames.receipt(message_ids[start : start + PAGE_MAX]))

    def contacts_changed(self) -> None:
        FRAMES["contact"] += 1
        self.send_text(frames.CONTACT)

    def ended(self, problem: Problem) -> None:
        self.end(close_code(problem))

    # The end

    def end(self, code: int) -> None:
        """Close with this code, once what is in flight is answered."""
        if self._ending is not None:
            return
        self._ending = code
        self._stream.stop()
        self.hold()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._ending is not None and not self._in_flight and self._task is None:
            self.close(self._ending, REASONS.get(self._ending, ""))

    def close(self, code: int, reason: str = "") -> None:
        """Count the close, by code if it is the router's own: clients can invent codes."""
        if self.closed_with is None:
            STREAM_CLOSES.labels(str(code) if code in frames.COUNTED else "other").inc()
        self._stream.stop()
        super().close(code, reason)

    def shutdown(self) -> None:
        """Let the client go, as the server stops."""
        self.end(frames.GOING_AWAY)

    def stalled(self) -> None:
        """Close at once: what is in flight may never be answered, as where a store is frozen."""
        self.end(TOO_SLOW)
        self.close(self._ending or TOO_SLOW, REASONS.get(self._ending or TOO_SLOW, ""))

    def vanished(self) -> None:
        self.end(SILENT)

    def writable_again(self) -> None:
        self._stream.resume()

    # Bounds

    def pause_writing(self) -> None:
        """Count what waits for the client with what waits for all: who reads slowly goes when there is no more room."""
        super().pause_writing()
        self._count_unsent(self.transport.get_write_buffer_size())
        if Connection.unsent > UNSENT_MAX_BYTES:
            self.transport.abort()

    def resume_writing(self) -> None:
        self._count_unsent(0)
        super().resume_writing()

    def _count_unsent(self, size: int) -> None:
        Connection.unsent += size - self._unsent
        self._unsent = size

    def _begin(self) -> None:
        self._in_flight += 1
        if self._in_flight == IN_FLIGHT_MAX and not self._is_full:
            self._is_full = True
            self.hold()

    def _finish(self) -> None:
        self._in_flight -= 1
        if self._is_full and self._in_flight <= IN_FLIGHT_MAX // 2:
            self._is_full = False
            self.release()
        if self._ending is not None:
            self._close_if_idle()

    def _slowly(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what must wait for others, and read nothing meanwhile."""
        self.hold()
        task = self._task = self.loop.create_task(work)
        task.add_done_callback(self._done_slowly)

    def _done_slowly(self, task: "asyncio.Task[None]") -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self.release()
        self._close_if_idle()

    def _fail(self, error: BaseException, client_message_id: UUID | None = None) -> None:
        if not isinstance(error, Problem):
            log_fault("frame_failed", error)
            error = InternalFault()
        self._refuse(error, client_message_id)

    def _refuse(self, problem: Problem, client_message_id: UUID | None = None) -> None:
        FRAMES["error"] += 1
        PROBLEMS.labels(problem.code).inc()
        self.send_text(frames.error(problem, client_message_id))
