"""TLS: where a router may be reached without it, and the certificate that it shows where it speaks it itself.

TLS 1.3 only: every client of ours has it, and the older ones' choices of ciphers are a source of mistakes.
"""

import asyncio
import os
import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from prometheus_client import Gauge

from blindpost.config import Settings
from blindpost.core.addresses import is_here, is_unspecified
from blindpost.errors import ConfigurationError
from blindpost.telemetry import log, registry

HSTS: Final = "max-age=63072000"
"""Two years. A browser that was here once does not try without TLS again."""
LOOK_S: Final = 10.0
"""How often the files are looked at: two calls to the kernel."""
SOON: Final = timedelta(days=14)
"""ACME clients renew a month before the end, or halfway through a short life: by now they have failed for a while."""
OTHERS: Final = 0o077
TRY: Final = "to try it, `blindpost dev-certificate DIR` makes one"

EXPIRES: Final = Gauge(
    "blindpost_certificate_expires_timestamp_seconds", "When the certificate in use ends (Unix time)", registry=registry
)


def check_transport(settings: Settings) -> None:
    """Raise ConfigurationError where tokens would travel in the open, or clients could not say where they are."""
    if not is_here(settings.host) and settings.tls_cert is None and not settings.tls_at_proxy:
        raise ConfigurationError(
            f"{settings.host or 'every address'} is not loopback, and without TLS tokens would travel in the open",
            "give --tls-cert FILE and --tls-key FILE; or --tls-at-proxy, if a proxy in front speaks TLS",
        )
    is_https = settings.origin.startswith("https://")
    if settings.tls_at_proxy and not is_https:
        raise ConfigurationError(
            "TLS is at a proxy, and the public origin is not https://",
            "set BLINDPOST_PUBLIC_ORIGIN to what clients type, such as https://chat.example.org",
        )
    if settings.tls_cert is not None and not is_https:
        raise ConfigurationError(
            "the router speaks TLS, and the public origin is http://", "set BLINDPOST_PUBLIC_ORIGIN to https://..."
        )
    if is_unspecified(settings.host) and settings.public_origin is None:
        raise ConfigurationError(
            f"clients cannot type {settings.host or 'an empty address'}, and what they type is signed at login",
            "set BLINDPOST_PUBLIC_ORIGIN, such as https://chat.example.org",
        )


def certificate_of(settings: Settings) -> "Certificate | None":
    """Read the certificate that the settings name, if they name one; raises ConfigurationError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A certificate and its key, in order and ready for use."""

    context: ssl.SSLContext
    begins: datetime
    expires: datetime
    names: tuple[str, ...]

    @classmethod
    def read(cls, cert: Path, key: Path) -> Self:
        """Read and check both; raises ConfigurationError, one sentence with what to do."""
        leaf = _read_certificate(cert)
        _demand_match(leaf, _read_key(key), cert, key)
        return cls(_context(cert, key), leaf.not_valid_before_utc, leaf.not_valid_after_utc, _names(leaf))

    @property
    def ends_soon(self) -> bool:
        """Tell whether its renewal is overdue: an authority's may live for six days only."""
        soon = min(SOON, (self.expires - self.begins) / 4)
        return self.expires - datetime.now(UTC) < soon

    def is_for(self, host: str) -> bool:
        """Tell whether a client that types this host will accept it (RFC 6125: a star stands for one label)."""
        try:
            return str(ip_address(host)) in self.names
        except ValueError:
            wanted = host.lower().rstrip(".")
        label, _, domain = wanted.partition(".")
        accepted = {wanted, f"*.{domain}"} if label and domain else {wanted}
        return any(each.lower() in accepted for each in self.names)


class Certificate:
    """The router's certificate: renewed files are taken up while it runs, and broken ones are not."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        # Before they are read: what changes in between is seen at the next look.
        self._seen = self._stamp()
        self._current = Loaded.read(cert, key)
        # A context of its own for the listener, which each handshake leaves at once for the current one. A fresh one
        # is complete or is not used: loading into a live one could leave a new certificate with an old key.
        self.context = _context(cert, key)
        self.context.sni_callback = self._hand_over
        self._days_left: int | None = None
        EXPIRES.set(self._current.expires.timestamp())

    @property
    def expires(self) -> datetime:
        return self._current.expires

    async def follow(self) -> None:
        """Take up what changes, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.look)  # a disk may hang

    def look(self) -> None:
        """Load the files again if they changed."""
        if (stamp := self._stamp()) != self._seen:
            self._seen = stamp
            try:
                self._current = Loaded.read(self._cert, self._key)
            except ConfigurationError as error:
                # Of a renewal that writes two files the first may be seen alone: the second is seen, too.
                log.warning("certificate_not_loaded", error=str(error), action="the one before stays in use")
            else:
                log.info("certificate_loaded")
                EXPIRES.set(self._current.expires.timestamp())
        self._warn()

    def _warn(self) -> None:
        """Say once a day that it ends soon."""
        left = (self._current.expires - datetime.now(UTC)).days
        if self._current.ends_soon and left != self._days_left:
            log.warning("certificate_ends_soon", seconds=max(left, 0) * 86_400)
            self._days_left = left

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL asks at every handshake, also where the client named no host.
        connection.context = self._current.context

    def _stamp(self) -> list[tuple[int, ...] | None]:
        return [_stamp_of(self._cert), _stamp_of(self._key)]


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    """What a change changes, through links: certbot's names are links to numbered files."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise ConfigurationError(f"the TLS certificate {cert} cannot be used: {reason}", TRY) from None
    return context


def _no_password() -> str:
    """Keep OpenSSL from asking at the terminal; an encrypted key was refused before."""
    return ""


def _read_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate of a file, which is the router's own, if it is valid now."""
    try:
        leaf = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        raise ConfigurationError(f"the TLS certificate {path} cannot be read: {error.strerror}", TRY) from None
    except ValueError:
        raise ConfigurationError(f"{path} holds no certificate in PEM", TRY) from None
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigurationError(f"the TLS certificate {path} ended on {leaf.not_valid_after_utc:%Y-%m-%d}", "renew it")
    if leaf.not_valid_before_utc > datetime.now(UTC):
        raise ConfigurationError(
            f"the TLS certificate {path} begins on {leaf.not_valid_before_utc:%Y-%m-%d}",
            "is this machine's clock right?",
        )
    return leaf


def _read_key(path: Path) -> Any:
    try:
        # By descriptor, so that what is checked is what is read. Links are followed: certbot's names are links.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            pem = file.read(100_000) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise ConfigurationError(f"the TLS key {path} cannot be read: {error.strerror}", TRY) from None
    if mode & OTHERS:
        raise ConfigurationError(f"others can read the TLS key {path}", f"chmod 600 {path}")
    try:
        return load_pem_private_key(pem, None)
    except TypeError:
        raise ConfigurationError(
            f"the TLS key {path} has a passphrase, and nobody is there to type it",
            f"openssl pkey -in {path} -out FILE, and chmod 600 FILE",
        ) from None
    except ValueError:
        raise ConfigurationError(f"{path} holds no private key in PEM", TRY) from None


def _demand_match(leaf: x509.Certificate, key: Any, cert_path: Path, key_path: Path) -> None:
    pair = [
        each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for each in (leaf.public_key(), key.public_key())
    ]
    if pair[0] != pair[1]:
        raise ConfigurationError(
            f"the TLS key {key_path} does not belong to the first certificate in {cert_path}",
            "give the pair as it was made; the router's own certificate comes first, then those above it",
        )


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    return *names.get_values_for_type(x509.DNSName), *addresses
