"""The doctor: each fault is named with what mends it, and a router in order is left in peace."""

import secrets
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from pydantic import SecretStr

from blindpost.cli import doctor, whereabouts
from blindpost.config import Settings
from blindpost.core import safety, vitals
from blindpost.core.database import Database
from blindpost.core.privileges import migrate
from blindpost.core.safety import REDIS_RIGHTS, Finding, Level, postgres_findings, redis_findings
from blindpost.observe.page import Page
from certificates import Authority
from e2e.test_serve import blindpost
from fault.servers import Handmade, connected
from stores.conftest import Roles, execute

HTTPS = "https://chat.example.org"


def worst(findings: list[Finding]) -> dict[str, Level]:
    """What is not in order, by what it is about; every such finding must say what mends it."""
    found: dict[str, Level] = {each.what: each.level for each in findings if each.level is not Level.OK}
    assert all(each.mend for each in findings if each.level is not Level.OK)
    return found


def levels(output: str) -> dict[str, str]:
    """Read the doctor's lines; each that is not ok must be followed by one that says what mends it."""
    lines = output.splitlines()
    found = {}
    for number, line in enumerate(lines):
        level, _, rest = line.partition(" ")
        if level in {"note", "wrong"}:
            found[rest.strip().partition(":")[0]] = level
            assert lines[number + 1].startswith("      mend: "), line
    return found


# The whole program


async def test_a_bad_configuration_is_told_each_fault_with_its_mend(servers: Handmade, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    key = data / "token-key.pem"
    key.write_text("none")
    key.chmod(0o644)
    pair = Authority(tmp_path).issue("elsewhere.example.org")
    pair.key.chmod(0o644)
    config = tmp_path / "blindpost.toml"
    config.write_text(f'database_url = "{servers.postgres.url.replace("postgres@", "postgres:hunter2@")}"\n')
    config.chmod(0o644)
    with configured(servers, maxmemory_policy="allkeys-lru", save="3600 1"):
        result = blindpost(
            "doctor",
            data_dir=data,
            config=config,
            redis_url=servers.redis.url,
            host="0.0.0.0",
            public_origin="http://chat.example.org",
            trusted_proxies="0.0.0.0/0",
            tls_cert=pair.cert,
            tls_key=pair.key,
            metrics_host="0.0.0.0",
            allow_bearer="true",
            rate_limits="off",
            require_contact="false",
            waiting_max=10_000_000,
            database_pool_size=100,
            rate_limit="on",
        )
    assert result.returncode == 1
    assert "hunter2" not in result.stdout + result.stderr
    assert levels(result.stdout) == {
        "address": "wrong",
        "public origin": "wrong",
        "trusted proxies": "wrong",
        "certificate": "wrong",
        "metrics": "wrong",
        "settings": "wrong",
        "sessions": "wrong",
        "rate limits": "wrong",
        "contacts": "note",
        "open files": "note",
        "data directory": "wrong",
        "token key": "wrong",
        "settings file": "wrong",
        "schema": "note",
        "connections": "wrong",
        "PostgreSQL's login": "wrong",
        "PostgreSQL's role": "wrong",
        "eviction": "wrong",
        "persistence": "note",
        "Redis' user": "wrong",
    }
    for mend in (
        "BLINDPOST_RATE_LIMIT",
        "unset BLINDPOST_ALLOW_BEARER",
        f"chmod 600 {pair.key}",
        f"chmod 600 {config}",
        f"chmod go-w {data}",
        "CONFIG SET maxmemory-policy noeviction",
        REDIS_RIGHTS,
    ):
        assert mend in result.stdout


async def test_a_good_configuration_ends_with_0_and_without_a_note(
    servers: Handmade, roles: Roles, tmp_path: Path
) -> None:
    pair = Authority(tmp_path).issue("chat.example.org")
    (tmp_path / "data").mkdir(mode=0o700)
    config = tmp_path / "blindpost.toml"
    async with Database(roles.router_url, pool_size=1) as router:
        await migrate(router, SecretStr(roles.owner_url))
    async with by_password(servers, roles) as database_url:
        config.write_text(f'database_url = "{database_url}"\n')
        config.chmod(0o600)
        with narrow_user(servers) as redis_url, configured(servers, save=""):
            result = blindpost(
                "doctor",
                data_dir=tmp_path / "data",
                config=config,
                redis_url=redis_url,
                host="0.0.0.0",
                public_origin=HTTPS,
                tls_cert=pair.cert,
                tls_key=pair.key,
                waiting_max=100,
            )
    assert levels(result.stdout) == {}, result.stdout
    assert result.returncode == 0, result.stderr


def test_notes_alone_end_with_0(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    result = blindpost("doctor", data_dir=tmp_path, require_contact="false", waiting_max=100)
    assert levels(result.stdout) == {"contacts": "note", "data directory": "note"}, result.stdout
    assert result.returncode == 0


@contextmanager
def configured(servers: Handmade, **options: str) -> Iterator[None]:
    """Change Redis' settings, and bring them back."""
    with redis.Redis(port=servers.redis.port, decode_responses=True) as client:
        names = [name.replace("_", "-") for name in options]
        before = {name: client.config_get(name)[name] for name in names}
        for name, value in zip(names, options.values(), strict=True):
            client.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                client.config_set(name, value)


@contextmanager
def narrow_user(servers: Handmade, *more: str) -> Iterator[str]:
    """A Redis user with the rights that the documentation gives, and perhaps more; its URL."""
    name = f"blindpost-{secrets.token_hex(4)}"
    with redis.Redis(port=servers.redis.port) as client:
        client.execute_command("ACL", "SETUSER", name, "on", ">secret", *REDIS_RIGHTS.split(), *more)
        yield f"redis://{name}:secret@127.0.0.1:{servers.redis.port}/0"
        client.execute_command("ACL", "DELUSER", name)


@asynccontextmanager
async def by_password(servers: Handmade, roles: Roles) -> AsyncIterator[str]:
    """Let PostgreSQL ask the router's role for a password; its URL with it."""
    path = servers.postgres.data / "pg_hba.conf"
    before = path.read_text()
    await execute(roles.superuser_url, f"ALTER ROLE {roles.router} PASSWORD 'secret'", "SELECT 1")
    path.write_text(f"host {urlsplit(roles.router_url).path[1:]} all 127.0.0.1/32 scram-sha-256\n{before}")
    async with connected(servers.postgres.url) as superuser:
        await superuser.execute("SELECT pg_reload_conf()")
        try:
            parts = urlsplit(roles.router_url)
            yield parts._replace(netloc=parts.netloc.replace("@", ":secret@")).geturl()
        finally:
            path.write_text(before)
            await superuser.execute("SELECT pg_reload_conf()")


# Settings and files


def settings_findings(**given: Any) -> dict[str, Level]:
    return worst([*doctor._transport(Settings(**given)), *doctor._rules(Settings(waiting_max=1, **given))])


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"public_origin": "http://chat.example.org"}, "public origin"),
        ({"tls_at_proxy": True, "public_origin": HTTPS}, "trusted proxies"),
        ({"tls_at_proxy": True, "trusted_proxies": "10.0.0.2"}, "address"),
        ({"trusted_proxies": "*"}, "trusted proxies"),
        ({"trusted_proxies": "10.0.0.2, ::/0"}, "trusted proxies"),
        ({"trusted_proxies": "the-proxy"}, "trusted proxies"),
        ({"host": "0.0.0.0", "public_origin": HTTPS}, "address"),
        ({"metrics_host": "192.0.2.1"}, "metrics"),
    ],
    ids=str,
)
def test_a_way_to_the_router_that_is_unsafe_is_wrong(given: dict[str, Any], what: str) -> None:
    assert settings_findings(**given) == {what: Level.WRONG}


@pytest.mark.parametrize(
    "given",
    [{}, {"tls_at_proxy": True, "public_origin": HTTPS, "host": "0.0.0.0", "trusted_proxies": "10.0.0.2,10.1.0.0/16"}],
    ids=str,
)
def test_a_way_to_the_router_that_is_safe_is_not(given: dict[str, Any]) -> None:
    assert settings_findings(**given) == {}


@pytest.mark.parametrize(
    ("names", "ends", "level"),
    [
        (["chat.example.org"], 90, Level.OK),
        (["chat.example.org"], 13, Level.WRONG),
        (["chat.example.org"], -1, Level.WRONG),
        (["example.org"], 90, Level.WRONG),
    ],
)
def test_a_certificate_must_last_and_be_for_the_name_that_clients_type(
    tmp_path: Path, names: list[str], ends: int, level: Level
) -> None:
    pair = Authority(tmp_path).issue(*names, ends=timedelta(days=ends))
    settings = Settings(public_origin=HTTPS, tls_cert=pair.cert, tls_key=pair.key)
    assert doctor._certificate(settings, *pair).level is level


def test_a_certificate_of_six_days_is_not_late_on_its_first(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("chat.example.org", begins=timedelta(0), ends=timedelta(days=6))
    settings = Settings(public_origin=HTTPS, tls_cert=pair.cert, tls_key=pair.key)
    assert doctor._certificate(settings, *pair).level is Level.OK


@pytest.mark.parametrize(
    ("text", "mode", "level"),
    [
        ('redis_url = "redis://:secret@cache"', 0o640, Level.WRONG),
        ('redis_url = "redis://:secret@cache"', 0o600, Level.OK),
        ('redis_url = "redis://cache"\nport = 9000', 0o644, Level.OK),
    ],
)
def test_a_settings_file_with_a_password_must_be_its_owners_alone(
    tmp_path: Path, text: str, mode: int, level: Level
) -> None:
    path = tmp_path / "blindpost.toml"
    path.write_text(text)
    path.chmod(mode)
    assert doctor._config_file(path).level is level


def test_a_data_directory_that_is_not_there_yet_is_fine(tmp_path: Path) -> None:
    assert doctor._directory(tmp_path / "none").level is Level.OK
    assert not (tmp_path / "none").exists()


# PostgreSQL


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("postgresql://u:p@127.0.0.1/db", Level.OK),
        ("postgresql://u:p@[::1]:5433/db", Level.OK),
        ("postgresql://u:p@localhost/db?sslmode=disable", Level.OK),
        ("postgresql://u@/db?host=/run/postgresql", Level.OK),
        ("postgresql://u:p@db/name", Level.WRONG),
        ("postgresql://u:p@db/name?sslmode=require", Level.WRONG),
        ("postgresql://u:p@db/name?sslmode=verify-ca", Level.WRONG),
        ("postgresql://u:p@db/name?sslmode=verify-full&sslrootcert=/etc/ca.pem", Level.OK),
        ("postgresql://u:p@127.0.0.1,db/name", Level.WRONG),
        ("postgresql:///name?host=db", Level.WRONG),
        ("postgresql:///name?host=[2001:db8::1]", Level.WRONG),
    ],
)
def test_a_postgresql_elsewhere_must_show_a_checked_certificate(
    monkeypatch: pytest.MonkeyPatch, url: str, level: Level
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert safety.postgres_transport("X", url).level is level


async def findings_of(url: str, *, pool_size: int = 5, workers: int = 1) -> dict[str, Level]:
    async with Database(url, pool_size=1) as database:
        found = await postgres_findings(database, is_embedded=False, pool_size=pool_size, workers=workers)
        return worst(found)


LOGIN = {"PostgreSQL's login": Level.WRONG}
"""The test's server trusts everybody."""


@pytest.mark.parametrize(
    ("statement", "what", "level"),
    [
        ("SELECT 1", "", Level.OK),
        ("ALTER ROLE {} CREATEDB", "PostgreSQL's role", Level.WRONG),
        ("ALTER ROLE {} CREATEROLE", "PostgreSQL's role", Level.WRONG),
        ("GRANT CREATE ON SCHEMA public TO {}", "PostgreSQL's role", Level.WRONG),
        ("GRANT UPDATE ON audit TO {}", "rights", Level.WRONG),
        ("REVOKE INSERT ON users FROM {}", "rights", Level.WRONG),
        ("ALTER ROLE {} SET synchronous_commit = off", "durability", Level.WRONG),
        ("REVOKE SELECT ON alembic_version FROM {}", "schema", Level.WRONG),
        ("UPDATE alembic_version SET version_num = '0001'", "schema", Level.WRONG),
    ],
)
async def test_each_fault_of_the_routers_role_is_found(roles: Roles, statement: str, what: str, level: Level) -> None:
    async with Database(roles.router_url, pool_size=1) as router:
        await migrate(router, SecretStr(roles.owner_url))
    await execute(roles.superuser_url, statement.format(roles.router), "SELECT 1")
    assert await findings_of(roles.router_url) == LOGIN | ({what: level} if what else {})


async def test_a_role_that_owns_the_tables_is_a_note_and_a_superuser_is_wrong(roles: Roles) -> None:
    async with Database(roles.owner_url, pool_size=1) as owner:
        await owner.migrate()
    assert await findings_of(roles.owner_url) == LOGIN | {"rights": Level.NOTE}
    assert (await findings_of(roles.superuser_url))["PostgreSQL's role"] is Level.WRONG


async def test_too_few_connections_for_the_pool_are_wrong(roles: Roles) -> None:
    assert (await findings_of(roles.router_url, pool_size=1_000))["connections"] is Level.WRONG
    assert (await findings_of(roles.router_url, workers=64))["connections"] is Level.WRONG


async def test_a_login_by_password_is_fine_unless_it_is_kept_as_md5(servers: Handmade, roles: Roles) -> None:
    async with by_password(servers, roles) as url:
        assert "PostgreSQL's login" not in await findings_of(url)
        md5 = f"ALTER ROLE {roles.router} SET password_encryption = 'md5'"
        await execute(servers.postgres.url, md5, "SELECT 1")
        assert (await findings_of(url))["PostgreSQL's login"] is Level.WRONG


def test_a_notification_queue_that_fills_is_wrong() -> None:
    assert safety._queue(0.01).level is Level.OK
    assert safety._queue(0.6).level is Level.WRONG


# Redis


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("redis://127.0.0.1:6379/0", Level.OK),
        ("unix:///run/redis.sock", Level.OK),
        ("redis://:secret@cache:6379/0", Level.WRONG),
        ("rediss://u:secret@cache:6379/0?ssl_ca_certs=/etc/ca.pem", Level.OK),
        ("rediss://u:secret@cache:6379/0?ssl_cert_reqs=none", Level.WRONG),
        ("rediss://u:secret@cache:6379/0?ssl_check_hostname=False", Level.WRONG),
    ],
)
def test_a_redis_elsewhere_must_show_a_checked_certificate(url: str, level: Level) -> None:
    assert safety.redis_transport(url).level is level


@pytest.mark.parametrize(
    ("more", "level"),
    [
        ((), Level.OK),
        (("+@all",), Level.WRONG),
        (("+multi", "+discard"), Level.OK),
        (("+multi", "+keys"), Level.OK),  # without discard it is not seen, and not run either
        (("+multi", "+discard", "+flushall"), Level.WRONG),
        (("+@all", "-config", "-flushall"), Level.WRONG),
    ],
    ids=str,
)
async def test_a_redis_user_with_the_operators_rights_is_wrong_and_nothing_of_them_is_used(
    servers: Handmade, more: tuple[str, ...], level: Level
) -> None:
    with redis.Redis(port=servers.redis.port) as client, narrow_user(servers, *more) as url:
        client.set("challenge:kept", "1", ex=60)
        findings = {each.what: each.level for each in await redis_findings(url, is_embedded=False)}
        assert client.get("challenge:kept") == b"1"
    assert findings["Redis' user"] is level


async def test_a_redis_that_tells_nothing_of_itself_is_a_note(servers: Handmade) -> None:
    with narrow_user(servers, "-info") as url:
        assert worst(await redis_findings(url, is_embedded=False)) == {"Redis": Level.NOTE}


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_forgets_what_was_used_is_wrong(servers: Handmade, policy: str) -> None:
    with narrow_user(servers) as url, configured(servers, maxmemory_policy=policy):
        assert worst(await redis_findings(url, is_embedded=False)) == {"eviction": Level.WRONG}


async def test_a_redis_that_writes_to_disk_is_a_note(servers: Handmade) -> None:
    with narrow_user(servers, "+config") as url, configured(servers, save="3600 1"):
        assert worst(await redis_findings(url, is_embedded=False)) == {"persistence": Level.NOTE}


@pytest.mark.parametrize("version", ["6.0.16", "5.0"])
def test_a_redis_that_is_too_old_is_wrong(version: str) -> None:
    assert safety._redis_version(version).level is Level.WRONG


def test_the_doctor_changes_no_mode(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(0o755)
    doctor._directory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


# How it does


@pytest.mark.parametrize(
    ("apart_s", "doubt_s", "level"),
    [
        (0.4, 0.0, Level.OK),
        (-1.9, 0.0, Level.OK),
        (2.5, 0.0, Level.WRONG),
        (-60.0, 0.5, Level.WRONG),
        (4.0, 3.0, Level.OK),
    ],
)
def test_a_clock_that_is_wrong_for_sure_is_wrong(apart_s: float, doubt_s: float, level: Level) -> None:
    assert vitals.clock_finding("Redis' clock", apart_s, doubt_s).level is level


async def test_the_clocks_of_stores_on_this_machine_are_right(servers: Handmade, roles: Roles) -> None:
    async with Database(roles.router_url, pool_size=1) as database:
        await migrate(database, SecretStr(roles.owner_url))
        findings = await vitals.postgres_vitals(database, 3_600) + await vitals.redis_vitals(servers.redis.url)
    assert {each.what for each in findings} == {"PostgreSQL's clock", "Redis' clock", "queue"}
    assert worst(findings) == {}


@pytest.mark.parametrize(
    ("count", "oldest_s", "level"),
    [(0, 0, Level.OK), (3, 80_000, Level.OK), (3, 90_000, Level.OK), (3, 95_000, Level.WRONG)],
)
def test_a_message_that_waits_for_longer_than_it_may_is_wrong(count: int, oldest_s: float, level: Level) -> None:
    assert vitals.oldest_finding(count, oldest_s, 86_400 + 1_800).level is level


def test_a_full_disk_is_wrong() -> None:
    assert worst([doctor.room_finding(50 << 30)]) == {}
    assert worst([doctor.room_finding(100 << 20)]) == {"room": Level.WRONG}


@pytest.mark.parametrize(
    ("ups", "level"), [((1,), Level.OK), ((1, 1), Level.OK), ((1, 0), Level.WRONG), ((), Level.WRONG)]
)
def test_a_process_that_hears_nothing_is_wrong(ups: tuple[int, ...], level: Level) -> None:
    lines = [f'blindpost_listener_up{{worker="{number}"}} {up}\n' for number, up in enumerate(ups)]
    page = Page.read("# TYPE blindpost_listener_up gauge\n" + "".join(lines), 0)
    assert doctor.listener_finding(page).level is level


def test_a_router_that_is_not_ready_is_wrong_and_says_why() -> None:
    finding = doctor.ready_finding("http://x", httpx.Response(503, json={"detail": "Redis is away."}))
    assert finding.level is Level.WRONG
    assert "Redis is away." in finding.says


def test_a_router_that_left_a_note_and_does_not_answer_is_wrong(tmp_path: Path) -> None:
    (tmp_path / whereabouts.FILE).write_text(
        '{"origin": "http://127.0.0.1:1", "metrics": "http://127.0.0.1:1/metrics"}'
    )
    assert worst(list(doctor._router(Settings(data_dir=tmp_path)))) == {"router": Level.WRONG}
