"""What the stores allow: whether what they hold is safe from others, and from a router that was taken over."""

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from blindpost.core.addresses import is_here
from blindpost.core.database import Database
from blindpost.core.privileges import MIGRATE, missing_rights, superfluous_rights
from blindpost.errors import BlindpostError, ConfigurationError

REDIS_RIGHTS: Final = (
    "resetkeys ~challenge:* ~session:* ~proof:* ~ticket:* ~blindpost:* ~LIMITS:* resetchannels -@all"
    " +ping +info +time +select +get +set +getdel +exists +pttl +incrby +rename +eval +evalsha +script|load"
)
"""What the router's user needs of Redis: its own keys, and no command that empties, lists, stops or reconfigures."""
REDIS_RIGHTS_OF_BUS: Final = "&blindpost:wake:* +publish +subscribe +unsubscribe"
"""With BLINDPOST_WAKE_UP_BUS=redis."""
REDIS_USER: Final = f"ACL SETUSER blindpost on '>PASSWORD' {REDIS_RIGHTS}"
OPERATORS: Final = {"CONFIG": ("CONFIG", "GET", "save"), "KEYS": ("KEYS", "blindpost"), "FLUSHALL": ("FLUSHALL",)}
MIN_REDIS: Final = (6, 2)
TIMEOUT_S: Final = 5
OTHER_CONNECTIONS: Final = 4
"""The writers' two, the reader's and the listener's."""
QUEUE_FULL: Final = 0.5
WEAK: Final = {None: "none at all", "md5": "MD5", "password": "the password in clear"}


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """As somebody may want it; it should be known."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, why that is unsafe, and the command that mends it."""

    what: str
    level: Level
    says: str
    mend: str = ""


def fine(what: str, says: str) -> Finding:
    """All is well."""
    return Finding(what, Level.OK, says)


def note(what: str, says: str, mend: str = "") -> Finding:
    """Nothing is unsafe by mistake, but somebody should know."""
    return Finding(what, Level.NOTE, says, mend)


def wrong(what: str, says: str, mend: str) -> Finding:
    """Something is unsafe."""
    return Finding(what, Level.WRONG, says, mend)


# PostgreSQL

_SERVER: Final = text("""
SELECT current_user AS role, rolsuper AS is_super,
    rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls AS is_mighty,
    split_part(system_user, ':', 1) AS method, current_setting('password_encryption') AS hashing,
    pg_notification_queue_usage() AS queue,
    has_schema_privilege(coalesce(current_schema(), 'public'), 'CREATE') AS may_create,
    pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'MEMBER') AS is_owner,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - current_setting('reserved_connections')::int AS connections
FROM pg_roles WHERE rolname = current_user
""")


def postgres_transport(variable: str, url: str) -> Finding:
    """Tell whether what goes to PostgreSQL, passwords and all, can be read or changed on the way."""
    far = [host for host in _hosts(url) if not host.startswith("/") and not is_here(host)]
    mode = parse_qs(urlsplit(url).query).get("sslmode", [os.environ.get("PGSSLMODE", "prefer")])[-1]
    if far and mode != "verify-full":
        return wrong(
            "PostgreSQL's TLS",
            f"{far[0]} is another machine, and with sslmode={mode} whoever is on the way can pose as it",
            f"append to {variable}: ?sslmode=verify-full&sslrootcert=FILE",
        )
    return fine("PostgreSQL's TLS", "its certificate is checked" if far else "it is on this machine")


def _hosts(url: str) -> list[str]:
    """Every host that the driver may turn to; none named means this machine."""
    parts = urlsplit(url)
    named = parts.netloc.rpartition("@")[2] or ",".join(parse_qs(parts.query).get("host", []))
    return [_without_port(unquote(each)) for each in named.split(",") if each]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.startswith("/") else host.partition(":")[0]


async def postgres_findings(
    database: Database, *, is_embedded: bool, pool_size: int, workers: int = 1
) -> list[Finding]:
    """Look at a PostgreSQL that answers."""
    async with database.reading() as connection:
        server = (await connection.execute(_SERVER)).one()
    schema = await _schema(database, is_embedded=is_embedded)
    connections = _connections(server.connections, pool_size, workers)
    findings = [schema, await _durability(database), _queue(server.queue), connections]
    if not is_embedded:
        findings += [_authentication(server.method, server.hashing), *_role(server)]
        if schema.level is Level.OK:
            findings.append(await _rights(database, is_owner=server.is_owner or server.is_super))
    return findings


async def _schema(database: Database, *, is_embedded: bool) -> Finding:
    try:
        present, newest = await database.revisions()
    except DBAPIError:
        return wrong("schema", "the router's role may not even read which it is", MIGRATE)
    if present is None and is_embedded:
        return fine("schema", "made at the first start")
    if present is None:
        return note("schema", "there is none yet: `serve` makes it at its first start, if its role may", MIGRATE)
    if present != newest:
        return wrong("schema", f"it is at {present}, and this program needs {newest}", "blindpost migrate")
    return fine("schema", f"at {present}, the newest")


async def _durability(database: Database) -> Finding:
    off = await database.unsafe_settings()
    if not off:
        return fine("durability", "an acknowledged message is on disk")
    resets = " ".join(f"ALTER SYSTEM RESET {name};" for name in off)
    says = f"{', '.join(off)} off: messages that were acknowledged can be lost with the power"
    return wrong("durability", says, f"psql -c '{resets} SELECT pg_reload_conf()', and no ALTER ROLE or DATABASE of it")


def _queue(usage: float) -> Finding:
    if usage < QUEUE_FULL:
        return fine("notifications", f"the queue is {usage:.0%} full")
    return wrong(
        "notifications",
        f"the queue is {usage:.0%} full: when it is, no message can be stored. Somebody listens inside a transaction",
        "psql -c \"SELECT pid, usename, xact_start FROM pg_stat_activity WHERE state LIKE 'idle in%' ORDER BY 3\"",
    )


def _connections(available: int, pool_size: int, workers: int) -> Finding:
    needed = workers * (pool_size + OTHER_CONNECTIONS)
    if needed > available:
        return wrong(
            "connections",
            f"the server lets in {available}, and each node takes {needed}: people would be refused under load",
            f"ALTER SYSTEM SET max_connections = {needed * 4} and restart it, or lower BLINDPOST_DATABASE_POOL_SIZE or"
            " BLINDPOST_WORKERS",
        )
    return fine("connections", f"{available}, and each node takes {needed}")


def _authentication(method: str | None, hashing: str) -> Finding:
    if method in WEAK:
        return wrong(
            "PostgreSQL's login",
            f"it asks for {WEAK[method]}: whoever reaches it can be the router",
            "in pg_hba.conf, scram-sha-256 or cert in place of this line's method, then SELECT pg_reload_conf()",
        )
    if hashing == "md5":
        return wrong(
            "PostgreSQL's login",
            "it keeps new passwords as MD5, and whoever reads one of those can log in with it",
            "ALTER SYSTEM SET password_encryption = 'scram-sha-256'; SELECT pg_reload_conf(); then set passwords anew",
        )
    return fine("PostgreSQL's login", method or "")


def _role(server: Any) -> Iterator[Finding]:
    if server.is_super:
        yield wrong(
            "PostgreSQL's role",
            f"{server.role} is a superuser: whoever takes the router over has the whole server, and its machine",
            "CREATE ROLE blindpost LOGIN PASSWORD '...', name it in BLINDPOST_DATABASE_URL, then: blindpost migrate",
        )
        return
    if server.is_mighty:
        yield wrong(
            "PostgreSQL's role",
            f"{server.role} may make roles or databases, or copy them all: the router needs none of that",
            f'ALTER ROLE "{server.role}" NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS',
        )
    elif server.may_create and not server.is_owner:
        yield wrong(
            "PostgreSQL's role",
            f"{server.role} may create tables and functions here, which others could be led to use",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        )
    else:
        yield fine("PostgreSQL's role", f"{server.role}, no superuser")


async def _rights(database: Database, *, is_owner: bool) -> Finding:
    if missing := await missing_rights(database):
        return wrong("rights", f"the router's role lacks {', '.join(missing)}: some requests would fail", MIGRATE)
    if not (more := await superfluous_rights(database)):
        return fine("rights", "what the router needs on each table, and no more")
    if is_owner or "MAINTAIN on users" in more:
        says = "the router's role owns the tables: whoever takes it over can drop them, and rewrite the audit"
        return note("rights", says, f"give the tables to another role (docs/settings.md, two roles), then {MIGRATE}")
    return wrong("rights", f"the router's role may {', '.join(more)}, which it does not need", MIGRATE)


# Redis


def redis_transport(url: str) -> Finding:
    """Tell whether what goes to Redis can be read or changed on the way."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme == "unix" or is_here(parts.hostname or "localhost"):
        return fine("Redis' TLS", "it is on this machine")
    if parts.scheme != "rediss":
        return wrong(
            "Redis' TLS",
            f"{parts.hostname} is another machine, and its password and who is logged in travel in the open",
            "set BLINDPOST_REDIS_URL to rediss://USER:PASSWORD@HOST:PORT/0?ssl_ca_certs=FILE",
        )
    checks = [query.get("ssl_cert_reqs", ["required"])[-1], query.get("ssl_check_hostname", ["true"])[-1].lower()]
    if checks[0] != "required" or checks[1] in {"false", "no", "0", "f", "n"}:
        return wrong(
            "Redis' TLS",
            f"the certificate of {parts.hostname} is not checked: whoever is on the way can pose as it",
            "take ssl_cert_reqs and ssl_check_hostname out of BLINDPOST_REDIS_URL",
        )
    return fine("Redis' TLS", "its certificate is checked")


async def redis_findings(url: str, *, is_embedded: bool) -> list[Finding]:
    """Look at a Redis that answers."""
    async with client_of(url) as client:
        findings = await _redis_server(client)
    return findings if is_embedded else [*findings, await _redis_user(url)]


async def _redis_server(client: "Redis") -> list[Finding]:
    try:
        server: dict[str, Any] = {**await client.info("server"), **await client.info("memory")}
        server |= await client.info("persistence")
    except RedisError:
        return [
            note("Redis", "its user may not see how it is set up: nothing of it was checked", "ACL SETUSER ... +info")
        ]
    return [
        _redis_version(str(server.get("redis_version", "0"))),
        _eviction(server),
        await _persistence(client, server),
    ]


def _redis_version(version: str) -> Finding:
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < MIN_REDIS:
        return wrong("Redis", f"it is {version}: a challenge cannot be taken just once there", "install 6.2 or newer")
    return fine("Redis", f"answers, {version}")


def _eviction(server: dict[str, Any]) -> Finding:
    policy = server.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return fine("eviction", "a full Redis refuses, and forgets nothing")
    return wrong(
        "eviction",
        f"with {policy} a full Redis forgets which proofs were used and who was logged out: both would work again",
        "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
    )


async def _persistence(client: "Redis", server: dict[str, Any]) -> Finding:
    try:
        saves = bool((await client.config_get("save")).get("save"))
    except RedisError:  # as it should be; then a snapshot that was made tells
        saves = int(server.get("rdb_last_bgsave_time_sec", -1)) >= 0
    if server.get("aof_enabled") or saves:
        says = "Redis writes to disk: who was logged in when can be read there later. Nothing needs to be kept"
        return note("persistence", says, "CONFIG SET save '', CONFIG SET appendonly no, and in redis.conf")
    return fine("persistence", "Redis keeps nothing on disk")


async def _redis_user(url: str) -> Finding:
    if not urlsplit(url).password:
        return wrong(
            "Redis' user",
            "it asks for no password: whoever reaches it can log anybody's session in again, or everybody out",
            f"{REDIS_USER}, then name this user in BLINDPOST_REDIS_URL, and: ACL SETUSER default off",
        )
    if mighty := [name for name, command in OPERATORS.items() if await _may(url, command)]:
        return wrong(
            "Redis' user",
            f"it may run {', '.join(mighty)}: whoever takes the router over has the whole server",
            f"{REDIS_USER}, then name this user in BLINDPOST_REDIS_URL",
        )
    return fine("Redis' user", "its rights are narrow")


async def _may(url: str, command: tuple[str, ...]) -> bool:
    """Tell whether a command is allowed, without running it: rights are checked when it is put into a transaction."""
    # A connection of its own: its end discards the transaction, whatever else may be forbidden.
    async with client_of(url, single_connection_client=True) as client:
        execute: Callable[..., Awaitable[Any]] = client.execute_command
        try:
            await execute("MULTI")  # who may not even begin one has narrow rights
            await execute(*command)
            await execute("DISCARD")
        except RedisError:
            return False
    return True


def client_of(url: str, **more: Any) -> "Redis":
    """Make a client that waits for nothing long."""
    bounds: dict[str, Any] = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    return Redis.from_url(url, decode_responses=True, protocol=2, **bounds, **more)


async def answers(what: str, check: Callable[[], Awaitable[None]]) -> Finding | None:
    """Run a check that raises; returns what it says, or None if all is well."""
    try:
        await check()
    except ConfigurationError as error:
        return wrong(what, str(error), error.hint)
    except BlindpostError as error:
        return wrong(what, str(error), "start it, and look into its log")
    return None
