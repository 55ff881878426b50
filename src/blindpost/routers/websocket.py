"""WebSocket (RFC 6455) on a connection that HTTP has given up: frames in and out, without extensions.

On the bare protocol, because ASGI would have each frame go through a queue and a task, and would begin outside of what
bounds a connection (docs/decisions/0011-streams.md). No extension is ever agreed on: compression would tell by its
sizes what is alike in ciphertexts and what is not, and costs memory for each connection.
"""

import asyncio
import base64
import binascii
from collections.abc import Iterable
from hashlib import sha1
from typing import Final

from blindpost.protocol.limits import BODY_MAX_BYTES
from blindpost.routers.frames import LATER

VERSION: Final = "13"
ACCEPT_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY_BYTES: Final = 16

FINAL, RESERVED, OPCODE, CONTROL, MASKED, LENGTH = 0x80, 0x70, 0x0F, 0x08, 0x80, 0x7F
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
SHORT_MAX: Final = 125
HEAD_MIN: Final = 2
MASK_BYTES: Final = 4
EXTENDED: Final = {126: 2, 127: 8}
"""Bytes of the length, by what stands in its place."""
CODE_BYTES: Final = 2

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
NOT_ACCEPTED: Final = 1003
LOST: Final = 1006
NOT_TEXT: Final = 1007
TOO_BIG: Final = 1009
SENDABLE: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
PRIVATE: Final = range(3000, 5000)

SILENCE_S: Final = 40.0
"""After so long without a sign of the client it is asked for one, and after twice so long it is gone."""
STALL_S: Final = 30.0
"""For a client to take up what waits to be sent."""
GOODBYE_S: Final = 2.0
"""For a client to answer a close."""
OTHERS_MAX: Final = 2_000
"""Frames that are no whole texts, in SILENCE_S: pings, pongs and fragments cost no credit, but time."""
LATER_S: Final = 0.02
"""For which a text that can wait is kept."""


class Violation(Exception):
    """The client did what the protocol forbids."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


def accept(key: str) -> bytes | None:
    """Return what answers a client's key; None if it is no key."""
    try:
        if len(base64.b64decode(key, validate=True)) != KEY_BYTES:
            return None
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(sha1(key.encode() + ACCEPT_SUFFIX, usedforsecurity=False).digest())


class WebSocket(asyncio.Protocol):
    """One connection after the handshake. Subclasses say what a text is answered with.

    Both directions are bounded: while the client does not take what was written, and while `hold` says so, nothing is
    read from it.
    """

    __slots__ = (
        *("_buffer", "_client_closed", "_holds", "_is_asked", "_is_heard", "_later", "_later_timer", "_others"),
        *("_parts", "_timer", "closed_with", "is_paused", "loop", "transport"),
    )

    def __init__(self, transport: asyncio.Transport) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = transport
        self.is_paused = False
        self.closed_with: int | None = None
        """The code of the close that was sent: nothing is sent after it."""
        self._client_closed = False
        self._buffer = b""
        self._parts: bytearray | None = None
        self._later: list[bytes] = []
        self._later_timer: asyncio.TimerHandle | None = None
        self._holds = self._others = 0
        self._is_heard = self._is_asked = False
        self._timer = self.loop.call_later(SILENCE_S, self._tick)

    # What a subclass says

    def text_received(self, text: bytes) -> None:
        """Take a text, which may not be UTF-8."""
        raise NotImplementedError

    def writable_again(self) -> None:
        """Go on: the client has taken what was written."""

    def stalled(self) -> None:
        """Let a client go that does not take what was written."""
        raise NotImplementedError

    def vanished(self) -> None:
        """Let a client go that shows no sign of life."""
        raise NotImplementedError

    # Out

    def send_text(self, text: bytes) -> None:
        if self.closed_with is None:
            self.transport.write(self._postponed() + _head(TEXT, len(text)) + text)

    def send_texts(self, texts: Iterable[bytes]) -> None:
        """Send several with one system call."""
        if self.closed_with is None:
            framed = (part for text in texts for part in (_head(TEXT, len(text)), text))
            self.transport.write(self._postponed() + b"".join(framed))

    def send_later(self, text: bytes) -> None:
        """Send what can wait for a moment: it goes with the next text, and costs no system call of its own."""
        if self.closed_with is None:
            self._later.append(_head(TEXT, len(text)) + text)
            if self._later_timer is None:
                self._later_timer = self.loop.call_later(LATER_S, self._send_postponed)

    def _send_postponed(self) -> None:
        self._later_timer = None
        if self._later and self.closed_with is None:
            self.transport.write(self._postponed())

    def _postponed(self) -> bytes:
        """Take what waits. The timer goes on: it would cost more to stop it than to let it find nothing."""
        if not self._later:
            return b""
        later = b"".join(self._later)
        self._later.clear()
        return later

    def close(self, code: int, reason: str = "") -> None:
        """Send a close, and wait a little for the client's."""
        if self.closed_with is not None:
            return
        self.closed_with = code
        payload = code.to_bytes(CODE_BYTES, "big") + reason.encode()
        self.transport.write(self._postponed() + _head(CLOSE, len(payload)) + payload)
        # What is too big is still coming: to close at once would reset the connection, and the code with it.
        if self._client_closed and code != TOO_BIG:
            self.transport.close()
        self._restart(GOODBYE_S, self.transport.abort)
        self._update_reading()

    # In

    def data_received(self, data: bytes) -> None:
        self._is_heard = True
        if self._client_closed:
            return
        if self._buffer:
            data = self._buffer + data
        self._take(data)

    def _take(self, data: bytes) -> None:
        """Take all whole frames, as long as nothing holds us; what is left waits."""
        start = 0
        try:
            while not (self._holds and self.closed_with is None) and not self._client_closed:
                end = self._take_frame(data, start)
                if end == start:
                    break
                start = end
        except Violation as violation:
            self._client_closed = True
            self._buffer = b""
            if self.closed_with is None:
                self.close(violation.code)
            else:
                self.transport.close()
            return
        self._buffer = data[start:] if start else data

    def _take_frame(self, data: bytes, start: int) -> int:
        """Take the frame at `start` if it is whole; returns where it ends, or `start`."""
        if len(data) - start < HEAD_MIN:
            return start
        first, second = data[start], data[start + 1]
        size, body = second & LENGTH, start + HEAD_MIN
        if first & RESERVED or not second & MASKED:
            raise Violation(PROTOCOL_ERROR)
        if size in EXTENDED:
            width = EXTENDED[size]
            if len(data) - body < width:
                return start
            size, smallest = int.from_bytes(data[body : body + width], "big"), 0x10000 if width > CODE_BYTES else 126
            if size < smallest:
                raise Violation(PROTOCOL_ERROR)
            body += width
        opcode = first & OPCODE
        self._check(opcode, size, is_final=bool(first & FINAL))
        end = body + MASK_BYTES + size
        if len(data) < end:
            return start
        payload = _unmask(data[body + MASK_BYTES : end], data[body : body + MASK_BYTES])
        if first == FINAL | TEXT:
            if self.closed_with is None:
                self.text_received(payload)
        else:
            self._take_other(opcode, payload, is_final=bool(first & FINAL))
        return end

    def _check(self, opcode: int, size: int, *, is_final: bool) -> None:
        """Refuse a frame by its head alone, before its body has come."""
        if opcode & CONTROL:
            if opcode > PONG or not is_final or size > SHORT_MAX:
                raise Violation(PROTOCOL_ERROR)
        elif opcode == BINARY:
            raise Violation(NOT_ACCEPTED)
        elif opcode > BINARY or (opcode == CONTINUATION) != (self._parts is not None):
            raise Violation(PROTOCOL_ERROR)
        elif size + len(self._parts or b"") > BODY_MAX_BYTES:
            raise Violation(TOO_BIG)

    def _take_other(self, opcode: int, payload: bytes, *, is_final: bool) -> None:
        self._others += 1
        if self._others > OTHERS_MAX:
            raise Violation(LATER)
        if opcode == PING:
            if self.closed_with is None:
                self.transport.write(_head(PONG, len(payload)) + payload)
        elif opcode == CLOSE:
            self._take_close(payload)
        elif opcode != PONG:
            self._take_part(payload, is_final=is_final)

    def _take_part(self, payload: bytes, *, is_final: bool) -> None:
        if self._parts is None:
            self._parts = bytearray()
        self._parts += payload
        if is_final:
            whole, self._parts = bytes(self._parts), None
            if self.closed_with is None:
                self.text_received(whole)

    def _take_close(self, payload: bytes) -> None:
        self._client_closed = True
        code = int.from_bytes(payload[:CODE_BYTES], "big") if payload else NORMAL
        if len(payload) == 1 or not (code in SENDABLE or code in PRIVATE):
            raise Violation(PROTOCOL_ERROR)
        try:
            payload[CODE_BYTES:].decode()
        except UnicodeDecodeError:
            raise Violation(NOT_TEXT) from None
        if self.closed_with is None:
            self.close(code)
        else:
            self.transport.close()

    # Bounds

    def hold(self) -> None:
        """Read nothing until `release` was called as often."""
        self._holds += 1
        if self._holds == 1:
            self._update_reading()

    def release(self) -> None:
        self._holds -= 1
        if not self._holds and not self.transport.is_closing():
            if self._buffer:
                # Not from within whatever released us: a frame can hold again, and answer at once.
                self.loop.call_soon(self._take_buffer)
            self._update_reading()

    def _take_buffer(self) -> None:
        if self._buffer and not self._holds and not self.transport.is_closing():
            self._take(self._buffer)

    def _update_reading(self) -> None:
        if self.transport.is_closing():
            return
        if self._holds and self.closed_with is None:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        if not self.is_paused:
            self.is_paused = True
            self.hold()
            if self.closed_with is None:
                self._restart(STALL_S, self.stalled)

    def resume_writing(self) -> None:
        if self.is_paused:
            self.is_paused = False
            if self.closed_with is None:
                self._restart(SILENCE_S, self._tick)
            self.release()
            self.writable_again()

    def _tick(self) -> None:
        """Ask a silent client for a sign of life."""
        if self._is_heard or self._holds:
            self._is_asked = False
        elif self._is_asked:
            self.vanished()
            return
        else:
            self._is_asked = True
            self.transport.write(_head(PING, 0))
        self._is_heard, self._others = False, 0
        self._timer = self.loop.call_later(SILENCE_S, self._tick)

    def _restart(self, delay_s: float, action: object) -> None:
        self._timer.cancel()
        self._timer = self.loop.call_later(delay_s, action)  # type: ignore[arg-type]

    def eof_received(self) -> None:
        """Close: half a connection is of no use to a WebSocket."""

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._timer.cancel()
        if self._later_timer is not None:
            self._later_timer.cancel()
        self._buffer = b""
        self._client_closed = True
        if self.closed_with is None:
            self.closed_with = LOST  # what is answered from now on goes nowhere


def _head(opcode: int, size: int) -> bytes:
    if size <= SHORT_MAX:
        return bytes((FINAL | opcode, size))
    if size < 0x10000:  # noqa: PLR2004 - what two bytes hold
        return bytes((FINAL | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((FINAL | opcode, 127)) + size.to_bytes(8, "big")


def _unmask(payload: bytes, mask: bytes) -> bytes:
    """Undo the mask, as one large number: in Python the fastest way by far."""
    size = len(payload)
    repeated = (mask * (size // MASK_BYTES + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
