"""The encrypted records of a store: what a thief of the file sees, what a meddler can do to it, and disks that fail."""

import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.client import DamagedFile, FileError, Identity, Store
from blindpost.client import records as records_module
from blindpost.client.history import Entry, EntryStatus
from blindpost.client.records import SMALLEST_BYTES, Place, Records
from blindpost.client.saved import Prekey, PrekeySort, SavedSession
from blindpost.client.store import SEEN_MAX, Unsent, UserKeys
from blindpost.protocol.content import Kind
from blindpost.protocol.keys import PublicKey

ALICE = Identity.generate("alice")
BOB, CAROL = UUID("6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"), UUID("0b3f1c55-7d9c-4a1c-9a54-0d7c1f7f5a11")
KEYS = [PublicKey.of(ec.derive_private_key(n, ec.SECP384R1()).public_key()) for n in (1, 2)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.store"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store.open(path, ALICE)) as opened:
        yield opened


def entry(contact_id: UUID, number: int, *, is_mine: bool = False, data: bytes = b"x") -> Entry:
    return Entry(
        client_message_id=UUID(int=number),
        contact_id=contact_id,
        is_mine=is_mine,
        kind=Kind.TEXT,
        data=data,
        sent_at_ms=number,
        message_id=UUID(int=1_000 + number),
        status=EntryStatus.SENT if is_mine else EntryStatus.UNREAD,
    )


@contextmanager
def meddling(path: Path) -> Iterator[sqlite3.Connection]:
    """Change the file as somebody can who knows no key."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


# Who reads the disk


def test_nothing_of_anybody_is_in_the_file(store: Store, path: Path) -> None:
    """No name, id, key, digest or text, in no spelling; nor in what is beside it."""
    digest, session_id, prekey_id, message_id, router_id = (
        sha256(b"x").digest(),
        bytes(range(32)),
        *(uuid4() for _ in "123"),
    )
    text, state, secret = b"meet me at noon", b"state of the ratchet", b"a private prekey"
    with store.change():
        store.contacts.learn(UserKeys(BOB, "bobby_tables", *KEYS), keep=True)
        store.sessions.put(BOB, SavedSession(id=session_id, state=state, rank=1_234_567))
        store.prekeys.put(
            Prekey(
                id=prekey_id,
                sort=PrekeySort.SIGNED,
                secret=secret,
                made_at_s=1,
                expires_s=None,
                signer=b"key",
                published=True,
            )
        )
        store.mark_seen(BOB, digest)
        store.flag(message_id)
        store.enqueue(Unsent(client_message_id=message_id, recipient_id=BOB, message=text))
        store.history.add(
            entry(BOB, 1, is_mine=True, data=text).model_copy(
                update={"client_message_id": message_id, "message_id": router_id}
            )
        )
    found = b"".join(each.read_bytes() for each in path.parent.iterdir())
    ids = [each for known in (BOB, prekey_id, message_id, router_id) for each in (known.bytes, str(known).encode())]
    bare = [ALICE.username.encode(), b"bobby", digest, session_id, text, state, secret, *(key.der for key in KEYS)]
    spelled = [each.hex().encode() for each in (digest, session_id, text)]
    assert not [each for each in (*ids, *bare, *spelled, b"1234567", b"delivered", b"one_time") if each in found]


def test_what_was_removed_or_replaced_is_not_left_in_the_file(store: Store, path: Path) -> None:
    """Neither sealed: whoever learns the key later finds no old one. The journal is empty."""
    store.sessions.put(BOB, SavedSession(id=bytes(32), state=b"old", rank=1))
    store.prekeys.put(
        Prekey(
            id=BOB, sort=PrekeySort.ONE_TIME, secret=b"s", made_at_s=1, expires_s=None, signer=b"key", published=True
        )
    )
    with meddling(path) as file:
        sealed = [each for (each,) in file.execute("SELECT sealed FROM records")]
    store.sessions.put(BOB, SavedSession(id=bytes(32), state=b"new", rank=2))
    store.prekeys.remove(BOB)
    assert len(sealed) == 2
    assert not [each for each in sealed if each in path.read_bytes() or each[12:44] in path.read_bytes()]
    assert [each.stat().st_size for each in path.parent.iterdir() if each != path] == [0]


def test_the_size_of_a_record_says_little(store: Store, path: Path) -> None:
    for number, size in enumerate((0, 1, 40, 1_000)):
        store.prekeys.put(
            Prekey(
                id=UUID(int=number),
                sort=PrekeySort.SIGNED,
                secret=bytes(size),
                made_at_s=1,
                expires_s=1,
                signer=b"key",
                published=True,
            )
        )
    with meddling(path) as file:
        sizes = [size - 28 for (size,) in file.execute("SELECT LENGTH(sealed) FROM records ORDER BY position")]
    assert sizes == [SMALLEST_BYTES, SMALLEST_BYTES, SMALLEST_BYTES, SMALLEST_BYTES * 8]


def test_the_same_is_never_sealed_alike(store: Store, path: Path) -> None:
    """Nor has a person one name among sessions and another's in the history: what belongs to whom is not seen."""
    for contact_id in (BOB, CAROL):
        store.sessions.put(contact_id, SavedSession(id=bytes(32), state=b"same", rank=1))
        store.history.add(entry(contact_id, 1))
        store.mark_seen(contact_id, bytes(32))
    with meddling(path) as file:
        rows = list(file.execute("SELECT owner, name, sealed FROM records"))
    sealed = [each for _, _, each in rows if each is not None]
    assert len({each for owner, name, _ in rows for each in (owner, name)}) == 12
    assert len({each[12:] for each in sealed}) == len(sealed) == 4


# Who writes to the disk


SWAPS: dict[str, str] = {
    "content": "UPDATE records SET sealed = (SELECT sealed FROM records AS other WHERE other.name != records.name)",
    "order": "UPDATE records SET position = 100 - position",
    "state": "UPDATE records SET state = 1",
    "owner": "UPDATE records SET owner = (SELECT MAX(owner) FROM records)",
    "second name": "UPDATE records SET second = x'00'",
    "type": "UPDATE records SET sealed = CAST(sealed AS TEXT)",
    "cut": "UPDATE records SET sealed = SUBSTR(sealed, 1, 20)",
    "empty": "UPDATE records SET sealed = NULL",
}


@pytest.mark.parametrize("swap", SWAPS)
def test_no_record_can_be_put_in_anothers_place(swap: str, store: Store, path: Path) -> None:
    """Nor can a column of it be changed."""
    for contact_id in (BOB, CAROL):
        store.history.add(entry(contact_id, 1))
    with meddling(path) as file:
        file.execute(SWAPS[swap])
    for each in (store, Store.open(path, ALICE)):
        with pytest.raises(DamagedFile):
            page_all(each)


def page_all(store: Store) -> None:
    for contact_id in (BOB, CAROL):
        store.history.page(contact_id, None, 9)


def test_a_kind_is_not_another(store: Store, path: Path) -> None:
    store.contacts.learn(UserKeys(BOB, "bob", *KEYS))
    with meddling(path) as file:
        file.execute("UPDATE records SET kind = 'unsent'")
    with pytest.raises(DamagedFile):
        Store.open(path, ALICE)


META: dict[str, str] = {
    "format": "UPDATE meta SET value = CAST('blindpost-store/3' AS BLOB) WHERE name = 'format'",
    "no format": "DELETE FROM meta",
    "salt": "UPDATE meta SET value = zeroblob(32) WHERE name = 'salt'",
    "short salt": "UPDATE meta SET value = zeroblob(16) WHERE name = 'salt'",
    "text": "UPDATE meta SET value = 'text'",
    "check": "UPDATE meta SET value = zeroblob(300) WHERE name = 'check'",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END",
    "view": "CREATE VIEW v AS SELECT * FROM records",
    "index": "DROP INDEX of_owner",
}


@pytest.mark.parametrize("change", META)
def test_a_file_that_this_program_would_not_have_made_is_refused(change: str, store: Store, path: Path) -> None:
    """A trigger would run as a part of what this program does."""
    store.flag(BOB)
    with meddling(path) as file:
        file.execute(META[change])
    with pytest.raises(DamagedFile):
        Store.open(path, ALICE)


# A disk that fails


@contextmanager
def with_no_more_than(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: the system then refuses to write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


Fault = Callable[[Store, Path], AbstractContextManager[None]]


@contextmanager
def full(store: Store, _: Path) -> Iterator[None]:
    [(count,)] = store._records._run("PRAGMA page_count")
    store._records._run(f"PRAGMA max_page_count = {count}")
    yield
    store._records._run("PRAGMA max_page_count = 1000000")


@contextmanager
def failing(_: Store, path: Path) -> Iterator[None]:
    with with_no_more_than(path.stat().st_size):
        yield


@contextmanager
def failing_at_once(_: Store, __: Path) -> Iterator[None]:
    with with_no_more_than(600):
        yield


@pytest.mark.parametrize("fault", [full, failing, failing_at_once])
def test_a_full_disk_is_told_of_and_loses_nothing(fault: Fault, store: Store, path: Path) -> None:
    """What was there stays; what did not fit is not there, and can be done once there is room."""
    store.history.add(entry(BOB, 1))
    big = entry(BOB, 2, data=bytes(60_000))
    with fault(store, path), pytest.raises(FileError) as caught:
        fill(store, big)
    assert caught.value.hint
    assert not isinstance(caught.value, DamagedFile)
    for each in (store, Store.open(path, ALICE)):
        assert [found for _, found in each.history.page(BOB, None, 9)] == [entry(BOB, 1)]
        assert each.unsent() == ()
    fill(store, big)
    assert [found for _, found in Store.open(path, ALICE).history.page(BOB, None, 9)] == [entry(BOB, 1), big]


def fill(store: Store, big: Entry) -> None:
    with store.change():
        store.enqueue(Unsent(client_message_id=BOB, recipient_id=BOB, message=b"x"))
        store.history.add(big)


def test_a_change_of_which_a_part_failed_is_not_made_in_part(store: Store, path: Path) -> None:
    """SQLite ends a transaction when the disk is full: what follows must not be one of its own."""
    store.history.add(entry(BOB, 1))

    def carry_on() -> None:
        with store.change():
            with full(store, path), suppress(FileError):
                store.history.add(entry(BOB, 2, data=bytes(60_000)))
            store.history.add(entry(BOB, 3))

    with pytest.raises(FileError):
        carry_on()
    for each in (store, Store.open(path, ALICE)):
        assert [found for _, found in each.history.page(BOB, None, 9)] == [entry(BOB, 1)]


def test_another_journal_mode_is_taken_back(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write-ahead log, left by a tool that somebody used on the file, would keep what is removed."""
    monkeypatch.setattr(records_module, "BUSY_WAIT_S", 0.02)
    store.flag(BOB)
    store.close()
    with closing(sqlite3.connect(path)) as tool:
        tool.execute("PRAGMA journal_mode = WAL")
        tool.execute("SELECT * FROM meta").fetchall()
        with pytest.raises(FileError, match="in use"):
            Store.open(path, ALICE)
    again = Store.open(path, ALICE)
    assert again.was_flagged(BOB)
    again.flag(CAROL)
    assert {each.name for each in path.parent.iterdir()} == {path.name, f"{path.name}-journal"}


def test_a_file_that_cannot_be_written_can_be_read(path: Path) -> None:
    """A disk that is read-only, say."""
    with closing(Store.open(path, ALICE)) as store:
        store.flag(BOB)
    records = Store.open(path, ALICE)
    records._records._run("PRAGMA query_only = ON")
    assert records.was_flagged(BOB)
    with pytest.raises(FileError) as caught:
        records.flag(CAROL)
    assert caught.value.hint
    with pytest.raises(FileError):
        Store.open(path.with_name("no") / "such" / "folder", ALICE).flag(BOB)


# Use


def test_changes_are_made_within_a_change() -> None:
    records = Records(None, ALICE)
    with pytest.raises(AssertionError):
        records.put(Place("kind", b"", b"name"), b"content")


def test_another_thread_or_a_closed_file_is_the_callers_fault(store: Store) -> None:
    """It is no sentence about the file."""
    store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        store.unsent()


def test_digests_are_bounded_for_each_person(store: Store) -> None:
    """The oldest go; nobody pushes out another's."""
    digests = [sha256(number.to_bytes(4, "big")).digest() for number in range(SEEN_MAX + 1)]
    store.mark_seen(CAROL, digests[0])
    with store.change():
        for digest in (*digests[:SEEN_MAX], digests[0]):
            store.mark_seen(BOB, digest)
    assert store.seen(BOB, digests[0])
    store.mark_seen(BOB, digests[SEEN_MAX])
    assert [store.seen(BOB, digest) for digest in (digests[0], digests[1], digests[-1])] == [False, True, True]
    assert store.seen(CAROL, digests[0])


def test_nothing_secret_is_shown() -> None:
    """A repr may be in a log."""
    session = SavedSession(id=bytes(32), state=b"secret", rank=1)
    prekey = Prekey(
        id=BOB, sort=PrekeySort.SIGNED, secret=b"secret", made_at_s=1, expires_s=None, signer=b"key", published=True
    )
    assert not [each for each in (session, prekey, entry(BOB, 1, data=b"secret")) if "secret" in repr(each)]


def test_a_change_of_one_writes_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    with store.change():
        for number in range(50):
            store.contacts.learn(UserKeys(UUID(int=number), f"user{number}", *KEYS))
    sealed: list[int] = []
    seal = records_module._Keys.seal

    def counted(keys: records_module._Keys, data: bytes, bound: bytes) -> bytes:
        sealed.append(1)
        return seal(keys, data, bound)

    monkeypatch.setattr(records_module._Keys, "seal", counted)
    store.contacts.learn(UserKeys(UUID(int=7), "user7", *KEYS), keep=True)
    store.mark_read(UUID(int=8), BOB, 1)
    assert len(sealed) == 2


LOOKS: dict[str, Callable[[Store], object]] = {
    "page": lambda store: store.history.page(BOB, None, 10),
    "find": lambda store: store.history.find(BOB, False, UUID(int=1)),
    "awaited": lambda store: store.history.awaited(),
    "unread": lambda store: store.history.unread(),
    "delivered": lambda store: store.history.delivered([UUID(int=1_002), UUID(int=9)]),
    "mark_read": lambda store: store.history.mark_read(BOB),
    "sessions": lambda store: store.sessions.all_of(BOB),
    "seen": lambda store: store.seen(BOB, bytes(32)),
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_looked_for_is_found_without_reading_all(look: str, store: Store) -> None:
    """In a long history: SQLite is counted, and so is what is opened."""
    with store.change():
        for number in range(3_000):
            is_mine = number % 2 == 0
            settled = {"status": EntryStatus.DELIVERED if is_mine else EntryStatus.READ}
            each = entry(CAROL if number > 20 else BOB, number, is_mine=is_mine)
            store.history.add(each if number < 4 else each.model_copy(update=settled))
    steps: list[int] = []
    store._records._connection.set_progress_handler(lambda: steps.append(1), 100)
    LOOKS[look](store)
    assert len(steps) < 20, "hundreds of steps of SQLite's machine; all records would be tens of thousands"


def test_a_message_has_one_place_in_the_history(store: Store) -> None:
    """The first one stays; mine and theirs are apart, and so are those of two people."""
    assert store.history.add(entry(BOB, 1, data=b"first"))
    assert not store.history.add(entry(BOB, 1, data=b"second"))
    assert store.history.add(entry(BOB, 1, is_mine=True))
    assert store.history.add(entry(CAROL, 1))
    assert [found.data for _, found in store.history.page(BOB, None, 9)] == [b"first", b"x"]


def test_a_receipt_marks_mine_alone(store: Store) -> None:
    """A router can give one of theirs the id of one of mine."""
    store.history.add(entry(BOB, 1, is_mine=True))
    store.history.add(entry(BOB, 1))
    assert [each.is_mine for each in store.history.sent_as([UUID(int=1_001), UUID(int=5)])] == [True]
    assert store.history.awaited() == [UUID(int=1_001)]
    store.history.delivered([UUID(int=1_001), UUID(int=5)])
    assert store.history.awaited() == []
    assert [found.status for _, found in store.history.page(BOB, None, 9)] == [
        EntryStatus.DELIVERED,
        EntryStatus.UNREAD,
    ]


def test_what_is_known_to_have_failed_did_not_arrive(store: Store) -> None:
    """Who could not open a message acknowledges it like any other; and only who got it can say so."""
    store.history.add(entry(BOB, 1, is_mine=True))
    store.history.failed([UUID(int=1_001)], "not mine to say", CAROL)
    assert store.history.awaited() == [UUID(int=1_001)]
    store.history.failed([UUID(int=1_001)], "not opened", BOB)
    store.history.delivered([UUID(int=1_001)])
    [(_, found)] = store.history.page(BOB, None, 9)
    assert (found.status, found.problem) == (EntryStatus.FAILED, "not opened")


def test_messages_are_unread_until_they_are_marked(store: Store) -> None:
    for number in (1, 2):
        store.history.add(entry(BOB, number))
    store.history.add(entry(BOB, 3, is_mine=True))
    store.history.add(entry(CAROL, 1))
    assert store.history.unread() == {BOB: 2, CAROL: 1}
    store.history.mark_read(BOB)
    assert store.history.unread() == {CAROL: 1}


def test_a_position_is_not_used_again(store: Store) -> None:
    """Who looks for what is new since a position would miss it."""
    store.history.add(entry(BOB, 1))
    [(first, _)] = store.history.page(BOB, None, 9)
    store.history.clear(BOB)
    store.history.add(entry(BOB, 2))
    assert store.history.page(BOB, first + 1, 9) == []
