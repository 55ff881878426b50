"""The only wiring: what is made of what, what runs behind the requests, and in which order it all ends."""

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NewType, cast

import prometheus_client
import uvicorn
from dishka import AsyncContainer, Provider, Scope, from_context, make_async_container, provide
from dishka.integrations.fastapi import setup_dishka
from fastapi import FastAPI
from prometheus_client.registry import CollectorRegistry
from starlette.types import ASGIApp

from blindpost import __version__
from blindpost.config import Settings, Switch, WakeUp
from blindpost.core import privileges
from blindpost.core.audit import Audit, Event
from blindpost.core.cache import Cache
from blindpost.core.database import Database
from blindpost.core.hub import Hub, WakeUpBus
from blindpost.core.limiter import Limiter
from blindpost.core.notify_bus import NotifyBus
from blindpost.core.observer import Observer
from blindpost.core.pseudonyms import Pseudonyms, key_of_hints
from blindpost.core.quota import MailboxQuota
from blindpost.core.reader import MessageReader
from blindpost.core.redis_bus import RedisBus
from blindpost.core.repositories import messages
from blindpost.core.tokens import Tokens
from blindpost.core.writer import MessageWriter
from blindpost.errors import ConfigurationError, StartError
from blindpost.routers import auth as auth_router
from blindpost.routers import contacts as contacts_router
from blindpost.routers import health as health_router
from blindpost.routers import messages as messages_router
from blindpost.routers import prekeys as prekeys_router
from blindpost.routers import problems
from blindpost.routers.addresses import Places, read_networks
from blindpost.routers.connection import Connection, connection_class
from blindpost.routers.direct import Direct
from blindpost.routers.listener import HANDSHAKES_PER_ADDRESS_MAX, TlsListener
from blindpost.routers.middleware import Gate
from blindpost.routers.streams import Streams
from blindpost.services.auth import AuthService
from blindpost.services.contacts import ContactService
from blindpost.services.housekeeping import keep_house, kinds
from blindpost.services.messages import MessageService
from blindpost.services.models.common import Problem
from blindpost.services.prekeys import PrekeyService
from blindpost.telemetry import POOL_IN_USE, POOL_SIZE, log_fault, registry
from blindpost.tls import HSTS, Certificate, certificate_of, check_transport
from blindpost.tracing import traces

LISTEN_BACKLOG: Final = 4_096
DRAIN_S: Final = 4
"""After the waiting polls were let go, what is left of the requests gets this long."""
LISTENER_START_S: Final = 10

NodeDir = NewType("NodeDir", Path)
"""Where this process keeps what no other may write, the worker beside it included."""


class Components(Provider):
    """Everything lives as long as the process: a request makes nothing but its answer."""

    scope = Scope.APP
    settings = from_context(provides=Settings, scope=Scope.APP)
    node_dir = from_context(provides=NodeDir, scope=Scope.APP)

    @provide
    async def database(self, settings: Settings) -> AsyncIterator[Database]:
        if settings.database_url is None:
            raise ConfigurationError("no database is given", "set BLINDPOST_DATABASE_URL")
        async with Database(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size) as each:
            POOL_SIZE.set(settings.database_pool_size)
            POOL_IN_USE.set_function(lambda: each.in_use)
            yield each

    @provide
    async def cache(self, settings: Settings) -> AsyncIterator[Cache]:
        if settings.redis_url is None:
            raise ConfigurationError("no Redis is given", "set BLINDPOST_REDIS_URL")
        cache = Cache(settings.redis_url.get_secret_value())
        yield cache
        await cache.close()

    @provide
    def tokens(self, settings: Settings, database: Database, audit: Audit) -> Tokens:
        return Tokens(settings.data_dir, database, audit)

    @provide
    def writer(self, settings: Settings, database: Database, hub: Hub) -> MessageWriter:
        return MessageWriter(database, hub, require_contact=settings.require_contact)

    @provide
    def reader(self, database: Database) -> MessageReader:
        return MessageReader(database)

    @provide
    def quota(self, settings: Settings, database: Database) -> MailboxQuota:
        return MailboxQuota(
            database,
            messages_max=settings.mailbox_messages_max,
            bytes_max=settings.mailbox_bytes_max,
            require_contact=settings.require_contact,
        )

    @provide
    async def bus(self, settings: Settings, database: Database) -> AsyncIterator[WakeUpBus]:
        bus: WakeUpBus = NotifyBus(database)
        if settings.wake_up_bus is WakeUp.REDIS and settings.redis_url is not None:
            bus = RedisBus(settings.redis_url.get_secret_value(), await key_of_hints(database))
        database.bus = bus
        yield bus
        await bus.close()

    @provide
    def hub(self, settings: Settings, database: Database, reader: MessageReader, bus: WakeUpBus) -> Hub:
        async def find_sessions(session_ids: list[Any]) -> dict[Any, bool]:
            async with database.reading() as connection:
                return await messages.sessions_told(connection, session_ids)

        return Hub(
            bus,
            reader.find_news,
            find_sessions,
            sweep_interval_s=settings.sweep_interval_s,
            waiting_max=settings.waiting_max,
            waiting_per_user_max=settings.waiting_per_user_max,
            waiting_per_address_max=settings.connections_per_address_max,
        )

    @provide
    def pseudonyms(self, database: Database) -> Pseudonyms:
        return Pseudonyms(database)

    @provide
    def audit(self, settings: Settings, node_dir: NodeDir, database: Database, pseudonyms: Pseudonyms) -> Audit:
        return Audit(database, pseudonyms, node_dir, settings.audit_days)

    @provide
    def limiter(self, settings: Settings, cache: Cache, pseudonyms: Pseudonyms, audit: Audit) -> Limiter:
        return Limiter(cache, pseudonyms, audit, is_on=settings.rate_limits is Switch.ON)

    @provide
    def auth(self, settings: Settings, database: Database, cache: Cache, tokens: Tokens, audit: Audit) -> AuthService:
        return AuthService(
            database,
            cache,
            tokens,
            audit,
            origin=settings.origin,
            session_lifetime_s=settings.session_lifetime_s,
            allow_bearer=settings.allow_bearer,
        )

    @provide
    def prekeys(self, settings: Settings, database: Database, audit: Audit) -> PrekeyService:
        return PrekeyService(database, audit, require_contact=settings.require_contact)

    contacts = provide(ContactService)
    messages = provide(MessageService)


def create_app(container: AsyncContainer) -> FastAPI:
    """Describe and route all calls, over components that are open."""
    app = FastAPI(
        title="Blindpost",
        version=__version__,
        summary="A post office that cannot read the post",
        # The documentation pages would load scripts from elsewhere; the description itself is enough.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in (auth_router, contacts_router, prekeys_router, messages_router, health_router):
        app.include_router(module.router)
    problems.install(app)
    setup_dishka(container, app)
    _describe(app)
    return app


async def application(container: AsyncContainer) -> ASGIApp:
    """Put around it what stands before every request, and the calls that do without the framework."""
    auth, limiter = await container.get(AuthService), await container.get(Limiter)
    messages = await container.get(MessageService)
    return Direct(Gate(Streams(create_app(container), auth, limiter, messages)), auth, limiter, messages)


def _describe(app: FastAPI) -> None:
    """Correct the OpenAPI description in place: FastAPI promises a 422 that is never sent, and knows no Problem."""
    schema = app.openapi()
    schemas = schema["components"]["schemas"]
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()


@asynccontextmanager
async def open_components(
    settings: Settings, *overrides: Provider, failed: asyncio.Event | None = None, node_dir: Path | None = None
) -> AsyncIterator[AsyncContainer]:
    """Check and migrate the stores, and run what runs behind the requests; raises ConfigurationError.

    When it ends: the waiting go first, what was taken is written, and the stores are closed last. `failed` is set
    if something behind the requests ends by a fault: the process is then of no use any more.
    """
    context = {Settings: settings, NodeDir: node_dir or settings.data_dir}
    container = make_async_container(Components(), *overrides, context=context)
    try:
        database, cache = await container.get(Database), await container.get(Cache)
        await database.check_server()
        await cache.check_server()
        await cache.begin()
        audit = await container.get(Audit)
        before, after = await privileges.bring_to_head(database, settings.migration_database_url)
        if before != after:
            audit.note(Event.SCHEMA_MIGRATED)
        tokens = await container.get(Tokens)
        await tokens.publish()
        writer, hub = await container.get(MessageWriter), await container.get(Hub)
        reader = await container.get(MessageReader)
        writing = asyncio.create_task(writer.run())
        others = [
            asyncio.create_task(each)
            for each in (
                hub.run(),
                reader.run(),
                tokens.run(),
                cache.run(),
                Observer(database, cache).run(),
                keep_house(database, kinds(settings.message_lifetime_s, settings.retry_window_s)),
            )
        ]
        auditing = asyncio.create_task(audit.run())
        for task in (writing, *others, auditing):
            task.add_done_callback(partial(_report, failed or asyncio.Event()))
        try:
            await _listening(hub)
            yield container
        finally:
            hub.close()
            writer.close()
            await asyncio.wait([writing], timeout=DRAIN_S)
            audit.close()  # last: whatever ended before may have noted something
            await asyncio.wait([auditing], timeout=DRAIN_S)
            for task in (writing, *others, auditing):
                task.cancel()
            await asyncio.gather(writing, *others, auditing, return_exceptions=True)
    finally:
        await container.close()


def _report(failed: asyncio.Event, task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log_fault("background_failed", error)
        failed.set()


async def _listening(hub: Hub) -> None:
    try:
        async with asyncio.timeout(LISTENER_START_S):
            await hub.listening.wait()
    except TimeoutError:
        raise StartError(*hub.bus.refusal) from None


@dataclass(frozen=True, slots=True)
class Served:
    """A router that answers, by one process or several."""

    origin: str
    """Where it listens, as a URL."""
    metrics: str
    failed: asyncio.Event
    """Set when it cannot go on."""


@dataclass(frozen=True, slots=True)
class Node:
    """What one process of a router is made of."""

    container: AsyncContainer
    failed: asyncio.Event
    """Set when it cannot go on."""


@dataclass(frozen=True, slots=True)
class Running(Served):
    """A router that answers by this process."""

    container: AsyncContainer


@asynccontextmanager
async def running(settings: Settings, *overrides: Provider) -> AsyncIterator[Running]:
    """Serve HTTP inside the block; raises ConfigurationError. Signals are the caller's business."""
    check_transport(settings)
    with bind(settings.host, settings.port) as listener, serving_metrics(settings, registry) as metrics:
        settings = at_port_of(listener, settings)
        async with answering(settings, listener, *overrides) as node:
            yield Running(origin_of(settings), metrics, node.failed, node.container)


@asynccontextmanager
async def answering(
    settings: Settings, listener: socket.socket, *overrides: Provider, node_dir: Path | None = None
) -> AsyncIterator[Node]:
    """Serve HTTP by this process on a socket that listens, inside the block; raises ConfigurationError."""
    certificate = certificate_of(settings)
    _allow_many_files()
    proxies = read_networks(settings.trusted_proxies)
    places = Places(settings.connections_per_address_max, proxies)
    failed = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(traces.exported(settings.otlp_endpoint))
        components = open_components(settings, *overrides, failed=failed, node_dir=node_dir)
        container = await stack.enter_async_context(components)
        server = _Server(
            uvicorn.Config(
                await application(container),
                http=connection_class(places),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,  # it would write paths, and paths hold names
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies,
                backlog=LISTEN_BACKLOG,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=DRAIN_S,
                headers=_headers(settings),
            ),
            certificate,
            Places(HANDSHAKES_PER_ADDRESS_MAX, proxies),
            (await container.get(Hub)).close,
        )
        async with _following(certificate, failed):
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            serving.add_done_callback(partial(_report, failed))
            try:
                yield Node(container, failed)
            finally:
                server.should_exit = True
                await serving


async def first(*events: asyncio.Event) -> None:
    """Wait for one of several events."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _headers(settings: Settings) -> list[tuple[str, str]]:
    """Headers of every answer, those that are given before a request was understood included."""
    # By the origin and not by the connection: a proxy in front may be where TLS ends.
    return [("Strict-Transport-Security", HSTS)] if settings.origin.startswith("https://") else []


def at_port_of(listener: socket.socket, settings: Settings) -> Settings:
    """Return the settings with the port that was found, where they left it open."""
    return settings.model_copy(update={"port": listener.getsockname()[1]})


def origin_of(settings: Settings) -> str:
    """Say where the router listens, as a URL."""
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{_host(settings.host)}:{settings.port}"


@asynccontextmanager
async def _following(certificate: Certificate | None, failed: asyncio.Event) -> AsyncIterator[None]:
    """Take up renewed certificates inside the block."""
    if certificate is None:
        yield
        return
    following = asyncio.create_task(certificate.follow())
    following.add_done_callback(partial(_report, failed))
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        certificate: Certificate | None,
        handshakes: Places,
        let_go: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._handshakes = handshakes
        self._let_go = let_go

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; for TLS by ourselves, because uvicorn bounds no handshake."""
        if self._certificate is None or not sockets:
            await super().startup(sockets)
            return
        await self.lifespan.startup()
        common = self._certificate.context, self._connection, self.server_state.connections, self._handshakes
        self.servers = cast("list[asyncio.base_events.Server]", [TlsListener(each, *common) for each in sockets])
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody, have each connection end with its answer, and only then answer those who wait.

        In this order, because they come back at once: on a connection that goes on, or at a socket that still listens,
        they would come here again, and not to a router that stays.
        """
        for each in self.servers:
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        self._let_go()
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        make = cast("type[Connection]", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: uvicorn would raise them again at the end, and the exit would not be 0."""
        yield


def spare_the_collector() -> None:
    """Have cycles looked for less often, and never among what was made by now; for a process that is a router alone.

    A request leaves next to no cycles behind, and the search took a twelfth of the processor's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _allow_many_files() -> None:
    """Each waiting poll is an open file, and the usual soft limit of 1,024 is not meant for servers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def bind(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Listen; raises ConfigurationError, one sentence. With `reuse_port` several sockets can listen on one port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG, reuse_port=reuse_port)
        # Accepted connections inherit it; asyncio sets it only on sockets that it made itself. Without it an answer
        # can wait 40 ms for the client's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {_host(host)}:{port}: {error.strerror}",
            "choose another with --host and --port, or BLINDPOST_HOST and BLINDPOST_PORT",
        ) from None


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def serving_metrics(settings: Settings, source: CollectorRegistry) -> Iterator[str]:
    """Answer Prometheus on a listener of its own, which the world need not reach; raises ConfigurationError."""
    try:
        server, thread = prometheus_client.start_http_server(
            settings.metrics_port, settings.metrics_host, registry=source
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot serve metrics on port {settings.metrics_port}: {error.strerror}", "set BLINDPOST_METRICS_PORT"
        ) from None
    try:
        yield f"http://{_host(settings.metrics_host)}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
