"""A client's memory: whose keys, what was read, what is unsent. It is encrypted, and outlives the process."""

from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from blindpost.client import Contact, DamagedFile, FileError, Identity, KeyChanged, OutboxFull, Store, UntrustedAnswer
from blindpost.client import store as store_module
from blindpost.client.files import write_private
from blindpost.client.store import OUTBOX_MAX, READ_MAX, Unsent, UserKeys
from blindpost.protocol.envelope import Content, Kind
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.store"


@pytest.fixture
def store() -> Store:
    return Store.in_memory(ALICE)


def test_the_first_keys_are_kept(store: Store) -> None:
    """Trust on first use; the same keys again change nothing."""
    first = store.contacts.learn(keys(0, 1))
    assert store.contacts.learn(keys(0, 1)) is first
    assert store.contacts.get(BOB) is store.contacts.named("BOB") is first
    assert store.contacts.named("nobody") is None


def test_another_identity_key_needs_the_users_word(store: Store) -> None:
    """The keys in use stay until the user confirms the very ones shown."""
    bob = store.contacts.learn(keys(0, 1))
    bob.verified = True
    with pytest.raises(KeyChanged) as caught:
        store.contacts.learn(keys(2, 3))
    assert (bob.ecdsa, bob.ecdh, bob.verified) == (KEYS[0], KEYS[1], True)
    assert caught.value.old_number == store.contacts.number(bob)
    assert store.contacts.confirm(bob, caught.value.new_number)
    assert (bob.ecdsa, bob.ecdh, bob.verified, bob.offered) == (KEYS[2], KEYS[3], False, None)


def test_keys_that_came_after_the_look_are_not_confirmed(store: Store) -> None:
    """A router that changes the keys again while the user compares gains nothing."""
    bob = store.contacts.learn(keys(0, 1))
    with pytest.raises(KeyChanged) as seen:
        store.contacts.learn(keys(2, 3))
    with pytest.raises(KeyChanged):
        store.contacts.learn(keys(4, 5))
    assert not store.contacts.confirm(bob, seen.value.new_number)
    assert bob.ecdsa == KEYS[0]


def test_a_change_taken_back_is_forgotten(store: Store) -> None:
    """If the router returns to the trusted key there is nothing to confirm."""
    bob = store.contacts.learn(keys(0, 1))
    with pytest.raises(KeyChanged):
        store.contacts.learn(keys(2, 3))
    assert store.contacts.learn(keys(0, 1)) is bob
    assert not store.contacts.confirm(bob, store.contacts.number(bob))


def test_a_new_ecdh_key_is_its_owners_word(store: Store) -> None:
    """Under the same identity key it is accepted, and verification stays."""
    bob = store.contacts.learn(keys(0, 1))
    bob.verified = True
    store.contacts.learn(keys(0, 2))
    assert (bob.ecdh, bob.verified) == (KEYS[2], True)


def test_a_replaced_ecdh_key_does_not_come_back(store: Store) -> None:
    """An old signature is still good, so a router could offer a key that was stolen since."""
    bob = store.contacts.learn(keys(0, 1))
    store.contacts.learn(keys(0, 2))
    with pytest.raises(KeyChanged) as caught:
        store.contacts.learn(keys(0, 1))
    assert bob.ecdh == KEYS[2]
    assert store.contacts.confirm(bob, caught.value.new_number)
    assert (bob.ecdh, bob.former) == (KEYS[1], [KEYS[2]])


def test_everything_is_there_after_a_restart(path: Path) -> None:
    """Contacts with unconfirmed keys, read messages, flags and the outbox."""
    store = Store.open(path, ALICE)
    bob = store.contacts.learn(keys(0, 1))
    store.contacts.learn(keys(0, 2))
    with pytest.raises(KeyChanged):
        store.contacts.learn(keys(3, 4))
    store.mark_read(bob, UUID(int=5), 6)
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
    store.save()
    data = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"bob" not in data
    assert str(BOB).encode() not in data
    assert bob.ecdsa.der not in data
    with pytest.raises(DamagedFile):
        Store.open(path, Identity.generate("mallory"))
    store.save()
    assert path.read_bytes()[:60] != data[:60]


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_every_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """No byte of the file can change and leave it readable."""
    path = tmp_path_factory.mktemp("store") / "file"
    Store.open(path, ALICE).save()
    changed = bytearray(path.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    write_private(path, bytes(changed))
    with pytest.raises(DamagedFile):
        Store.open(path, ALICE)


@pytest.mark.parametrize("content", [b"", b"blindpost-store/1\n", b"blindpost-store/2\n" + bytes(99), bytes(200)])
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    """Empty, cut short or of another version."""
    write_private(path, content)
    with pytest.raises(FileError):
        Store.open(path, ALICE)


def test_a_message_is_read_once(store: Store) -> None:
    """The sender's id for it counts, whatever the router calls it."""
    bob = store.contacts.learn(keys(0, 1))
    hello = Content(UUID(int=1), 100, Kind.TEXT, b"hello")
    assert not store.was_read(bob, hello)
    store.mark_read(bob, hello.client_message_id, hello.sent_at_ms)
    assert store.was_read(bob, hello)


def test_the_memory_is_bounded_and_knows_what_it_forgot(store: Store) -> None:
    """What was dropped from memory is not taken for new: everything up to its time is in doubt."""
    bob = store.contacts.learn(keys(0, 1))
    for number in range(READ_MAX + 10):
        store.mark_read(bob, UUID(int=number), 1_000 + number)
    assert len(bob.read) == READ_MAX
    assert bob.forgotten_until == 1_009


@given(st.lists(st.tuples(st.uuids(), st.integers(0, 2**50)), max_size=40))
def test_no_message_is_accepted_twice(received: list[tuple[UUID, int]]) -> None:
    """Whatever the order of arrival, each message read is remembered, or older than what was forgotten."""
    bob = Contact(user_id=BOB, username="bob", ecdsa=KEYS[0], ecdh=KEYS[1])
    unread = {message_id: sent_at for message_id, sent_at in received if message_id.int % 2}
    for message_id, sent_at in unread.items():
        Store.mark_read(bob, message_id, sent_at)
    assert all(message_id in bob.read or sent_at <= bob.forgotten_until for message_id, sent_at in unread.items())


def test_a_router_cannot_invent_people_without_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is dropped for somebody new; the new one is refused."""
    monkeypatch.setattr(store_module, "CONTACTS_MAX", 1)
    bob = store.contacts.learn(keys(0, 1))
    with pytest.raises(UntrustedAnswer):
        store.contacts.learn(keys(2, 3)._replace(user_id=UUID(int=99)))
    assert store.contacts.all() == (bob,)
    assert store.contacts.learn(keys(0, 1)) is bob


def test_the_outbox_is_bounded(store: Store) -> None:
    """A client that cannot send says so instead of filling the disk."""
    for number in range(OUTBOX_MAX):
        store.enqueue(Unsent(client_message_id=UUID(int=number), recipient_id=BOB, message=b"x"))
    with pytest.raises(OutboxFull):
        store.enqueue(Unsent(client_message_id=UUID(int=OUTBOX_MAX), recipient_id=BOB, message=b"x"))


def test_flags_are_bounded_and_single(store: Store) -> None:
    """An unreadable message is remembered once, and not for ever."""
    store.flag(UUID(int=0))
    store.flag(UUID(int=0))
    assert store._state.flagged == [UUID(int=0)]
    for number in range(1, 1_100):
        store.flag(UUID(int=number))
    assert not store.was_flagged(UUID(int=0))


def test_it_shows_no_content(store: Store) -> None:
    """The repr counts, and names nobody."""
    store.contacts.learn(keys(0, 1))
    assert repr(store) == "<Store of 1 contacts>"
