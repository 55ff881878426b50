"""One connection, bounded: how many there are, how long a head may be, how slowly it comes, how long an answer stalls.

uvicorn bounds none of these, and all of them come before any login: without the bounds one client could fill the
memory with a head that never ends, or take every descriptor with requests that never begin.
"""

import asyncio
import json
import resource
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blindpost.errors import InvalidRequest, Problem, ShuttingDown, TooLarge
from blindpost.routers.addresses import Place, Places
from blindpost.routers.problems import MEDIA_TYPE, next_request_id, told
from blindpost.telemetry import CONNECTIONS_REFUSED

HEAD_MAX_BYTES: Final = 32_768
"""Five hundred ids in a query take 20,000."""
REQUEST_S = 30.0
"""From its first byte, or from the connection, until a request has arrived whole."""
STALL_S = 30.0
"""For a client to take up what waits to be sent."""
PIPELINE_MAX: Final = 32
"""Requests that wait behind one another on a connection: each costs memory before it is looked at."""
UNSENT_MAX_BYTES = 256 * 1024 * 1024
"""What may wait to be sent in the whole process: who reads slowly goes first when there is no more room."""
DESCRIPTORS_RESERVED: Final = 128
"""For the stores, the logs, and whoever must still be let in."""


UPGRADE: Final = "blindpost.upgrade"
"""In a request's ASGI extensions: what gives its connection to another protocol. Only where the client asked for it."""


EXCHANGE: Final = "blindpost.exchange"
"""In a request's ASGI extensions: its Exchange."""


class Exchange:
    """One request and its one answer, without ASGI's messages in between (docs/decisions/0015-the-hot-path.md)."""

    __slots__ = ("_connection", "_cycle")

    def __init__(self, connection: "Connection", cycle: Any) -> None:
        self._connection = connection
        self._cycle = cycle

    def is_gone(self) -> bool:
        """Tell whether there is nobody to answer any more."""
        return bool(self._cycle.disconnected)

    def body(self) -> bytes | None:
        """Take the body; None if it has not come whole yet: then ASGI's `receive` gives it."""
        return None if self._cycle.more_body else bytes(self._cycle.body)

    def when_gone(self, action: Callable[[], object] | None) -> None:
        """Have this done when the connection is lost, or nothing any more."""
        self._connection.on_gone = action

    async def answer(self, head: bytes, body: bytes) -> None:
        """Write an answer with one system call: status line and headers, without an empty line, and the body."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        # What uvicorn does when an answer is complete.
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        more = b"".join(b"%b: %b\r\n" % header for header in cycle.default_headers)
        if not cycle.keep_alive:
            more += b"connection: close\r\n"
        cycle.transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, more, len(body), body))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    def close_after(self) -> None:
        """Let the connection end with the answer: the rest of the request is not read."""
        self._cycle.keep_alive = False


class Successor(Protocol):
    """A protocol that takes a connection over."""

    def start(self, on_lost: Callable[[], None]) -> None:
        """Begin: the connection is its own, and `on_lost` is called once when that is lost."""

    def shutdown(self) -> None:
        """Let the client go, as the server stops."""


Make = Callable[[asyncio.Transport], Successor]


class Connection(HttpToolsProtocol):
    """An HTTP/1.1 connection of uvicorn's, with bounds."""

    unsent: ClassVar = 0
    """Bytes of answers that wait for clients who do not read, over all connections."""

    places: ClassVar[Places]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._place: Place | None = None
        self._bytes_outside_bodies = 0
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._unsent = 0
        self.on_gone: Callable[[], object] | None = None
        self._active: Any = None
        """The cycle that is answered now; `cycle` is the one read last, which may still wait for its turn."""

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self.connections) > descriptors - DESCRIPTORS_RESERVED:
            self._turn_away("files")
        elif (place := self.places.take(self.client[0] if self.client else None)) is None:
            self._turn_away("address")
        else:
            self._place = place
            self._begin_waiting()

    def _turn_away(self, reason: str) -> None:
        """Close at once, before a byte is read: an answer would be work for whoever has too many already."""
        CONNECTIONS_REFUSED.labels(reason).inc()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._place is not None:
            self._place.leave()
        self._end_waiting()
        self._end_stall()
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True
            self._active.message_event.set()
        super().connection_lost(exc)
        if self.on_gone is not None:
            self.on_gone()

    def data_received(self, data: bytes) -> None:
        self._bytes_outside_bodies += len(data)
        super().data_received(data)
        # Heads, trailers and the extensions of chunks: the application bounds nothing but bodies.
        if self._bytes_outside_bodies > HEAD_MAX_BYTES and not self.transport.is_closing():
            self._refuse(TooLarge("The head of the request is too long: at most 32,768 bytes."))
        elif self._late is None and (self.cycle is None or self.cycle.response_complete):  # type: ignore[redundant-expr]
            # Bytes that begin no request, such as empty lines: they ended uvicorn's patience with an idle client.
            self._begin_waiting()

    def on_headers_complete(self) -> None:
        extensions: dict[str, Any] = {UPGRADE: {"give_up": self._give_up}} if self.parser.should_upgrade() else {}
        self.scope["extensions"] = extensions
        super().on_headers_complete()
        extensions[EXCHANGE] = Exchange(self, self.cycle)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: whoever is asked for says whether it can be had."""

    def _give_up(self, make: Make, head: bytes) -> None:
        """Let another protocol have the connection, after these words; raises ShuttingDown, and what `make` raises.

        It stays counted until it is lost: among the connections, and at its address.
        """
        if self.transport.is_closing():
            raise ShuttingDown  # nobody reads this answer
        successor: Any = make(self.transport)
        # uvicorn's word that the request is answered.
        self._active.response_started = self._active.response_complete = True
        self._end_waiting()
        self._end_stall()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        self.connections.add(successor)
        self.transport.write(head)
        self.transport.set_protocol(successor)
        if self.flow.write_paused:
            successor.pause_writing()  # the transport says it once, and has said it to us
        successor.start(partial(_lost, self.connections, successor, self._place))
        self.parser = None  # type: ignore[assignment]
        self._place = None

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINE_MAX:
            raise InvalidRequest  # the parser stops, and the client gets send_400_response
        super().on_message_begin()
        self._begin_waiting()

    def on_body(self, body: bytes) -> None:
        self._bytes_outside_bodies = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bytes_outside_bodies = 0
        self._end_waiting()
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_stall()
        self._unsent = self.transport.get_write_buffer_size()
        Connection.unsent += self._unsent
        if Connection.unsent > UNSENT_MAX_BYTES:
            CONNECTIONS_REFUSED.labels("unsent").inc()
            self.transport.abort()
            return
        self._stalled = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the library's words
        self._refuse(InvalidRequest("This is not an HTTP request that can be read."))

    def _refuse(self, problem: Problem) -> None:
        request_id = next_request_id()
        body = json.dumps(told(problem, request_id)).encode()
        head = (
            f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: {MEDIA_TYPE}\r\nX-Request-Id: {request_id}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        ).encode("ascii")
        head += b"".join(b"%s: %s\r\n" % header for header in self.config.encoded_headers)
        self.transport.write(head + b"\r\n" + body)
        self.transport.close()

    def _begin_waiting(self) -> None:
        self._end_waiting()
        self._late = self.loop.call_later(REQUEST_S, self.transport.close)

    def _end_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end_stall(self) -> None:
        Connection.unsent -= self._unsent
        self._unsent = 0
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def _lost(connections: set[Any], successor: Successor, place: Place | None) -> None:
    connections.discard(successor)
    if place is not None:
        place.leave()


def connection_class(places: Places) -> type[Connection]:
    """Make the protocol class of one server: uvicorn makes the connections, and gives them nothing of ours."""

    class BoundedConnection(Connection):
        pass

    BoundedConnection.places = places
    return BoundedConnection
