"""A secret in a file, under a passphrase: scrypt (RFC 7914) and AES-256-GCM.

    blindpost-identity/1 scrypt <log2 N> 8 <p> <salt, base64>
    <nonce || ciphertext || tag, base64>
    <SHA-256 of the two lines above, base64>

The first line is associated data. The last is no secret and no protection: it tells a damaged file from a wrong
passphrase.
"""

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt as ScryptKdf

from blindpost.client.errors import DamagedFile, FileError, WrongPassphrase
from blindpost.client.files import peek_private, read_private, write_private
from blindpost.protocol.encoding import b64decode, b64encode

MAGIC: Final = "blindpost-identity/1"
FILE_MAX_BYTES: Final = 65_536
SALT_BYTES: Final = 16
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

_HEADER: Final = re.compile(rf"{MAGIC} scrypt ([1-9][0-9]?) 8 ([1-9]) ([A-Za-z0-9+/]{{22}}==)\n")
_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Scrypt:
    """The cost of one guess at a passphrase: 128 * 8 * 2^log2_n bytes of memory (128 MiB), p times."""

    log2_n: int = 17
    p: int = 1
    r: ClassVar[int] = 8

    def derive(self, passphrase: str, salt: bytes) -> bytes:
        """Return 32 bytes. The passphrase is brought to NFC: keyboards differ in how they compose accents."""
        secret = unicodedata.normalize("NFC", passphrase).encode("utf-8")
        return ScryptKdf(salt, KEY_BYTES, n=1 << self.log2_n, r=self.r, p=self.p).derive(secret)

    def within(self, floor: "Scrypt") -> bool:
        """Tell whether a file with this cost is neither weaker than the floor nor a drain on memory or time."""
        return floor.log2_n <= self.log2_n <= CEILING.log2_n and floor.p <= self.p <= CEILING.p


STANDARD: Final = Scrypt()
CEILING: Final = Scrypt(log2_n=19, p=4)
"""512 MiB, four times: more than anybody chooses, less than what stops a computer."""


class Vault:
    """An open file: it can be written again without asking for the passphrase. It holds the derived key."""

    def __init__(self, path: Path, header: str, key: bytes) -> None:
        self.path = path
        self._header = header
        self._key = key
        self._last: bytes | None = None
        """The file as it was read or written last."""

    def __repr__(self) -> str:
        return f"<Vault {self.path}>"

    @classmethod
    def create(cls, path: Path, passphrase: str, kdf: Scrypt = STANDARD) -> "Vault":
        """Derive a key for a new file; raises ValueError for an empty passphrase. Nothing is written yet."""
        if not passphrase:
            raise ValueError("the passphrase is empty")
        salt = os.urandom(SALT_BYTES)
        header = f"{MAGIC} scrypt {kdf.log2_n} {kdf.r} {kdf.p} {b64encode(salt)}\n"
        return cls(path, header, kdf.derive(passphrase, salt))

    @classmethod
    def open(cls, path: Path, passphrase: str, floor: Scrypt = STANDARD) -> tuple["Vault", bytes]:
        """Return the vault and its content; raises FileError, ExposedFile, DamagedFile or WrongPassphrase."""
        data = read_private(path, FILE_MAX_BYTES)
        header, sealed = _lines(path, data)
        kdf, salt = _parameters(path, header, floor)
        vault = cls(path, header, kdf.derive(passphrase, salt))
        vault._last = data
        return vault, vault._decrypt(sealed)

    def news(self) -> bytes | None:
        """Return the content if another process wrote the file; raises FileError if its passphrase is another.

        No file is no news: what is known is then worth more than nothing.
        """
        # Every write takes a random nonce, so files that are the same hold the same.
        data = peek_private(self.path, FILE_MAX_BYTES)
        if data is None or data == self._last:
            return None
        header, sealed = _lines(self.path, data)
        if header != self._header:
            raise FileError(f"the passphrase of {self.path} was changed meanwhile", "Start this program again.")
        content = self._decrypt(sealed)
        self._last = data
        return content

    def _decrypt(self, sealed: bytes) -> bytes:
        try:
            return AESGCM(self._key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._header.encode())
        except InvalidTag:
            raise WrongPassphrase from None

    def write(self, content: bytes) -> None:
        """Replace the file; raises FileError. Each write takes a fresh nonce, for the key stays the same."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + AESGCM(self._key).encrypt(nonce, content, self._header.encode())
        body = f"{self._header}{b64encode(sealed)}\n"
        data = f"{body}{_checksum(body)}\n".encode("ascii")
        write_private(self.path, data)
        self._last = data


def _checksum(body: str) -> str:
    return b64encode(hashlib.sha256(body.encode("ascii")).digest())


def _lines(path: Path, data: bytes) -> tuple[str, bytes]:
    """Return the header line and the sealed bytes of a whole file; raises DamagedFile."""
    try:
        lines = data.decode("ascii").split("\n")
        if len(lines) != _LINES + 1 or lines[3] or lines[2] != _checksum(f"{lines[0]}\n{lines[1]}\n"):
            raise ValueError
        sealed = b64decode(lines[1])
        if len(sealed) < NONCE_BYTES:
            raise ValueError
    except ValueError:
        raise DamagedFile(f"{path} is damaged, or no identity file") from None
    return f"{lines[0]}\n", sealed


def _parameters(path: Path, header: str, floor: Scrypt) -> tuple[Scrypt, bytes]:
    match = _HEADER.fullmatch(header)
    if match is None:
        raise DamagedFile(f"{path} is of an unknown format")
    kdf = Scrypt(int(match[1]), int(match[2]))
    if not kdf.within(floor):
        raise DamagedFile(f"{path} asks for a passphrase cost out of bounds")
    try:
        return kdf, b64decode(match[3])
    except ValueError:
        raise DamagedFile(f"{path} has a salt that is not canonical base64") from None
