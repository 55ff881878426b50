"""What waits to be sent, what is said to have become of it, and what is kept of it."""

from dataclasses import dataclass
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.client import (
    Client,
    Delivered,
    Entry,
    EntryStatus,
    Identity,
    KeyChanged,
    NoPrekeys,
    NotOpened,
    OutboxFull,
    Refused,
    Store,
    Unreachable,
)
from blindpost.client.history import EXPIRED
from blindpost.client.notices import PAUSE_S, PEOPLE_MAX, Notices
from blindpost.client.store import OUTBOX_MAX
from blindpost.protocol.content import LOST_MAX
from blindpost.protocol.session import DATA_MAX_BYTES
from lying_router import LyingRouter, lost, problem, says

SEND = "POST /messages/send"
CLAIM = "POST /keys/claim"
UNAVAILABLE = says(problem(503, "unavailable", **{"retry-after": "0"}))


@dataclass
class Someone:
    """A person who keeps a history."""

    client: Client
    store: Store

    @property
    def id(self) -> UUID:
        return self.client.identity.account

    def said(self, other: "Someone") -> list[tuple[str, EntryStatus]]:
        """Return texts and what became of them."""
        return [(each.data.decode(), each.status) for each in self.entries(other)]

    def entries(self, other: "Someone") -> list[Entry]:
        return [entry for _, entry in self.store.history.page(other.id, None, 99)]


@pytest.fixture
def router() -> LyingRouter:
    return LyingRouter()


async def someone(router: LyingRouter, name: str) -> Someone:
    identity = Identity.generate(name)
    store = Store.in_memory(identity)
    client = router.client(identity, store, store.history)
    await client.register()
    return Someone(client, store)


@pytest.fixture
async def pair(router: LyingRouter) -> tuple[Someone, Someone]:
    """Return Alice, who knows Bob's keys, and Bob."""
    alice, bob = await someone(router, "alice"), await someone(router, "bob")
    await alice.client.request_contact("bob")
    return alice, bob


async def test_what_is_sent_while_the_router_is_away_waits_and_goes_later(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    """Also what could not be sealed yet, as nobody gave the keys for it."""
    alice, bob = pair
    router.lies[CLAIM] = lost
    with pytest.raises(Unreachable):
        await alice.client.send(bob.id, "one")
    router.lies[CLAIM] = UNAVAILABLE
    with pytest.raises(Refused):
        await alice.client.send(bob.id, "two")
    alice.client.enqueue(bob.id, "three")
    assert alice.said(bob) == [(text, EntryStatus.WAITING) for text in ("one", "two", "three")]
    router.lies.clear()
    assert [each.client_message_id for each in await alice.client.flush()] == [
        each.client_message_id for each in alice.entries(bob)
    ]
    assert [each.text for each in await bob.client.receive_once()] == ["one", "two", "three"]
    assert (alice.client.unsent(), {status for _, status in alice.said(bob)}) == ({}, {EntryStatus.SENT})


async def test_a_message_is_sealed_once_however_often_it_is_tried(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    waiting = alice.client.enqueue(bob.id, "hello")
    router.lies[SEND] = lost
    with pytest.raises(Unreachable):
        await alice.client.deliver(waiting)
    [sealed] = alice.store.unsent()
    assert (sealed.content, sealed.message is None) == (None, False)
    with pytest.raises(Unreachable):
        await alice.client.deliver(waiting)
    assert alice.store.unsent() == (sealed,)
    router.lies.clear()
    assert await alice.client.deliver(waiting) is not None
    assert await alice.client.deliver(waiting) is None
    assert [each.text for each in await bob.client.receive_once()] == ["hello"]


async def test_what_can_never_go_is_dropped_and_does_not_keep_the_others(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    carol = await someone(router, "carol")
    await alice.client.request_contact("carol")
    del router.prekeys[carol.id]
    for text in ("nobody can read it", "nor this"):
        alice.client.enqueue(carol.id, text)
    alice.client.enqueue(bob.id, "hello")
    with pytest.raises(NoPrekeys, match="carol"):
        await alice.client.flush()
    assert [status for _, status in alice.said(carol)] == [EntryStatus.FAILED, EntryStatus.FAILED]
    assert "carol" in (alice.entries(carol)[0].problem or "")
    assert (alice.client.unsent(), alice.said(bob)) == ({}, [("hello", EntryStatus.SENT)])
    router.lies[SEND] = says(problem(403, "forbidden"))
    with pytest.raises(Refused):
        await alice.client.send(bob.id, "no contact any more")
    assert alice.said(bob)[-1] == ("no contact any more", EntryStatus.FAILED)


async def test_what_was_not_sealed_waits_for_the_user_when_keys_change(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    waiting = alice.client.enqueue(bob.id, "hello")
    await bob.client.rotate_ecdsa_key()
    with pytest.raises(KeyChanged) as change:
        await alice.client.deliver(waiting)
    assert (alice.client.unsent(), router.queues[bob.id]) == ({waiting: bob.id}, [])
    await alice.client.confirm_keys(bob.id, change.value.new_number)
    assert await alice.client.deliver(waiting) is not None
    assert [each.text for each in await bob.client.receive_once()] == ["hello"]


async def test_the_outbox_takes_no_more_than_fits_and_nothing_too_long(pair: tuple[Someone, Someone]) -> None:
    alice, bob = pair
    with pytest.raises(ValueError, match="63,647 bytes"):
        alice.client.enqueue(bob.id, bytes(DATA_MAX_BYTES + 1))
    for _ in range(OUTBOX_MAX):
        alice.client.enqueue(bob.id, "x")
    with pytest.raises(OutboxFull):
        alice.client.enqueue(bob.id, "x")
    assert len(alice.client.unsent()) == OUTBOX_MAX


async def test_a_receipt_counts_whether_it_comes_before_or_after_the_answer(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    sent = await alice.client.send(bob.id, "one")
    early = str(uuid4())
    poll = {"has_messages": False, "has_more": False, "messages": [], "contacts_changed": False}
    router.lies["GET /messages/poll"] = says(httpx.Response(200, json=poll | {"delivered": [str(sent.id), early]}))
    assert await alice.client.events_once() == [Delivered((sent.id, UUID(early)))]
    answer = {"id": early, "timestamp": "2026-01-01T00:00:00Z", "status": "sent"}
    router.lies[SEND] = says(httpx.Response(201, json=answer))
    await alice.client.send(bob.id, "two")
    assert alice.said(bob) == [("one", EntryStatus.DELIVERED), ("two", EntryStatus.DELIVERED)]


async def test_what_was_received_is_kept_once_and_unread(router: LyingRouter, pair: tuple[Someone, Someone]) -> None:
    """Also if it is given again, as it was not acknowledged; and what could not be opened is told of."""
    alice, bob = pair
    await alice.client.send(bob.id, "one")
    router.deliver(alice.id, bob.id, "AAAA")
    for _ in range(2):
        assert [each.text for each in await bob.client.receive_once()] == ["one", None]
    assert bob.said(alice) == [("one", EntryStatus.UNREAD), ("", EntryStatus.UNREAD)]
    assert bob.entries(alice)[1].problem
    assert bob.store.history.unread() == {alice.id: 2}


async def test_after_a_restart_it_is_asked_what_became_of_what_was_sent(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    for text in ("arrived", "expired", "forgotten", "waiting"):
        await alice.client.send(bob.id, text)
    ids = [str(each.message_id) for each in alice.entries(bob)]
    statuses = dict(zip(ids, ("delivered", "expired", "?", "queued"), strict=True))
    del statuses[ids[2]]
    router.lies["GET /messages/status"] = says(httpx.Response(200, json=statuses))
    again = router.client(alice.client.identity, alice.store, alice.store.history)
    events = again.events(timeout_s=0)
    assert await anext(events) == Delivered((UUID(ids[0]),))
    await events.aclose()
    assert [status for _, status in alice.said(bob)] == [
        EntryStatus.DELIVERED,
        EntryStatus.FAILED,
        EntryStatus.SENT,
        EntryStatus.SENT,
    ]
    assert alice.entries(bob)[1].problem == EXPIRED


async def test_who_lost_the_store_tells_whose_messages_did_not_open_and_is_written_to_anew(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    await alice.client.send(bob.id, "one")
    await bob.client.ack(*await bob.client.receive_once())
    await bob.client.send(alice.id, "answer")
    await alice.client.ack(*await alice.client.receive_once())
    two = await alice.client.send(bob.id, "two")
    again = router.client(bob.client.identity)
    [unread] = await again.receive_once()
    assert unread.text is None
    await again.ack(unread)
    assert await alice.client.events_once() == [NotOpened(bob.id, "bob", (two.id,))]
    assert [status for _, status in alice.said(bob)][-1] is EntryStatus.FAILED
    await alice.client.send(bob.id, "three")
    assert [each.text for each in await again.receive_once()] == ["three"]


async def test_a_notice_marks_only_what_was_sent_to_its_sender(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    mallory = await someone(router, "mallory")
    sent = await alice.client.send(bob.id, "hello")
    await mallory.client.request_contact("alice")
    mallory.client._inbox.notices.note(alice.id, sent.id)
    await mallory.client._tell_unopened()
    assert await alice.client.events_once() == [NotOpened(mallory.id, "mallory", (sent.id,))]
    assert alice.said(bob) == [("hello", EntryStatus.SENT)]


async def test_a_notice_that_cannot_be_sent_holds_nothing_up(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    router.deliver(alice.id, bob.id, "AAAA")
    router.lies[CLAIM] = says(problem(429, "too_many_requests", **{"retry-after": "0"}))
    assert [each.text for each in await bob.client.receive_once()] == [None]
    assert bob.client.unsent() == {}


def test_a_router_can_make_a_client_send_few_notices() -> None:
    """Any message can be made one that does not open."""
    now = 1_000.0
    notices = Notices(lambda: now)
    who, ids = uuid4(), [uuid4() for _ in range(LOST_MAX + 1)]
    for each in ids:
        notices.note(who, each)
    [(told, data)] = notices.due()
    assert (told, data) == (who, b"".join(each.bytes for each in ids[1:]))
    notices.note(who, ids[0])
    assert notices.due() == []
    now += PAUSE_S
    assert notices.due() == [(who, ids[0].bytes)]
    for _ in range(PEOPLE_MAX + 1):
        notices.note(uuid4(), ids[0])
    assert len(notices.due()) == PEOPLE_MAX
    notices.note(who, ids[0])
    now = 0.0
    assert notices.due() == [(who, ids[0].bytes)], "a clock that is set back silences nobody"
