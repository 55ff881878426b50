"""dev-certificate: TLS on one's own machine. A certificate for the world comes from an authority (ACME)."""

import os
import shlex
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blindpost.cli.common import err, errors_as_sentences, out
from blindpost.errors import ConfigurationError

LIFETIME: Final = timedelta(days=90)
CLOCKS: Final = timedelta(hours=1)
"""How far another machine's clock may be behind."""
HERE: Final = ("127.0.0.1", "localhost", "::1")
PORT: Final = 8000


def dev_certificate(
    directory: Annotated[Path, typer.Argument(help="Where to write certificate.pem and key.pem", metavar="DIR")],
    name: Annotated[
        list[str] | None, typer.Option(help="Host name or address that clients will type; may be repeated")
    ] = None,
) -> None:
    """Make a certificate for trying TLS out: nobody trusts it but those whom you give it.

    It is for 127.0.0.1, localhost and ::1 unless you name others, and it ends after 90 days. For a router that
    others use, take one of an authority: https://letsencrypt.org gives them away.

    Examples:
      blindpost dev-certificate tls

      blindpost dev-certificate tls --name chat.home.arpa --name 192.168.1.5
    """
    with errors_as_sentences():
        names = tuple(dict.fromkeys(name or HERE))
        certificate, pem = _make(names)
        paths = directory / "certificate.pem", directory / "key.pem"
        _write(paths, certificate.public_bytes(Encoding.PEM), pem)
    _explain(paths, names[0], certificate.fingerprint(SHA256()))


def _make(names: tuple[str, ...]) -> tuple[x509.Certificate, bytes]:
    """Sign a certificate by its own key. It is no authority: who trusts it trusts these names and no others."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Blindpost, for development")])
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - CLOCKS)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signs_only(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(key_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
    )
    return builder.sign(key, SHA256()), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    try:
        if not text or any(each in text for each in " /:@"):
            raise ValueError
        return x509.DNSName(text.lower())
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no host name or address", "write it as in https://NAME, without https:// and port"
        ) from None


def _signs_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(paths: tuple[Path, Path], certificate: bytes, key: bytes) -> None:
    """Write both, or neither; never over what is there."""
    written: list[Path] = []
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path, data, mode in ((paths[1], key, 0o600), (paths[0], certificate, 0o644)):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
    except OSError as error:
        for each in written:
            each.unlink()
        if isinstance(error, FileExistsError):
            raise ConfigurationError(f"{error.filename} exists", "name another directory, or move it away") from None
        raise ConfigurationError(
            f"{error.filename or paths[0].parent} cannot be written: {error.strerror}", "name another directory"
        ) from None


def _explain(paths: tuple[Path, Path], host: str, fingerprint: bytes) -> None:
    certificate, key = (shlex.quote(str(path)) for path in paths)
    address = f"[{host}]" if ":" in host else host
    origin = f"https://{address}:{PORT}"
    # What clients type is signed at login: a router that is not called by its address must know its name.
    public = "" if host == HERE[0] else f"BLINDPOST_PUBLIC_ORIGIN={origin} "
    for line in (
        f"Written: {certificate} and {key}, for {LIFETIME.days} days",
        f"SHA-256  {fingerprint.hex(':').upper()}",
        "Next:",
        f"  {public}blindpost serve --tls-cert {certificate} --tls-key {key}",
        f"  SSL_CERT_FILE={certificate} blindpost register alice --server {origin}",
    ):
        out.print(line, markup=False, soft_wrap=True)
    err.print("SSL_CERT_FILE makes a client trust this certificate, and no other.", style="dim")
