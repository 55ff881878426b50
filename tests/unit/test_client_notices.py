"""Who could not open a message says so; and a router that makes any message one that does not open gains little."""

from uuid import UUID, uuid4

import pytest

from blindpost.client import EntryStatus, Identity, NotOpened, Store, Unreachable
from blindpost.client.notices import PAUSE_MS
from blindpost.client.saved import UNOPENED_MAX
from blindpost.protocol.content import LOST_MAX
from lying_router import LyingRouter, Someone, lost, problem, says, someone

CLAIM = "POST /keys/claim"
SEND = "POST /messages/send"
GARBAGE = "AAAA"


@pytest.fixture
def router() -> LyingRouter:
    return LyingRouter()


@pytest.fixture
async def pair(router: LyingRouter) -> tuple[Someone, Someone]:
    """Return Alice and Bob, who have written to each other, and know each other."""
    alice, bob = await someone(router, "alice"), await someone(router, "bob")
    await alice.client.request_contact("bob")
    await alice.client.send(bob.id, "one")
    await bob.client.ack(*await bob.client.receive_once())
    await bob.client.send(alice.id, "answer")
    await alice.client.ack(*await alice.client.receive_once())
    return alice, bob


def as_anew(router: LyingRouter, person: Someone) -> Someone:
    """Return somebody who lost the store."""
    identity = person.client.identity
    store = Store.in_memory(identity)
    return Someone(router.client(identity, store, store.history), store)


async def test_who_lost_the_store_tells_whose_messages_did_not_open_and_is_written_to_anew(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    two = await alice.client.send(bob.id, "two")
    again = as_anew(router, bob)
    [unread] = await again.client.receive_once()
    assert unread.text is None
    await again.client.ack(unread)
    assert await alice.client.events_once() == [NotOpened(bob.id, "bob", (two.id,))]
    assert alice.said(bob)[-1] == ("two", EntryStatus.FAILED)
    await alice.client.send(bob.id, "three")
    assert [each.text for each in await again.client.receive_once()] == ["three"]


async def test_nothing_more_is_written_in_a_session_that_the_other_side_lost(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    """A router may hold a message of it back, and give it later: it opens, and is not the session that is used last."""
    alice, bob = pair
    await bob.client.send(alice.id, "held back")
    [held] = router.queues[alice.id]
    router.queues[alice.id].clear()
    await alice.client.send(bob.id, "two")
    again = as_anew(router, bob)
    await again.client.ack(*await again.client.receive_once())
    await alice.client.events_once()
    router.queues[alice.id].append(held)
    [late] = await alice.client.receive_once()
    assert late.text == "held back"
    await alice.client.ack(late)
    await alice.client.send(bob.id, "three")
    assert [each.text for each in await again.client.receive_once()] == ["three"]


async def test_a_notice_marks_only_what_was_sent_to_its_sender(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    alice, bob = pair
    mallory = await someone(router, "mallory")
    sent = await alice.client.send(bob.id, "hello")
    await mallory.client.request_contact("alice")
    mallory.store.unopened.add(alice.id, sent.id)
    await mallory.client._notices.send()
    assert await alice.client.events_once() == [NotOpened(mallory.id, "mallory", (sent.id,))]
    assert alice.said(bob)[-1] == ("hello", EntryStatus.SENT)


async def test_a_notice_counts_also_if_it_is_faster_than_the_answer_to_the_message(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    """From who got it; what others name is not theirs to say."""
    alice, bob = pair
    mallory = await someone(router, "mallory")
    router.lies[SEND] = lost
    waiting = [alice.client.enqueue(bob.id, text) for text in ("one", "two")]
    for each in waiting:
        with pytest.raises(Unreachable):
            await alice.client.deliver(each)
    router.lies.clear()
    ids = [uuid4(), uuid4()]
    await mallory.client.request_contact("alice")
    for who, message_id in ((bob, ids[0]), (mallory, ids[1])):
        who.store.unopened.add(alice.id, message_id)
        await who.client._notices.send()
    await alice.client.events_once()
    answers = [{"id": str(each), "timestamp": "2026-01-01T00:00:00Z", "status": "sent"} for each in ids]
    router.lies[SEND] = [says(each) for each in answers]
    await alice.client.flush()
    assert [status for _, status in alice.said(bob)[-2:]] == [EntryStatus.FAILED, EntryStatus.SENT]


async def test_a_notice_that_could_not_be_sent_holds_nothing_up_and_goes_later(
    router: LyingRouter, pair: tuple[Someone, Someone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by another process: what is to be told is on disk."""
    alice, bob = pair
    router.deliver(alice.id, bob.id, GARBAGE)
    router.lies[CLAIM] = says(problem(429, "too_many_requests", **{"retry-after": "0"}))
    [unread] = await bob.client.receive_once()
    assert (unread.text, bob.client.unsent()) == (None, {})
    await bob.client.ack(unread)
    router.lies.clear()
    again = router.client(bob.client.identity, bob.store)
    await again.receive_once()
    assert await alice.client.events_once() == [], "an hour has not passed"
    now_ms = again._notices._now_ms() + PAUSE_MS
    monkeypatch.setattr(again._notices, "_now_ms", lambda: now_ms)
    await again.receive_once()
    assert await alice.client.events_once() == [NotOpened(bob.id, "bob", (unread.id,))]
    assert bob.store.unopened.all() == {}


async def test_a_clock_that_is_set_back_silences_nobody(
    router: LyingRouter, pair: tuple[Someone, Someone], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = pair
    for offset_ms in (0, -10):
        router.deliver(alice.id, bob.id, GARBAGE)
        now_ms = 1_000_000 + offset_ms
        monkeypatch.setattr(bob.client._notices, "_now_ms", lambda now_ms=now_ms: now_ms)
        await bob.client.ack(*await bob.client.receive_once())
        assert [type(each) for each in await alice.client.events_once()] == [NotOpened]


async def test_invented_senders_are_told_nothing_and_chosen_by_nobody(
    router: LyingRouter, pair: tuple[Someone, Someone]
) -> None:
    """Nor do they fill the history, which nobody could clear."""
    alice, bob = pair
    router.deliver(uuid4(), bob.id, GARBAGE)
    mallory = await someone(router, "mallory")
    router.deliver(mallory.id, bob.id, GARBAGE)
    router.lies[SEND] = says(problem(503, "unavailable", **{"retry-after": "0"}))
    assert [each.text for each in await bob.client.receive_once()] == [None, None]
    assert set(bob.store.unopened.all()) == {mallory.id}
    known = bob.store.contacts.get(mallory.id)
    assert (known is not None and known.kept, bob.client.unsent()) == (False, {})
    assert set(bob.store.history.unread()) == {alice.id, mallory.id}


def test_what_is_to_be_told_is_bounded() -> None:
    store = Store.in_memory(Identity.generate("bob"))
    who = UUID(int=1)
    for number in range(LOST_MAX + 2):
        store.unopened.add(who, UUID(int=number))
    assert store.unopened.all() == {who: [UUID(int=number) for number in range(2, LOST_MAX + 2)]}
    with store.change():
        for number in range(UNOPENED_MAX):
            store.unopened.add(UUID(int=number + 2), UUID(int=9))
    assert sum(map(len, store.unopened.all().values())) == UNOPENED_MAX
    store.drop_all_of(who)
    assert who not in store.unopened.all()
