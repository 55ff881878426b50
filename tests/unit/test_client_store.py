"""A client's memory: whose keys, what was read, what is unsent. It is encrypted, and outlives the process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from blindpost.client import (
    Contact,
    DamagedFile,
    ExposedFile,
    FileError,
    Identity,
    KeyChanged,
    OutboxFull,
    Scrypt,
    StillTrusted,
    Store,
    UnknownContact,
    UntrustedAnswer,
    WrongServer,
)
from blindpost.client import files as files_module
from blindpost.client import records as records_module
from blindpost.client import store as store_module
from blindpost.client.files import discard, locked, write_private
from blindpost.client.history import Entry, EntryStatus
from blindpost.client.records import Records
from blindpost.client.store import FLAGGED_MAX, OUTBOX_MAX, READ_MAX, Unsent, UserKeys
from blindpost.protocol.content import Kind
from blindpost.protocol.keys import PublicKey

BOB = UUID(int=2)
KEYS = [PublicKey.of(ec.derive_private_key(n, ec.SECP384R1()).public_key()) for n in range(1, 7)]


def keys(ecdsa: int, ecdh: int) -> UserKeys:
    return UserKeys(BOB, "bob", KEYS[ecdsa], KEYS[ecdh])


def registered() -> Identity:
    alice = Identity.generate("alice")
    alice.belong_to("https://chat.example.org", UUID(int=1))
    return alice


ALICE = registered()


def unsent(number: int) -> Unsent:
    return Unsent(client_message_id=UUID(int=number), recipient_id=BOB, message=b"x")


def entry(number: int) -> Entry:
    return Entry(
        client_message_id=UUID(int=number),
        contact_id=BOB,
        is_mine=False,
        kind=Kind.TEXT,
        data=b"hello",
        sent_at_ms=number,
        message_id=UUID(int=1_000 + number),
        status=EntryStatus.UNREAD,
    )


def remembered(store: Store) -> Contact:
    bob = store.contacts.get(BOB)
    assert bob is not None
    return bob


def verified(store: Store) -> Contact:
    bob = store.contacts.learn(keys(0, 1))
    assert store.contacts.verify(BOB, store.contacts.number(bob))
    return remembered(store)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.store"


@pytest.fixture
def store() -> Store:
    return Store.in_memory(ALICE)


def test_the_first_keys_are_kept(store: Store) -> None:
    """Trust on first use; the same keys again change nothing."""
    first = store.contacts.learn(keys(0, 1))
    assert store.contacts.learn(keys(0, 1)) == first
    assert store.contacts.get(BOB) == store.contacts.named("BOB") == first
    assert store.contacts.named("nobody") is None


def test_another_identity_key_needs_the_users_word(store: Store) -> None:
    """The keys in use stay until the user confirms the very ones shown."""
    bob = verified(store)
    with pytest.raises(KeyChanged) as caught:
        store.contacts.learn(keys(2, 3))
    assert remembered(store) == bob.model_copy(update={"offered": (KEYS[2], KEYS[3])})
    assert caught.value.old_number == store.contacts.number(bob)
    assert not store.contacts.verify(BOB, caught.value.new_number)
    assert store.contacts.confirm(BOB, caught.value.new_number)
    bob = remembered(store)
    assert (bob.ecdsa, bob.ecdh, bob.verified, bob.offered) == (KEYS[2], KEYS[3], False, None)


def test_keys_that_came_after_the_look_are_not_confirmed(store: Store) -> None:
    """A router that changes the keys again while the user compares gains nothing."""
    bob = store.contacts.learn(keys(0, 1))
    with pytest.raises(KeyChanged) as seen:
        store.contacts.learn(keys(2, 3))
    with pytest.raises(KeyChanged):
        store.contacts.learn(keys(4, 5))
    assert not store.contacts.confirm(BOB, seen.value.new_number)
    assert remembered(store).ecdsa == bob.ecdsa == KEYS[0]


def test_a_change_taken_back_was_a_change(path: Path) -> None:
    """A router that goes back to the trusted key, on its own or after a restart, does not end the warning."""
    bob = verified(Store.open(path, ALICE))
    number = Store.open(path, ALICE).contacts.number(bob)
    with pytest.raises(KeyChanged):
        Store.open(path, ALICE).contacts.learn(keys(2, 3))
    for _ in range(2):
        store = Store.open(path, ALICE)
        with pytest.raises(KeyChanged, match="should not have") as caught:
            store.contacts.learn(keys(0, 1))
        assert caught.value.new_number == caught.value.old_number == number
        assert not store.contacts.verify(BOB, number)
    assert store.contacts.confirm(BOB, number)
    assert store.contacts.learn(keys(0, 1)) == bob == remembered(Store.open(path, ALICE))


def test_one_name_is_one_person(store: Store) -> None:
    """A key under a new id and a known name would pass for a first one, and its messages for that person's."""
    store.contacts.learn(keys(0, 1))
    with pytest.raises(WrongServer):
        store.contacts.learn(UserKeys(UUID(int=9), "BOB", KEYS[2], KEYS[3]))
    assert [each.user_id for each in store.contacts.all()] == [BOB]


def stranger(number: int) -> UserKeys:
    return UserKeys(UUID(int=100 + number), f"stranger{number}", KEYS[0], KEYS[1])


def test_strangers_have_a_room_of_their_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take nobody's place, neither that of somebody chosen nor one another's; a choice is always possible."""
    monkeypatch.setattr(store_module, "STRANGERS_MAX", 3)
    monkeypatch.setattr(store_module, "CONTACTS_MAX", 2)
    store.contacts.learn(keys(0, 1), keep=True)
    for number in range(3):
        store.contacts.learn(stranger(number))
    before = store.contacts.all()
    with pytest.raises(UntrustedAnswer, match="more people"):
        store.contacts.learn(stranger(3))
    assert store.contacts.all() == before
    store.contacts.learn(stranger(0), keep=True)
    store.contacts.learn(stranger(3))
    with pytest.raises(UntrustedAnswer):
        store.contacts.learn(stranger(4), keep=True)
    assert [each.kept for each in store.contacts.all()] == [True, True, False, False, False]
    assert store.contacts.learn(stranger(0)).kept, "once chosen is chosen"


@pytest.mark.parametrize("act", ["verify", "confirm"])
def test_who_was_compared_or_confirmed_is_no_stranger(act: str, store: Store) -> None:
    bob = store.contacts.learn(keys(0, 1))
    number = store.contacts.number(bob)
    if act == "confirm":
        with pytest.raises(KeyChanged) as caught:
            store.contacts.learn(keys(2, 3))
        number = caught.value.new_number
    assert not bob.kept
    assert getattr(store.contacts, act)(BOB, number)
    assert remembered(store).kept


def test_forgetting_takes_a_word_more_where_there_is_something_to_lose(store: Store) -> None:
    """What was compared, and a change that waits: to forget it would be to confirm it without a look."""
    verified(store)
    with pytest.raises(StillTrusted, match="compared"):
        store.contacts.forget(BOB)
    store.contacts.forget(BOB, sure=True)
    store.contacts.learn(keys(0, 1))
    with pytest.raises(KeyChanged):
        store.contacts.learn(keys(2, 3))
    with pytest.raises(StillTrusted, match="not confirmed") as caught:
        store.contacts.forget(BOB)
    assert caught.value.hint
    store.contacts.forget(BOB, sure=True)
    with pytest.raises(UnknownContact):
        store.contacts.forget(BOB)
    store.contacts.learn(keys(4, 5))
    store.contacts.forget(BOB)
    assert store.contacts.all() == ()


def test_a_store_of_an_earlier_version_says_so(path: Path) -> None:
    """It was written whole, and never released."""
    write_private(path, b"blindpost-store/1\n" + bytes(500))
    with pytest.raises(DamagedFile, match="earlier version") as caught:
        Store.open(path, ALICE)
    assert caught.value.hint


def test_a_new_ecdh_key_is_its_owners_word(store: Store) -> None:
    """Under the same identity key it is accepted, and verification stays."""
    verified(store)
    bob = store.contacts.learn(keys(0, 2))
    assert (bob.ecdh, bob.verified) == (KEYS[2], True)


def test_a_replaced_ecdh_key_does_not_come_back(store: Store) -> None:
    """An old signature is still good, so a router could offer a key that was stolen since."""
    store.contacts.learn(keys(0, 1))
    store.contacts.learn(keys(0, 2))
    with pytest.raises(KeyChanged) as caught:
        store.contacts.learn(keys(0, 1))
    assert remembered(store).ecdh == KEYS[2]
    assert store.contacts.confirm(BOB, caught.value.new_number)
    assert (remembered(store).ecdh, remembered(store).former) == (KEYS[1], (KEYS[2],))


def test_everything_is_there_after_a_restart(path: Path) -> None:
    """Contacts with unconfirmed keys, read messages, flags and the outbox."""
    store = Store.open(path, ALICE)
    store.contacts.learn(keys(0, 1))
    store.contacts.learn(keys(0, 2))
    with pytest.raises(KeyChanged):
        store.contacts.learn(keys(3, 4))
    store.mark_read(BOB, UUID(int=5), 6)
    store.flag(UUID(int=7))
    store.enqueue(Unsent(client_message_id=UUID(int=8), recipient_id=BOB, message=b"\x00\xff"))
    again = Store.open(path, ALICE)
    assert again.contacts.all() == store.contacts.all()
    assert again.was_flagged(UUID(int=7))
    assert again.unsent() == store.unsent()
    again.settle(UUID(int=8))
    assert Store.open(path, ALICE).unsent() == ()


def test_the_file_is_encrypted_and_the_owners(path: Path) -> None:
    """Names, ids and keys are not to be found in it, and only its owner can open it."""
    store = Store.open(path, ALICE)
    bob = store.contacts.learn(keys(0, 1))
    data = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"bob" not in data
    assert str(BOB).encode() not in data
    assert bob.ecdsa.der not in data
    with pytest.raises(DamagedFile, match="another identity"):
        Store.open(path, Identity.generate("mallory"))


def test_a_store_that_was_only_read_leaves_no_file(path: Path) -> None:
    """A registration that fails must not leave one: the next try has another identity."""
    store, other = Store.open(path, ALICE), Store.open(path, ALICE)
    assert (store.contacts.all(), store.unsent(), store.was_flagged(BOB)) == ((), (), False)
    assert not path.exists()
    other.flag(BOB)
    assert store.was_flagged(BOB)


def everything(store: Store) -> set[object]:
    return {
        *(each.model_dump_json() for each in store.contacts.all()),
        *store.unsent(),
        *store.history.page(BOB, None, 9),
    }


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_changed_byte_makes_it_say_something_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """It is noticed, or a record is as if it had been taken out."""
    path = tmp_path_factory.mktemp("store") / "file"
    store = Store.open(path, ALICE)
    store.contacts.learn(keys(0, 1))
    store.enqueue(unsent(1))
    store.history.add(entry(1))
    written = everything(store)
    store.close()
    changed = bytearray(path.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    write_private(path, bytes(changed))
    with suppress(FileError):
        assert everything(Store.open(path, ALICE)) <= written


@pytest.mark.parametrize(
    "content", [b"blindpost", b"SQLite format 3\x00", b"blindpost-store/3\n" + bytes(999), bytes(200)]
)
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    """Cut short, or of another kind."""
    write_private(path, content)
    with pytest.raises(FileError):
        Store.open(path, ALICE)


def test_a_message_is_read_once(store: Store) -> None:
    """The sender's id for it counts, whatever the router calls it."""
    store.contacts.learn(keys(0, 1))
    assert not store.was_read(BOB, UUID(int=1))
    assert store.mark_read(BOB, UUID(int=1), 100)
    assert store.was_read(BOB, UUID(int=1))
    assert not store.mark_read(UUID(int=3), UUID(int=1), 100)
    assert not store.was_read(UUID(int=3), UUID(int=1))


def test_the_memory_is_bounded_and_knows_what_it_forgot(store: Store) -> None:
    """What was dropped from memory is not taken for new: everything up to its time is in doubt."""
    store.contacts.learn(keys(0, 1))
    for number in range(READ_MAX + 10):
        store.mark_read(BOB, UUID(int=number), 1_000 + number)
    assert len(remembered(store).read) == READ_MAX
    assert remembered(store).forgotten_until == 1_009


@given(st.lists(st.tuples(st.uuids(), st.integers(0, 2**50)), max_size=40))
def test_no_message_is_accepted_twice(received: list[tuple[UUID, int]]) -> None:
    """Whatever the order of arrival, each message read is remembered, or older than what was forgotten."""
    bob = Contact(user_id=BOB, username="bob", ecdsa=KEYS[0], ecdh=KEYS[1])
    unread = {message_id: sent_at for message_id, sent_at in received if message_id.int % 2}
    for message_id, sent_at in unread.items():
        bob = bob.having_read(message_id, sent_at)
    assert all(message_id in bob.read or sent_at <= bob.forgotten_until for message_id, sent_at in unread.items())


def test_a_router_cannot_invent_people_without_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is dropped for somebody new; the new one is refused."""
    monkeypatch.setattr(store_module, "CONTACTS_MAX", 1)
    bob = store.contacts.learn(keys(0, 1))
    with pytest.raises(UntrustedAnswer):
        store.contacts.learn(keys(2, 3)._replace(user_id=UUID(int=99)))
    assert store.contacts.all() == (bob,)
    assert store.contacts.learn(keys(0, 1)) == bob


def test_the_outbox_is_bounded(store: Store) -> None:
    """A client that cannot send says so instead of filling the disk."""
    for number in range(OUTBOX_MAX):
        store.enqueue(Unsent(client_message_id=UUID(int=number), recipient_id=BOB, message=b"x"))
    with pytest.raises(OutboxFull):
        store.enqueue(Unsent(client_message_id=UUID(int=OUTBOX_MAX), recipient_id=BOB, message=b"x"))


def test_flags_are_bounded_and_single(store: Store) -> None:
    """An unreadable message is remembered once, and not for ever."""
    with store.change():
        for number in (0, 0, *range(1, FLAGGED_MAX)):
            store.flag(UUID(int=number))
        assert store.was_flagged(UUID(int=0))
        store.flag(UUID(int=FLAGGED_MAX))
    assert not store.was_flagged(UUID(int=0))
    assert store.was_flagged(UUID(int=1))


def test_it_shows_no_content(store: Store) -> None:
    """The repr counts, and names nobody."""
    store.contacts.learn(keys(0, 1))
    assert repr(store) == "<Store of 1 contacts>"


# Several processes


def test_a_change_elsewhere_is_seen_and_kept(path: Path) -> None:
    """A follower and a second command: neither undoes the other's pins, marks, outbox or read ids."""
    follower, second = Store.open(path, ALICE), Store.open(path, ALICE)
    bob = follower.contacts.learn(keys(0, 1))
    assert second.contacts.verify(BOB, second.contacts.number(bob))
    follower.mark_read(BOB, UUID(int=5), 6)
    second.enqueue(unsent(8))
    follower.flag(UUID(int=7))
    for store in (follower, second, Store.open(path, ALICE)):
        assert remembered(store).verified
        assert store.was_read(BOB, UUID(int=5))
        assert store.was_flagged(UUID(int=7))
        assert store.unsent() == (unsent(8),)
    follower.settle(UUID(int=8))
    second.settle(UUID(int=8))
    assert follower.unsent() == second.unsent() == ()


def test_a_key_confirmed_elsewhere_is_used(path: Path) -> None:
    """And one that the other process saw first is not taken without a word."""
    one, other = Store.open(path, ALICE), Store.open(path, ALICE)
    one.contacts.learn(keys(0, 1))
    with pytest.raises(KeyChanged) as caught:
        other.contacts.learn(keys(2, 3))
    assert remembered(one).offered == (KEYS[2], KEYS[3])
    assert one.contacts.confirm(BOB, caught.value.new_number)
    assert other.contacts.learn(keys(2, 3)).ecdsa == KEYS[2]
    with pytest.raises(WrongServer):
        other.contacts.learn(keys(2, 3)._replace(username="mallory"))


CHANGES = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 20)),
    st.tuples(st.just("flag"), st.integers(0, 20)),
    st.tuples(st.just("enqueue"), st.integers(0, 20)),
    st.tuples(st.just("settle"), st.integers(0, 20)),
    st.tuples(st.just("verify"), st.just(0)),
    st.tuples(st.just("open"), st.just(0)),
)


def apply(store: Store, name: str, number: int) -> None:
    match name:
        case "read":
            store.mark_read(BOB, UUID(int=number), number)
        case "flag":
            store.flag(UUID(int=number))
        case "enqueue":
            store.enqueue(unsent(number))
        case "settle":
            store.settle(UUID(int=number))
        case "verify":
            store.contacts.verify(BOB, store.contacts.number(remembered(store)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), CHANGES), max_size=25))
def test_any_interleaving_is_as_one_process(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, tuple[str, int]]]
) -> None:
    """Two stores on one file, in any order of changes, remember what one in memory does."""
    path = tmp_path_factory.mktemp("store") / "file"
    single, stores = Store.in_memory(ALICE), [Store.open(path, ALICE), Store.open(path, ALICE)]
    single.contacts.learn(keys(0, 1))
    stores[0].contacts.learn(keys(0, 1))
    for index, (name, number) in steps:
        if name == "open":
            stores[index] = Store.open(path, ALICE)
        apply(stores[index], name, number)
        apply(single, name, number)
        for message_id in [UUID(int=each) for each in range(21)]:
            assert len({store.was_flagged(message_id) for store in (*stores, single)}) == 1
        assert stores[0].picture == stores[1].picture == single.picture


def test_a_change_that_fails_leaves_nothing(path: Path) -> None:
    """Neither in memory nor on disk, whatever it was."""
    store = Store.open(path, ALICE)
    store.enqueue(unsent(1))

    def interrupted() -> None:
        with store.change():
            store.settle(UUID(int=1))
            store.flag(UUID(int=2))
            store.history.add(entry(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for each in (store, Store.open(path, ALICE)):
        assert each.unsent() == (unsent(1),)
        assert not each.was_flagged(UUID(int=2))
        assert each.history.page(BOB, None, 9) == []


def test_an_interruption_just_after_the_commit_is_no_undoing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory then has what the disk has, whatever the program was told."""
    store = Store.open(path, ALICE)
    change = Records.change

    @contextmanager
    def interrupted(records: Records) -> Iterator[None]:
        with change(records):
            yield
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Records, "change", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.enqueue(unsent(1))
    assert store.unsent() == Store.open(path, ALICE).unsent() == (unsent(1),)


def test_a_change_within_a_change_leaves_nothing_of_itself_if_it_fails(path: Path) -> None:
    """The outer one may go on, and is whole."""
    store = Store.open(path, ALICE)
    with store.change() as picture:
        store.enqueue(unsent(1))
        with suppress(ZeroDivisionError), store.change():
            store.enqueue(unsent(2))
            store.history.add(entry(2))
            raise ZeroDivisionError
        store.history.add(entry(1))
        picture.outbox[UUID(int=3)] = unsent(3)
    for each in (store, Store.open(path, ALICE)):
        assert each.unsent() == (unsent(1), unsent(3))
        assert [found for _, found in each.history.page(BOB, None, 9)] == [entry(1)]


def test_what_changes_nothing_is_not_written(path: Path) -> None:
    """The keys are asked for at each start, and are mostly the same."""
    store = Store.open(path, ALICE)
    store.contacts.learn(keys(0, 1))
    before = path.read_bytes()
    store.contacts.learn(keys(0, 1))
    assert path.read_bytes() == before


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_taken_away_is_not_written(path: Path, replaced: bool) -> None:  # noqa: FBT001
    """What is known stays readable; a change would be to a file that nobody finds again."""
    store = Store.open(path, ALICE)
    store.contacts.learn(keys(0, 1))
    copy = path.read_bytes()
    path.unlink()
    if replaced:
        write_private(path, copy)
    with pytest.raises(FileError, match="moved, removed or replaced"):
        store.flag(UUID(int=1))
    assert remembered(store).ecdsa == KEYS[0]


def test_the_lock_is_the_owners_and_no_link(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can hold it, and it is not followed to elsewhere; a holder that was stopped is told of."""
    lock = path.with_name(f"{path.name}.lock")
    monkeypatch.setattr(files_module, "LOCK_WAIT_S", 0.02)

    def take() -> None:
        with locked(path):
            assert lock.stat().st_mode & 0o777 == 0o600

    with locked(path), pytest.raises(FileError, match="in use"):
        take()
    lock.chmod(0o644)
    with pytest.raises(ExposedFile):
        take()
    lock.unlink()
    lock.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(FileError):
        take()
    assert not path.with_name("elsewhere").exists()


@pytest.mark.parametrize("side", ["", "-journal", "-wal", "-shm"])
def test_neither_the_file_nor_those_beside_it_are_links_or_open_to_others(path: Path, side: str) -> None:
    """A journal has what the file had."""
    Store.open(path, ALICE).flag(BOB)
    beside = path.with_name(path.name + side)
    beside.touch(0o600)
    beside.chmod(0o640)
    with pytest.raises(ExposedFile):
        Store.open(path, ALICE)
    beside.rename(path.with_name("elsewhere"))
    beside.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(FileError, match="regular"):
        Store.open(path, ALICE)


def test_a_file_that_is_held_is_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "BUSY_WAIT_S", 0.02)
    store, other = Store.open(path, ALICE), Store.open(path, ALICE)
    store.flag(BOB)
    with store.change(), pytest.raises(FileError, match="in use") as caught:
        other.flag(UUID(int=3))
    assert caught.value.hint
    other.flag(UUID(int=3))
    assert store.was_flagged(UUID(int=3))


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A register that was refused removes its files; who waited would otherwise hold a lock that nobody else sees."""
    lock = path.with_name(f"{path.name}.lock")
    tries: list[int] = []
    take = files_module._try_lock

    def late(descriptor: int) -> None:
        if not tries:
            lock.unlink()
        tries.append(descriptor)
        take(descriptor)

    monkeypatch.setattr(files_module, "_try_lock", late)
    with locked(path):
        assert lock.exists()
    assert len(tries) == 2
    discard(path)
    assert not lock.exists()


CHILD = """
import sys, time
from pathlib import Path
from uuid import UUID
from blindpost.client import Identity, Scrypt, Store

folder, first, task = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
identity = Identity.load(folder / "alice.identity", "secret", floor=Scrypt(log2_n=4))
store = Store.open(folder / "alice.store", identity)
if task == "hold":
    with store.change():
        store.flag(UUID(int=first))
        print("held", flush=True)
        time.sleep(60)
for number in range(first, first + 40):
    store.flag(UUID(int=number))
"""


def start(folder: Path, first: int, task: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, folder, str(first), task], stdout=subprocess.PIPE)


@pytest.fixture
def saved(tmp_path: Path) -> Identity:
    alice = registered()
    alice.save(tmp_path / "alice.identity", "secret", kdf=Scrypt(log2_n=4))
    return alice


def test_processes_at_once_lose_nothing(path: Path, saved: Identity) -> None:
    """Three real ones and this one, each with forty changes."""
    store = Store.open(path, saved)
    children = [start(path.parent, first, "flag") for first in (100, 200, 300)]
    for number in range(40):
        store.flag(UUID(int=number))
    for child in children:
        with child:
            assert child.wait(60) == 0
    assert all(store.was_flagged(UUID(int=first + number)) for first in (0, 100, 200, 300) for number in range(40))


def test_a_killed_holder_leaves_no_lock(path: Path, saved: Identity) -> None:
    """The kernel releases it, and of the change under way nothing remains."""
    store = Store.open(path, saved)
    with start(path.parent, 1, "hold") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
    began = time.monotonic()
    store.flag(UUID(int=2))
    assert time.monotonic() - began < 5
    assert (store.was_flagged(UUID(int=1)), store.was_flagged(UUID(int=2))) == (False, True)
