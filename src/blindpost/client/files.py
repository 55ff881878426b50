"""Files for one pair of eyes: never readable by others, never half written, changed by one process at a time."""

import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from blindpost.client.errors import DamagedFile, ExposedFile, FileError

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


OWNER_ONLY: Final = 0o600
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_NO_LINKS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
"""A pipe of that name would otherwise hold the open for ever."""

LOCK_WAIT_S: Final = 10.0
"""A change takes milliseconds: who holds the lock for longer was stopped."""
LOCK_PAUSE_S: Final = 0.002


def read_private(path: Path, max_bytes: int) -> bytes:
    """Read a whole file that only its owner may read.

    Raises FileError if there is none or it is a link, ExposedFile if others can read or write it, DamagedFile if it
    is over `max_bytes`. All checks are made on the opened file, so it cannot be exchanged in between.
    """
    data = _read(path, _open(path, os.O_RDONLY), max_bytes + 1)
    if len(data) > max_bytes:
        raise DamagedFile(f"{path} is larger than such a file can be")
    return data


def peek_private(path: Path, size: int) -> bytes | None:
    """Read the beginning of a file, or None if there is none; raises as `read_private` does."""
    try:
        return _read(path, _open(path, os.O_RDONLY), size)
    except FileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def create_private(path: Path) -> None:
    """Make an empty file, mode 0600, if there is nothing of that name; raises FileError."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, OWNER_ONLY))
        _sync_directory(path.parent)
    except FileExistsError:
        return
    except OSError as error:
        raise FileError(f"{path} cannot be made: {error.strerror}") from error


def check_private(path: Path) -> bool:
    """Look at a file by its name, and tell whether it is there.

    Raises FileError if it is no regular one or cannot be looked at, ExposedFile if it is open to others.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FileError(f"{path} cannot be opened: {error.strerror}") from error
    _check(path, status)
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file; raises FileError if one holds it for more than 10 s.

    The lock is the kernel's, on a file of its own that stays, as the file itself is replaced at each change. It ends
    with its holder, however that ends. Never await while it is held, nor take it twice.
    """
    descriptor = _lock(path)
    try:
        yield
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove a file that nobody needs, and its lock; raises FileError."""
    try:
        with locked(path):
            path.unlink(missing_ok=True)
            # Windows removes no file that is open: an empty one then stays.
            with suppress(PermissionError):
                _lock_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path} cannot be removed: {error.strerror}") from error


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _lock(path: Path) -> int:
    """Return the descriptor of the lock, which is held."""
    lock = _lock_of(path)
    while True:
        descriptor = _checked(lock, _open(lock, os.O_RDWR | os.O_CREAT))
        try:
            _wait_for(path, descriptor)
            # Its holder may have removed it: others would then take a new one beside it.
            if _is_at(lock, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _wait_for(path: Path, descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return _try_lock(descriptor)
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                raise FileError(f"{path} is in use", "End the other program that uses it, and try again.") from None
        except OSError as error:
            raise FileError(f"{path} cannot be locked: {error.strerror}") from error
        time.sleep(LOCK_PAUSE_S)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | _NO_LINKS | _NO_WAIT, OWNER_ONLY)
    except OSError as error:
        is_missing = error.errno == errno.ENOENT
        hint = "Is it the right one (--identity)? `blindpost register` makes an identity." if is_missing else ""
        raise FileError(f"{path} cannot be opened: {error.strerror}", hint) from error


def _read(path: Path, descriptor: int, size: int) -> bytes:
    with os.fdopen(_checked(path, descriptor), "rb") as file:
        return file.read(size)


def _checked(path: Path, descriptor: int) -> int:
    try:
        _check(path, os.fstat(descriptor))
    except FileError:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{path} is not a regular file")
    if os.name == "posix" and status.st_mode & OTHERS:
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
