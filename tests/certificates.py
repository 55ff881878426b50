"""Certificates for tests: an authority that signs whatever a test needs, wrong ones too."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


class Pair(NamedTuple):
    """The files of a certificate and its key."""

    cert: Path
    key: Path


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: str = "") -> bytes:
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


class Authority:
    """A certification authority of one test's own."""

    def __init__(self, home: Path, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._home = home
        self.file = home / f"{name}.pem"
        now = datetime.now(UTC)
        builder = self._builder(self._subject, self._key, now - timedelta(days=400), now + timedelta(days=400))
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file.write_bytes(
            builder.add_extension(usage, critical=True).sign(self._key, SHA256()).public_bytes(Encoding.PEM)
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
    ) -> x509.CertificateBuilder:
        mine = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(self._subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(mine, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    def issue(
        self,
        *names: str,
        stem: str = "server",
        begins: timedelta = timedelta(days=-100),
        ends: timedelta = timedelta(days=90),
        passphrase: str = "",
    ) -> Pair:
        """Write a certificate for these names, and its key; what was under these file names is replaced."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)])
        now = datetime.now(UTC)
        builder = self._builder(subject, key, now + begins, now + ends)
        alternatives = x509.SubjectAlternativeName([_general_name(each) for each in names])
        certificate = builder.add_extension(alternatives, critical=False).sign(self._key, SHA256())
        pair = Pair(self._home / f"{stem}.crt", self._home / f"{stem}.key")
        pair.key.unlink(missing_ok=True)
        pair.key.touch(0o600)
        pair.key.write_bytes(key_pem(key, passphrase))
        pair.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
        return pair
