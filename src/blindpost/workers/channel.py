"""Lines of JSON between the supervisor and one worker.

Over a pair of sockets that have no name: nobody else can reach them, so settings with passwords go over it, which a
command line or an environment would show. Its end tells each side that the other is gone, by whatever death.
"""

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from pydantic import SecretStr

LINE_MAX_BYTES: Final = 1 << 24
"""All metrics of a worker are far less."""

Message = dict[str, Any]


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LINE_MAX_BYTES))

    def say(self, message: Message) -> None:
        """Send without waiting; what the other side does not live to read is lost."""
        self._writer.write(json.dumps(message, default=_plain).encode() + b"\n")

    async def hear(self) -> Message | None:
        """Return the next message, or None when the other side is gone."""
        try:
            line = await self._reader.readline()
        except OSError:
            return None
        if not line.endswith(b"\n"):
            return None
        message: Message = json.loads(line)
        return message

    async def close(self) -> None:
        """End it, when what was said has been sent."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not for the channel: {type(value).__name__}")
