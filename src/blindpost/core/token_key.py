"""The key file of one node: the private key that signs its tokens, and which keys it replaced.

Whatever is in the file is written in one step, so a crash leaves either the old state or the new one. A retired key's
private half is gone from the disk at once; its id stays for a while, so that the node can tell the others when to
stop believing in its public half.
"""

import os
import re
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from blindpost.errors import ConfigurationError

KEY_FILE: Final = "token-key.pem"
KEY_ID_CHARS: Final = 32
REMEMBERED_S: Final = 60 * 86_400
"""Longer than any token lives: by then nobody believes in a retired key anyway."""
_RETIRED: Final = re.compile(r"^# retired ([0-9a-f]{32}) ([0-9]{1,12})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A P-256 private key, and the keys that it replaced."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    retired: dict[str, int] = field(default_factory=dict)
    """When each of them stops being believed, in Unix seconds, by id."""

    @property
    def public(self) -> bytes:
        """The public half, as SPKI DER."""
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def id(self) -> str:
        return sha256(self.public).hexdigest()[:KEY_ID_CHARS]


def load_or_make(data_dir: Path) -> TokenKey:
    """Read the node's key, or make one at the first start; raises ConfigurationError if others could read it."""
    path = data_dir / KEY_FILE
    with _sentences(path):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_new(path, _new())
        return _read(path)


def rotate(data_dir: Path, overlap_s: int) -> TokenKey:
    """Replace the key; tokens of the old one are believed for the overlap. Raises ConfigurationError."""
    path = data_dir / KEY_FILE
    old = load_or_make(data_dir)
    now = int(time())
    retired = {key_id: at for key_id, at in old.retired.items() if at > now - REMEMBERED_S}
    new = TokenKey(_new().private, {**retired, old.id: now + overlap_s})
    with _sentences(path):
        _write_beside(path, new).replace(path)
    return new


def state(data_dir: Path) -> tuple[int, int]:
    """Return what changes whenever the file is replaced; raises OSError if there is none."""
    status = (data_dir / KEY_FILE).stat()
    return status.st_ino, status.st_mtime_ns


def _new() -> TokenKey:
    return TokenKey(ec.generate_private_key(ec.SECP256R1()))


def _write_new(path: Path, key: TokenKey) -> None:
    """Write the first key; of two nodes that start together on one directory the first one's stays."""
    temporary = _write_beside(path, key)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _write_beside(path: Path, key: TokenKey) -> Path:
    """Write a key whole, and durably, under a name of its own."""
    lines = [f"# retired {key_id} {at}\n" for key_id, at in key.retired.items()]
    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write("".join(lines).encode() + pem)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _read(path: Path) -> TokenKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        content = file.read()
    if status.st_uid != os.geteuid():
        raise ConfigurationError(f"the token key {path} is somebody else's", f"chown it, or delete it: {path}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(f"others can read the token key {path}", f"chmod 600 {path}")
    try:
        private = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ConfigurationError(
            f"the token key {path} is not a P-256 private key", "delete it: a new one is made, and people log in again"
        )
    retired = {key_id: int(at) for key_id, at in _RETIRED.findall(content.decode("ascii", "replace"))}
    return TokenKey(private, retired)


class _sentences:  # noqa: N801 - reads as a statement
    """Turn what the file system refuses into a sentence."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _tb: object) -> None:
        if isinstance(error, OSError):
            sentence = f"the token key {self._path} cannot be read or written: {error.strerror}"
            raise ConfigurationError(sentence, "set BLINDPOST_DATA_DIR") from None
