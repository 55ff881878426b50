"""TLS of the router's own: which it speaks, what it shows, what a handshake may cost, and when it does not start."""

import asyncio
import resource
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from blindpost import tls
from blindpost.app import Running
from blindpost.client import Client, Identity, Store
from blindpost.config import Settings
from blindpost.core.embedded import StoreUrls
from blindpost.core.hub import Hub
from blindpost.errors import ConfigurationError
from blindpost.routers import listener
from blindpost.routers.addresses import Places
from blindpost.routers.connection import DESCRIPTORS_RESERVED
from blindpost.telemetry import CONNECTIONS_REFUSED
from certificates import Authority, Pair
from checks import refusal, success, until
from sockets import Ws
from support import contacts, running_in_thread, settings_for, unique_name

HSTS = "Strict-Transport-Security"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(home: Path) -> Authority:
    return Authority(home)


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("127.0.0.1", "localhost", stem="router")


@pytest.fixture(scope="module")
def secure(stores: StoreUrls, data_dir: Path, pair: Pair) -> Iterator[Running]:
    settings = settings_for(stores, data_dir / "tls-node", tls_cert=pair.cert, tls_key=pair.key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tls, "LOOK_S", 0.05)
        with running_in_thread(settings) as running:
            yield running


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    """A client's side: trusts the authority, as strictly as Python 3.13 does by itself."""
    context = ssl.create_default_context(cafile=str(authority.file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def client_of(router: Running, context: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=router.origin, verify=context, timeout=60)


async def opened(router: Running, context: ssl.SSLContext | None = None) -> Streams:
    parts = urlsplit(router.origin)
    return await asyncio.open_connection(parts.hostname, parts.port, ssl=context)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def shown(router: Running, context: ssl.SSLContext) -> bytes:
    """Return the certificate that the router shows."""
    _, writer = await opened(router, context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    await closed(writer)
    return certificate


class Heard:
    """What was logged, by its event."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **_: object) -> None:
        self.events.append(event)

    info = warning


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    recorder = Heard()
    monkeypatch.setattr(tls, "log", recorder)
    return recorder


async def is_let_go(reader: asyncio.StreamReader) -> bool:
    """Wait until the router closes a connection."""
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    return True


# What it speaks


async def test_two_people_write_to_each_other_over_tls(secure: Running, trusting: ssl.SSLContext) -> None:
    assert secure.origin.startswith("https://127.0.0.1:")
    async with client_of(secure, trusting) as http:
        alice, bob = await contacts(http)
        waiting = asyncio.create_task(bob.poll(20))
        success(await alice.send(bob, b"sealed"), 201)
        assert [each["sender_id"] for each in (await waiting)["messages"]] == [alice.id]


async def test_the_sdk_is_content_with_the_origin_that_a_router_with_tls_signs(
    secure: Running, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    identity = Identity.generate(unique_name())
    async with Client(secure.origin, identity, Store.in_memory(identity)) as client:
        await client.register()
        assert await client.contacts() == []


async def test_tls_1_3_is_spoken_and_nothing_older(secure: Running, trusting: ssl.SSLContext) -> None:
    _, writer = await opened(secure, trusting)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    await closed(writer)
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):  # noqa: PT011 - an alert, or the end before it could be read
        await opened(secure, trusting)


async def test_what_comes_without_tls_is_closed_without_an_answer(secure: Running) -> None:
    reader, writer = await opened(secure)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await is_let_go(reader)
    await closed(writer)


async def test_every_answer_of_an_https_origin_carries_hsts(secure: Running, trusting: ssl.SSLContext) -> None:
    async with client_of(secure, trusting) as http:
        for answer in (await http.get("/health/live"), await http.get("/nowhere"), await http.post("/auth/login")):
            assert answer.headers[HSTS] == tls.HSTS
        refusal(await http.get("/nowhere"), 404)
    reader, writer = await opened(secure, trusting)
    writer.write(b"no request at all\r\n\r\n")
    assert f"{HSTS}: {tls.HSTS}".lower().encode() in (await reader.read()).lower()
    await closed(writer)


async def test_behind_a_proxy_with_tls_answers_carry_hsts_and_elsewhere_they_do_not(
    stores: StoreUrls, data_dir: Path, http: httpx.AsyncClient
) -> None:
    settings = settings_for(stores, data_dir / "proxied", tls_at_proxy=True, public_origin="https://chat.example.org")
    with running_in_thread(settings) as proxied:
        async with httpx.AsyncClient(base_url=proxied.origin) as behind:
            assert (await behind.get("/health/live")).headers[HSTS] == tls.HSTS
    assert HSTS not in (await http.get("/health/live")).headers


async def test_a_stop_does_not_wait_for_clients_that_do_not_answer(
    stores: StoreUrls, data_dir: Path, pair: Pair, trusting: ssl.SSLContext
) -> None:
    settings = settings_for(stores, data_dir / "stopping", tls_cert=pair.cert, tls_key=pair.key)
    with running_in_thread(settings) as router:
        _, silent = await opened(router)
        reader, open_one = await opened(router, trusting)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert await is_let_go(reader)
    await closed(silent)
    await closed(open_one)


# What a handshake may cost


async def test_a_handshake_that_does_not_come_to_its_end_is_given_up(
    secure: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_S", 0.3)
    for beginning in (b"", b"\x16\x03\x01\x02\x00\x01"):
        reader, writer = await opened(secure)
        writer.write(beginning)
        assert await is_let_go(reader)
        await closed(writer)


@pytest.mark.parametrize("scarce", ["handshakes", "descriptors"])
async def test_who_floods_with_handshakes_loses_the_oldest_and_others_still_come_in(
    secure: Running, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, scarce: str
) -> None:
    if scarce == "handshakes":
        monkeypatch.setattr(listener, "HANDSHAKES_MAX", 4)
    else:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (DESCRIPTORS_RESERVED + 4, 0))
    before = CONNECTIONS_REFUSED.labels("handshake")._value.get()
    flood = [await opened(secure) for _ in range(12)]
    for reader, _ in flood[:6]:
        assert await is_let_go(reader)
    async with client_of(secure, trusting) as http:
        success(await http.get("/health/live"))
    assert CONNECTIONS_REFUSED.labels("handshake")._value.get() - before >= 6
    for _, writer in flood:
        await closed(writer)
    await until(lambda: listener.HANDSHAKES._value.get() == 0)


async def test_one_address_has_a_bounded_number_of_handshakes_and_gets_them_back(
    secure: Running, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Places, "_is_exempt", lambda _self, _host: False)  # loopback is, and there is no other here
    flood = [await opened(secure) for _ in range(listener.HANDSHAKES_PER_ADDRESS_MAX)]
    await until(lambda: listener.HANDSHAKES._value.get() == len(flood))
    reader, writer = await opened(secure)
    assert await is_let_go(reader)
    for each in (writer, *(writer for _, writer in flood)):
        await closed(each)
    await until(lambda: listener.HANDSHAKES._value.get() == 0)
    async with client_of(secure, trusting) as http:
        success(await http.get("/health/live"))


async def test_a_full_process_refuses_a_connection_before_its_handshake(
    secure: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (DESCRIPTORS_RESERVED, 0))
    reader, writer = await opened(secure)
    assert await is_let_go(reader)
    await closed(writer)


# Renewal


async def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(
    secure: Running, authority: Authority, pair: Pair, trusting: ssl.SSLContext, heard: Heard
) -> None:
    first = await shown(secure, trusting)
    pair.cert.write_bytes(b"half of a new")
    await until(lambda: "certificate_not_loaded" in heard.events)
    assert await shown(secure, trusting) == first
    assert authority.issue("127.0.0.1", "localhost", stem="router") == pair
    await until(lambda: "certificate_loaded" in heard.events)
    assert await shown(secure, trusting) != first
    async with client_of(secure, trusting) as http:
        success(await http.get("/health/live"))


def test_a_renewal_that_replaces_a_link_is_seen(authority: Authority, tmp_path: Path) -> None:
    old, new = (authority.issue("localhost", stem=stem) for stem in ("link-1", "link-2"))
    links = Pair(tmp_path / "cert", tmp_path / "key")
    for link, target in zip(links, old, strict=True):
        link.symlink_to(target)
    certificate = tls.Certificate(*links)
    before = certificate._current
    for link, target in zip(links, new, strict=True):
        link.unlink()
        link.symlink_to(target)
    certificate.look()
    assert certificate._current is not before


def test_a_certificate_that_ends_soon_is_logged_once_a_day(authority: Authority, heard: Heard) -> None:
    certificate = tls.Certificate(*authority.issue("localhost", stem="soon", ends=timedelta(days=5)))
    for _ in range(3):
        certificate.look()
    assert heard.events == ["certificate_ends_soon"]


# When it does not start


def missing(authority: Authority) -> Pair:
    return authority.issue("localhost", stem="x")._replace(cert=Path("/nowhere/cert.pem"))


def no_key(authority: Authority) -> Pair:
    return authority.issue("localhost", stem="x")._replace(key=Path("/nowhere/key.pem"))


def a_directory(authority: Authority) -> Pair:
    pair = authority.issue("localhost", stem="x")
    return pair._replace(cert=pair.cert.parent)


def no_certificate(authority: Authority) -> Pair:
    pair = authority.issue("localhost", stem="x")
    pair.cert.write_text("none")
    return pair


def key_is_none(authority: Authority) -> Pair:
    pair = authority.issue("localhost", stem="x")
    pair.key.write_text("none")
    return pair


def mismatched(authority: Authority) -> Pair:
    return Pair(authority.issue("localhost", stem="x").cert, authority.issue("localhost", stem="y").key)


def expired(authority: Authority) -> Pair:
    return authority.issue("localhost", stem="x", ends=timedelta(seconds=-1))


def not_yet(authority: Authority) -> Pair:
    return authority.issue("localhost", stem="x", begins=timedelta(days=1))


def open_to_the_group(authority: Authority) -> Pair:
    pair = authority.issue("localhost", stem="x")
    pair.key.chmod(0o640)
    return pair


def locked(authority: Authority) -> Pair:
    return authority.issue("localhost", stem="x", passphrase="secret")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (missing, "cannot be read"),
        (no_key, "cannot be read"),
        (a_directory, "cannot be read"),
        (no_certificate, "holds no certificate"),
        (key_is_none, "holds no private key"),
        (mismatched, "does not belong"),
        (expired, "ended on"),
        (not_yet, "begins on"),
        (open_to_the_group, "others can read"),
        (locked, "passphrase"),
    ],
)
async def test_a_certificate_or_key_that_is_not_in_order_stops_the_start_with_a_sentence(
    stores: StoreUrls,
    tmp_path: Path,
    make: Callable[[Authority], Pair],
    sentence: str,
) -> None:
    pair = make(Authority(tmp_path))
    settings = settings_for(stores, tmp_path / "data", tls_cert=pair.cert, tls_key=pair.key)
    with pytest.raises(ConfigurationError, match=sentence) as caught, running_in_thread(settings):
        pass
    assert caught.value.hint


def test_a_certificate_is_for_the_names_that_it_holds(authority: Authority) -> None:
    names = ("chat.example.org", "*.example.net", "192.0.2.1", "2001:db8::1")
    loaded = tls.Loaded.read(*authority.issue(*names, stem="names"))
    for host in ("chat.example.org", "CHAT.example.org.", "a.example.net", "192.0.2.1", "2001:db8:0::1"):
        assert loaded.is_for(host), host
    for host in ("example.org", "example.net", "a.b.example.net", "192.0.2.2", "localhost", "net"):
        assert not loaded.is_for(host), host


# Where it may listen without

HTTPS = "https://chat.example.org"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_may_be_served_without_tls(host: str) -> None:
    tls.check_transport(Settings(host=host))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "chat.example.org", "127.example.org", "", "localhost.org"]
)
@pytest.mark.parametrize("origin", [None, HTTPS])
async def test_no_other_address_is_served_without_tls_or_the_word_that_a_proxy_speaks_it(
    stores: StoreUrls, tmp_path: Path, host: str, origin: str | None
) -> None:
    settings = settings_for(stores, tmp_path, host=host, public_origin=origin)
    with pytest.raises(ConfigurationError) as caught, running_in_thread(settings):
        pass
    assert "--tls-cert" in caught.value.hint
    assert "--tls-at-proxy" in caught.value.hint


def test_tls_here_or_at_a_proxy_opens_every_address() -> None:
    files = {"tls_cert": Path("cert"), "tls_key": Path("key")}
    tls.check_transport(Settings(host="0.0.0.0", public_origin=HTTPS, tls_cert=files["tls_cert"], tls_key=Path("key")))
    tls.check_transport(Settings(host="192.0.2.1", tls_cert=files["tls_cert"], tls_key=files["tls_key"]))
    tls.check_transport(Settings(host="0.0.0.0", public_origin=HTTPS, tls_at_proxy=True))


@pytest.mark.parametrize("origin", [None, "http://chat.example.org"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_tls_at_a_proxy_needs_an_https_origin(host: str, origin: str | None) -> None:
    with pytest.raises(ConfigurationError, match="https://"):
        tls.check_transport(Settings(host=host, public_origin=origin, tls_at_proxy=True))


def test_tls_here_refuses_an_http_origin_and_an_address_that_nobody_can_type() -> None:
    cert, key = Path("cert"), Path("key")
    with pytest.raises(ConfigurationError, match="http://"):
        tls.check_transport(Settings(public_origin="http://chat.example.org", tls_cert=cert, tls_key=key))
    with pytest.raises(ConfigurationError, match="type"):
        tls.check_transport(Settings(host="::", tls_cert=cert, tls_key=key))


async def test_a_websocket_goes_over_tls_and_its_place_is_given_back(secure: Running, trusting: ssl.SSLContext) -> None:
    hub = await secure.container.get(Hub)
    async with client_of(secure, trusting) as http:
        alice, bob = await contacts(http)
        headers = bob.signed("GET", f"{secure.origin}/messages/ws")
        ws = await Ws.connect(secure.origin, "/messages/ws", headers, trusting)
        for size in (1, 65_536):
            sent = success(await alice.send(bob, bytes(size)), 201)["id"]
            assert (await ws.next("message"))["id"] == sent
            ws.ack(sent)
            assert (await ws.next("acknowledged"))["acknowledged"] == [sent]
        await ws.vanish()
        await until(lambda: hub._count == 0)
