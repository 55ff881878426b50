"""The one way out: a request, and its answer read with distrust.

This is the seam for everything that carries requests: an `httpx` transport can be put in (a Unix socket, an
application in the same process).
"""

import asyncio
import json
import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from websockets.exceptions import WebSocketException

from blindpost.client.errors import FileError, Refused, Unreachable, UntrustedAnswer
from blindpost.client.websocket import NotUpgraded, WebSocket
from blindpost.services.models.common import Problem

ANSWER_MAX_BYTES: Final = 1_048_576
TIMEOUT_S: Final = 20.0
CONNECT_TIMEOUT_S: Final = 10.0
DETAIL_MAX_CHARS: Final = 300
PORT_MAX: Final = 65_535
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

T = TypeVar("T")

Sign = Callable[[str, str, bytes], dict[str, str]]
"""Takes method, URL (without query) and body; returns the headers that make the request somebody's."""

_CODE: Final = re.compile(r"[a-z0-9_]{1,64}")
UNKNOWN: Final = "unknown"
"""In place of a code, where something answers that is no router, or is a newer one."""
_GATEWAY: Final = frozenset({502, 504})
"""A proxy's word that the router did not answer it: what became of the request is unknown."""
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Socket(Protocol):
    """An open WebSocket."""

    async def send(self, text: str) -> None:
        """Send a text. It is on its way when this first waits; raises Lost."""

    async def receive(self) -> str:
        """Wait for a text; raises Lost or UntrustedAnswer."""

    async def aclose(self) -> None:
        """Say goodbye, and close. Somebody goes on receiving meanwhile."""

    def abort(self) -> None:
        """Close without a word."""


class Transport(Protocol):
    """What carries requests to one origin."""

    @property
    def origin(self) -> str:
        """Scheme, host and port, in lower case, without a default port."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: dict[str, str] | None = None,
        sign: Sign | None = None,
        timeout_s: float = TIMEOUT_S,
        max_bytes: int = ANSWER_MAX_BYTES,
    ) -> Any:
        """Return the parsed answer of a success; raises Unreachable, Refused or UntrustedAnswer."""

    async def open(self, path: str, *, sign: Sign) -> Socket:
        """Open a WebSocket; raises Unreachable, or Refused with whatever status came in place of the upgrade."""

    async def aclose(self) -> None:
        """Close all connections."""


class HttpTransport:
    """Requests over HTTP with httpx: bounded in time and size, no redirects, no compression.

    WebSockets go the same way, through the same proxy, and trust the same certificates; but in place of a given httpx
    transport there are none.
    """

    def __init__(
        self, base_url: str, *, transport: httpx.AsyncBaseTransport | None = None, allow_http: bool = False
    ) -> None:
        self._origin = origin_of(base_url)
        if not (allow_http or transport or _is_private(self._origin)):
            raise ValueError("plain http would show the session to the network: use https")
        self._proxy = None if transport else _proxy_for(self._origin)
        with _certificates_named():
            self._trust = True if transport else httpx.create_ssl_context()
            self._http = httpx.AsyncClient(
                base_url=self._origin,
                transport=transport,
                verify=self._trust,
                proxy=self._proxy,
                trust_env=False,
                follow_redirects=False,
                # An answer that unpacks to a thousand times its size is not worth the bandwidth it saves.
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            )

    @property
    def origin(self) -> str:
        return self._origin

    async def aclose(self) -> None:
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: dict[str, str] | None = None,
        sign: Sign | None = None,
        timeout_s: float = TIMEOUT_S,
        max_bytes: int = ANSWER_MAX_BYTES,
    ) -> Any:
        """Return the parsed answer of a success; raises Unreachable, Refused or UntrustedAnswer."""
        request = self._http.build_request(
            method,
            path,
            content=None if json is None else _encode(json),
            params=params,
            headers={} if json is None else {"Content-Type": "application/json"},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        )
        if sign is not None:
            url = self._origin + request.url.raw_path.partition(b"?")[0].decode("ascii")
            request.headers.update(sign(method, url, request.content))
        response, body = await self._exchange(request, timeout_s, max_bytes)
        return _read(response, body)

    async def open(self, path: str, *, sign: Sign) -> Socket:
        """Open a WebSocket; raises Unreachable, or Refused with whatever status came in place of the upgrade."""
        if not isinstance(self._trust, ssl.SSLContext):
            raise Unreachable("this way to the server carries no WebSockets", sent=True)
        if self._http.is_closed:
            raise RuntimeError("this client is closed")
        url = self._origin + path
        context = self._trust if url.startswith("https:") else None
        try:
            return await WebSocket.open("ws" + url.removeprefix("http"), sign("GET", url, b""), context, self._proxy)
        except NotUpgraded as answer:
            raise _refusal(httpx.Response(answer.status, headers=answer.headers), answer.body) from None
        except (WebSocketException, TimeoutError, ImportError) as error:
            raise Unreachable("the server did not answer the handshake of a WebSocket", sent=True) from error
        except OSError as error:
            raise _unreached(error) from error

    async def _exchange(self, request: httpx.Request, timeout_s: float, max_bytes: int) -> tuple[httpx.Response, bytes]:
        # httpx bounds each read; only a bound on the whole stops a router that sends a byte now and then.
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.send(request, stream=True)
                try:
                    return response, await _bounded(response, max_bytes)
                finally:
                    await response.aclose()
        except _NOT_SENT as error:
            raise _unreached(error) from error
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            raise Unreachable("the server did not answer", sent=True) from error


def _proxy_for(origin: str) -> str | None:
    """Return the proxy that the environment names for an origin.

    It is looked up here once, for requests and WebSockets alike: libraries read the same variables differently, and
    what should go through a proxy must not go past it.
    """
    url = httpx.URL(origin)
    if proxy_bypass(url.host if ":" in url.host else url.netloc.decode("ascii")):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


@contextmanager
def _certificates_named() -> Iterator[None]:
    """Raise FileError, with its name, for a file of trusted certificates that is none."""
    try:
        yield
    except OSError as error:
        path = os.environ.get("SSL_CERT_FILE", "")
        raise FileError(
            f"SSL_CERT_FILE names {path}, which cannot be used: {error.strerror or 'no certificates'}",
            "Name a file of certificates to trust, in PEM, or unset it.",
        ) from error


def _unreached(error: Exception) -> Unreachable:
    """Say what stands between this computer and the server, where that is known."""
    cause = _tls_error(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        what = f"the server's certificate is not trusted: {cause.verify_message}"
        return Unreachable(what, sent=False, hint="If it is the right one, set SSL_CERT_FILE to a file that holds it.")
    if cause is not None:
        hint = "This server does not speak TLS, or no TLS of today: is the address right?"
        return Unreachable("no TLS connection to the server can be made", sent=False, hint=hint)
    return Unreachable("the server cannot be reached", sent=False)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def origin_of(url: str) -> str:
    """Return the canonical origin of a URL that is nothing but an origin; raises ValueError for any other."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError("not an address of a server") from error
    bare = parsed.scheme in {"http", "https"} and parsed.host and not (parsed.userinfo or parsed.query)
    if not bare or parsed.fragment or parsed.path not in {"", "/"} or (parsed.port or 1) > PORT_MAX:
        raise ValueError("the server's address must look like https://chat.example.org")
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}".lower()


def _is_private(origin: str) -> bool:
    url = httpx.URL(origin)
    return url.scheme == "https" or url.host in LOOPBACK


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


async def _bounded(response: httpx.Response, max_bytes: int) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UntrustedAnswer("the server compressed an answer without being asked to")
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise UntrustedAnswer("the server's answer is larger than any honest one")
    return bytes(body)


def _read(response: httpx.Response, body: bytes) -> Any:
    if response.is_success:
        return parse_json(body)
    if response.status_code in _GATEWAY:
        raise Unreachable(f"a gateway answered {response.status_code} for the server", sent=True)
    if not response.is_error:
        raise UntrustedAnswer(f"the server answered {response.status_code}, which is no answer of this protocol")
    raise _refusal(response, body)


def parse_json(body: bytes | str) -> Any:
    """Read JSON; this parser bounds depth and refuses lone surrogates, NaN and text that is not UTF-8."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise UntrustedAnswer("the server's answer is not JSON") from error


def _refusal(response: httpx.Response, body: bytes) -> Refused:
    retry_after = _seconds(response.headers.get("Retry-After", ""))
    try:
        problem = parse(Problem, parse_json(body))
    except UntrustedAnswer:
        return refused(response.status_code, "", "", retry_after)
    return refused(response.status_code, problem.code, problem.detail, retry_after)


def refused(status: int, code: str, detail: str, retry_after: float | None) -> Refused:
    """Make a refusal of what the router said, as far as that can be shown."""
    is_code = _CODE.fullmatch(code) is not None
    return Refused(
        status, code if is_code else UNKNOWN, printable(detail) or f"the server answered {status}", retry_after
    )


def _seconds(value: str) -> float | None:
    """Read Retry-After in its form of seconds (RFC 9110, section 10.2.3)."""
    return float(value) if re.fullmatch(r"[0-9]{1,9}", value, re.ASCII) else None


def printable(text: str) -> str:
    """Return text that cannot steer a terminal or fill a screen."""
    return "".join(character for character in text[:DETAIL_MAX_CHARS] if character.isprintable())


def parse(model: type[T], value: object) -> T:
    """Read an answer as a model of the wire contract; raises UntrustedAnswer if it is not one."""
    try:
        return TypeAdapter(model).validate_python(value)
    except (ValidationError, OverflowError):
        # OverflowError: a time so close to year 1 or 9999 that it has no UTC.
        # The cause is dropped: pydantic quotes the input, and that may be a token.
        raise UntrustedAnswer("the server's answer does not have the shape that the contract gives") from None
