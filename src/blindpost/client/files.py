"""Files for one pair of eyes: never readable by others, never half written."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from blindpost.client.errors import DamagedFile, ExposedFile, FileError

OWNER_ONLY: Final = 0o600
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_NO_LINKS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def read_private(path: Path, max_bytes: int) -> bytes:
    """Read a whole file that only its owner may read.

    Raises FileError if there is none or it is a link, ExposedFile if others can read or write it, DamagedFile if it
    is over `max_bytes`. All checks are made on the opened file, so it cannot be exchanged in between.
    """
    try:
        # Not to wait: a pipe of that name would otherwise hold the open for ever.
        descriptor = os.open(path, os.O_RDONLY | _NO_LINKS | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise FileError(f"{path} cannot be opened: {error.strerror}") from error
    with os.fdopen(_checked(path, descriptor), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DamagedFile(f"{path} is larger than such a file can be")
    return data


def _checked(path: Path, descriptor: int) -> int:
    status = os.fstat(descriptor)
    is_regular = stat.S_ISREG(status.st_mode)
    is_exposed = os.name == "posix" and status.st_mode & OTHERS
    if is_regular and not is_exposed:
        return descriptor
    os.close(descriptor)
    if not is_regular:
        raise FileError(f"{path} is not a regular file")
    raise ExposedFile(f"{path} is open to other users of this computer", f"Run: chmod 600 {path}")


def write_private(path: Path, data: bytes) -> None:
    """Replace a file as a whole, mode 0600: after a crash there is the old content or the new, never a mixture.

    Raises FileError if it cannot be written.
    """
    # A random name of our own, created exclusively: nobody can have put a file or link of that name there.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_new(temporary, data)
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise FileError(f"{path} cannot be written: {error.strerror}") from error


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    """Make the new name durable, where the system can open a directory."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
