"""What waits to be sent, what is said to have become of it, and what is kept of it."""

from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.client import (
    Delivered,
    EntryStatus,
    KeyChanged,
    NoPrekeys,
    OutboxFull,
    Refused,
    Unreachable,
)
from blindpost.client.history import EXPIRED
from blindpost.client.store import OUTBOX_MAX
from blindpost.protocol.session import DATA_MAX_BYTES
from lying_router import LyingRouter, Someone, lost, problem, says, someone

SEND = "POST /messages/send"
CLAIM = "POST /keys/claim"
UNAVAILABLE = says(problem(503, "unavailable", **{"retry-after": "0"}))


@pytest.fixture
def router() -> LyingRouter:
    return LyingRouter()


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
    with pytest.raises(ValueError, match="63,631 bytes"):
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
