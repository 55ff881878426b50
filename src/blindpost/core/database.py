"""PostgreSQL: the pool, explicit transactions, raw connections for the writer and the hub, migrations.

Whatever goes wrong below leaves here as one of the errors of `errors.py`, without the text of the driver:
driver messages can carry names and keys.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, parse_qsl, urlsplit

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, QueuePool, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from blindpost.errors import ConfigurationError, OutcomeUnknown, StartError, Unavailable

if TYPE_CHECKING:
    from blindpost.core.hub import Hint, WakeUpBus

MIN_SERVER_VERSION: Final = 180_000
DURABILITY: Final = ("fsync", "synchronous_commit", "full_page_writes")
CONNECT_TIMEOUT_S: Final = 5
"""For all hosts that the URL names together: each gets its part of it."""
POOL_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_S: Final = 7
"""Every statement of ours is short. With what closing a silent connection takes, a frozen server is a 503 in 10 s."""
MIGRATION_LOCK: Final = 0x626C696E64
"""An advisory lock, so that nodes that start together migrate one after the other."""

REASONS: Final[Mapping[type[BaseException], str]] = {
    asyncpg.InvalidAuthorizationSpecificationError: "it refuses this user or password",
    asyncpg.InvalidCatalogNameError: "it has no such database",
    asyncpg.TargetServerAttributeNotMatched: "it is a standby, or takes no writes for another reason",
    TimeoutError: "no answer in time",
}
NAME_MISMATCHES: Final = frozenset({62, 64})
CERTIFICATE_EXPIRED: Final = 10
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH and ..._CERT_HAS_EXPIRED."""

LOSSES: Final = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that died in the middle of an answer
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    OSError,
    TimeoutError,
)
"""What asyncpg raises when the server is gone, going or full."""

PASSING: Final = (*LOSSES, asyncpg.DeadlockDetectedError, asyncpg.InsufficientResourcesError)
"""And what a later try may not meet again: a full disk, two transactions that waited for each other."""

Transaction = AsyncConnection
"""What a repository takes: a connection inside of the transaction that a service opened."""

HINTS: Final = "blindpost.hints"
"""In a connection's `info`: what its transaction will have been news of."""


class Database:
    """One PostgreSQL, as one process sees it."""

    def __init__(self, url: str, *, pool_size: int, variable: str = "BLINDPOST_DATABASE_URL") -> None:
        self._variable = variable
        self._url = _driver_url(url, variable)
        self._hosts = _hosts_of(self._url)
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            # The driver reads the URL, so that its options (sslmode and others) mean the same everywhere.
            async_creator=self.connect_raw,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_pre_ping=False,
            # Parameters are names, keys and ciphertext: no error may show them.
            hide_parameters=True,
        )
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.bus: WakeUpBus | None = None
        """What carries the hints of transactions; without one there is nobody to hear them."""

    @property
    def in_use(self) -> int:
        """How many connections of the pool are taken."""
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def close(self) -> None:
        await self.engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for statements that each stand alone; raises Unavailable."""
        with _losses_as(Unavailable):
            async with _opened(self._reading) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed, durably, when the block ends; raises Unavailable, OutcomeUnknown.

        A cancelled commit may or may not have happened, so a commit is never cancelled: the connection is
        given back only when the server has answered, and the cancellation goes on then.
        """
        hints: list[Hint] = []
        try:
            async with self._transaction(hints) as connection:
                yield connection
        finally:
            # Where the commit is certain or may have happened: a hint at nothing does no harm.
            if hints and self.bus is not None:
                await self.bus.publish(hints)

    @asynccontextmanager
    async def _transaction(self, hints: "list[Hint]") -> AsyncIterator[AsyncConnection]:
        """Gather the hints of a transaction, and forget them if it is rolled back."""
        with _losses_as(Unavailable):
            async with _opened(self.engine) as connection:
                transaction = await connection.begin()
                connection.info[HINTS] = hints
                try:
                    yield connection
                    if self.bus is not None:
                        await self.bus.ride(connection, hints)
                except BaseException:
                    hints.clear()
                    # Its own failure means that the connection is gone, and the server rolls back by itself. It must
                    # not take the place of a cancellation: that would look like a loss, and be tried again.
                    with suppress(Exception):
                        await _to_the_end(transaction.rollback())
                    raise
                with _losses_as(OutcomeUnknown):
                    await _to_the_end(transaction.commit())

    async def connect_raw(self) -> "asyncpg.Connection[Any]":
        """A connection of asyncpg's, in autocommit; raises the driver's errors."""
        return await self._connect(command_timeout=STATEMENT_TIMEOUT_S)

    async def _connect(self, **more: Any) -> "asyncpg.Connection[Any]":
        """Ask one host after the other, first the one that answered last; raises what the last of them did.

        The driver can do this as well, but in one time for all: a first host that is silent would use it up. Of several
        hosts one takes writes, and a router has no use for the others.
        """
        if len(self._hosts) > 1 and "target_session_attrs" not in parse_qs(urlsplit(self._url).query):
            more["target_session_attrs"] = "read-write"
        hosts = tuple(self._hosts)
        for url in hosts:
            try:
                connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S / len(hosts), **more)
            except LOSSES:
                if url is hosts[-1]:
                    raise
            else:
                self._hosts = [url, *(each for each in hosts if each is not url)]
                return connection
        raise AssertionError("a URL names a host at least")

    async def ping(self) -> None:
        """Raise Unavailable unless the server answers."""
        async with self.reading() as connection:
            await connection.execute(text("SELECT 1"))

    async def check_server(self) -> None:
        """Raise StartError, in one line, unless a PostgreSQL that is new enough answers."""
        try:
            connection = await self.connect_raw()
        except (*LOSSES, asyncpg.PostgresError, ValueError) as error:
            reason = f"PostgreSQL does not answer at {self.address}: {_reason(error, self._url)}"
            raise StartError(reason, f"check {self._variable}, and that the server runs") from None
        try:
            version = int(await connection.fetchval("SHOW server_version_num"))
        finally:
            await connection.close()
        if version < MIN_SERVER_VERSION:
            raise StartError(
                f"PostgreSQL 18 or newer is needed, and this one is {version // 10_000}",
                "upgrade it, or unset BLINDPOST_DATABASE_URL to use the embedded one",
            )

    async def unsafe_settings(self) -> list[str]:
        """Name the settings of the server that give up durability."""
        async with self.reading() as connection:
            query = text("SELECT name FROM pg_settings WHERE name = ANY(:names) AND setting = 'off'")
            rows = await connection.execute(query, {"names": list(DURABILITY)})
            return sorted(rows.scalars())

    @property
    def address(self) -> str:
        """Host and port, without user, password or database: fit for a message."""
        parts = urlsplit(self._url)
        if len(self._hosts) > 1:
            return parts.netloc.rpartition("@")[2]
        host = parts.hostname or parse_qs(parts.query).get("host", ["its socket"])[-1]
        return f"{host}:{parts.port or 5432}"

    async def migrate(
        self, revision: str = "head", then: Callable[[Connection], None] = lambda _: None
    ) -> tuple[str | None, str | None]:
        """Bring the schema to a revision; returns the revisions before and after. Raises ConfigurationError.

        `then` is called in the same transaction where that is the newest one.
        """
        try:
            async with self.changing_schema() as connection:
                before, after = await connection.run_sync(step_to, revision)
                if after == newest_revision():
                    await connection.run_sync(then)
                return before, after
        except (DBAPIError, *LOSSES) as error:
            cause = postgres_error(error) or error
            raise StartError(
                f"the schema cannot be brought to {revision}: {type(cause).__name__}",
                "run `blindpost migrate` as the role that owns the tables, or may create them:"
                " set BLINDPOST_MIGRATION_DATABASE_URL for it",
            ) from error

    @asynccontextmanager
    async def changing_schema(self) -> AsyncIterator[AsyncConnection]:
        """A transaction in which nobody else changes the schema; raises the driver's errors."""
        engine = create_async_engine("postgresql+asyncpg://", poolclass=NullPool, async_creator=self.connect_patiently)
        async with engine.connect() as connection, connection.begin():
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            yield connection

    async def connect_patiently(self) -> "asyncpg.Connection[Any]":
        """Connect without a limit per statement: a change of a large table takes long, and so does waiting for it."""
        return await self._connect()

    async def revisions(self) -> tuple[str | None, str | None]:
        """Return the schema's present revision and the newest one that this program knows."""
        async with self.engine.connect() as connection:
            return await connection.run_sync(_present), newest_revision()


def violated_constraint(error: IntegrityError) -> str | None:
    """Name the constraint that refused a statement."""
    return getattr(postgres_error(error), "constraint_name", None)


def postgres_error(error: BaseException) -> BaseException | None:
    """Return the driver's own error beneath one of SQLAlchemy's."""
    return error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else None


@asynccontextmanager
async def _opened(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Take a connection; raises Unavailable, whatever reason the server has to refuse one: nothing was done yet."""
    connection = engine.connect()
    try:
        await connection.start()
    except DBAPIError as error:
        raise Unavailable from error
    try:
        yield connection
    finally:
        await _to_the_end(connection.close())


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for what must not be cut short; a cancellation meanwhile is raised when it is over.

    A bare shield would let the caller go on at once, and use the connection while the work still does.
    """
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # looked at, or asyncio would call it lost; the cancellation goes before it
    raise cancellation


class _losses_as:  # noqa: N801 - reads as a statement
    """Turn the loss of the server into an error of ours; let every other error pass."""

    def __init__(self, problem: type[Unavailable]) -> None:
        self.problem = problem

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _tb: object) -> None:
        if error is not None and _is_loss(error):
            raise self.problem from error


def _is_loss(error: BaseException) -> bool:
    if isinstance(error, PoolTimeoutError | OperationalError | InterfaceError):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error.orig and error.orig.__cause__, PASSING)
    return isinstance(error, LOSSES)


def _reason(error: BaseException, url: str) -> str:
    """Say why in a few words that hold no secret: the driver's own text may hold the URL."""
    for kind, words in REASONS.items():
        if isinstance(error, kind):
            return words
    if (root := dict(parse_qsl(urlsplit(url).query)).get("sslrootcert")) and not os.access(root, os.R_OK):
        return f"the file of sslrootcert, {root}, cannot be read"
    if isinstance(error, ssl.SSLError):
        return _tls_reason(error)
    if type(error) is ConnectionError:  # the driver's own; the kernel's are of its subclasses
        return "it does not speak TLS, and sslmode demands it"
    return "no connection" if isinstance(error, OSError) else type(error).__name__


def _tls_reason(error: ssl.SSLError) -> str:
    """Say what is wrong with the server's certificate; the library's own words are for those who know them."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "TLS with it fails"
    if error.verify_code in NAME_MISMATCHES:
        return "its certificate is for another host name"
    if error.verify_code == CERTIFICATE_EXPIRED:
        return "its certificate has expired"
    return "its certificate is not of the authority in sslrootcert"


def _driver_url(url: str, variable: str) -> str:
    """Accept the usual spellings of a PostgreSQL URL; raises ConfigurationError for anything else."""
    scheme, _, rest = url.partition("://")
    if scheme not in {"postgresql", "postgres", "postgresql+asyncpg"} or not rest:
        raise ConfigurationError(
            f"{variable} is not a PostgreSQL URL", "write it as postgresql://user:password@host:5432/name"
        )
    try:
        for each in _hosts_of(f"postgresql://{rest}"):
            _ = urlsplit(each).port
    except ValueError:
        raise ConfigurationError(f"{variable} has a port that is no number", "") from None
    return f"postgresql://{rest}"


def _hosts_of(url: str) -> list[str]:
    """Write a URL that names several hosts (host1:port1,host2:port2) as one for each."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [url]
    return [parts._replace(netloc=f"{user}{at}{each}").geturl() for each in hosts.split(",")]


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _present(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def step_to(connection: Connection, revision: str) -> tuple[str | None, str | None]:
    """Bring the schema to a revision in the transaction that is open; returns the revisions before and after.

    Raises ConfigurationError for a revision that is none, and StartError for one that is newer than this program.
    """
    if revision not in (known := ["head", "base", *_revisions()]):
        raise ConfigurationError(f"there is no revision {revision!r} of the schema", f"give one of {', '.join(known)}")
    before = _present(connection)
    if before is not None and not is_known(before):
        raise StartError(
            "the database's schema is newer than this program", "run the version of Blindpost that made it"
        )
    config = _config()
    config.attributes["connection"] = connection
    if revision in {"head", *_revisions()} and _index(revision) >= _index(before):
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)
    return before, _present(connection)


def is_known(revision: str) -> bool:
    """Tell whether this program knows a revision of the schema."""
    return revision in _revisions()


def newest_revision() -> str | None:
    """Return the newest revision that this program knows."""
    return _script().get_current_head()


def _revisions() -> list[str]:
    return [script.revision for script in reversed(list(_script().walk_revisions()))]


def _index(revision: str | None) -> int:
    known = _revisions()
    if revision is None:
        return -1
    return len(known) if revision == "head" else known.index(revision)
