"""Accepting connections that speak TLS, with a bound on those that have not come to speak it yet.

uvicorn bounds no handshake, and knows of no connection before its handshake is over: whoever connects and says
nothing would hold a descriptor that nobody counts. So we accept by ourselves, and count from the first moment.
"""

import asyncio
import errno
import resource
import socket
import ssl
from collections.abc import Callable, Sized
from functools import partial
from typing import Final

from prometheus_client import Gauge

from blindpost.routers.addresses import Place, Places
from blindpost.routers.connection import DESCRIPTORS_RESERVED
from blindpost.telemetry import CONNECTIONS_REFUSED, log, log_fault, registry

HANDSHAKE_S: Final = 10.0
GOODBYE_S: Final = 2.0
"""For a client to answer the end of TLS; then the connection is closed all the same."""
HANDSHAKES_MAX: Final = 1_024
"""Beyond it the oldest goes: an honest client is through in a moment, and who floods us waits longest."""
HANDSHAKES_PER_ADDRESS_MAX: Final = 128
"""A household's devices that come back all at once are fewer; loopback and trusted proxies are not counted."""
AT_ONCE: Final = 64
PAUSE_S: Final = 0.5
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

HANDSHAKES: Final = Gauge("blindpost_handshakes", "Connections whose TLS handshake is not over", registry=registry)


class TlsListener:
    """Stands in for asyncio's server: accepts, shakes hands, and gives the connection to its protocol."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        connections: Sized,
        places: Places,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._context = context
        self._make_protocol = make_protocol
        self._connections = connections
        self._places = places
        self._handshakes: dict[asyncio.Task[None], None] = {}  # in the order of their coming
        self._is_closing = False
        listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Accept no more, and give up the handshakes that are not over."""
        self._is_closing = True
        self._loop.remove_reader(self._listener.fileno())
        for each in self._handshakes:
            each.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _resume(self) -> None:
        if not self._is_closing:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if error.errno in EXHAUSTED:
                    # The listener stays readable: without a pause this would be a loop that does nothing else.
                    log.warning("accept_failed", error=errno.errorcode[error.errno])
                    self._loop.remove_reader(self._listener.fileno())
                    self._loop.call_later(PAUSE_S, self._resume)
                return  # no more for now, or one that has gone again
            self._begin(connection, str(address[0]))

    def _begin(self, connection: socket.socket, host: str) -> None:
        if not self._make_room():
            _refuse(connection, "files")
        elif (place := self._places.take(host)) is None:
            _refuse(connection, "address")
        else:
            connection.setblocking(False)
            task = self._loop.create_task(self._shake(connection))
            self._handshakes[task] = None
            HANDSHAKES.inc()
            task.add_done_callback(partial(self._end, connection, place))

    def _make_room(self) -> bool:
        """Let the oldest handshakes go where there are too many; tells whether there is room for one more."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = min(HANDSHAKES_MAX, descriptors - DESCRIPTORS_RESERVED - len(self._connections))
        while self._handshakes and len(self._handshakes) >= room:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
            CONNECTIONS_REFUSED.labels("handshake").inc()
        return len(self._handshakes) < room

    async def _shake(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except OSError:
            pass  # not TLS 1.3, too slow, or gone: nobody to tell
        except Exception as error:  # noqa: BLE001 - one connection's fault must not be lost, nor be another's
            log_fault("handshake_failed", error)

    def _end(self, connection: socket.socket, place: Place, task: "asyncio.Task[None]") -> None:
        HANDSHAKES.dec()
        place.leave()
        self._handshakes.pop(task, None)
        if task.cancelled():  # perhaps before its first step: then nothing else closes it
            connection.close()


def _refuse(connection: socket.socket, reason: str) -> None:
    CONNECTIONS_REFUSED.labels(reason).inc()
    connection.close()
