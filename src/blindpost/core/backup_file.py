"""The file of a backup: a tar archive that can be written to a pipe, read from one, and checked to its last byte.

    header.json             when and of which schema it is, and which tables with which columns are in it
    users/000000 ...        what PostgreSQL's COPY gives of a table (binary), in pieces
    manifest.json           rows, bytes and SHA-256 of each table, and the SHA-256 of the header
    manifest.json.sha256    that of the manifest, as sha256sum writes and checks it

The manifest comes behind the tables, so a file that was cut off has none. All of it is data: nothing in a backup is
ever run as a statement. The sums find damage, not forgery: whoever can write a backup can also write its sums.
"""

import os
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import IO, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from blindpost.core.embedded.place import sync_directory
from blindpost.errors import BackupDamaged, ConfigurationError

FORMAT: Final = 1
HEADER: Final = "header.json"
MANIFEST: Final = "manifest.json"
SEAL: Final = "manifest.json.sha256"
PIECE_BYTES: Final = 1 << 22
PRIVATE: Final = 0o600
ANOTHER: Final = "use another backup; a copy may have been cut short, or the disk may be failing"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(_Part):
    """A table, and the columns that are in the backup, in their order."""

    name: str
    columns: list[str]


class Header(_Part):
    """What is known before the tables are read."""

    format: Literal[1] = FORMAT
    program: str
    made_at: datetime
    revision: str
    """Of the schema."""
    tables: list[Table]
    """Each after those that it refers to."""


class Sum(_Part):
    """What a table must be when it was read."""

    rows: int
    bytes: int
    sha256: str


class Manifest(_Part):
    """What everything must be when it was read."""

    header_sha256: str
    tables: dict[str, Sum]


class Writer:
    """Writes the tables of a header, one after the other, and then the manifest."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file = file
        self._made_at = int(header.made_at.timestamp())
        self._sums: dict[str, Sum] = {}
        text = header.model_dump_json(indent=1).encode()
        self._header_sha256 = sha256(text).hexdigest()
        self._add(HEADER, text)
        self._begin()

    def _begin(self) -> None:
        self._waiting = bytearray()
        self._digest = sha256()
        self._pieces = self._bytes = 0

    def write(self, table: str, data: bytes) -> int:
        """Add to a table; returns how many bytes it has now."""
        self._waiting += data
        self._digest.update(data)
        self._bytes += len(data)
        while len(self._waiting) >= PIECE_BYTES:
            self._flush(table)
        return self._bytes

    def _flush(self, table: str) -> None:
        self._add(_piece(table, self._pieces), bytes(self._waiting[:PIECE_BYTES]))
        del self._waiting[:PIECE_BYTES]
        self._pieces += 1

    def end(self, table: str, rows: int) -> None:
        """End a table."""
        if self._waiting:
            self._flush(table)
        self._sums[table] = Sum(rows=rows, bytes=self._bytes, sha256=self._digest.hexdigest())
        self._begin()

    def finish(self) -> Manifest:
        """Write the manifest: from here on it is a backup."""
        manifest = Manifest(header_sha256=self._header_sha256, tables=self._sums)
        text = manifest.model_dump_json(indent=1).encode()
        self._add(MANIFEST, text)
        self._add(SEAL, _seal(text))
        with _writing():
            self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        return manifest

    def _add(self, name: str, data: bytes) -> None:
        # By hand: tarfile's own writer of streams has a buffer, and writes it when it is collected, whatever happened.
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = len(data), PRIVATE, self._made_at
        with _writing():
            self._file.write(member.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))


@contextmanager
def _writing() -> Iterator[None]:
    """Make a sentence of the file's errors, before they can be taken for those of a connection."""
    try:
        yield
    except OSError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"the backup cannot be written: {error.strerror}", "give a place that can be written to, with room for it"
    )


class Reader:
    """Reads the same in the same order; raises BackupDamaged for anything else."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._tar = tarfile.open(fileobj=file, mode="r|")  # noqa: SIM115 - it is not our file to close
        except tarfile.TarError:
            raise _damaged("it is empty, or no backup of Blindpost (is it still encrypted?)") from None
        self._next = self._following()
        text = self._take_named(HEADER)
        self._header_sha256 = sha256(text).hexdigest()
        self.header = _header(text)
        self._sums: dict[str, tuple[int, str]] = {}

    def pieces(self, table: str) -> Iterator[bytes]:
        """Read the table that comes next."""
        digest, size, number = sha256(), 0, 0
        while self._next is not None and self._next.name == _piece(table, number):
            data = self._take()
            digest.update(data)
            size, number = size + len(data), number + 1
            yield data
        self._sums[table] = size, digest.hexdigest()

    def finish(self) -> Manifest:
        """Read the manifest, and compare with it what was read."""
        text = self._take_named(MANIFEST)
        if self._take_named(SEAL) != _seal(text):
            raise _damaged("its manifest is not what was written")
        if self._next is not None:
            raise _damaged("it goes on where it should end")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            raise _damaged("its manifest cannot be read") from None
        if self._header_sha256 != manifest.header_sha256:
            raise _damaged("its header is not what was written")
        if manifest.tables.keys() != self._sums.keys():
            raise _damaged("its tables are not those that were written")
        for table, expected in manifest.tables.items():
            if self._sums[table] != (expected.bytes, expected.sha256):
                raise _damaged(f"table {table} is not what was written")
        return manifest

    def _take_named(self, name: str) -> bytes:
        if self._next is None or self._next.name != name:
            raise _damaged("it ends too early, or a part of it is missing")
        return self._take()

    def _take(self) -> bytes:
        """Return the content of the member that comes next, and go on to the one after it."""
        member = self._next
        if member is None or not member.isreg() or member.size > PIECE_BYTES:
            raise _damaged("a part of it is none of ours")
        try:
            part = self._tar.extractfile(member)
            data = part.read() if part else b""
        except (tarfile.TarError, OSError):
            data = b""
        if len(data) != member.size:
            raise _damaged("it ends too early")
        self._next = self._following()
        return data

    def _following(self) -> tarfile.TarInfo | None:
        try:
            return self._tar.next()
        except (tarfile.TarError, OSError):
            raise _damaged("it ends too early, or a part of it cannot be read") from None


def check(file: IO[bytes]) -> tuple[Header, Manifest]:
    """Read all of a backup, and compare its checksums; raises BackupDamaged."""
    reader = Reader(file)
    for table in reader.header.tables:
        for _ in reader.pieces(table.name):
            pass
    return reader.header, reader.finish()


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file that has its name only once all of it is on the disk, and is gone if anything fails.

    Its owner's alone from the first byte on. Raises ConfigurationError.
    """
    if os.path.lexists(path):
        raise ConfigurationError(f"{path} is there already, and no backup is overwritten", "give another name")
    partial = path.with_name(f".{path.name}.{token_hex(4)}.partial")
    try:
        with _writing():
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            partial.rename(path)
            sync_directory(path.absolute().parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Standard output, as a file of its own: an error of it is met here, and not at the end of the program."""
    with _writing(), os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
        yield file
        file.flush()


def _header(text: bytes) -> Header:
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        if any(each["loc"] == ("format",) for each in error.errors(include_input=False, include_url=False)):
            raise BackupDamaged(
                "this backup has a form that this program does not know", "use the version of Blindpost that made it"
            ) from None
        raise _damaged("its header cannot be read") from None


def _seal(manifest: bytes) -> bytes:
    return f"{sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _piece(table: str, number: int) -> str:
    return f"{table}/{number:06}"


def _damaged(what: str) -> BackupDamaged:
    return BackupDamaged(f"the backup is damaged: {what}", ANOTHER)
