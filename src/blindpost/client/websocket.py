"""A WebSocket, by the websockets library: bounded in time and size, without compression, redirects and logs."""

import logging
import ssl
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from blindpost.client.errors import UntrustedAnswer
from blindpost.protocol.limits import BODY_MAX_BYTES

OPEN_TIMEOUT_S: Final = 10.0
SILENCE_S: Final = 25.0
"""Between two signs of life that the router is asked for, and for each to come: as the router itself does."""
GOODBYE_S: Final = 2.0
"""For the router to answer a close."""

# At DEBUG the library writes every head and frame, the session's token among them: not into a program's log.
_SILENT: Final = logging.Logger("websockets", logging.CRITICAL + 1)  # noqa: LOG001 - below no root, on purpose


class Lost(Exception):
    """The connection is gone. The code is the one that the router closed it with, if it did."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


class NotUpgraded(Exception):
    """The handshake was answered in HTTP."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception:
        """Follow none: what is signed for one origin goes to no other."""
        return exc


class WebSocket:
    """An open WebSocket that carries texts."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @classmethod
    async def open(
        cls, url: str, headers: dict[str, str], context: ssl.SSLContext | None, proxy: str | None
    ) -> "WebSocket":
        """Open one; raises NotUpgraded, OSError (TimeoutError among it), or another error of the library's."""
        try:
            connection = await _Connect(
                url,
                ssl=context,
                proxy=proxy,
                additional_headers=headers,
                user_agent_header=None,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                ping_interval=SILENCE_S,
                ping_timeout=SILENCE_S,
                close_timeout=GOODBYE_S,
                max_size=BODY_MAX_BYTES,
                logger=_SILENT,
            )
        except InvalidStatus as error:
            answer = error.response
            raise NotUpgraded(answer.status_code, list(answer.headers.raw_items()), bytes(answer.body or b"")) from None
        return cls(connection)

    async def send(self, text: str) -> None:
        """Send a text. It is on its way when this first waits; raises Lost."""
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise _lost(error) from None

    async def receive(self) -> str:
        """Wait for a text; raises Lost, or UntrustedAnswer for what is none."""
        try:
            text = await self._connection.recv()
        except ConnectionClosed as error:
            raise _lost(error) from None
        if not isinstance(text, str):
            raise UntrustedAnswer("the server sent a binary frame, which is none of this protocol")
        return text

    async def aclose(self) -> None:
        """Say goodbye, and wait a little for the router's. Somebody must go on receiving meanwhile."""
        try:
            await self._connection.close()
        finally:
            self.abort()

    def abort(self) -> None:
        """Let the connection go without a word."""
        self._connection.transport.abort()


def _lost(error: ConnectionClosed) -> Lost:
    return Lost(None if error.rcvd is None else error.rcvd.code)
