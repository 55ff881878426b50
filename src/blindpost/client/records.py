"""Encrypted records in a SQLite file: sealed one by one, found by names that tell nothing, changed in transactions.

    meta(name, value)       format: "blindpost-store/2", salt: 32 bytes, check: sealed, empty
    records(position, kind, owner, name, state, second, sealed)

Names are HMACs. A record is AES-256-GCM with all its other columns as associated data, so that none can be put in
another's place, and no column be changed, without notice. What the records are is known to `store` and its like.
"""

import hmac
import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blindpost.client.errors import DamagedFile, FileError
from blindpost.client.files import check_private, create_private, peek_private
from blindpost.client.identity import Identity
from blindpost.protocol.padding import pad, unpad
from blindpost.protocol.transcripts import transcript

FORMAT: Final = b"blindpost-store/2"
EARLIER: Final = b"blindpost-store/1\n"
SALT_BYTES: Final = 32
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
NAME_BYTES: Final = 32
SMALLEST_BYTES: Final = 256
"""Contents are padded to powers of two from here on: the size of a record says little of what is in it."""
BUSY_WAIT_S: Final = 10.0
"""A change takes milliseconds: who holds the file for longer was stopped."""

_SCHEMA: Final = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    (
        "CREATE TABLE records(position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, owner BLOB NOT NULL,"
        " name BLOB NOT NULL UNIQUE, state INTEGER NOT NULL, second BLOB, sealed BLOB)"
    ),
    "CREATE INDEX of_owner ON records(kind, owner)",
    "CREATE INDEX in_state ON records(kind, state, owner) WHERE state <> 0",
    "CREATE INDEX of_second ON records(second) WHERE second IS NOT NULL",
)
_SEQUENCE: Final = "CREATE TABLE sqlite_sequence(name,seq)"
"""SQLite's own: positions are never used again."""

# The journal is the rollback journal, and emptied by each commit. A write-ahead log would keep copies of replaced and
# deleted records, old keys among them, until it is next overwritten, and so would a journal that is kept whole
# (PERSIST). One that is deleted (DELETE) may be back after a power cut, and with it what the transaction replaced: the
# directory is synchronised at EXTRA only. Emptying it is synchronised at FULL. What is deleted in the file itself is
# overwritten with zeros; sorting and undoing use memory, never other files.
_PRAGMAS: Final = (
    "PRAGMA secure_delete = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)
_JOURNAL: Final = "PRAGMA journal_mode = TRUNCATE"
_SIDES: Final = ("-journal", "-wal", "-shm")

_OF_NAME: Final = "SELECT position, owner, name, state, second, sealed FROM records WHERE name = ?"
_OF_KIND: Final = "SELECT position, owner, name, state, second, sealed FROM records WHERE kind = ? ORDER BY position"
_OF_OWNER: Final = (
    "SELECT position, owner, name, state, second, sealed FROM records WHERE kind = ? AND owner = ? ORDER BY position"
)
_PAGE: Final = (
    "SELECT position, owner, name, state, second, sealed FROM records INDEXED BY of_owner"
    " WHERE kind = ? AND owner = ? AND position < ? ORDER BY position DESC LIMIT ?"
)
_IN_STATE: Final = (
    "SELECT position, owner, name, state, second, sealed FROM records INDEXED BY in_state"
    " WHERE kind = ? AND state = ? AND state <> 0 ORDER BY position"
)
_OF_OWNER_IN_STATE: Final = (
    "SELECT position, owner, name, state, second, sealed FROM records INDEXED BY in_state"
    " WHERE kind = ? AND state = ? AND owner = ? AND state <> 0 ORDER BY position"
)
_OF_SECOND: Final = (
    "SELECT position, owner, name, state, second, sealed FROM records INDEXED BY of_second"
    " WHERE second = ? AND kind = ? ORDER BY position"
)
_COUNT: Final = (
    "SELECT MIN(position), COUNT(*) FROM records INDEXED BY in_state WHERE kind = ? AND state = ? AND state <> 0"
    " GROUP BY owner"
)
_AT: Final = "SELECT position, owner, name, state, second, sealed FROM records WHERE position = ?"
_PLACE: Final = "SELECT position FROM records WHERE name = ?"
_NEXT: Final = "SELECT seq + 1 FROM sqlite_sequence WHERE name = 'records'"
_INSERT: Final = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)"
_UPDATE: Final = "UPDATE records SET state = ?, second = ?, sealed = ? WHERE position = ?"
_REMOVE: Final = "DELETE FROM records WHERE name = ?"
_REMOVE_ALL: Final = "DELETE FROM records WHERE kind = ? AND owner = ?"
_REMOVE_OLDEST: Final = (
    "DELETE FROM records WHERE kind = ? AND owner = ? AND position <="
    " (SELECT position FROM records WHERE kind = ? AND owner = ? ORDER BY position DESC LIMIT 1 OFFSET ?)"
)


class Place(NamedTuple):
    """Where a record is: one of a kind, of an owner (empty if the kind has none), under a name of theirs."""

    kind: str
    owner: bytes
    name: bytes


class Record(NamedTuple):
    """A record's content, and its position: records that are newer have higher ones, also across kinds."""

    position: int
    data: bytes


class Row(NamedTuple):
    """A record as it is in the file. All but the position and the state are HMACs or sealed."""

    position: int
    owner: bytes
    name: bytes
    state: int
    second: bytes | None
    sealed: bytes


class _Keys:
    """What seals records and names them, of one file."""

    def __init__(self, identity: Identity, salt: bytes) -> None:
        derived = identity.derive_key("store", salt, 2 * KEY_BYTES)
        # Random nonces under one key are good for 2^32 records sealed: a hundred a second for more than a year.
        self._cipher = AESGCM(derived[:KEY_BYTES])
        self._index = derived[KEY_BYTES:]

    def name(self, label: str, *fields: bytes) -> bytes:
        return hmac.digest(self._index, transcript(label, *fields), "sha384")[:NAME_BYTES]

    def seal(self, data: bytes, bound: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, pad(data, _padded_size(data)), bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """Return what was sealed; raises InvalidTag, ValueError or TypeError if it is not that."""
        return unpad(self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound))


def _padded_size(data: bytes) -> int:
    # The smallest power of two above the length: the padding's mark needs a byte.
    return max(SMALLEST_BYTES, 1 << len(data).bit_length())


class Records:
    """An open file of records, for one thread. Several processes, or several of these, may use one file.

    There is no file before the first change. Everything raises FileError if the file cannot be read or written, and
    DamagedFile if it is not what this program wrote.
    """

    def __init__(self, path: Path | None, identity: Identity) -> None:
        self._path = path
        self._identity = identity
        self._depth = 0
        """How many changes are under way, each within the one before."""
        self._is_broken = False
        """Whether SQLite gave up the transaction under way: nothing more may be done in it."""
        self._is_waiting = path is not None and not check_private(path)
        """Whether the file is not there yet: until it is, an empty one in memory stands for it."""
        self._connect(None if self._is_waiting else path)

    def _look(self) -> None:
        """Open the file if it was not there, and is by now."""
        if self._is_waiting and self._path is not None and check_private(self._path):
            self.close()
            self._connect(self._path)
            self._is_waiting = False

    def _begin_file(self) -> None:
        if self._is_waiting and self._path is not None:
            create_private(self._path)
            self._look()

    def _connect(self, path: Path | None) -> None:
        connection = _open(path)
        try:
            with _sentences(path):
                keys = _begin(connection, path, self._identity)
        except BaseException:
            connection.close()
            raise
        self._connection, self._keys = connection, keys
        self.close = weakref.finalize(self, _close, connection)

    def version(self) -> tuple[int, int]:
        """Return what differs once another process, or another of these, changed the file."""
        self._look()
        return id(self._connection), self._run("PRAGMA data_version")[0][0]

    @contextmanager
    def change(self) -> Iterator[None]:
        """Make changes that are all on disk at the end, or after an exception none of them.

        Nobody else changes the file meanwhile, so never await inside. A change within a change is a part of it, on disk
        with it; one that fails leaves nothing of itself, and the outer one may go on.
        """
        if self._depth == 0:
            self._begin_file()
        self._depth += 1
        begin, end, undo = _steps(self._depth)
        try:
            self._run(begin)
            yield
            self._run(end)
        except BaseException:
            self._undo(undo)
            raise
        finally:
            self._depth -= 1
            self._is_broken = self._is_broken and self._depth > 0

    def _undo(self, steps: tuple[str, ...]) -> None:
        # A commit may have been made just before the exception; then there is no transaction to undo.
        if not self._connection.in_transaction:
            return
        try:
            for step in steps:
                self._connection.execute(step)
        except sqlite3.Error:
            # The whole is given up, so that nothing in part can be committed.
            self._is_broken = True
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Read several things as they are at one moment. Inside a change it is that change's."""
        if self._depth:
            yield
            return
        self._look()
        self._run("BEGIN")
        try:
            yield
        finally:
            # Nothing was written, so there is nothing to lose.
            self._connection.rollback()

    def get(self, place: Place) -> bytes | None:
        """Return a record's content."""
        found = self._records(place.kind, _OF_NAME, self._name(place))
        return found[0].data if found else None

    def has(self, place: Place) -> bool:
        """Tell whether there is such a record, or mark."""
        return bool(self._run(_PLACE, self._name(place)))

    def rows(self, kind: str) -> list[Row]:
        """Return all of a kind, oldest first, as they are in the file: for who has opened most of them before."""
        return [Row(*each) for each in self._run(_OF_KIND, kind)]

    def opened(self, kind: str, row: Row) -> bytes:
        """Return the content of a row."""
        try:
            return self._keys.open(row.sealed, _bound(kind, row))
        except (InvalidTag, ValueError, TypeError):
            raise DamagedFile(f"{self._path} is damaged") from None

    def of_owner(self, kind: str, owner: bytes) -> list[Record]:
        """Return all of an owner's, oldest first."""
        return self._records(kind, _OF_OWNER, kind, self._owner(kind, owner))

    def page(self, kind: str, owner: bytes, before: int, limit: int) -> list[Record]:
        """Return the newest of an owner's that are before a position, newest first."""
        return self._records(kind, _PAGE, kind, self._owner(kind, owner), before, limit)

    def in_state(self, kind: str, state: int, owner: bytes | None = None) -> list[Record]:
        """Return all in a state other than 0, or those of an owner, oldest first."""
        if owner is None:
            return self._records(kind, _IN_STATE, kind, state)
        return self._records(kind, _OF_OWNER_IN_STATE, kind, state, self._owner(kind, owner))

    def of_second(self, kind: str, second: bytes) -> list[Record]:
        """Return all that have this second name, oldest first."""
        return self._records(kind, _OF_SECOND, self._second(kind, second), kind)

    def counts(self, kind: str, state: int) -> list[tuple[Record, int]]:
        """Return, for each owner with records in a state other than 0, the oldest of these and how many there are."""
        with self.moment():
            counted = self._run(_COUNT, kind, state)
            return [(self._records(kind, _AT, position)[0], count) for position, count in counted]

    def put(self, place: Place, data: bytes, *, state: int = 0, second: bytes | None = None) -> None:
        """Write a record; one that is there keeps its position. Within `change` only, as all that follow."""
        row, is_new = self._row(place, state, second)
        sealed = self._keys.seal(data, _bound(place.kind, row))
        if is_new:
            self._write(_INSERT, row.position, place.kind, row.owner, row.name, state, row.second, sealed)
        else:
            self._write(_UPDATE, state, row.second, sealed, row.position)

    def mark(self, place: Place, keep: int) -> None:
        """Write down a name alone, if it is not there yet, and drop all of its owner's but the newest `keep`."""
        row, is_new = self._row(place, 0, None)
        if is_new:
            self._write(_INSERT, row.position, place.kind, row.owner, row.name, 0, None, None)
            self._write(_REMOVE_OLDEST, place.kind, row.owner, place.kind, row.owner, keep)

    def remove(self, place: Place) -> None:
        """Remove a record, if it is there."""
        self._write(_REMOVE, self._name(place))

    def remove_all(self, kind: str, owner: bytes) -> None:
        """Remove all of an owner's."""
        self._write(_REMOVE_ALL, kind, self._owner(kind, owner))

    def _row(self, place: Place, state: int, second: bytes | None) -> tuple[Row, bool]:
        """Return the row of a record that is to be written, not sealed yet, and whether it is new: then at the end."""
        name = self._name(place)
        found = self._run(_PLACE, name)
        # There is no last position in an empty file.
        [(position,)] = found or self._run(_NEXT) or [(1,)]
        hidden = None if second is None else self._second(place.kind, second)
        return Row(position, self._owner(place.kind, place.owner), name, state, hidden, b""), not found

    def _name(self, place: Place) -> bytes:
        return self._hidden("store-name", place.kind.encode(), place.owner, place.name)

    def _owner(self, kind: str, owner: bytes) -> bytes:
        return self._hidden("store-owner", kind.encode(), owner)

    def _second(self, kind: str, second: bytes) -> bytes:
        return self._hidden("store-second", kind.encode(), second)

    def _hidden(self, label: str, *fields: bytes) -> bytes:
        # The names are the file's: it may be there by now.
        self._look()
        return self._keys.name(label, *fields)

    def _records(self, kind: str, sql: str, *values: object) -> list[Record]:
        rows = [Row(*each) for each in self._run(sql, *values)]
        return [Record(row.position, self.opened(kind, row)) for row in rows]

    def _write(self, sql: str, *values: object) -> None:
        if self._depth == 0:
            raise AssertionError("changes are made within a change")
        self._run(sql, *values)

    def _run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        if self._is_broken:
            raise FileError(f"{self._path} was not changed, as a part of the change failed")
        try:
            with _sentences(self._path):
                # All rows at once: a statement that is not at its end would keep others from writing.
                return self._connection.execute(sql, values).fetchall()
        except FileError:
            # SQLite ends the transaction at some errors, and each statement after that would be one of its own.
            self._is_broken = self._depth > 0
            raise


def _steps(depth: int) -> tuple[str, str, tuple[str, ...]]:
    """Return what begins, ends and undoes a change at a depth, from 1."""
    if depth == 1:
        return "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",)
    name = f"change{depth}"
    return f"SAVEPOINT {name}", f"RELEASE {name}", (f"ROLLBACK TO {name}", f"RELEASE {name}")


def _bound(kind: str, row: Row) -> bytes:
    """Return what is authenticated with a record: all that is in the open beside it."""
    place = (kind.encode(), row.owner, row.name, str(row.position).encode(), str(row.state).encode())
    return transcript("store-record", *place, row.second or b"")


def _open(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return sqlite3.connect(":memory:", isolation_level=None)
    # By name and not opened: to close a file takes away the locks that this process has on it through another opening.
    # Who could exchange it in between can write to its directory, and could as well exchange it later.
    for side in ("", *_SIDES):
        check_private(path.with_name(path.name + side))
    with _sentences(path):
        # SQLite makes the journal with the mode of the file.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_WAIT_S, isolation_level=None)


def _close(connection: sqlite3.Connection) -> None:
    # The collector may run in another thread, where nothing can be closed; the process's end closes it then.
    with suppress(sqlite3.ProgrammingError):
        connection.close()


def _begin(connection: sqlite3.Connection, path: Path | None, identity: Identity) -> _Keys:
    """Set a connection up, begin the file if it is empty, and return its keys; raises DamagedFile or sqlite3.Error."""
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    if connection.execute(_JOURNAL).fetchone()[0] not in {"truncate", "memory"}:
        raise FileError(f"{path} is in use by another kind of program", "End it, and try again.")
    if not _schema_of(connection):
        _make(connection, identity)
    if _schema_of(connection) != {*_SCHEMA, _SEQUENCE}:
        # Triggers and the like would run as a part of what this program does.
        raise DamagedFile(f"{path} is not a store file")
    return _keys_of(dict(connection.execute("SELECT name, value FROM meta")), path, identity)


def _schema_of(connection: sqlite3.Connection) -> set[str]:
    # An index without SQL is made by SQLite for a UNIQUE in the SQL of its table.
    return {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}


def _make(connection: sqlite3.Connection, identity: Identity) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have begun the file while this one waited.
        if not _schema_of(connection):
            salt = os.urandom(SALT_BYTES)
            check = _Keys(identity, salt).seal(b"", _check(salt))
            for statement in _SCHEMA:
                connection.execute(statement)
            meta = (("format", FORMAT), ("salt", salt), ("check", check))
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        connection.execute("COMMIT")
    finally:
        connection.rollback()


def _check(salt: bytes) -> bytes:
    return transcript("store-check", FORMAT, salt)


def _keys_of(meta: dict[str, bytes], path: Path | None, identity: Identity) -> _Keys:
    salt = meta.get("salt")
    if meta.get("format") != FORMAT or not isinstance(salt, bytes) or len(salt) != SALT_BYTES:
        raise DamagedFile(f"{path} is not a store file, or one of a later version")
    keys = _Keys(identity, salt)
    try:
        keys.open(meta.get("check", b""), _check(salt))
    except (InvalidTag, ValueError, TypeError):
        raise DamagedFile(f"{path} is damaged, or belongs to another identity") from None
    return keys


@contextmanager
def _sentences(path: Path | None) -> Iterator[None]:
    """Raise SQLite's errors as FileError or DamagedFile."""
    try:
        yield
    except sqlite3.ProgrammingError:
        # Closed, or used from another thread: the caller's fault, not the file's.
        raise
    except sqlite3.Error as error:
        raise _error(path, error) from error
    except UnicodeDecodeError:
        # SQLite quotes what it cannot understand.
        raise DamagedFile(f"{path} is damaged") from None


def _error(path: Path | None, error: sqlite3.Error) -> FileError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return FileError(f"{path} was moved, removed or replaced meanwhile", "Start this program again.")
    match code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return FileError(f"{path} is in use", "End the other program that uses it, and try again.")
        case sqlite3.SQLITE_FULL:
            return FileError(f"{path} cannot be written: the disk is full", "Make room, and try again.")
        case sqlite3.SQLITE_NOTADB:
            return _not_a_store(path)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR:
            hint = "Is the disk full, or read-only? Nothing was changed."
            return FileError(f"{path} cannot be read or written: {error}", hint)
        case _:
            return DamagedFile(f"{path} is damaged")


def _not_a_store(path: Path | None) -> DamagedFile:
    # No SQLite file, so no process has a lock on it that looking into it could end.
    if path is not None and peek_private(path, len(EARLIER)) == EARLIER:
        return DamagedFile(f"{path} is of an earlier version of this program", "Move it away: a new one is made.")
    return DamagedFile(f"{path} is not a store file")
