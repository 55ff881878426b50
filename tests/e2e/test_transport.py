"""TLS as an operator meets it: what does not start, and from nothing to a person who is registered over TLS."""

import re
import shlex
import stat
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from blindpost.tls import Loaded
from e2e.test_serve import PROGRAM, Served, blindpost, environment, one_sentence

DEFAULTS = ("127.0.0.1", "localhost", "::1")


def made(directory: Path, *names: str) -> subprocess.CompletedProcess[str]:
    options = [part for name in names for part in ("--name", name)]
    return blindpost("dev-certificate", str(directory), *options, data_dir=directory)


def certificate_in(directory: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / "certificate.pem").read_bytes())


def test_the_commands_that_it_prints_lead_to_an_account_over_tls(tmp_path: Path) -> None:
    directory = tmp_path / "with a space"
    result = made(directory)
    assert result.returncode == 0, result.stderr
    files = {"tls_cert": directory / "certificate.pem", "tls_key": directory / "key.pem"}
    assert shlex.quote(str(files["tls_key"])) in result.stdout
    served = Served(tmp_path / "data", tmp_path / "errors", **files)
    try:
        register = ("register", "alice", "--server", served.origin, "-i", str(tmp_path / "alice.identity"))
        trusted = environment(tmp_path, passphrase="correct horse battery staple") | {
            "SSL_CERT_FILE": str(files["tls_cert"])
        }
        answer = subprocess.run(
            (*PROGRAM, *register), env=trusted, capture_output=True, text=True, timeout=60, check=False
        )
        assert answer.returncode == 0, answer.stderr
        assert served.origin in answer.stdout
        del trusted["SSL_CERT_FILE"]
        register = (*register[:-1], str(tmp_path / "other.identity"))
        untrusting = subprocess.run(
            (*PROGRAM, *register), env=trusted, capture_output=True, text=True, timeout=60, check=False
        )
        assert untrusting.returncode == 1
        assert "certificate is not trusted" in untrusting.stderr
        assert "SSL_CERT_FILE" in untrusting.stderr
    finally:
        served.process.terminate()
        served.process.wait(20)
        served.end()


def test_the_key_is_the_owners_alone_and_the_fingerprint_is_the_certificates(tmp_path: Path) -> None:
    said = made(tmp_path / "tls").stdout
    assert stat.S_IMODE((tmp_path / "tls" / "key.pem").stat().st_mode) == 0o600
    der = certificate_in(tmp_path / "tls").public_bytes(Encoding.DER)
    assert sha256(der).hexdigest().upper() in said.replace(":", "")


def test_it_is_for_the_names_that_were_given_and_no_authority_for_others(tmp_path: Path) -> None:
    assert made(tmp_path / "here").returncode == 0
    assert made(tmp_path / "there", "chat.home.arpa", "192.168.1.5").returncode == 0
    pair = tmp_path / "here" / "certificate.pem", tmp_path / "here" / "key.pem"
    assert set(Loaded.read(*pair).names) == set(DEFAULTS)
    there = certificate_in(tmp_path / "there")
    names = there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["chat.home.arpa"]
    assert not there.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (there.not_valid_after_utc - there.not_valid_before_utc).days == 90


def test_it_tells_how_to_serve_under_another_name(tmp_path: Path) -> None:
    said = made(tmp_path / "tls", "chat.home.arpa").stdout
    assert "BLINDPOST_PUBLIC_ORIGIN=https://chat.home.arpa:8000 blindpost serve" in said


@pytest.mark.parametrize("there", ["certificate.pem", "key.pem"])
def test_it_writes_over_nothing_and_leaves_no_half(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    assert "exists" in one_sentence(made(tmp_path))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(there, "mine")]


@pytest.mark.parametrize("name", ["", "https://chat.example.org", "a b", "chat:8000", "ünïcode.example"])
def test_what_is_no_name_is_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    assert re.search("no host name", one_sentence(made(tmp_path / "tls", name)))
    assert not (tmp_path / "tls").exists()


# What does not start


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--host", "0.0.0.0"), "not loopback"),
        (("--host", "0.0.0.0", "--tls-at-proxy"), "https://"),
        (("--tls-cert", "/nowhere/cert.pem", "--tls-key", "/nowhere/key.pem"), "/nowhere/cert.pem"),
        (("--tls-cert", "/nowhere/cert.pem"), "go together"),
    ],
    ids=str,
)
def test_an_unsafe_start_is_one_sentence_before_anything_is_started(
    tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    assert sentence in one_sentence(blindpost("serve", *options, data_dir=tmp_path / "data"))
    assert not (tmp_path / "data").exists()
