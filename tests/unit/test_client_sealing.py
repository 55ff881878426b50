"""Sessions in the client: how they begin, what a router may not slip in, and what a crash leaves behind."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from blindpost.client import Contact, NoPrekeys, Store, Unreachable, WrongKeys
from blindpost.client.sealer import Opened, Sealer
from blindpost.protocol.session import FOLLOWING, OPENING
from lying_router import LyingRouter, lost, pair, says


@pytest.fixture
def router() -> LyingRouter:
    return LyingRouter()


def first_byte(item: dict[str, Any]) -> bytes:
    return base64.b64decode(item["message"])[:1]


async def test_a_session_begins_with_a_handshake_until_the_first_answer(router: LyingRouter) -> None:
    alice, alice_id, bob, bob_id = await pair(router)
    await alice.send("bob", "one")
    await alice.send("bob", "two")
    assert [first_byte(each) for each in router.queues[bob_id]] == [OPENING, OPENING]
    received = await bob.receive_once()
    assert [each.text for each in received] == ["one", "two"]
    await bob.ack(*received)
    await bob.send(alice_id, "three")
    [answer] = await alice.receive_once()
    await alice.ack(answer)
    await alice.send("bob", "four")
    assert [first_byte(each) for each in router.queues[bob_id]] == [FOLLOWING]
    assert router.calls.count("POST /keys/claim") == 1
    assert [each.text for each in await bob.receive_once()] == ["four"]


async def test_both_may_begin_at_once_and_go_on(router: LyingRouter) -> None:
    alice, alice_id, bob, _ = await pair(router)
    await alice.send("bob", "from alice")
    await bob.send(alice_id, "from bob")
    for number in range(4):
        for one, other in ((alice, bob), (bob, alice)):
            received = await one.receive_once()
            assert {each.problem for each in received} == {None}
            await one.ack(*received)
            await one.send(other.identity.account, str(number))


async def test_nobody_without_prekeys_is_written_to_in_a_weaker_way(router: LyingRouter) -> None:
    alice, _, _, bob_id = await pair(router)
    router.prekeys.clear()
    with pytest.raises(NoPrekeys, match="bob"):
        await alice.send("bob", "hello")
    assert not router.queues[bob_id]
    assert not alice.unsent()


def another_users(router: LyingRouter, bundle: dict[str, Any]) -> None:
    del router
    bundle["user_id"] = "0190a1b2-0000-7000-8000-00000000a11c"


def another_signed_prekey(router: LyingRouter, bundle: dict[str, Any]) -> None:
    [other] = [each for each in router.prekeys.values() if each["signed_prekey"] != bundle["signed_prekey"]]
    bundle["signed_prekey"] = other["signed_prekey"]


def another_id(router: LyingRouter, bundle: dict[str, Any]) -> None:
    del router
    bundle["signed_prekey"] |= {"id": bundle["kem_prekey"]["id"]}


def a_later_expiry(router: LyingRouter, bundle: dict[str, Any]) -> None:
    del router
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=4_000)
    bundle["signed_prekey"] |= {"expires": later.isoformat()}


def another_one_time_key(router: LyingRouter, bundle: dict[str, Any]) -> None:
    del router
    bundle["one_time_prekey"] |= {"public_key": bundle["signed_prekey"]["public_key"]}


def another_kem_key(router: LyingRouter, bundle: dict[str, Any]) -> None:
    [other] = [each for each in router.prekeys.values() if each["signed_prekey"] != bundle["signed_prekey"]]
    bundle["kem_prekey"] = other["one_time_kem_prekeys"][0]


def a_one_time_key_as_the_last_resort(router: LyingRouter, bundle: dict[str, Any]) -> None:
    del router
    bundle["kem_prekey"] |= {"expires": bundle["signed_prekey"]["expires"]}


@pytest.mark.parametrize(
    "lie",
    [
        another_users,
        another_signed_prekey,
        another_id,
        a_later_expiry,
        another_one_time_key,
        another_kem_key,
        a_one_time_key_as_the_last_resort,
    ],
)
async def test_a_router_cannot_slip_a_prekey_in(router: LyingRouter, lie: Any) -> None:
    alice, _, _, bob_id = await pair(router)
    kept = router.prekeys[bob_id]
    bundle = {
        "user_id": str(bob_id),
        "signed_prekey": kept["signed_prekey"],
        "one_time_prekey": kept["one_time_prekeys"][0],
        "kem_prekey": kept["one_time_kem_prekeys"][0],
    }
    lie(router, bundle)
    router.lies["POST /keys"] = says(bundle)
    router.lies["POST /keys/claim"] = says(bundle)
    with pytest.raises(WrongKeys):
        await alice.send("bob", "hello")
    assert not router.queues[bob_id]


async def test_expired_prekeys_begin_nothing(router: LyingRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, *_ = await pair(router)
    later = (datetime.now(UTC) + timedelta(days=91)).timestamp()
    monkeypatch.setattr(alice._sealer, "_clock", lambda: later)
    with pytest.raises(WrongKeys):
        await alice.send("bob", "hello")


async def test_what_was_opened_and_not_taken_is_shown_again_though_its_key_is_gone(
    router: LyingRouter, tmp_path: Path
) -> None:
    """A crash after the ratchet moved on, and before the user had the message."""
    alice, _, bob, bob_id = await pair(router)
    await bob.receive_once()
    store = Store.open(tmp_path / "bob.store", bob.identity)
    await router.client(bob.identity, store).receive_once()
    await alice.send("bob", "hello")
    [received] = await router.client(bob.identity, store).receive_once()
    store.close()
    store = Store.open(tmp_path / "bob.store", bob.identity)
    again = router.client(bob.identity, store)
    [shown] = await again.receive_once()
    assert (shown.text, shown.client_message_id) == ("hello", received.client_message_id)
    waiting = list(router.queues[bob_id])
    await again.ack(shown)
    assert store.opened.find(alice.identity.account, b"") is None
    router.queues[bob_id] = waiting
    assert await again.receive_once() == [], "a repetition is shown to nobody"


async def test_a_message_is_repeated_as_it_was_sealed_and_opens_once(router: LyingRouter) -> None:
    alice, _, bob, bob_id = await pair(router)
    await alice.send("bob", "first")
    router.lies["POST /messages/send"] = [lost, lost, lost]
    with pytest.raises(Unreachable):
        await alice.send("bob", "second")
    [waiting] = alice._store.unsent()
    await alice.flush()
    assert base64.b64decode(router.queues[bob_id][-1]["message"]) == waiting.message
    assert [each.text for each in await bob.receive_once()] == ["first", "second"]


async def test_a_client_whose_store_was_lost_withdraws_what_nobody_can_read_and_begins_anew(
    router: LyingRouter,
) -> None:
    alice, _, bob, bob_id = await pair(router)
    before = router.prekeys[bob_id]["signed_prekey"]
    anew = router.client(bob.identity)
    await anew.receive_once()
    assert router.prekeys[bob_id]["signed_prekey"] != before
    assert router.prekeys[bob_id]["replace"] is True
    await alice.send("bob", "hello")
    assert [each.text for each in await anew.receive_once()] == ["hello"]


async def test_messages_that_the_router_held_back_are_counted(router: LyingRouter) -> None:
    alice, _, bob, bob_id = await pair(router)
    for number in range(4):
        await alice.send("bob", str(number))
    held = router.queues[bob_id][:3]
    del router.queues[bob_id][:3]
    [received] = await bob.receive_once()
    assert (received.text, received.missing) == ("3", 3)
    router.queues[bob_id][:0] = held
    await bob.ack(received)
    assert [each.text for each in await bob.receive_once()] == ["0", "1", "2"]


async def test_two_processes_that_open_one_message_both_have_it(
    router: LyingRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that waited for its turn to change the store finds that the other opened it: nothing is wrong with it."""
    alice, alice_id, bob, _ = await pair(router)
    path = tmp_path / "bob.store"
    await router.client(bob.identity, Store.open(path, bob.identity)).receive_once()
    await alice.send("bob", "hello")
    one, other = Store.open(path, bob.identity), Store.open(path, bob.identity)
    known, inner = Sealer._known, router.client(bob.identity, other)
    shown: list[str | None] = []

    def overtaken(self: Sealer, sender: Contact, digest: bytes) -> Opened | None:
        found = known(self, sender, digest)
        if not shown and self._store is one:
            monkeypatch.setattr(Sealer, "_known", known)
            contact = other.contacts.get(alice_id)
            assert contact is not None
            sealed = base64.b64decode(router.queues[bob.identity.account][0]["message"])
            shown.append(inner._sealer.open(contact, sealed).content.data.decode())
        return found

    monkeypatch.setattr(Sealer, "_known", overtaken)
    assert [each.text for each in await router.client(bob.identity, one).receive_once()] == ["hello"]
    assert shown == ["hello"]
    assert one.unopened.all() == {}


async def test_a_handshake_without_one_time_keys_begins_one_session(
    router: LyingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken up again, long after, it would put the session back to its beginning."""
    alice, alice_id, bob, bob_id = await pair(router)
    router.prekeys[bob_id] |= {"one_time_prekeys": [], "one_time_kem_prekeys": []}
    await alice.send("bob", "one")
    [opening] = router.queues[bob_id]
    await bob.ack(*await bob.receive_once())
    await bob.send(alice_id, "two")
    await alice.ack(*await alice.receive_once())
    monkeypatch.setattr(bob._store, "seen", lambda *_: False)
    router.deliver(alice_id, bob_id, opening["message"])
    [again] = await bob.receive_once()
    assert again.text is None
    await bob.ack(again)
    await alice.send("bob", "three")
    assert [each.text for each in await bob.receive_once()] == ["three"]


async def test_what_cannot_be_read_hides_nothing_of_the_same_id(router: LyingRouter) -> None:
    """A router knows by which ids senders name their messages, and gives its own to what it invents."""
    alice, alice_id, bob, bob_id = await pair(router)
    await alice.send("bob", "genuine")
    [((_, client_message_id), _)] = router.sent.items()
    genuine = router.queues[bob_id].pop()
    router.deliver(alice_id, bob_id, "AAAA", client_message_id)
    router.queues[bob_id].append(genuine)
    received = await bob.receive_once()
    assert [each.text for each in received] == [None, "genuine"]
    for each in received:
        bob._inbox.take(each)
    assert len({each.key for each in received}) == 2


async def test_a_clock_that_was_set_back_does_not_bring_an_old_session_back(router: LyingRouter) -> None:
    alice, alice_id, bob, bob_id = await pair(router)
    alice._clock = bob._clock = lambda: 4_000_000_000.0
    await alice.send("bob", "from alice")
    await bob.ack(*await bob.receive_once())
    await bob.send(alice_id, "from bob")
    await alice.ack(*await alice.receive_once())
    ranks = [each.rank for each in bob._store.sessions.all_of(alice_id)]
    assert ranks == [1]
    again = router.client(alice.identity)
    await again.receive_once()
    await again.send(bob_id, "from a new store")
    await bob.ack(*await bob.receive_once())
    assert [each.rank for each in bob._store.sessions.all_of(alice_id)] == [2, 1]


async def test_what_a_router_drops_shows_also_when_the_session_changes(router: LyingRouter) -> None:
    """It can have one changed at any time: by a message that does not open, which is answered in a new session."""
    alice, alice_id, bob, bob_id = await pair(router)
    await alice.send("bob", "one")
    await bob.ack(*await bob.receive_once())
    await bob.send(alice_id, "two")
    await alice.ack(*await alice.receive_once())
    for number in range(3):
        await alice.send("bob", f"dropped {number}")
    router.queues[bob_id].clear()
    router.deliver(bob_id, alice_id, "AAAA")
    await alice.ack(*await alice.receive_once())
    await bob.events_once()
    await alice.send("bob", "after them")
    sessions = {each.id for each in bob._store.sessions.all_of(alice_id)}
    assert len(sessions) == 2
    received = await bob.receive_once()
    assert [(each.text, each.missing) for each in received] == [("after them", 3)]


async def test_a_sender_who_lost_the_store_counts_anew_and_nothing_is_missed_for_it(router: LyingRouter) -> None:
    alice, alice_id, bob, bob_id = await pair(router)
    for number in range(3):
        await alice.send("bob", str(number))
    await bob.ack(*await bob.receive_once())
    again = router.client(alice.identity)
    await again.receive_once()
    await again.send(bob_id, "a new count")
    [received] = await bob.receive_once()
    assert (received.text, received.missing) == ("a new count", 0)
    await again.send(bob_id, "dropped")
    router.queues[bob_id].pop()
    await again.send(bob_id, "after it")
    assert [each.missing for each in await bob.receive_once() if each.text == "after it"] == [1]
    del alice_id


async def test_a_recipient_who_lost_the_store_is_told_of_nothing_that_was_read_before(router: LyingRouter) -> None:
    alice, _, bob, bob_id = await pair(router)
    for number in range(3):
        await alice.send("bob", str(number))
    await bob.ack(*await bob.receive_once())
    again = router.client(bob.identity)
    await again.receive_once()
    router.deliver(alice.identity.account, bob_id, "AAAA")
    await again.ack(*await again.receive_once())
    await alice.events_once()
    await alice.send("bob", "three")
    assert [(each.text, each.missing) for each in await again.receive_once()] == [("three", 0)]
