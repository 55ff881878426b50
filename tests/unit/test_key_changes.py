"""After a change of a contact's keys nothing goes on until the user says so: on every way, after every detour."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from blindpost.client import (
    Client,
    ContactsChanged,
    Identity,
    KeyChanged,
    Received,
    Refused,
    ReplacedKey,
    SealedToOldKey,
    StillTrusted,
    Store,
    UnknownContact,
    Unreachable,
    UntrustedAnswer,
    WrongKeys,
    WrongServer,
)
from blindpost.client import client as client_module
from blindpost.client import directory as directory_module
from blindpost.client import store as store_module
from blindpost.client.store import Contact
from lying_router import Answer, LyingRouter, lost, pair, problem, says

USES: dict[str, Callable[[Client, UUID], Awaitable[object]]] = {
    "send": lambda client, other: client.send(other, "hello"),
    "send by name": lambda client, _: client.send("bob", "hello"),
    "flush": lambda client, _: client.flush(),
    "accept": lambda client, other: client.accept(other),
    "request": lambda client, other: client.request_contact(other),
    "request by name": lambda client, _: client.request_contact("bob"),
    "number": lambda client, other: client.safety_number(other),
    "verify": lambda client, other: client.mark_verified(other, "0" * 60),
}
HARMLESS = {"/auth", "/contacts/search-users", "/contacts/users-by-ids"}


@pytest.fixture
def router() -> LyingRouter:
    return LyingRouter()


def keys_of(router: LyingRouter, user_id: UUID) -> Answer:
    return {"user_id": str(user_id), **router.users[user_id]}


def remembered(client: Client, user_id: UUID) -> Contact:
    known = client._store.contacts.get(user_id)
    assert known is not None
    return known


async def with_unsent(client: Client, router: LyingRouter) -> None:
    """Leave a message in the outbox."""
    router.lies["POST /messages/send"] = lost
    with pytest.raises(Unreachable):
        await client.send("bob", "unsent")
    del router.lies["POST /messages/send"]


async def refuses(client: Client, other: UUID, router: LyingRouter, use: str) -> KeyChanged:
    """Check that a use of Bob's keys raises KeyChanged, and that nothing left the client but questions."""
    router.calls.clear()
    with pytest.raises(KeyChanged) as caught:
        await USES[use](client, other)
    asked = {f"/{call.split('/')[1]}" if "/auth/" in call else call.split(" ")[1] for call in router.calls}
    assert asked <= HARMLESS
    return caught.value


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("detour", ["told", "new login", "restart", "flip-flop", "flip-flop and restart"])
async def test_no_use_of_a_changed_key_before_the_user_confirms_it(
    detour: str, use: str, router: LyingRouter, tmp_path: Path
) -> None:
    alice, _, bob, bob_id = await pair(router)
    store = Store.open(tmp_path / "store", alice.identity)
    alice = router.client(alice.identity, store)
    await alice.request_contact("bob")
    await with_unsent(alice, router)
    before = keys_of(router, bob_id)
    await bob.rotate_ecdsa_key()
    if detour == "new login":
        await alice.login()
    if detour in {"told", "flip-flop", "flip-flop and restart"}:
        router.news["contacts_changed"] = True
        await alice.receive_once()
    if "flip-flop" in detour:
        with pytest.raises(KeyChanged):
            await alice.send("bob", "hello")
        router.lies["GET /auth/public-keys"] = says(before)
        await alice.receive_once()
    if "restart" in detour:
        alice = router.client(alice.identity, Store.open(tmp_path / "store", alice.identity))
    change = await refuses(alice, bob_id, router, use)
    assert (change.user_id, change.new_number == change.old_number) == (bob_id, "flip-flop" in detour)
    assert not await alice.is_verified("bob")
    await alice.confirm_keys("bob", change.new_number)
    if use not in {"verify", "flush"}:
        await USES[use](alice, bob_id)
    if "flip-flop" in detour:
        assert len(await alice.flush()) == 1
    else:
        with pytest.raises(SealedToOldKey):
            await alice.flush()


async def test_a_session_that_ends_between_the_look_and_the_send_is_no_gap(router: LyingRouter) -> None:
    """The dead session was told nothing: the keys are asked for again before the message goes under the new one."""
    alice, _, bob, bob_id = await pair(router)
    await alice.send("bob", "before")
    await bob.rotate_ecdsa_key()
    router.tokens.clear()
    with pytest.raises(KeyChanged):
        await alice.send("bob", "after")
    assert alice.unsent() == {}
    assert len(router.queues[bob_id]) == 1


async def test_keys_are_not_current_for_ever(router: LyingRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that only sends is told nothing, so it asks from time to time."""
    alice, _, bob, _ = await pair(router)
    await alice.send("bob", "before")
    await bob.rotate_ecdsa_key()
    await alice.send("bob", "not asked again yet")
    monkeypatch.setattr(directory_module, "FRESH_S", 0)
    with pytest.raises(KeyChanged):
        await alice.send("bob", "after")


async def test_an_answer_older_than_the_news_does_not_pass_for_current(router: LyingRouter) -> None:
    """News that comes while keys are on their way makes them be asked for once more."""
    alice, _, bob, bob_id = await pair(router)
    before = keys_of(router, bob_id)

    def news_meanwhile(*_: Any) -> Answer:
        alice._directory.expire()
        return before

    alice._directory.expire()
    router.lies["GET /auth/public-keys"] = [news_meanwhile, None]
    await alice.safety_number("bob")
    await bob.rotate_ecdsa_key()
    with pytest.raises(KeyChanged):
        await alice.safety_number("bob")


# The outbox


async def test_one_contacts_change_does_not_hold_up_the_others(router: LyingRouter) -> None:
    """What is for others goes out before the flush tells of it, and nothing is lost."""
    alice, _, bob, bob_id = await pair(router)
    _, carol_id = await router.account("carol")
    router.lies["POST /messages/send"] = lost
    for name in ("bob", "carol", "bob"):
        with pytest.raises(Unreachable):
            await alice.send(await alice._find(name), name)
    del router.lies["POST /messages/send"]
    await bob.rotate_ecdsa_key()
    await alice.login()
    with pytest.raises(KeyChanged):
        await alice.flush()
    assert (len(router.queues[carol_id]), len(router.queues[bob_id]), len(alice.unsent())) == (1, 0, 2)


async def test_what_was_sealed_to_a_key_given_up_is_never_sent(router: LyingRouter) -> None:
    """The new one is confirmed: whoever has the old identity must not get what was not sent yet."""
    alice, _, bob, bob_id = await pair(router)
    await with_unsent(alice, router)
    await bob.rotate_ecdsa_key()
    await alice.login()
    with pytest.raises(KeyChanged) as caught:
        await alice.flush()
    await alice.confirm_keys("bob", caught.value.new_number)
    with pytest.raises(SealedToOldKey) as dropped:
        await alice.flush()
    assert dropped.value.hint
    assert (router.queues[bob_id], alice.unsent()) == ([], {})


async def test_what_was_sealed_to_a_key_that_its_owner_replaced_is_sent(router: LyingRouter) -> None:
    """Under the same identity key the owner still reads what was on its way; it may have arrived already."""
    alice, _, bob, _ = await pair(router)
    await with_unsent(alice, router)
    await bob.rotate_ecdh_key()
    await alice.login()
    assert len(await alice.flush()) == 1
    assert [each.text for each in await bob.receive_once()] == ["unsent"]


async def test_a_message_to_a_deleted_account_does_not_stay_in_the_outbox(router: LyingRouter) -> None:
    alice, _, _, bob_id = await pair(router)
    await with_unsent(alice, router)
    del router.users[bob_id]
    await alice.login()
    router.lies["POST /messages/send"] = says(problem(403, "not_a_contact"))
    with pytest.raises(Refused):
        await alice.flush()
    assert alice.unsent() == {}


# Receiving


async def test_a_message_under_the_old_key_is_shown_with_a_warning(router: LyingRouter) -> None:
    """Written before the change, or by a thief of the old key: the reader is told while away, and at once."""
    alice, alice_id, bob, _ = await pair(router)
    await bob.safety_number(alice_id)
    await alice.send("bob", "written before")
    await alice.rotate_ecdsa_key()
    await alice.send("bob", "written after")
    back = router.client(bob.identity, bob._store)
    first, second = await back.receive_once()
    assert (first.text, first.is_held) == ("written before", False)
    assert isinstance(first.problem, ReplacedKey)
    assert first.problem.hint
    assert isinstance(second.problem, KeyChanged)
    assert (second.data, second.is_held) == (None, True)
    await back.ack(first, second)
    await back.confirm_keys("alice", second.problem.new_number)
    assert [(each.text, each.problem) for each in await back.receive_once()] == [("written after", None)]


async def test_a_message_under_the_old_key_does_not_open_after_the_confirmation(router: LyingRouter) -> None:
    alice, alice_id, bob, _ = await pair(router)
    await bob.safety_number(alice_id)
    await alice.send("bob", "written before")
    await alice.rotate_ecdsa_key()
    await bob.login()
    with pytest.raises(KeyChanged) as caught:
        await bob.safety_number(alice_id)
    await bob.confirm_keys(alice_id, caught.value.new_number)
    assert [each.text for each in await bob.receive_once()] == [None]


async def test_keys_are_asked_for_once_per_sender_and_session(router: LyingRouter) -> None:
    alice, alice_id, bob, _ = await pair(router)
    await bob.safety_number(alice_id)
    for number in range(5):
        await alice.send("bob", str(number))
    router.calls.clear()
    assert len(await bob.receive_once()) == 5
    assert "GET /auth/public-keys" not in router.calls
    await bob.login()
    await bob.receive_once()
    await bob.receive_once()
    assert router.calls.count("GET /auth/public-keys") == 1


async def test_post_of_a_known_sender_who_is_gone_still_opens(router: LyingRouter) -> None:
    alice, alice_id, bob, _ = await pair(router)
    await bob.safety_number(alice_id)
    await alice.send("bob", "farewell")
    del router.users[alice_id]
    await bob.login()
    assert [each.text for each in await bob.receive_once()] == ["farewell"]


async def test_another_account_cannot_write_under_a_known_name(router: LyingRouter) -> None:
    """A router that gives a known name a second id, and so a first key, is found out."""
    alice, _, bob, _ = await pair(router)
    impostor = Identity.generate("bob")
    router.users = {key: each for key, each in router.users.items() if each["username"] != "bob"}
    fake = router.client(impostor)
    await fake.register()
    await fake.send(alice.identity.account, "it is me, Bob")
    [received] = await alice.receive_once()
    assert isinstance(received.problem, WrongServer)
    assert (received.data, received.username) == (None, None)
    with pytest.raises(WrongServer):
        await alice.request_contact("bob")
    assert remembered(alice, bob.identity.account).ecdsa == bob.identity.ecdsa_key


# Telling the user


async def test_whose_keys_may_not_be_used_is_told_before_they_are(router: LyingRouter) -> None:
    """Everybody remembered is asked for; who is gone is passed over."""
    alice, _, bob, bob_id = await pair(router)
    others = {name: await router.account(name) for name in ("carol", "dave", "erin")}
    for name in others:
        await alice.request_contact(name)
    assert await alice.distrusted() == {}
    await bob.rotate_ecdsa_key()
    _, carol_id = others["carol"]
    router.users[carol_id]["ecdh_signature"] = router.users[bob_id]["ecdh_signature"]
    del router.users[others["dave"][1]]
    router.news["contacts_changed"] = True
    assert ContactsChanged() in await alice.events_once()
    found = await alice.distrusted()
    assert {key: type(each) for key, each in found.items()} == {bob_id: KeyChanged, carol_id: WrongKeys}


async def test_a_look_ahead_asks_for_a_few_and_tells_what_is_known_of_all(
    router: LyingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Routers limit such questions, and a send needs some, too: a limit that is hit is no error here."""
    alice, _, bob, bob_id = await pair(router)
    await router.account("carol")
    await alice.request_contact("carol")
    await bob.rotate_ecdsa_key()
    router.news["contacts_changed"] = True
    await alice.receive_once()
    with pytest.raises(KeyChanged):
        await alice.send("bob", "hello")
    for limit, answer in ((0, None), (9, says(problem(429, "too_many_requests")))):
        monkeypatch.setattr(client_module, "LOOK_MAX", limit)
        alice._directory.expire()
        router.lies["GET /auth/public-keys"] = [answer] * 9
        router.calls.clear()
        assert list(await alice.distrusted()) == [bob_id]
        assert len(router.calls) == min(limit, 2)


async def test_a_router_that_is_away_is_one_plain_error(router: LyingRouter) -> None:
    alice, *_ = await pair(router)
    await router.account("carol")
    await alice.request_contact("carol")
    alice._directory.expire()

    def away(_: httpx.Request, __: dict[str, Any]) -> Answer:
        raise httpx.ConnectError("refused")

    router.lies["GET /auth/public-keys"] = away
    with pytest.raises(Unreachable):
        await alice.distrusted()


# Strangers, and forgetting


async def test_who_only_wrote_is_a_stranger_until_the_user_acts(router: LyingRouter) -> None:
    alice, alice_id, bob, _ = await pair(router)
    await alice.send("bob", "hello")
    await bob.receive_once()
    await bob.safety_number("alice")
    assert not remembered(bob, alice_id).kept
    await bob.send("alice", "hello")
    assert remembered(bob, alice_id).kept


async def test_a_router_cannot_fill_the_book_with_people_it_invents(
    router: LyingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages of more strangers wait at the router; who the user knows is still read, and new people can be chosen."""
    monkeypatch.setattr(store_module, "STRANGERS_MAX", 2)
    alice, alice_id, bob, bob_id = await pair(router)
    for name in ("one1", "two2", "three3"):
        invented, _ = await router.account(name)
        await invented.send(bob_id, name)
    received = await bob.receive_once()
    assert [each.text for each in received] == ["one1", "two2", None]
    assert isinstance(received[2].problem, UntrustedAnswer)
    assert received[2].is_held
    await bob.request_contact("alice")
    await alice.send("bob", "hello")
    assert [each.text for each in await bob.receive_once()] == ["one1", "two2", "hello"]
    await bob.request_contact("three3")
    assert "three3" in [each.text for each in await bob.receive_once()]
    assert remembered(bob, alice_id).kept


async def test_a_rejected_stranger_is_forgotten_and_nobody_else(router: LyingRouter) -> None:
    alice, alice_id, bob, bob_id = await pair(router)
    await alice.send("bob", "hello")
    await bob.receive_once()
    router.lies["PUT /contacts/reject-contact-request"] = says(router.entry(alice_id, bob_id, alice_id, "rejected"))
    await bob.reject("alice")
    assert bob._store.contacts.all() == ()
    router.lies["PUT /contacts/reject-contact-request"] = says(router.entry(bob_id, alice_id, bob_id, "rejected"))
    await alice.reject("bob")
    assert remembered(alice, bob_id).kept


async def test_forgetting_is_local_and_first_use_begins_anew(router: LyingRouter) -> None:
    """The router hears nothing; the next key is taken without a question, so it takes a word where that matters."""
    alice, _, bob, bob_id = await pair(router)
    await alice.mark_verified("bob", await alice.safety_number("bob"))
    router.calls.clear()
    for whom in ("bob", "BOB", bob_id):
        with pytest.raises(StillTrusted):
            alice.forget(whom)
    alice.forget("bob", sure=True)
    assert router.calls == []
    for gone in ("bob", bob_id):
        with pytest.raises(UnknownContact) as caught:
            alice.forget(gone)
        assert caught.value.hint
    await bob.rotate_ecdsa_key()
    await alice.send(bob_id, "hello")
    assert remembered(alice, bob_id).ecdsa == bob.identity.ecdsa_key
    received: list[Received] = await bob.receive_once()
    assert [each.text for each in received] == ["hello"]
