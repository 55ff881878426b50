"""Pairs that talk, through each transport, with one message in flight each.

The sender sends its next message when the last was answered with `sent` and the recipient has received it and sent its
acknowledgement. A message is done when that is answered.
"""

import asyncio
import os
import re
from base64 import b64encode
from collections.abc import Callable
from itertools import count, cycle
from time import perf_counter
from typing import Final, Protocol, TypeVar

from blindpost.bench.errors import MeasurementError
from blindpost.bench.people import Pair, Person
from blindpost.bench.wire import EventsWire, HttpWire, Local, OnText, WebSocketWire, frame_head, handshake

Wire = TypeVar("Wire", HttpWire, EventsWire)

MESSAGE_BYTES: Final = 512
POOL: Final = 1_024
POLL_S: Final = 30
PAGE: Final = 500
CREATED: Final = 201
OK: Final = 200
UUID_CHARS: Final = 36

# Where the kind of what a WebSocket says stands, and the id of a message: the router writes them first.
KIND: Final = len('{"type":"')
MESSAGE_ID: Final = len('{"type":"message","id":"')
SENT, MESSAGE, ACKNOWLEDGED, ERROR = b"smae"
ACK: Final = b'{"type":"ack","message_ids":["%b"]}'
ACK_FRAME: Final = frame_head(len(ACK) - len("%b") + UUID_CHARS) + ACK
SHORT_POLL_S: Final = 2
"""The last acknowledgement of a round is answered at the end of a poll."""
IDS: Final = re.compile(rb'"id":"([0-9a-f-]{36})"')

_random: Final = os.urandom(MESSAGE_BYTES * POOL)
_ciphertexts: Final = cycle(
    [b64encode(_random[start : start + MESSAGE_BYTES]) for start in range(0, len(_random), MESSAGE_BYTES)]
)
_CIPHERTEXT_CHARS: Final = len(next(_ciphertexts))
_numbers: Final = count()
_run: Final = os.urandom(10).hex().encode()
_PREFIX: Final = b"%b-%b-4%b-8%b-" % (_run[:8], _run[8:12], _run[12:15], _run[15:18])
"""Of the ids of this run's messages: a number follows, and none comes twice."""


def new_message(before: bytes) -> bytes:
    """Write a message of its own behind what `send_members` and its frame or nothing begin with."""
    return b'%b%b%012x","message":"%b"}' % (before, _PREFIX, next(_numbers), next(_ciphertexts))


def send_members(pair: Pair, kind: str = "") -> bytes:
    """Write the beginning of a body, or of a frame where a kind is given, up to the id."""
    return f'{{{kind}"recipient_id":"{pair.recipient.id}","client_message_id":"'.encode()


def send_frame(pair: Pair) -> bytes:
    """Write the beginning of a frame that sends, up to the id."""
    members = send_members(pair, '"type":"send",')
    return frame_head(len(members) + UUID_CHARS + len('","message":""}') + _CIPHERTEXT_CHARS) + members


class Tally:
    """What came of some talks."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        """Seconds from each send to its answer."""
        self.received: list[float] = []
        """Seconds from each send to its arrival."""
        self.done = 0
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        if not self.failed.done():
            self.failed.set_exception(MeasurementError(reason))


class Way(Protocol):
    """How a pair's messages travel."""

    async def open(self, sender_origin: str, recipient_origin: str) -> None:
        """Connect both."""

    def send(self) -> None:
        """Send a message."""

    def close(self) -> None:
        """Drop the connections."""


class Told(Protocol):
    """What is told what happens to a pair's messages."""

    def sent(self) -> None:
        """Take that one is on disk."""

    def received(self) -> None:
        """Take that one has arrived, and its acknowledgement is on its way."""

    def acknowledged(self) -> None:
        """Take that one is done."""

    def fail(self, reason: str) -> None:
        """Take that something went wrong."""

    def lost(self) -> None:
        """Take that the router closed a connection."""


class Talk:
    """One pair's."""

    def __init__(self, pair: Pair, tally: Tally, make_way: "MakeWay") -> None:
        self.fail = tally.fail
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.way = make_way(pair, self)
        self._tally = tally
        self._send = self.way.send
        self._began = 0.0
        self._missing = self._unacknowledged = 0
        self._is_on = True

    def start(self) -> None:
        self._missing = 2
        self._unacknowledged += 1
        self._began = perf_counter()
        self._send()

    def stop(self) -> None:
        """Send no more; `ended` tells when all is acknowledged."""
        self._is_on = False

    def sent(self) -> None:
        self._tally.sent.append(perf_counter() - self._began)
        self._missing -= 1
        if not self._missing and self._is_on:
            self.start()

    def received(self) -> None:
        self._tally.received.append(perf_counter() - self._began)
        self._missing -= 1
        if not self._missing and self._is_on:
            self.start()

    def acknowledged(self) -> None:
        self._tally.done += 1
        self._unacknowledged -= 1
        if not (self._is_on or self._unacknowledged or self.ended.done()):
            self.ended.set_result(None)

    def lost(self) -> None:
        self.fail("the router closed a connection")


MakeWay = Callable[[Pair, Told], Way]


async def open_websocket(person: Person, origin: str, on_text: OnText, local: Local = None) -> WebSocketWire:
    """Open somebody's WebSocket."""
    wire = await WebSocketWire.connect(origin, local)
    wire.on_text = on_text
    await wire.open(person.signer("GET", f"{origin}/messages/ws").request(more=handshake()))
    return wire


class WebSockets:
    """Both over WebSockets."""

    def __init__(self, pair: Pair, talk: Told) -> None:
        self._pair = pair
        self._talk = talk
        self._before = send_frame(pair)
        self._sender: WebSocketWire
        self._recipient: WebSocketWire

    async def open(self, sender_origin: str, recipient_origin: str) -> None:
        self._sender = await open_websocket(self._pair.sender, sender_origin, self._sender_told)
        self._recipient = await open_websocket(self._pair.recipient, recipient_origin, self._recipient_told)
        self._sender.on_lost = self._recipient.on_lost = self._talk.lost

    def send(self) -> None:
        self._sender.write(new_message(self._before))

    def _sender_told(self, data: bytes, start: int, stop: int) -> None:
        kind = data[start + KIND]
        if kind == SENT:
            self._talk.sent()
        elif kind == ERROR:
            self._talk.fail(data[start:stop].decode())

    def _recipient_told(self, data: bytes, start: int, stop: int) -> None:
        kind = data[start + KIND]
        if kind == MESSAGE:
            start += MESSAGE_ID
            self._recipient.write(ACK_FRAME % data[start : start + UUID_CHARS])
            self._talk.received()
        elif kind == ACKNOWLEDGED:
            self._talk.acknowledged()
        elif kind == ERROR:
            self._talk.fail(data[start:stop].decode())

    def close(self) -> None:
        self._sender.close()
        self._recipient.close()


class _Http:
    """Sends and acknowledges with requests, each signed when it is made."""

    def __init__(self, pair: Pair, talk: Told) -> None:
        self._pair = pair
        self._talk = talk
        self._before = send_members(pair)
        self._wires: list[HttpWire | EventsWire] = []

    async def open(self, sender_origin: str, recipient_origin: str) -> None:
        self._sends = self._pair.sender.signer("POST", f"{sender_origin}/messages/send").request
        self._acks = self._pair.recipient.signer("POST", f"{recipient_origin}/messages/ack").request
        self._sender = await self._connect(HttpWire, sender_origin)
        self._sender.on_answer = self._sent
        self._recipient = await self._connect(HttpWire, recipient_origin)

    async def _connect(self, kind: type[Wire], origin: str) -> Wire:
        wire = await kind.connect(origin)
        wire.on_lost = self._talk.lost
        self._wires.append(wire)
        return wire

    def send(self) -> None:
        self._sender.write(self._sends(new_message(self._before)))

    def _sent(self, status: int, body: bytes) -> None:
        if status == CREATED:
            self._talk.sent()
        else:
            self._talk.fail(body.decode())

    def _acknowledge(self, message_id: bytes) -> None:
        self._recipient.on_answer = self._acknowledged
        self._recipient.write(self._acks(b'{"message_ids":["%b"]}' % message_id))
        self._talk.received()

    def _acknowledged(self, status: int, body: bytes) -> None:
        if status == OK:
            self._talk.acknowledged()
        else:
            self._talk.fail(body.decode())

    def close(self) -> None:
        for wire in self._wires:
            wire.close()


class LongPolls(_Http):
    """The recipient asks, acknowledges what came, and asks again, on one connection."""

    async def open(self, sender_origin: str, recipient_origin: str) -> None:
        await super().open(sender_origin, recipient_origin)
        self._asks = self._pair.recipient.signer("GET", f"{recipient_origin}/messages/poll?timeout={POLL_S}").request
        self._ask()

    def _ask(self) -> None:
        self._recipient.on_answer = self._told
        self._recipient.write(self._asks())

    def _told(self, status: int, body: bytes) -> None:
        if status != OK:
            self._talk.fail(body.decode())
        elif (found := IDS.search(body)) is None:
            self._ask()
        else:
            self._acknowledge(found[1])

    def _acknowledged(self, status: int, body: bytes) -> None:
        super()._acknowledged(status, body)
        self._ask()


class AcknowledgingPolls(_Http):
    """The recipient asks, and acknowledges with the next question what came."""

    async def open(self, sender_origin: str, recipient_origin: str) -> None:
        await super().open(sender_origin, recipient_origin)
        self._asks = self._pair.recipient.signer("POST", f"{recipient_origin}/messages/poll").request
        self._is_acknowledging = False
        self._recipient.on_answer = self._told
        self._ask(b"")

    def _ask(self, ids: bytes) -> None:
        self._recipient.write(self._asks(b'{"message_ids":[%b],"timeout":%d}' % (ids, SHORT_POLL_S)))
        self._is_acknowledging = bool(ids)

    def _told(self, status: int, body: bytes) -> None:
        if status != OK:
            self._talk.fail(body.decode())
            return
        if self._is_acknowledging:
            self._talk.acknowledged()
        found = IDS.search(body)
        self._ask(b"" if found is None else b'"%b"' % found[1])
        if found is not None:
            self._talk.received()


class ServerSentEvents(_Http):
    """The recipient is told by events, and acknowledges on a connection beside."""

    async def open(self, sender_origin: str, recipient_origin: str) -> None:
        await super().open(sender_origin, recipient_origin)
        events = await self._connect(EventsWire, recipient_origin)
        events.on_events = self._told
        events.write(self._pair.recipient.signer("GET", f"{recipient_origin}/messages/events").request())

    def _told(self, data: bytes) -> None:
        if (found := IDS.search(data)) is not None:
            self._acknowledge(found[1])
