"""What a client does when the router lies, stumbles or falls silent."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.client import (
    CannotDecrypt,
    Client,
    ContactsChanged,
    Delivered,
    FileError,
    Identity,
    KeyChanged,
    LoginRefused,
    MaybeRepeated,
    Received,
    Refused,
    Retry,
    Role,
    Scrypt,
    Store,
    UnknownContact,
    Unreachable,
    UntrustedAnswer,
    WrongKeys,
    WrongName,
    WrongServer,
)
from blindpost.client import client as client_module
from blindpost.client.inbox import HELD_MAX
from blindpost.client.transport import ANSWER_MAX_BYTES, HttpTransport, origin_of
from blindpost.protocol import transcripts
from blindpost.protocol.encoding import b64encode
from lying_router import NOW, ORIGIN, Answer, LyingRouter, lost, no_sleep, pair, problem, says


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "IDLE_PAUSE_MAX_S", 0.01)
    monkeypatch.setattr(client_module, "IDLE_PAUSE_S", 0.005)


@pytest.fixture
def router() -> LyingRouter:
    return LyingRouter()


async def next_of(stream: AsyncIterator[Received]) -> Received:
    return await asyncio.wait_for(anext(stream), 5)


# The ordinary course


async def test_a_message_arrives_once_and_is_acknowledged(router: LyingRouter) -> None:
    """From send to ack, with the time of sending under the sender's signature."""
    alice, alice_id, bob, bob_id = await pair(router)
    sent = await alice.send("bob", "hello")
    [received] = await bob.receive_once()
    assert (received.text, received.sender_id, received.username, received.problem) == (
        "hello",
        alice_id,
        "alice",
        None,
    )
    assert received.client_message_id == sent.client_message_id
    assert "hello" not in repr(received)
    await bob.ack(received)
    assert router.queues[bob_id] == []
    assert await bob.receive_once() == []
    assert await alice.status([sent.id]) == {sent.id: "delivered"}


async def test_bytes_stay_bytes(router: LyingRouter) -> None:
    """Data that is not text comes back as it was, and has no text."""
    alice, _, bob, bob_id = await pair(router)
    await alice.send(bob_id, b"\x00\xff")
    [received] = await bob.receive_once()
    assert (received.data, received.text) == (b"\x00\xff", None)


async def test_a_stream_acknowledges_what_the_consumer_went_past(router: LyingRouter) -> None:
    """The message whose turn it is stays at the router until the next one is asked for."""
    alice, _, bob, bob_id = await pair(router)
    for text in ("one", "two"):
        await alice.send("bob", text)
    stream = bob.messages()
    assert (await next_of(stream)).text == "one"
    assert (await next_of(stream)).text == "two"
    assert len(router.queues[bob_id]) == 2
    await alice.send("bob", "three")
    assert (await next_of(stream)).text == "three"
    assert len(router.queues[bob_id]) == 1


async def test_news_of_deliveries_and_contacts_come_as_events(router: LyingRouter) -> None:
    """What a poll says beside messages is passed on."""
    alice, *_ = await pair(router)
    delivered = uuid4()
    router.news = {"contacts_changed": True, "delivered": [str(delivered)]}
    events = alice.events()
    assert await anext(events) == Delivered((delivered,))
    assert await anext(events) == ContactsChanged()


async def test_both_see_one_safety_number(router: LyingRouter) -> None:
    """And can note that they compared it; another number is not noted."""
    alice, alice_id, bob, _ = await pair(router)
    number = await alice.safety_number("bob")
    assert number == await bob.safety_number(alice_id)
    assert not await alice.mark_verified("bob", "0" * 60)
    assert await alice.mark_verified("bob", number)
    assert await alice.is_verified("bob")


# What is signed at login


LOGIN_LIES: dict[str, tuple[type[UntrustedAnswer], Callable[[int], tuple[str, str, int]]]] = {
    "another origin": (WrongServer, lambda now: ("https://evil.example.org", "alice", now + 60)),
    "another port": (WrongServer, lambda now: (f"{ORIGIN}:8443", "alice", now + 60)),
    "plain http": (WrongServer, lambda now: ("http://chat.example.org", "alice", now + 60)),
    "another user": (WrongServer, lambda now: (ORIGIN, "mallory", now + 60)),
    "another spelling": (WrongServer, lambda now: (ORIGIN, "Alice", now + 60)),
    "no origin": (UntrustedAnswer, lambda now: ("chat", "alice", now + 60)),
    "long over": (UntrustedAnswer, lambda now: (ORIGIN, "alice", now - 3_600)),
    "far ahead": (UntrustedAnswer, lambda now: (ORIGIN, "alice", now + 3_600)),
}


@pytest.mark.parametrize("name", LOGIN_LIES)
async def test_only_an_honest_challenge_is_signed(
    name: str, router: LyingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A challenge for elsewhere, somebody else or another time is refused before the key is touched."""
    alice, _ = await router.account("alice")
    error, lie = LOGIN_LIES[name]
    router.lies["GET /auth/challenge"] = lambda *_: router.challenge(*lie(int(time.time())))
    monkeypatch.setattr(Identity, "sign", lambda *_: pytest.fail("it signed"))
    with pytest.raises(error):
        await alice.login()
    assert "POST /auth/login" not in router.calls


@pytest.mark.parametrize(
    "challenge", ["", "hello", "blindpost/v1/register\x00" + "x" * 40, "blindpost/v1/login|a|b|c|d", "x" * 100_000]
)
async def test_text_that_is_no_challenge_is_not_signed(challenge: str, router: LyingRouter) -> None:
    """Nor is a transcript of another purpose."""
    alice, _ = await router.account("alice")
    router.lies["GET /auth/challenge"] = says({"challenge": challenge, "expires": NOW})
    with pytest.raises(UntrustedAnswer):
        await alice.login()


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "é", "x" * 9_000])
async def test_a_token_cannot_carry_headers(token: str, router: LyingRouter) -> None:
    """What goes into a header is plain and short."""
    alice, _ = await router.account("alice")
    router.lies["POST /auth/login"] = says({"access_token": token, "token_type": "DPoP", "expires_in": 1})
    with pytest.raises(UntrustedAnswer):
        await alice.login()


async def test_an_ended_session_is_renewed_once(router: LyingRouter) -> None:
    """401 leads to one login and one repetition, not to a loop."""
    alice, _, bob, _ = await pair(router)
    router.tokens.clear()
    await alice.send("bob", "hello")
    assert [each.text for each in await bob.receive_once()] == ["hello"]
    router.lies["GET /messages/status"] = says(problem(401, "not_authenticated"))
    router.calls.clear()
    with pytest.raises(Refused):
        await alice.status([uuid4()])
    assert router.calls.count("POST /auth/login") == 1


async def test_one_login_serves_all_tasks(router: LyingRouter) -> None:
    """Tasks that find the session ended at the same time share the new one."""
    alice, *_ = await pair(router)
    await alice.login()
    router.tokens.clear()
    router.calls.clear()
    await asyncio.gather(*(alice.send("bob", str(number)) for number in range(5)))
    assert router.calls.count("POST /auth/login") == 1


async def test_logout_ends_it(router: LyingRouter) -> None:
    """Twice is no error, nor is a session that was gone."""
    alice, _ = await router.account("alice")
    await alice.login()
    await alice.logout()
    await alice.logout()
    assert router.tokens == {}


# Registration


async def test_a_lost_registration_is_found_again(router: LyingRouter) -> None:
    """The name is taken, by this very key: that is success."""
    alice = router.client(Identity.generate("alice"))

    def register_and_lose(request: httpx.Request, body: dict[str, Any]) -> Answer:
        router._register_post(request, body)
        return lost(request, body)

    router.lies["POST /auth/register"] = [register_and_lose, None]
    assert await alice.register() == alice.identity.account == next(iter(router.users))


async def test_a_name_of_somebody_else_is_refused(router: LyingRouter) -> None:
    """The key does not fit, so the refusal stands."""
    await router.account("alice")
    with pytest.raises(Refused) as caught:
        await router.account("alice")
    assert caught.value.code == "username_taken"


async def test_a_router_cannot_register_another_name(router: LyingRouter) -> None:
    """The answer has to be for the name asked for."""
    router.lies["POST /auth/register"] = says({"id": str(uuid4()), "username": "mallory"})
    with pytest.raises(UntrustedAnswer):
        await router.account("alice")


async def test_an_identity_serves_one_origin(router: LyingRouter) -> None:
    """A client for another address is refused before a word is sent."""
    alice, _ = await router.account("alice")
    other = Client(
        "https://other.example.org",
        alice.identity,
        Store.in_memory(alice.identity),
        transport=httpx.MockTransport(router.answer),
    )
    with pytest.raises(WrongServer):
        await other.login()


def refuse_connection(*_: object) -> Answer:
    raise httpx.ConnectError("refused")


async def test_a_mistyped_address_binds_nothing(router: LyingRouter) -> None:
    """Nobody listens there, or somebody who is no router: the identity goes to the right one."""
    alice = Identity.generate("alice")
    for answer in (refuse_connection, says(problem(404, "not_found")), says(problem(409, "username_taken"))):
        router.lies["POST /auth/register"] = answer
        with pytest.raises((Unreachable, Refused)):
            await router.client(alice).register()
        assert (alice.origin, alice.user_id) == (None, None)
    del router.lies["POST /auth/register"]
    await router.client(alice).register()
    assert alice.origin == ORIGIN


@pytest.mark.parametrize(
    "answers",
    [
        [lost] * 9,
        [lost, *[refuse_connection] * 9],
        [says(problem(503, "database")), *[refuse_connection] * 9],
        [says(problem(500, "internal"))],
        [says(problem(429, "rate_limited"))],
    ],
)
async def test_an_identity_stays_where_it_may_be_registered(answers: list[Any], router: LyingRouter) -> None:
    """One request that may have arrived is enough, whatever became of the later ones."""
    alice = Identity.generate("alice")
    router.lies["POST /auth/register"] = list(answers)
    with pytest.raises((Unreachable, Refused)):
        await router.client(alice).register()
    assert alice.origin == ORIGIN
    router.lies["POST /auth/register"] = refuse_connection
    with pytest.raises(Unreachable):
        await router.client(alice).register()
    assert alice.origin == ORIGIN


async def test_a_login_that_fails_after_a_conflict_leaves_it_open(router: LyingRouter) -> None:
    """The name may be taken by this very identity, so it stays."""
    alice = Identity.generate("alice")
    router.lies["POST /auth/register"] = says(problem(409, "username_taken"))
    router.lies["GET /auth/challenge"] = [None, *[refuse_connection] * 3]
    with pytest.raises(Unreachable):
        await router.client(alice).register()
    assert alice.origin == ORIGIN


async def test_no_name_is_taken_where_nobody_could_log_in(router: LyingRouter) -> None:
    """The server is asked first what it calls itself; and one that speaks another protocol has taken nothing either."""
    alice = Identity.generate("alice")
    router.lies["GET /auth/challenge"] = says(
        router.challenge("https://other.example.org", "alice", int(time.time()) + 60)
    )
    with pytest.raises(WrongServer, match="speaks for another address") as wrong:
        await router.client(alice).register()
    assert "https://other.example.org" in wrong.value.hint
    router.lies["GET /auth/challenge"] = lost
    with pytest.raises(Unreachable):
        await router.client(alice).register()
    assert (alice.origin, router.users, router.calls.count("POST /auth/register")) == (None, {}, 0)


# Several processes with one identity


async def test_a_follower_and_a_second_process(router: LyingRouter, tmp_path: Path) -> None:
    """The one follows, the other compares, sends and replaces keys: neither loses what the other did."""
    alice, alice_id, bob, _ = await pair(router)
    path = tmp_path / "bob.identity"
    bob.identity.save(path, "secret", kdf=Scrypt(log2_n=4))

    def process() -> Client:
        identity = Identity.load(path, "secret", floor=Scrypt(log2_n=4))
        return router.client(identity, Store.open(tmp_path / "bob.store", identity))

    follower, second = process(), process()
    stream = follower.messages()
    # The first to use this store withdraws what the one in memory offered.
    await follower._prekeys.keep()
    await alice.send("bob", "one")
    assert (await next_of(stream)).text == "one"
    number = await second.safety_number(alice_id)
    assert await second.mark_verified(alice_id, number)
    await second.send(alice_id, "answer")
    await second.rotate_ecdh_key()
    alice._directory.expire()
    await alice.send("bob", "two")
    assert (await next_of(stream)).text == "two"
    await second.rotate_ecdsa_key()
    router.tokens.clear()
    await follower.login()
    await follower.aclose()
    assert await follower.is_verified(alice_id)
    later = process()
    assert (later.identity.ecdsa_key, later.identity.ecdh_key) == (
        second.identity.ecdsa_key,
        second.identity.ecdh_key,
    )
    assert await later.is_verified(alice_id)
    assert later._store.contacts.get(alice_id) == follower._store.contacts.get(alice_id)
    assert [each.text for each in await later.receive_once()] == ["two"], "its turn was left, so it counts as unread"


async def test_a_key_confirmed_in_another_process_opens_what_was_held(router: LyingRouter, tmp_path: Path) -> None:
    """`contacts confirm` beside `receive --follow`."""
    alice, _, bob, _ = await pair(router)
    follower, second = (router.client(bob.identity, Store.open(tmp_path / "store", bob.identity)) for _ in range(2))
    await follower._directory.contact(alice.identity.account)
    await follower._prekeys.keep()
    await alice.rotate_ecdsa_key()
    await alice.send("bob", "after")
    stream = follower.messages()
    held = await next_of(stream)
    assert isinstance(held.problem, KeyChanged)
    waiting = asyncio.create_task(next_of(stream))
    await second.confirm_keys("alice", held.problem.new_number)
    assert (await waiting).text == "after"


# Other people's keys


async def test_keys_of_another_user_are_refused(router: LyingRouter) -> None:
    """Whether the answer says so, or hides it: the name is under the owner's signature."""
    alice, _, _, bob_id = await pair(router)
    _, mallory_id = await router.account("mallory")
    alice._directory.expire()
    alice._store.contacts.forget(bob_id)
    mallory = router.users[mallory_id]
    for user_id in (mallory_id, bob_id):
        router.lies["GET /auth/public-keys"] = says({"user_id": str(user_id), **mallory})
        with pytest.raises(WrongKeys):
            await alice.send(bob_id, "secret")
    assert router.queues[bob_id] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda keys: {"ecdh_public_key": keys["ecdsa_public_key"]},
        lambda _: {"ecdh_signature": b64encode(b"\x30" * 70)},
        lambda _: {"ecdsa_public_key": "-----BEGIN PUBLIC KEY-----"},
        lambda _: {"ecdh_public_key": Identity.generate("bob").ecdh_key.pem},
    ],
)
async def test_keys_that_their_owner_did_not_sign_are_refused(change: Any, router: LyingRouter) -> None:
    """One swapped key, a signature that fits nothing, a key that is none."""
    alice, _ = await router.account("alice")
    _, bob_id = await router.account("bob")
    keys = router.users[bob_id]
    router.lies["GET /auth/public-keys"] = says({"user_id": str(bob_id), **keys, **change(keys)})
    with pytest.raises(WrongKeys):
        await alice.request_contact("bob")


async def test_a_user_keeps_the_name_shown_first(router: LyingRouter) -> None:
    """A router that shows one name and pins the keys of another is found out."""
    alice, _ = await router.account("alice")
    _, bob_id = await router.account("bob")
    await alice.search("bob")
    router.lies["GET /contacts/users-by-ids"] = says([{"id": str(bob_id), "username": "mallory", "status": None}])
    with pytest.raises(WrongServer):
        await alice._directory.by_id(bob_id)


@pytest.mark.parametrize("name", ["", "bo", "\x1b[2Jbob", "bob\n", "b" * 51])
async def test_names_that_nobody_can_have_are_refused(name: str, router: LyingRouter) -> None:
    """A name must not steer the terminal it is shown in."""
    alice, _ = await router.account("alice")
    router.lies["GET /contacts/search-users"] = says([{"id": str(uuid4()), "username": name, "status": None}])
    with pytest.raises(UntrustedAnswer):
        await alice.search("bob")


async def test_nobody_of_that_name(router: LyingRouter) -> None:
    """An unknown name is an error with a hint, and so is one that nobody can have, or one's own."""
    alice, _ = await router.account("alice")
    with pytest.raises(UnknownContact) as caught:
        await alice.request_contact("nobody")
    assert caught.value.hint
    with pytest.raises(UnknownContact):
        await alice.send("nobody", "x")
    for name in ("ab", "Älice", "a b c", ""):
        for call in (alice.search, alice.request_contact):
            with pytest.raises(WrongName, match="3 letters") as refused:
                await call(name)
            assert refused.value.hint
    for me in ("alice", "ALICE", alice.identity.account):
        with pytest.raises(WrongName, match="that is you"):
            await alice.request_contact(me)
        with pytest.raises(WrongName, match="that is you"):
            await alice.send(me, "x")


async def test_a_changed_identity_key_stops_sending_until_confirmed(router: LyingRouter) -> None:
    """Nothing is sealed to it before; confirming takes the number that the user saw."""
    alice, _, bob, bob_id = await pair(router)
    await alice.send("bob", "before")
    await bob.rotate_ecdsa_key()
    router.news = {"contacts_changed": True, "delivered": []}
    await alice.receive_once()
    for _ in range(2):
        with pytest.raises(KeyChanged) as caught:
            await alice.send("bob", "after")
    assert len(router.queues[bob_id]) == 1
    with pytest.raises(KeyChanged):
        await alice.confirm_keys("bob", caught.value.old_number)
    await alice.confirm_keys("bob", caught.value.new_number)
    await alice.send("bob", "after")
    assert [each.text for each in await bob.receive_once()] == ["before", "after"]
    with pytest.raises(ValueError, match="not changed"):
        await alice.confirm_keys("bob", caught.value.new_number)


async def test_keys_are_asked_for_again_after_a_new_login(router: LyingRouter) -> None:
    """What changed between two sessions is told to neither, so nothing is taken for current."""
    alice, _, bob, _ = await pair(router)
    await alice.send("bob", "before")
    await bob.rotate_ecdsa_key()
    await alice.login()
    with pytest.raises(KeyChanged):
        await alice.send("bob", "after")


async def test_a_changed_ecdh_key_is_accepted_and_old_post_still_opens(router: LyingRouter) -> None:
    """The identity key signed it; what was sealed before it can be read after."""
    alice, _, bob, _ = await pair(router)
    await alice.send("bob", "before")
    await bob.rotate_ecdh_key()
    alice._directory.expire()
    await alice.send("bob", "after")
    assert [each.text for each in await bob.receive_once()] == ["before", "after"]


# Messages that are not what they seem


def altered(message: str) -> str:
    data = bytearray(base64.b64decode(message))
    data[-1] ^= 1
    return b64encode(bytes(data))


async def test_an_altered_message_is_shown_and_the_stream_goes_on(router: LyingRouter) -> None:
    """It is neither dropped in silence nor the end of everything, and is acknowledged when taken."""
    alice, _, bob, bob_id = await pair(router)
    for text in ("one", "two", "three"):
        await alice.send("bob", text)
    router.queues[bob_id][1]["message"] = altered(router.queues[bob_id][1]["message"])
    stream = bob.messages()
    received = [await next_of(stream) for _ in range(3)]
    assert [each.text for each in received] == ["one", None, "three"]
    assert isinstance(received[1].problem, CannotDecrypt)
    await alice.send("bob", "four")
    assert (await next_of(stream)).text == "four"
    assert len(router.queues[bob_id]) == 1


async def test_a_message_cannot_change_its_sender_or_recipient(router: LyingRouter) -> None:
    """A router that says it came from another, or gives it to another, is found out."""
    alice, alice_id, bob, bob_id = await pair(router)
    carol, carol_id = await router.account("carol")
    await alice.send("bob", "hello")
    message = router.queues[bob_id][0]["message"]
    router.deliver(carol_id, bob_id, message)
    router.deliver(alice_id, carol_id, message)
    assert [each.text for each in await bob.receive_once()] == ["hello", None]
    assert [type(each.problem) for each in await carol.receive_once()] == [CannotDecrypt]


async def test_a_message_delivered_twice_is_shown_once(router: LyingRouter) -> None:
    """Under the same id after a lost ack, or under a new one, in one page or later, and after a restart."""
    alice, alice_id, bob, bob_id = await pair(router)
    await alice.send("bob", "hello")
    message = router.queues[bob_id][0]["message"]
    router.deliver(alice_id, bob_id, message)
    received = await bob.receive_once()
    assert len(received) == 1
    await bob.ack(*received)
    router.deliver(alice_id, bob_id, message)
    assert await bob.receive_once() == []
    await bob.ack()
    assert router.queues[bob_id] == []


async def test_a_lost_acknowledgement_is_made_up(router: LyingRouter) -> None:
    """The message comes again, is recognised, and acknowledged without being shown."""
    alice, _, bob, bob_id = await pair(router)
    await alice.send("bob", "hello")
    received = await bob.receive_once()
    router.lies["POST /messages/ack"] = lost
    with pytest.raises(Unreachable):
        await bob.ack(*received)
    del router.lies["POST /messages/ack"]
    restarted = router.client(bob.identity, bob._store)
    assert await restarted.receive_once() == []
    await restarted.ack()
    assert router.queues[bob_id] == []


async def test_an_old_message_beyond_memory_is_shown_as_doubtful(router: LyingRouter) -> None:
    """It is not dropped, and not passed off as new."""
    alice, alice_id, bob, _ = await pair(router)
    await alice.send("bob", "hello")
    await bob.safety_number(alice_id)
    with bob._store.change() as state:
        state.contacts[alice_id] = state.contacts[alice_id].model_copy(update={"forgotten_until": 2**52})
    [received] = await bob.receive_once()
    assert received.text == "hello"
    assert isinstance(received.problem, MaybeRepeated)


async def test_a_message_under_a_changed_key_is_held(router: LyingRouter) -> None:
    """It is shown as such once, stays at the router, and opens when the user has confirmed."""
    alice, _, bob, bob_id = await pair(router)
    await alice.send("bob", "before")
    await bob.ack(*await bob.receive_once())
    await alice.rotate_ecdsa_key()
    await alice.send("bob", "after")
    stream = bob.messages()
    held = await next_of(stream)
    assert isinstance(held.problem, KeyChanged)
    assert (held.is_held, held.data) == (True, None)
    waiting = asyncio.create_task(next_of(stream))
    await asyncio.sleep(0.05)
    assert len(router.queues[bob_id]) == 1
    await bob.confirm_keys("alice", held.problem.new_number)
    assert (await waiting).text == "after"


async def test_held_messages_do_not_hide_the_others(router: LyingRouter) -> None:
    """A page's worth of held messages in front still lets the next ones through."""
    alice, _, bob, bob_id = await pair(router)
    carol, _ = await router.account("carol")
    await alice.send("bob", "before")
    await bob.ack(*await bob.receive_once())
    await alice.rotate_ecdsa_key()
    for number in range(HELD_MAX + 6):
        await alice.send("bob", str(number))
    await carol.send(bob_id, "here")
    stream = bob.messages()
    received = [await next_of(stream) for _ in range(HELD_MAX + 7)]
    assert [each.text for each in received] == [None] * (HELD_MAX + 6) + ["here"]
    assert [each.is_held for each in received] == [True] * HELD_MAX + [False] * 7


async def test_one_sender_can_hold_only_so_many_bytes(router: LyingRouter) -> None:
    """The router's page ends by bytes, too."""
    alice, _, bob, _ = await pair(router)
    await alice.send("bob", "before")
    await bob.ack(*await bob.receive_once())
    await alice.rotate_ecdsa_key()
    for _ in range(10):
        await alice.send("bob", bytes(60_000))
    held = [each.is_held for each in await bob.receive_once()]
    assert held == [True] * 8 + [False] * 2


async def test_a_message_whose_send_met_a_fault_of_the_router_waits_in_the_outbox(router: LyingRouter) -> None:
    alice, _, _, _ = await pair(router)
    router.lies["POST /messages/send"] = [says(problem(500, "internal_error")), None]
    with pytest.raises(Refused):
        await alice.send("bob", "hello")
    assert len(alice.unsent()) == 1
    assert len(await alice.flush()) == 1


async def test_a_stranger_without_an_account_is_no_crash(router: LyingRouter) -> None:
    """A message from somebody who is gone cannot be checked, so it cannot be read."""
    alice, alice_id, bob, _ = await pair(router)
    await alice.send("bob", "hello")
    del router.users[alice_id]
    [received] = await bob.receive_once()
    assert isinstance(received.problem, CannotDecrypt)
    assert received.username is None


async def test_keys_that_a_router_forges_hold_the_message(router: LyingRouter) -> None:
    """The lie is shown; the message waits until the router stops lying."""
    alice, alice_id, bob, bob_id = await pair(router)
    await alice.send("bob", "hello")
    forged = {"user_id": str(alice_id), **router.users[alice_id], "ecdh_signature": b64encode(b"no")}
    router.lies["GET /auth/public-keys"] = [says(forged), None]
    [received] = await bob.receive_once()
    assert isinstance(received.problem, WrongKeys)
    await bob.ack(received)
    assert len(router.queues[bob_id]) == 1
    assert [each.text for each in await bob.receive_once()] == ["hello"]


# Answers that are not what they should be


BAD_ANSWERS: dict[str, Any] = {
    "no JSON": says(httpx.Response(200, content=b"<html>")),
    "empty": says(httpx.Response(200)),
    "not UTF-8": says(httpx.Response(200, content=b'{"x": "\xff"}')),
    "a lone surrogate": says(httpx.Response(200, content=b'["\\ud800"]')),
    "deeply nested": says(httpx.Response(200, content=b"[" * 500_000)),
    "a huge number": says(httpx.Response(200, content=b"[" + b"9" * 500_000 + b"]")),
    "another shape": says({"messages": 7}),
    "null": says(httpx.Response(200, content=b"null")),
    "a redirect": says(httpx.Response(302, headers={"Location": "https://evil.example.org/"})),
    "too large": lambda *_: httpx.Response(200, content=b" " * (70 * 1024 * 1024)),
    "compressed": says(httpx.Response(200, content=b"{}", headers={"Content-Encoding": "x-unknown"})),
    "a time out of bounds": says(
        {
            "has_messages": False,
            "has_more": False,
            "messages": [
                {
                    "id": str(UUID(int=1)),
                    "sender_id": str(UUID(int=1)),
                    "recipient_id": str(UUID(int=1)),
                    "message": "AA==",
                    "timestamp": "0001-01-01T00:00:00+14:00",
                }
            ],
            "contacts_changed": False,
            "delivered": [],
        }
    ),
    "too many messages": says(
        {
            "has_messages": True,
            "has_more": False,
            "messages": [
                {
                    "id": str(UUID(int=n)),
                    "sender_id": str(UUID(int=1)),
                    "recipient_id": str(UUID(int=1)),
                    "message": "AA==",
                    "timestamp": NOW,
                }
                for n in range(65)
            ],
            "contacts_changed": False,
            "delivered": [],
        }
    ),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_strange_answer_is_one_typed_error(name: str, router: LyingRouter) -> None:
    """No answer makes the client fail in another way, or read without end."""
    alice, _ = await router.account("alice")
    router.lies["GET /messages/poll"] = BAD_ANSWERS[name]
    with pytest.raises(UntrustedAnswer) as caught:
        await alice.receive_once()
    assert caught.value.__cause__ is None or not str(caught.value.__cause__).startswith("<html>")


async def test_an_error_text_cannot_steer_a_terminal(router: LyingRouter) -> None:
    """Control characters are gone, and the text is short; a strange code is not passed on."""
    alice, _ = await router.account("alice")
    body = {"type": "t", "title": "t", "status": 400, "detail": "\x1b]0;owned\x07" + "x" * 9_999, "code": "\x1b[2J"}
    router.lies["GET /messages/status"] = says(httpx.Response(400, json=body))
    with pytest.raises(Refused) as caught:
        await alice.status([uuid4()])
    assert caught.value.code == "unknown"
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) <= 300


async def test_a_refusal_without_a_problem_document_is_still_one(router: LyingRouter) -> None:
    """A proxy answers HTML: the status is enough."""
    alice, _ = await router.account("alice")
    router.lies["GET /messages/status"] = says(httpx.Response(418, content=b"<html>"))
    with pytest.raises(Refused) as caught:
        await alice.status([uuid4()])
    assert (caught.value.status, caught.value.code) == (418, "unknown")


async def test_a_router_that_drips_is_given_up() -> None:
    """The whole exchange is bounded in time, not each byte."""

    async def drip(_: httpx.Request) -> httpx.Response:
        async def content() -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.01)

        return httpx.Response(200, content=content())

    transport = HttpTransport(ORIGIN, transport=httpx.MockTransport(drip))
    with pytest.raises(Unreachable) as caught:
        await transport.request("GET", "/x", timeout_s=0.1)
    assert caught.value.sent


async def test_a_stream_without_end_is_cut() -> None:
    """The body is counted as it comes, not when it is complete."""
    given = 0

    async def flood(_: httpx.Request) -> httpx.Response:
        async def content() -> AsyncIterator[bytes]:
            nonlocal given
            while True:
                given += 65_536
                yield bytes(65_536)

        return httpx.Response(200, content=content())

    transport = HttpTransport(ORIGIN, transport=httpx.MockTransport(flood))
    with pytest.raises(UntrustedAnswer):
        await transport.request("GET", "/x")
    assert given <= ANSWER_MAX_BYTES + 2 * 65_536


# Losses and repetition


async def test_a_lost_send_is_repeated_as_it_was(router: LyingRouter) -> None:
    """The same bytes under the same id: the recipient has one message."""
    alice, _, _, bob_id = await pair(router)
    bodies: list[dict[str, Any]] = []

    def store_and_lose(request: httpx.Request, body: dict[str, Any]) -> Answer:
        bodies.append(body)
        router._send_post(request, body)
        return lost(request, body)

    router.lies["POST /messages/send"] = [store_and_lose, store_and_lose, None]
    await alice.send("bob", "hello")
    assert bodies[0] == bodies[1]
    assert len(router.queues[bob_id]) == 1
    assert alice.unsent() == {}


async def test_what_could_not_be_sent_outlives_a_crash(router: LyingRouter, tmp_path: Path) -> None:
    """It waits in the outbox, and flush sends the same message under the same id."""
    alice, _, bob, _ = await pair(router)
    store = Store.open(tmp_path / "store", alice.identity)
    alice = router.client(alice.identity, store)
    await alice.request_contact("bob")
    router.lies["POST /messages/send"] = lost
    with pytest.raises(Unreachable):
        await alice.send("bob", "hello")
    [waiting] = alice.unsent()
    del router.lies["POST /messages/send"]
    restarted = router.client(alice.identity, Store.open(tmp_path / "store", alice.identity))
    assert [sent.client_message_id for sent in await restarted.flush()] == [waiting]
    assert restarted.unsent() == {}
    assert [each.text for each in await bob.receive_once()] == ["hello"]


async def test_a_refused_message_does_not_wait(router: LyingRouter) -> None:
    """What the router will never take is not kept."""
    alice, *_ = await pair(router)
    router.lies["POST /messages/send"] = says(problem(403, "not_a_contact"))
    with pytest.raises(Refused):
        await alice.send("bob", "hello")
    assert alice.unsent() == {}


async def test_repetition_is_bounded_and_waits_as_asked() -> None:
    """Retry-After is honoured up to a bound, with jitter on top, and then it is over."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def busy() -> None:
        raise Refused(503, "overloaded", "busy", retry_after=1e9 if waits else 2.0)

    with pytest.raises(Refused):
        await Retry(attempts=3, sleep=sleep, random=lambda: 1.0).run(busy, repeatable=False)
    assert waits == [2.25, 30.5]


@pytest.mark.parametrize(
    ("error", "repeatable", "calls"),
    [
        (Unreachable("x", sent=True), True, 5),
        (Unreachable("x", sent=True), False, 1),
        (Unreachable("x", sent=False), False, 5),
        (Refused(503, "outcome_unknown", "x"), True, 5),
        (Refused(503, "outcome_unknown", "x"), False, 1),
        (Refused(503, "unavailable", "x"), False, 5),
        (Refused(503, "unknown", "x"), False, 1),
        (Refused(429, "too_many_requests", "x"), True, 1),
        (Refused(500, "internal_error", "x"), True, 1),
    ],
)
async def test_only_what_is_safe_is_repeated(error: Unreachable | Refused, repeatable: bool, calls: int) -> None:  # noqa: FBT001
    """A call that may have been carried out is not made again unless that changes nothing."""
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        raise error

    with pytest.raises(type(error)):
        await Retry(sleep=no_sleep).run(call, repeatable=repeatable)
    assert made == calls


async def test_a_stream_outlives_an_outage(router: LyingRouter) -> None:
    """However long the router is away, the next message comes when it is back."""
    alice, _, bob, _ = await pair(router)
    await bob.login()
    await alice.send("bob", "hello")
    router.lies["GET /messages/poll"] = [lost] * 20 + [
        says(problem(503, "shutting_down")),
        says(httpx.Response(502)),
        None,
    ]
    assert (await next_of(bob.messages())).text == "hello"


async def test_a_request_made_twice_is_one(router: LyingRouter) -> None:
    """If the answer was lost, the request that stands is the answer."""
    alice, alice_id, _, bob_id = await pair(router)
    standing = router.entry(alice_id, bob_id, bob_id)
    router.lies["POST /contacts/send-contact-request"] = says(problem(409, "contact_request_exists"))
    with pytest.raises(Refused):
        await alice.request_contact("bob")
    router.lies["GET /contacts/get-contact-requests"] = says([standing])
    assert str((await alice.request_contact("bob")).id) == standing["id"]


# Rotation and deletion, with answers lost


@pytest.mark.parametrize("role", Role)
async def test_a_rotation_whose_answer_was_lost_is_settled(role: Role, router: LyingRouter) -> None:
    """The router's present key tells whether it happened."""
    alice, alice_id = await router.account("alice")
    name = f"PUT /auth/{role}-update-key"
    before = router.users[alice_id][f"{role}_public_key"]

    def rotate_and_lose(request: httpx.Request, body: dict[str, Any]) -> Answer:
        getattr(router, f"_{role}_update_key_put")(request, body)
        return lost(request, body)

    router.lies[name] = lost
    with pytest.raises(Unreachable):
        await getattr(alice, f"rotate_{role}_key")()
    assert getattr(alice.identity, f"{role}_key").pem == before
    router.lies[name] = rotate_and_lose
    await getattr(alice, f"rotate_{role}_key")()
    assert getattr(alice.identity, f"{role}_key").pem == router.users[alice_id][f"{role}_public_key"] != before


async def test_a_crash_in_a_rotation_does_not_lose_the_account(router: LyingRouter, tmp_path: Path) -> None:
    """The next start logs in with the new key, if that is the one that counts."""
    cheap, path = Scrypt(log2_n=4), tmp_path / "alice.identity"
    identity = Identity.generate("alice")
    identity.save(path, "secret", kdf=cheap)
    alice = router.client(identity)
    alice_id = await alice.register()

    def rotate_and_die(request: httpx.Request, body: dict[str, Any]) -> Answer:
        router._ecdsa_update_key_put(request, body)
        raise KeyboardInterrupt

    router.lies["PUT /auth/ecdsa-update-key"] = rotate_and_die
    with pytest.raises(KeyboardInterrupt):
        await alice.rotate_ecdsa_key()
    restarted = router.client(Identity.load(path, "secret", floor=cheap))
    await restarted.login()
    assert restarted.identity.ecdsa_key.pem == router.users[alice_id]["ecdsa_public_key"]
    assert Identity.load(path, "secret", floor=cheap).next_key(Role.ECDSA) is None


async def test_rotation_signs_the_right_transcripts(router: LyingRouter) -> None:
    """Old and new key sign the change, and the new one the binding to the name."""
    alice, alice_id = await router.account("alice")
    old = alice.identity.ecdsa_key
    bodies: list[dict[str, Any]] = []

    def note(request: httpx.Request, body: dict[str, Any]) -> Answer:
        bodies.append(body)
        return router._ecdsa_update_key_put(request, body)

    router.lies["PUT /auth/ecdsa-update-key"] = note
    await alice.rotate_ecdsa_key()
    new = alice.identity.ecdsa_key
    signatures = {name: base64.b64decode(value) for name, value in bodies[0].items() if name.endswith("signature")}
    rotation = transcripts.rotate_ecdsa(alice_id, old, new)
    assert old.verifies(signatures["old_key_signature"], rotation)
    assert new.verifies(signatures["new_key_signature"], rotation)
    assert new.verifies(signatures["ecdh_signature"], transcripts.register("alice", new, alice.identity.ecdh_key))


async def test_a_key_that_is_not_ours_is_noticed(router: LyingRouter) -> None:
    """A router that put another key into the account is found out when it is asked."""
    alice, alice_id = await router.account("alice")
    alice.identity.begin_rotation(Role.ECDH)
    router.lies["GET /auth/me"] = says(
        {
            "id": str(alice_id),
            "created_at": NOW,
            **router.users[alice_id],
            "ecdh_public_key": Identity.generate("eve").ecdh_key.pem,
        }
    )
    with pytest.raises(WrongServer):
        await alice.login()


async def test_deletion_is_done_even_if_the_answer_is_lost(router: LyingRouter) -> None:
    """An account that cannot log in any more is gone; one that can is not."""
    alice, alice_id = await router.account("alice")

    def delete_and_lose(request: httpx.Request, body: dict[str, Any]) -> Answer:
        router._me_delete(request, body)
        return lost(request, body)

    router.lies["DELETE /auth/me"] = lost
    with pytest.raises(Unreachable):
        await alice.delete_account()
    router.lies["DELETE /auth/me"] = delete_and_lose
    await alice.delete_account()
    assert alice_id not in router.users
    with pytest.raises(LoginRefused):
        await alice.login()


# Addresses


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Chat.Example.org", "https://chat.example.org"),
        ("https://chat.example.org:443/", "https://chat.example.org"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_has_one_form(url: str, origin: str) -> None:
    """Case, a default port and a last slash do not make another server."""
    assert origin_of(url) == origin == origin_of(origin)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "chat.example.org",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x/p",
        "https://x?q",
        "https://x#f",
        "https://x:99999",
        "https://x\x00",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    """An address is an origin and nothing else."""
    with pytest.raises(ValueError, match=r"\w"):
        origin_of(url)


async def test_a_server_without_tls_is_told_from_one_that_is_away() -> None:
    """The two call for different things to be done."""

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        transport = HttpTransport(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Unreachable, match="TLS") as caught:
            await transport.request("GET", "/x")
    assert not caught.value.sent
    assert "does not speak TLS" in caught.value.hint
    with pytest.raises(Unreachable, match="cannot be reached"):
        await transport.request("GET", "/x")
    await transport.aclose()


def test_a_missing_file_of_trusted_certificates_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else says which of the many files of a computer is meant."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(FileError, match=r"/nowhere/ca\.pem"):
        HttpTransport(ORIGIN)


async def test_each_request_tells_whether_the_router_was_reached(router: LyingRouter) -> None:
    """A refusal is an answer."""
    alice, _ = await router.account("alice")
    told: list[bool] = []
    alice.on_reach(told.append)
    router.lies["GET /contacts/get-contacts"] = [lost, says(problem(403, "no")), None]
    with pytest.raises(Refused):
        await alice.contacts()
    assert told[-2:] == [False, True]


async def test_plain_http_stays_on_this_computer() -> None:
    """The session's token is not shown to the network unless the user says so."""
    with pytest.raises(ValueError, match="https"):
        HttpTransport("http://chat.example.org")
    for allowed in (HttpTransport("http://localhost:8000"), HttpTransport("http://chat.example.org", allow_http=True)):
        await allowed.aclose()


async def test_it_shows_no_secret(router: LyingRouter) -> None:
    """A client's repr has the name and the server."""
    alice, _ = await router.account("alice")
    assert repr(alice) == f"<Client of alice at {ORIGIN}>"


async def test_leaving_acknowledges_what_was_taken(router: LyingRouter) -> None:
    """At the end of the block, if the router answers; a lost answer there is no error."""
    alice, _, bob, bob_id = await pair(router)
    await alice.send("bob", "hello")
    async with bob:
        stream = bob.messages()
        await next_of(stream)
        stalled = asyncio.create_task(next_of(stream))
        router.lies["POST /messages/ack"] = lost
        await asyncio.sleep(0.05)
        stalled.cancel()
        del router.lies["POST /messages/ack"]
    assert router.queues[bob_id] == []
    assert json.dumps(router.calls).count("ack") >= 1
