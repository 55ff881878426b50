"""Mailboxes are bounded, in all and for each sender; nothing that was accepted is lost, and nothing is told."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from blindpost.app import Running
from blindpost.core import quota as quota_module
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.quota import ROOM, SHARE, MailboxQuota
from blindpost.core.repositories import messages
from blindpost.errors import MailboxFull
from checks import client_of, ids_waiting, refusal, said_by, success
from support import Person, contacts, person, running_in_thread, settings_for

if TYPE_CHECKING:
    import asyncpg

MESSAGES_MAX = 64
SHARE_MAX = MESSAGES_MAX // SHARE
BYTES_MAX = 4 * 65_536


def small(stores: StoreUrls, data_dir: Path, **more: Any) -> Iterator[Running]:
    limits = {"mailbox_messages_max": MESSAGES_MAX, "mailbox_bytes_max": BYTES_MAX}
    with running_in_thread(settings_for(stores, data_dir, **limits, **more)) as running:
        yield running


@pytest.fixture(scope="module")
def small_node(stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    """A router with small mailboxes."""
    yield from small(stores, data_dir / "small-mailboxes")


@pytest.fixture(scope="module")
def second_small_node(stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    yield from small(stores, data_dir / "small-mailboxes-too")


@pytest.fixture
async def http(small_node: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(small_node) as client:
        yield client


@pytest.fixture
async def there(second_small_node: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(second_small_node) as client:
        yield client


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers that count a full mailbox again at once."""
    monkeypatch.setattr(quota_module, "FULL_AGE_S", 0.0)


def through(http: httpx.AsyncClient, someone: Person) -> Person:
    return someone.at(http)


async def friends_of(bob: Person, count: int) -> list[Person]:
    friends = [await person(bob.http) for _ in range(count)]
    for friend in friends:
        await friend.befriend(bob)
    return friends


async def fill(sender: Person, recipient: Person) -> int:
    """Send until it is refused; return how many were accepted."""
    for accepted in range(2 * MESSAGES_MAX):
        answer = await sender.send(recipient)
        if answer.status_code == 429:
            refusal(answer, 429, "mailbox_full")
            return accepted
        success(answer, 201)
    raise AssertionError("never refused")


async def ack_all(someone: Person) -> None:
    success(await someone.post("/messages/ack", message_ids=await ids_waiting(someone)))


# What is refused


async def test_one_sender_fills_a_quarter_and_the_others_still_get_in(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    (carol,) = await friends_of(bob, 1)
    assert await fill(alice, bob) == SHARE_MAX
    assert await fill(carol, bob) == SHARE_MAX
    assert len(await ids_waiting(bob)) == 2 * SHARE_MAX


async def test_one_full_mailbox_is_not_another(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    (carol,) = await friends_of(alice, 1)
    await fill(alice, bob)
    success(await alice.send(carol), 201)
    success(await bob.send(alice), 201)


async def test_a_full_mailbox_takes_from_nobody_and_says_not_whose_it_is_full_of(http: httpx.AsyncClient) -> None:
    bob = await person(http)
    *others, late = await friends_of(bob, SHARE + 1)
    assert [await fill(each, bob) for each in others] == [SHARE_MAX] * SHARE
    whole = await late.send(bob)
    share = await others[0].send(bob)
    refusal(whole, 429, "mailbox_full")
    refusal(share, 429, "mailbox_full")
    assert said_by(whole) == said_by(share)
    assert whole.headers["Retry-After"] == share.headers["Retry-After"] == "60"
    assert len(await ids_waiting(bob)) == MESSAGES_MAX


async def test_bytes_are_bounded_like_messages(http: httpx.AsyncClient) -> None:
    bob = await person(http)
    friends = await friends_of(bob, SHARE)
    for friend in friends:
        success(await friend.send(bob, bytes(65_535)), 201)
        refusal(await friend.send(bob, bytes(2)), 429, "mailbox_full")
    assert len(await ids_waiting(bob)) == SHARE


@pytest.mark.usefixtures("forgetful")
async def test_a_small_message_fits_where_a_large_one_did_not(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    success(await alice.send(bob, bytes(65_535)), 201)
    refusal(await alice.send(bob, bytes(2)), 429, "mailbox_full")
    success(await alice.send(bob, bytes(1)), 201)
    refusal(await alice.send(bob, bytes(1)), 429, "mailbox_full")


@pytest.mark.usefixtures("forgetful")
async def test_acknowledged_messages_make_room(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    assert await fill(alice, bob) == SHARE_MAX
    await ack_all(bob)
    assert await fill(alice, bob) == SHARE_MAX


async def test_a_full_mailbox_is_counted_again_within_seconds(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    await fill(alice, bob)
    await ack_all(bob)
    async with asyncio.timeout(20):
        while (answer := await alice.send(bob)).status_code != 201:
            refusal(answer, 429, "mailbox_full")


async def test_what_is_stored_already_is_answered_as_before_when_the_mailbox_is_full(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    known = str(uuid4())
    first = success(await alice.send(bob, client_message_id=known), 201)
    await fill(alice, bob)
    assert success(await alice.send(bob, client_message_id=known), 201) == first
    refusal(await alice.send(bob, client_message_id=str(uuid4())), 429, "mailbox_full")
    (carol,) = await friends_of(bob, 1)
    await fill(carol, bob)
    refusal(await carol.send(bob, client_message_id=known), 429, "mailbox_full")


async def test_a_stranger_is_told_nothing_of_a_mailbox(http: httpx.AsyncClient) -> None:
    bob = await person(http)
    *friends, _ = await friends_of(bob, SHARE + 1)
    for friend in friends:
        await fill(friend, bob)
    mallory, empty, nobody = await person(http), await person(http), Person(http, id=str(uuid4()))
    await mallory.post("/contacts/send-contact-request", receiver_id=bob.id)
    answers = [await mallory.send(each) for each in (bob, empty, nobody) for _ in range(3)]
    for answer in answers:
        refusal(answer, 403, "not_a_contact")
        assert "Retry-After" not in answer.headers
    assert len({said_by(answer) for answer in answers}) == 1


async def test_quotas_hold_where_anybody_may_write_to_anybody(stores: StoreUrls, data_dir: Path) -> None:
    for running in small(stores, data_dir / "small-open", require_contact=False):
        async with client_of(running) as http:
            alice, bob = await person(http), await person(http)
            assert await fill(alice, bob) == SHARE_MAX
            refusal(await alice.send(Person(http, id=str(uuid4()))), 403, "not_a_contact")


# At the same moment, and on several nodes


async def test_at_the_same_moment_not_one_more_gets_in(http: httpx.AsyncClient) -> None:
    bob = await person(http)
    friends = await friends_of(bob, SHARE + 1)
    answers = await asyncio.gather(*(friend.send(bob) for friend in friends for _ in range(SHARE_MAX + 4)))
    assert {answer.status_code for answer in answers} == {201, 429}
    accepted = sum(answer.status_code == 201 for answer in answers)
    assert accepted == len(await ids_waiting(bob)) <= MESSAGES_MAX
    senders = [message["sender_id"] for message in (await bob.poll(0, limit=500))["messages"]]
    assert max(senders.count(friend.id) for friend in friends) <= SHARE_MAX


async def test_one_after_the_other_two_nodes_count_as_one(http: httpx.AsyncClient, there: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    assert await fill(alice, bob) == SHARE_MAX
    assert await fill(through(there, alice), bob) == 0


async def test_nodes_exceed_a_limit_by_no_more_than_the_room_that_the_others_hold(
    http: httpx.AsyncClient, there: httpx.AsyncClient
) -> None:
    alice, bob = await contacts(http)
    nodes = [alice, through(there, alice)]
    success(await nodes[1].send(bob), 201)  # it holds an eighth of the empty mailbox
    assert await fill(nodes[0], bob) == SHARE_MAX - 1
    assert await fill(nodes[1], bob) <= SHARE_MAX // ROOM
    assert len(await ids_waiting(bob)) <= SHARE_MAX + SHARE_MAX // ROOM


@pytest.mark.usefixtures("forgetful")
async def test_senders_who_insist_lose_nothing_and_double_nothing_at_a_full_mailbox(
    http: httpx.AsyncClient, there: httpx.AsyncClient
) -> None:
    """What is refused is sent again under the same id, on any node, until it is accepted."""
    bob = await person(http)
    friends = await friends_of(bob, 3)
    received: list[str] = []
    all_sent = asyncio.Event()

    async def insist(friend: Person) -> list[str]:
        ids = []
        for number in range(2 * SHARE_MAX):
            again = str(uuid4())
            nodes = [friend, through(there, friend)]
            while (answer := await nodes[number % 2].send(bob, client_message_id=again)).status_code == 429:
                nodes.reverse()
                await asyncio.sleep(0.01)
            stored = success(answer, 201)
            assert success(await nodes[0].send(bob, client_message_id=again), 201) == stored
            ids.append(stored["id"])
        return ids

    async def read() -> None:
        while not all_sent.is_set():
            page = await bob.poll(0.2, limit=10)
            ids = [message["id"] for message in page["messages"]]
            if ids:
                received.extend(success(await bob.post("/messages/ack", message_ids=ids))["acknowledged"])

    reading = asyncio.create_task(read())
    sent = [each for ids in await asyncio.gather(*(insist(friend) for friend in friends)) for each in ids]
    all_sent.set()
    await reading
    assert sorted(set(received) | set(await ids_waiting(bob))) == sorted(sent)
    assert len(received) == len(set(received))


# What it costs


class Counts:
    """How often PostgreSQL was asked to count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self._count = messages.waiting
        monkeypatch.setattr(messages, "waiting", self)

    async def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.number += 1
        return await self._count(*arguments, **options)


class Clock:
    """A clock that stands until it is set."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(stores: StoreUrls) -> AsyncIterator[Database]:
    assert stores.database_url
    async with Database(stores.database_url, pool_size=4) as database:
        yield database


@pytest.fixture
async def pair(http: httpx.AsyncClient) -> tuple[UUID, UUID]:
    alice, bob = await contacts(http)
    return UUID(alice.id), UUID(bob.id)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quota(store: Database, clock: Clock) -> MailboxQuota:
    return MailboxQuota(store, messages_max=4_000, bytes_max=1 << 30, require_contact=True, clock=clock)


async def take(quota: MailboxQuota, pair: tuple[UUID, UUID], count: int = 1) -> None:
    for _ in range(count):
        with await quota.take(*pair, 100):
            pass


async def test_an_ordinary_message_is_not_counted(
    quota: MailboxQuota, pair: tuple[UUID, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts(monkeypatch)
    await take(quota, pair, 125)
    assert counts.number == 1
    await take(quota, pair)
    assert counts.number == 2


async def test_many_at_once_are_counted_once(
    quota: MailboxQuota, pair: tuple[UUID, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts(monkeypatch)
    await asyncio.gather(*(take(quota, pair) for _ in range(100)))
    assert counts.number == 1


async def test_room_that_is_old_is_counted_again(
    quota: MailboxQuota, pair: tuple[UUID, UUID], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts(monkeypatch)
    await take(quota, pair)
    clock.now += quota_module.ROOM_AGE_S
    await take(quota, pair)
    assert counts.number == 2


async def test_a_flood_at_a_full_mailbox_is_counted_once_a_second(
    store: Database, pair: tuple[UUID, UUID], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = MailboxQuota(store, messages_max=4, bytes_max=1 << 20, require_contact=True, clock=clock)
    counts = Counts(monkeypatch)
    with await quota.take(*pair, 1):
        for _ in range(50):
            with pytest.raises(MailboxFull):
                await quota.take(*pair, 1)
    assert counts.number == 2
    clock.now += quota_module.FULL_AGE_S
    await take(quota, pair)
    assert counts.number == 3


async def test_what_is_being_written_counts_even_if_the_tables_do_not_show_it_yet(
    store: Database, pair: tuple[UUID, UUID], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_module, "FULL_AGE_S", 0.0)
    quota = MailboxQuota(store, messages_max=12, bytes_max=1 << 20, require_contact=True, clock=clock)
    held = [await quota.take(*pair, 1) for _ in range(3)]
    with pytest.raises(MailboxFull):
        await quota.take(*pair, 1)
    with held.pop():
        pass
    held.append(await quota.take(*pair, 1))
    with pytest.raises(MailboxFull):
        await quota.take(*pair, 1)


async def test_what_is_remembered_is_bounded_and_what_is_being_written_is_not_forgotten(
    quota: MailboxQuota, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_module, "ROOMS_MAX", 4)
    bob = await person(http)
    friends = await friends_of(bob, 6)
    held = await quota.take(UUID(friends[0].id), UUID(bob.id), 1)
    for friend in friends[1:]:
        await take(quota, (UUID(friend.id), UUID(bob.id)))
    assert len(quota._rooms) == 4
    assert {UUID(bob.id), (UUID(friends[0].id), UUID(bob.id))} <= quota._rooms.keys()
    with held:
        pass


async def test_nothing_is_remembered_of_strangers(quota: MailboxQuota, http: httpx.AsyncClient) -> None:
    alice, bob = await person(http), await person(http)
    await take(quota, (UUID(alice.id), UUID(bob.id)), 3)
    assert not quota._rooms
    assert not quota._turns


async def test_an_index_serves_the_count_and_for_a_stranger_nothing_is_counted(
    database: "asyncpg.Connection[Any]", pair: tuple[UUID, UUID]
) -> None:
    statement = str(messages._WAITING[True].compile(dialect=PGDialect_asyncpg()))  # type: ignore[no-untyped-call]
    await database.execute("SET enable_seqscan = off")
    contact = await explain(database, statement, *pair)
    assert "messages_inbox_idx" in contact
    assert "contact_requests_pair_key" in contact
    assert "never executed" not in contact
    stranger = await explain(database, statement, uuid4(), pair[1])
    assert "never executed" in next(line for line in stranger.splitlines() if "Aggregate" in line)


async def explain(database: "asyncpg.Connection[Any]", statement: str, *arguments: UUID) -> str:
    rows = await database.fetch(f"EXPLAIN (ANALYZE, COSTS OFF) {statement}", *arguments)
    return "\n".join(row[0] for row in rows)
