"""Whatever is done to a store in whatever order, it is as dictionaries would be; also when it is opened again."""

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blindpost.client import Identity, Store
from blindpost.client.history import Entry, EntryStatus
from blindpost.client.saved import Prekey, PrekeySort, SavedSession
from blindpost.client.store import Unsent, UserKeys
from blindpost.protocol.content import Kind
from blindpost.protocol.keys import PublicKey

ALICE: Final = Identity.generate("alice")
KEYS: Final = [PublicKey.of(ec.derive_private_key(n, ec.SECP384R1()).public_key()) for n in (1, 2)]
PEOPLE: Final = st.sampled_from([UUID(int=each) for each in (100, 200)])
NUMBERS: Final = st.integers(1, 4)


class Interrupted(Exception):
    """What ends a change halfway."""


class StoreModel(RuleBasedStateMachine):
    """Two stores on one file, taking turns, against dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "store"
        self.stores = [Store.open(self.path, ALICE), Store.open(self.path, ALICE)]
        self.people: set[UUID] = set()
        self.sessions: dict[tuple[UUID, bytes], SavedSession] = {}
        self.prekeys: dict[UUID, Prekey] = {}
        self.seen: set[tuple[UUID, bytes]] = set()
        self.outbox: dict[UUID, Unsent] = {}
        self.history: dict[tuple[UUID, bool, UUID], Entry] = {}

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    @property
    def store(self) -> Store:
        return self.stores[0]

    @rule()
    def take_turns(self) -> None:
        self.stores.reverse()

    @rule()
    def reopen(self) -> None:
        self.stores[0].close()
        self.stores[0] = Store.open(self.path, ALICE)

    @rule(person=PEOPLE, number=NUMBERS, used=st.integers(0, 2**40), state=st.binary(max_size=600))
    def put_session(self, person: UUID, number: int, used: int, state: bytes) -> None:
        session = SavedSession(id=bytes([number]) * 32, state=state, rank=used)
        self.store.sessions.put(person, session)
        self.sessions[person, session.id] = session

    @rule(person=PEOPLE, number=NUMBERS)
    def remove_session(self, person: UUID, number: int) -> None:
        self.store.sessions.remove(person, bytes([number]) * 32)
        self.sessions.pop((person, bytes([number]) * 32), None)

    @rule(
        number=NUMBERS, secret=st.binary(max_size=300), expires=st.none() | st.integers(0, 9), published=st.booleans()
    )
    def put_prekey(self, number: int, secret: bytes, expires: int | None, *, published: bool) -> None:
        sort = list(PrekeySort)[number - 1]
        prekey = Prekey(
            id=UUID(int=number),
            sort=sort,
            secret=secret,
            made_at_s=number,
            expires_s=expires,
            signer=b"key",
            published=published,
        )
        self.store.prekeys.put(prekey)
        self.prekeys[prekey.id] = prekey

    @rule(number=NUMBERS)
    def remove_prekey(self, number: int) -> None:
        self.store.prekeys.remove(UUID(int=number))
        self.prekeys.pop(UUID(int=number), None)

    @rule(person=PEOPLE, number=NUMBERS)
    def mark_seen(self, person: UUID, number: int) -> None:
        digest = sha256(bytes([number])).digest()
        self.store.mark_seen(person, digest)
        self.seen.add((person, digest))

    @rule(number=NUMBERS)
    def enqueue(self, number: int) -> None:
        unsent = Unsent(client_message_id=UUID(int=number), recipient_id=UUID(int=9), message=b"x")
        self.store.enqueue(unsent)
        self.outbox[unsent.client_message_id] = unsent

    @rule(number=NUMBERS)
    def settle(self, number: int) -> None:
        self.store.settle(UUID(int=number))
        self.outbox.pop(UUID(int=number), None)

    @rule(person=PEOPLE, number=NUMBERS, is_mine=st.booleans(), data=st.binary(max_size=600))
    def add(self, person: UUID, number: int, data: bytes, *, is_mine: bool) -> None:
        entry = Entry(
            client_message_id=UUID(int=number),
            contact_id=person,
            is_mine=is_mine,
            kind=Kind.BYTES,
            data=data,
            sent_at_ms=number,
            message_id=None if is_mine else UUID(int=number),
            status=EntryStatus.WAITING if is_mine else EntryStatus.UNREAD,
        )
        key = person, is_mine, entry.client_message_id
        assert self.store.history.add(entry) == (key not in self.history)
        self.history.setdefault(key, entry)

    @rule(person=PEOPLE, number=NUMBERS, answer=NUMBERS)
    def sent(self, person: UUID, number: int, answer: int) -> None:
        self._update((person, True, UUID(int=number)), EntryStatus.SENT, UUID(int=answer))

    def _update(self, key: tuple[UUID, bool, UUID], status: EntryStatus, message_id: UUID | None) -> None:
        assert self.store.history.update(*key, status=status, message_id=message_id) == (key in self.history)
        if key in self.history:
            changes = {"status": status, "message_id": message_id}
            self.history[key] = self.history[key].model_copy(update=changes)

    @rule(numbers=st.lists(NUMBERS, max_size=3))
    def delivered(self, numbers: list[int]) -> None:
        ids = {UUID(int=number) for number in numbers}
        self.store.history.delivered(ids)
        for key, entry in self.history.items():
            if entry.status is EntryStatus.SENT and entry.message_id in ids:
                self.history[key] = entry.model_copy(update={"status": EntryStatus.DELIVERED})

    @rule(person=PEOPLE)
    def mark_read(self, person: UUID) -> None:
        self.store.history.mark_read(person)
        for key, entry in self.history.items():
            if entry.contact_id == person and entry.status is EntryStatus.UNREAD:
                self.history[key] = entry.model_copy(update={"status": EntryStatus.READ})

    @rule(person=PEOPLE)
    def learn(self, person: UUID) -> None:
        self.store.contacts.learn(UserKeys(person, f"user{person.int}", *KEYS))
        self.people.add(person)

    @rule(person=PEOPLE)
    def forget(self, person: UUID) -> None:
        if person not in self.people:
            return
        self.store.contacts.forget(person)
        self.people.remove(person)
        self.seen = {each for each in self.seen if each[0] != person}
        self.sessions = {key: each for key, each in self.sessions.items() if key[0] != person}
        self.history = {key: each for key, each in self.history.items() if key[0] != person}

    @rule(person=PEOPLE)
    def interrupted(self, person: UUID) -> None:
        """Everything is undone."""
        try:
            with self.store.change():
                self.store.drop_all_of(person)
                for prekey_id in self.prekeys:
                    self.store.prekeys.remove(prekey_id)
                for unsent in self.store.unsent():
                    self.store.settle(unsent.client_message_id)
                raise Interrupted
        except Interrupted:
            pass

    @invariant()
    def both_are_as_the_dictionaries(self) -> None:
        for store in self.stores:
            assert {each.user_id for each in store.contacts.all()} == self.people
            assert store.unsent() == tuple(self.outbox.values())
            assert store.prekeys.all() == tuple(self.prekeys.values())
            assert all(store.prekeys.get(each) == self.prekeys.get(each) for each in [UUID(int=n) for n in range(1, 5)])
            sent = [each.message_id for each in self.history.values() if each.status is EntryStatus.SENT]
            assert store.history.awaited() == sent
            assert store.history.unread() == self._unread()
            for person in (UUID(int=100), UUID(int=200)):
                self._same_of(store, person)

    def _unread(self) -> dict[UUID, int]:
        unread = [each.contact_id for each in self.history.values() if each.status is EntryStatus.UNREAD]
        return {person: unread.count(person) for person in unread}

    def _same_of(self, store: Store, person: UUID) -> None:
        sessions = [each for key, each in self.sessions.items() if key[0] == person]
        found = store.sessions.all_of(person)
        assert {each.id: each for each in found} == {each.id: each for each in sessions}
        assert [each.rank for each in found] == sorted((each.rank for each in sessions), reverse=True)
        history = [each for each in self.history.values() if each.contact_id == person]
        paged: list[tuple[int, Entry]] = []
        while page := store.history.page(person, paged[0][0] if paged else None, 2):
            paged[:0] = page
        assert [each for _, each in paged] == history
        digests = [sha256(bytes([number])).digest() for number in range(1, 5)]
        assert {each for each in digests if store.seen(person, each)} == {d for who, d in self.seen if who == person}


StoreModel.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=30)
TestStoreModel = StoreModel.TestCase
