"""Servers that do nothing: what Python, its parsers and the kernel take, whatever the router does with a request.

A bare ASGI application on the router's HTTP server, and a WebSocket of the router's own class that sends back what
it hears.
"""

import asyncio
import logging
import re
import socket
from typing import cast

import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from blindpost.bench.routers import until_stdin_closes
from blindpost.routers.websocket import WebSocket, accept

ANSWER = b'{"status":"sent"}'


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Read the body, and answer."""
    del scope
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message["more_body"]:
            break
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 201, "headers": headers, "trailers": False})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})


class Echo(WebSocket):
    """Sends back what it hears."""

    def text_received(self, text: bytes) -> None:
        self.send_text(text)

    def stalled(self) -> None:
        self.transport.abort()

    def vanished(self) -> None:
        self.transport.abort()


class Handshake(asyncio.Protocol):
    """Answers a handshake that comes at once, and gives its connection to an Echo."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", data)
        answer = key and accept(key[1].decode())
        if not answer:
            self._transport.abort()
            return
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n"
        )
        self._transport.set_protocol(Echo(self._transport))


async def _serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        application, http="httptools", ws="none", lifespan="off", access_log=False, log_level=logging.WARNING
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    echo = await asyncio.get_running_loop().create_server(Handshake, "127.0.0.1", 0)
    await until_stdin_closes(*(f"http://127.0.0.1:{each.getsockname()[1]}" for each in (listener, echo.sockets[0])))
    echo.close()
    server.should_exit = True
    await serving


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
