"""Settings: every option with its reason. Environment variables `BLINDPOST_...`, or a TOML file.

The file is named by `BLINDPOST_CONFIG`; a variable wins over the file. Nothing is read at import.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from blindpost.errors import ConfigurationError

PREFIX = "BLINDPOST_"


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


class LogFormat(StrEnum):
    """How log lines look; `auto` is console on a terminal, JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class WakeUp(StrEnum):
    """What carries hints between processes."""

    POSTGRES = "postgres"
    REDIS = "redis"


def default_data_dir() -> Path:
    """Root's data belongs to the system, anybody else's to their home (XDG Base Directory)."""
    if os.geteuid() == 0:
        return Path("/var/lib/blindpost")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "blindpost"


class Settings(BaseSettings):
    """Everything an operator can set. All have a default with which the program is safe."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    database_url: SecretStr | None = None
    """PostgreSQL 18 or newer, as postgresql://...; without it an embedded one is started. Secret: holds a password."""
    migration_database_url: SecretStr | None = None
    """The same database as the owner of its tables, for `migrate`; then the router's own role needs no such rights."""
    redis_url: SecretStr | None = None
    """Redis 6.2 or newer, as redis://, rediss:// or unix://; without it an embedded one is started."""
    data_dir: Path = Field(default_factory=default_data_dir)
    """The one directory for everything that this program writes: embedded stores and its token key."""

    host: str = "127.0.0.1"
    """Loopback: any other address wants TLS, here or at a proxy, and is refused without it."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """0 takes a free port and prints it."""
    public_origin: str | None = None
    """What clients type, as https://chat.example.org; it is signed at login and in every request.

    Default: host and port, with the scheme that is served."""
    tls_cert: Path | None = None
    """A certificate chain (PEM): the router then speaks TLS 1.3 itself, and nothing else."""
    tls_key: Path | None = None
    """Its private key (PEM), readable by its owner alone."""
    tls_at_proxy: bool = False
    """The explicit word that a proxy in front speaks TLS: without it, only loopback is served in the open."""
    trusted_proxies: str = ""
    """Addresses or networks of proxies whose X-Forwarded-For is believed, separated by commas; nobody's else is."""
    metrics_host: str = "127.0.0.1"
    """Metrics have no authentication of their own."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """0 takes a free port and prints it."""

    otlp_endpoint: str | None = None
    """An OpenTelemetry collector, as http://127.0.0.1:4318; without it nothing is traced."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that answer on the address; each is a node of its own to the others, on the same stores."""

    allow_bearer: bool = False
    """Whether a login without a proof of a session key gets a token that whoever steals it can use."""
    require_contact: bool = True
    """Off opens the server: anybody registered can write to anybody."""
    rate_limits: Switch = Switch.ON
    """Off only where something in front limits, and in tests."""
    session_lifetime_s: Annotated[int, Field(ge=60, le=30 * 86_400)] = 12 * 3_600
    """A stolen token is of use for this long at most."""

    wake_up_bus: WakeUp = WakeUp.POSTGRES
    """How a process hears of what another one stored. `redis` is for many nodes: with PostgreSQL each hears of
    everything, and the commits of all take turns. The same on all nodes: of those of the other kind a node hears by its
    sweeps alone."""
    sweep_interval_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    """A wake-up that was lost heals within this time; each sweep is one query per process."""
    waiting_max: Annotated[int, Field(ge=1)] = 20_000
    """Waiting polls and streams: each holds a socket and some memory. Workers have equal parts of it."""
    waiting_per_user_max: Annotated[int, Field(ge=1)] = 16
    """One person's devices and tabs, in one process: the kernel chooses which of them a device comes to."""
    connections_per_address_max: Annotated[int, Field(ge=1)] = 1_024
    """From one address (an IPv6 /64) to one process, and as many waiting polls. Loopback, where proxies are, is not
    counted."""
    mailbox_messages_max: Annotated[int, Field(ge=4)] = 40_000
    """Messages that wait for one person; one sender gets a quarter of it."""
    mailbox_bytes_max: Annotated[int, Field(ge=4 * 65_536)] = 1 << 30
    """Bytes that wait for one person; one sender gets a quarter of it."""
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 5
    """Pooled connections of one process; the writers and the listener hold three more."""
    message_lifetime_s: Annotated[int, Field(ge=3_600, le=365 * 86_400)] = 30 * 86_400
    """How long a message waits to be acknowledged: longer than a holiday, and not for ever. Less than an hour would
    lose what was sent to somebody on a train."""
    retry_window_s: Annotated[int, Field(ge=60, le=365 * 86_400)] = 7 * 86_400
    """How long the trace of a message stays, from its sending or from its expiry, for repeats with the same
    client_message_id and for its status."""

    audit_days: Annotated[int, Field(ge=7, le=3_650)] = 90
    """How long security events are kept: long enough to look back, and no longer, as they are metadata."""

    log_format: LogFormat = LogFormat.AUTO
    log_level: LogLevel = LogLevel.INFO

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file."""
        sources = [init_settings, env_settings]
        if path := os.environ.get(PREFIX + "CONFIG"):
            if not Path(path).is_file():  # the library would take none for an empty one
                raise FileNotFoundError(f"there is no file {path}")
            sources.append(TomlConfigSettingsSource(settings_cls, Path(path)))
        return tuple(sources)

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("public_origin")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        bare = f"{parts.scheme}://{parts.netloc}".lower()
        if parts.scheme.lower() not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or "|" in value:
            raise ValueError("must look like https://chat.example.org")
        if value.rstrip("/").lower() != bare:
            raise ValueError("must be an origin alone: no path, query or fragment")
        return bare

    @model_validator(mode="after")
    def _tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("BLINDPOST_TLS_CERT and BLINDPOST_TLS_KEY go together")
        return self

    @property
    def origin(self) -> str:
        """What clients type."""
        scheme = "http" if self.tls_cert is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_origin or f"{scheme}://{host}:{self.port}"

    @property
    def logs_are_json(self) -> bool:
        """Tell how log lines shall look, now that it is known where they go."""
        if self.log_format is LogFormat.AUTO:
            return not sys.stderr.isatty()
        return self.log_format is LogFormat.JSON

    def of_one_worker(self) -> Self:
        """Return what one of the workers works by: an equal part of what can be divided."""
        return self.model_copy(update={"waiting_max": -(-self.waiting_max // self.workers)})


def unknown_variables() -> list[str]:
    """Name the BLINDPOST_ variables that mean nothing: a misspelt safety switch must not pass in silence."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {
        PREFIX + "CONFIG",
        *(PREFIX + name for name in ("IDENTITY", "PASSPHRASE", "NEW_PASSPHRASE")),
    }
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raises ConfigurationError, one line with all that is wrong, and no values in it."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        wrong = "; ".join(f"{_name(item['loc'])}: {item['msg']}" for item in error.errors(include_input=False))
        raise ConfigurationError(f"the settings are not valid: {wrong}", "see `blindpost serve --help`") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the settings file cannot be read: {error}", "check BLINDPOST_CONFIG") from None


def _name(location: tuple[int | str, ...]) -> str:
    return PREFIX + str(location[0]).upper() if location else "settings"
