"""Where the stores live: the data directory with its lock, the directory of the sockets, and the account."""

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from blindpost.errors import StartError, StoresInUse

SUN_PATH_MAX = 103
"""A socket's path may have 107 bytes on Linux, and 103 on macOS."""
LONGEST_SOCKET = "/blindpost-0123456789abcdef/s/.s.PGSQL.5432.lock"

PREFIX = "blindpost-"

POLL_S = 0.01
LOCK_S = 1.0


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll, bounded. Blocking on purpose: stores start before the event loop, and stop after it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


@dataclass(frozen=True, slots=True)
class Account:
    """Whom root's stores run as."""

    uid: int
    gid: int


def choose_account(cluster: Path) -> Account | None:
    """None for an ordinary user, who stays who they are; PostgreSQL refuses to run as root.

    An existing cluster keeps its owner, so no later start has to change the owner of a tree of files: that is how
    a planted link becomes somebody else's file.
    """
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = os.lstat(cluster)
        if owner.st_uid == 0:
            raise StartError(
                f"{cluster} belongs to root, and PostgreSQL does not run as root",
                "Give the directory back to the account that ran it: chown -R -h ACCOUNT: DIRECTORY",
            )
        return Account(owner.st_uid, owner.st_gid)
    for name in ("blindpost", "postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise StartError(
        "As root, the embedded stores need another account to run as, and there is none",
        "Create one: useradd --system blindpost",
    )


def read_untrusted(path: Path, limit: int = 4096) -> str:
    """Read a small file out of a directory that the account may change: follows no link, waits for no pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return os.read(descriptor, limit).decode(errors="replace")
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Create or replace a small file in a directory of ours, never half-written."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
    fresh.replace(path)


def make_directory(path: Path, mode: int, account: Account | None) -> None:
    """Make a new directory for the account. By descriptor: nothing can be put in its place meanwhile."""
    path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make a rename in this directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DataDir:
    """The one directory, and the lock that gives it to one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.cluster = self.path / "postgres"
        self._record = self.path / "runtime"
        self._lock: int | None = None

    def open(self) -> None:
        """Create it where missing, and lock it."""
        if not self.path.exists():
            self.path.mkdir(mode=0o700, parents=True)
            with contextlib.suppress(PermissionError):  # a parent that we may not read
                sync_directory(self.path.parent)
        self._refuse_shared()
        # Not inheritable (PEP 446), or a store that outlives us would hold the lock for us. The kernel releases it
        # at any end of this process; the file stays, since to remove a lock file is a race with the next to lock it.
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        # With patience: a child that a killed owner was just starting has the lock too, until its exec closes it.
        if not until(self._try_lock, LOCK_S):
            owner = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            self.close()
            raise StoresInUse(
                f"{self.path} is in use by another Blindpost (process {owner or 'unknown'})",
                "Stop that one, or give this one another directory with BLINDPOST_DATA_DIR.",
            )
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _try_lock(self) -> bool:
        if self._lock is not None:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        return False

    def _refuse_shared(self) -> None:
        """Who can write here could swap the cluster for another, or for a link; as root that would be our rights."""
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            raise StartError(
                f"{self.path} belongs to another user",
                "Start Blindpost as that user, or give it another directory with BLINDPOST_DATA_DIR.",
            )
        if found.st_mode & (0o022 if found.st_uid == 0 else 0o002):
            raise StartError(f"Other users can write to {self.path}", f"Close it: chmod go-w {self.path}")

    @property
    def runtime(self) -> Path | None:
        """The directory of the sockets of the run before this one, if that run could not tidy up."""
        text = read_untrusted(self._record).strip()
        return Path(text) if text and Path(text).name.startswith(PREFIX) else None

    def record_runtime(self, path: Path | None) -> None:
        """Written before the directory is made, so that none can be forgotten."""
        if path is None:
            self._record.unlink(missing_ok=True)
        else:
            write_private(self._record, f"{path}\n")

    def log(self, name: str) -> int:
        """Open a log for a store: it gets the descriptor, so it needs no right in this directory."""
        path = self.path / name
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_size > 4_000_000:  # noqa: PLR2004 - two files of 4 MB are enough for a look back
                path.replace(path.with_name(name + ".1"))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def log_since(self, name: str, begin: int) -> str:
        """What was written to a log from there on."""
        with (self.path / name).open("rb") as file:
            file.seek(begin)
            return file.read().decode(errors="replace")

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _fit_for_sockets(path: Path) -> bool:
    """Short, open to the account as far as here, and of those where nobody can rename what others made."""
    if len(os.fsencode(path)) + len(LONGEST_SOCKET) > SUN_PATH_MAX or not os.access(path, os.W_OK | os.X_OK):
        return False
    mode = path.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        return False
    return os.geteuid() != 0 or all(each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents))


def is_ours(path: Path) -> bool:
    """Tell whether a directory is there and ours: the name may lead to another's by now, or be a link."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return False


def remove_tree(path: Path) -> None:
    """Remove a directory of ours, and nobody else's."""
    if is_ours(path):
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Runtime:
    """A directory for the sockets of one run, always outside of the data directory.

    A socket's path is limited to about a hundred bytes, and the account must be able to walk to it. The name is
    random and the directory is made by one mkdir, which follows no link and takes no directory that exists. The
    account owns only what it must write to: the sockets' directory, closed to everybody else.
    """

    path: Path
    account: Account | None

    @property
    def sockets(self) -> Path:
        return self.path / "s"

    @classmethod
    def make(cls, data: DataDir, account: Account | None) -> Self:
        # Not tempfile.gettempdir(): it tries by writing, and on a full disk it would say that there is no such place.
        for base in (Path(os.environ.get("TMPDIR", "/tmp")), Path("/tmp"), Path("/var/tmp")):  # noqa: S108
            if base.is_dir() and _fit_for_sockets(base.resolve()):
                made = cls(base.resolve() / f"{PREFIX}{secrets.token_hex(8)}", account)
                data.record_runtime(made.path)
                # Root's lets the account pass on to its sockets; who passes as well finds them closed.
                make_directory(made.path, 0o700 if account is None else 0o711, None)
                make_directory(made.sockets, 0o700, account)
                return made
        raise StartError(
            "There is no directory for temporary files that is safe and short enough for sockets",
            "Make /tmp a directory with mode 1777, or set TMPDIR to one.",
        )


def directory_argument(path: Path, account: Account | None) -> str:
    """How a store that starts in `path` shall name it.

    As root the way to the data may be closed to the account (/root, a 0700 directory). The launcher enters it while
    it is root, and the kernel's own name for "where this process is" needs no walk: so no mode of a directory that
    is not ours has to change, no mount is needed (containers forbid it), and no capability is handed down.
    """
    return "/proc/self/cwd" if account is not None and sys.platform == "linux" else str(path)
