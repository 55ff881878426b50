"""The SDK against a real router and real stores: the whole way of a person, a message and a key."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from blindpost.app import Running
from blindpost.client import (
    Client,
    ContactsChanged,
    Identity,
    KeyChanged,
    LoginRefused,
    Received,
    Refused,
    ReplacedKey,
    Scrypt,
    StillTrusted,
    Store,
)
from support import Signed, unique_name

CHEAP = Scrypt(log2_n=4)


@asynccontextmanager
async def people(router: Running, count: int = 2) -> AsyncIterator[list[Client]]:
    """Registered people, each the first one's accepted contact."""
    clients = []
    for _ in range(count):
        identity = Identity.generate(unique_name())
        clients.append(Client(router.origin, identity, Store.in_memory(identity)))
        await clients[-1].register()
    first, *others = clients
    for other in others:
        await first.request_contact(other.identity.username)
        await other.accept(first.identity.username)
    try:
        yield clients
    finally:
        for client in clients:
            await client.aclose()


async def first(stream: AsyncIterator[Received]) -> Received:
    return await asyncio.wait_for(anext(stream), 20)


async def test_two_people_meet_and_write(router: Running) -> None:
    """Search, request, accept, send, receive, acknowledge, status: all through the SDK."""
    async with people(router) as (alice, bob):
        [request] = await alice.contacts()
        assert (request.username, request.user_id) == (bob.identity.username, bob.identity.user_id)
        sent = await alice.send(bob.identity.username, "hello")
        stream = bob.messages()
        received = await first(stream)
        assert (received.text, received.username, received.problem) == ("hello", alice.identity.username, None)
        assert await alice.status([sent.id]) == {sent.id: "queued"}
        await bob.ack(received)
        assert await alice.status([sent.id]) == {sent.id: "delivered"}
        assert await alice.safety_number(bob.identity.account) == await bob.safety_number(alice.identity.account)


async def test_a_waiting_stream_gets_a_message_at_once(router: Running) -> None:
    """The poll that waits is answered by the send."""
    async with people(router) as (alice, bob):
        await bob.receive_once()
        waiting = asyncio.create_task(first(bob.messages(timeout_s=30)))
        await asyncio.sleep(0.2)
        await alice.send(bob.identity.account, b"\x00")
        assert (await waiting).data == b"\x00"


async def test_the_largest_message_passes(router: Running) -> None:
    """It fills the router's limit exactly."""
    from blindpost.protocol.session import DATA_MAX_BYTES  # noqa: PLC0415 - of this test alone

    async with people(router) as (alice, bob):
        data = bytes(DATA_MAX_BYTES)
        await alice.send(bob.identity.account, data)
        assert [each.data for each in await bob.receive_once()] == [data]


async def test_registering_again_finds_the_account(router: Running) -> None:
    """The identity that lost the answer recognises its own account; another one is refused."""
    async with people(router) as (alice, _):
        before = alice.identity.account
        assert await alice.register() == before
        stranger = Identity.generate(alice.identity.username)
        async with Client(router.origin, stranger, Store.in_memory(stranger)) as client:
            with pytest.raises(Refused) as caught:
                await client.register()
        assert caught.value.code == "username_taken"


async def test_a_rotated_ecdh_key_is_learnt(router: Running) -> None:
    """The contact is told, and writes to the new key; post to the old one still opens."""
    async with people(router) as (alice, bob):
        await alice.receive_once()
        await alice.send(bob.identity.account, "before")
        await bob.rotate_ecdh_key()
        await alice.receive_once()
        await alice.send(bob.identity.account, "after")
        assert [each.text for each in await bob.receive_once()] == ["before", "after"]
        learnt = alice._store.contacts.get(bob.identity.account)
        assert learnt is not None
        assert learnt.ecdh == bob.identity.ecdh_key


async def test_a_rotated_identity_key_needs_a_word(router: Running) -> None:
    """Both ways: sending stops, and what arrives is held, until each user confirms."""
    async with people(router) as (alice, bob):
        await alice.receive_once()
        await bob.rotate_ecdsa_key()
        await bob.send(alice.identity.account, "it is me")
        stream = alice.messages()
        held = await first(stream)
        assert isinstance(held.problem, KeyChanged)
        with pytest.raises(KeyChanged):
            await alice.send(bob.identity.account, "really?")
        await alice.confirm_keys(bob.identity.account, held.problem.new_number)
        assert (await first(stream)).text == "it is me"
        await alice.send(bob.identity.account, "good")
        assert [each.text for each in await bob.receive_once()] == ["good"]


async def test_a_change_while_away_is_found_on_return(router: Running) -> None:
    """News is told to one session and may be lost with it: the next one asks anew, for reading and for sending."""
    async with people(router) as (alice, bob):
        await alice.safety_number(bob.identity.account)
        await bob.send(alice.identity.account, "written before")
        await alice.logout()
        await bob.rotate_ecdsa_key()
        async with Client(router.origin, alice.identity, Store.in_memory(alice.identity)) as elsewhere:
            assert ContactsChanged() in await elsewhere.events_once()
        [message] = await alice.receive_once()
        assert message.text == "written before"
        assert isinstance(message.problem, ReplacedKey)
        await alice.ack(message)
        with pytest.raises(KeyChanged) as caught:
            await alice.send(bob.identity.account, "really?")
        await alice.confirm_keys(bob.identity.account, caught.value.new_number)
        await alice.send(bob.identity.account, "good")


async def test_a_session_ended_elsewhere_hides_no_change(router: Running) -> None:
    """It was told nothing, and its next call is a send: the keys are looked at before the message goes."""
    async with people(router) as (alice, bob):
        await alice.send(bob.identity.account, "before")
        async with Client(router.origin, alice.identity, Store.in_memory(alice.identity)) as other:
            assert await other.end_other_sessions() == 1
            await bob.rotate_ecdsa_key()
            await other.receive_once()
        with pytest.raises(KeyChanged):
            await alice.send(bob.identity.account, "after")
        assert alice.unsent() == {}
        assert [each.text for each in await bob.receive_once()] == ["before"]


async def test_who_waits_is_told_of_a_changed_key_at_once(router: Running) -> None:
    """The event comes when the key changes, and whose it is can be asked for then."""
    async with people(router, 3) as (alice, bob, carol):
        await carol.safety_number(alice.identity.account)
        await alice.events_once()
        assert await alice.distrusted() == {}
        events = alice.events()
        waiting = asyncio.create_task(anext(events))
        await bob.rotate_ecdsa_key()
        assert await asyncio.wait_for(waiting, 20) == ContactsChanged()
        found = await alice.distrusted()
        assert {key: type(each) for key, each in found.items()} == {bob.identity.account: KeyChanged}
        await alice.send(carol.identity.account, "only Bob is held up")


async def test_a_contact_who_is_forgotten_is_met_again(router: Running) -> None:
    """Only the memory here is gone: they write on, and their key is a first one."""
    async with people(router) as (alice, bob):
        assert await alice.mark_verified(bob.identity.account, await alice.safety_number(bob.identity.account))
        with pytest.raises(StillTrusted):
            alice.forget(bob.identity.username)
        alice.forget(bob.identity.username, sure=True)
        await bob.rotate_ecdsa_key()
        await bob.send(alice.identity.account, "me again")
        assert [(each.text, each.problem) for each in await alice.receive_once()] == [("me again", None)]
        assert not await alice.is_verified(bob.identity.account)


async def test_a_restart_goes_on_from_the_files(router: Running, tmp_path: Path) -> None:
    """Identity and store are loaded, and what was read is not shown again."""
    async with people(router) as (alice, bob):
        path = tmp_path / "bob.identity"
        bob.identity.save(path, "secret", kdf=CHEAP)
        identity = Identity.load(path, "secret", floor=CHEAP)
        async with Client(router.origin, identity, Store.open(tmp_path / "bob.store", identity)) as once:
            # The first to use this store withdraws what the one in memory offered.
            await once.receive_once()
            await alice.send(identity.account, "one")
            await once.ack(*await once.receive_once())
        await alice.send(identity.account, "two")
        identity = Identity.load(path, "secret", floor=CHEAP)
        async with Client(router.origin, identity, Store.open(tmp_path / "bob.store", identity)) as again:
            assert [each.text for each in await again.receive_once()] == ["two"]


async def test_who_loses_their_store_offers_new_prekeys_within_the_second(router: Running) -> None:
    """The router takes no lasting key that does not outlast the one before."""
    identity, now = Identity.generate(unique_name()), float(int(time.time()))
    async with Client(router.origin, identity, Store.in_memory(identity), clock=lambda: now) as before:
        await before.register()
    store = Store.in_memory(identity)
    async with Client(router.origin, identity, store, clock=lambda: now) as after:
        await after._prekeys.keep()
        status = await after._session.call("GET", "/keys/status")
    assert isinstance(status, dict)
    assert {status["signed_prekey_id"], status["last_resort_kem_prekey_id"]} == {
        str(each.id) for each in store.prekeys.all() if each.expires_s is not None
    }


async def test_an_ended_session_is_renewed(router: Running) -> None:
    """A token that the router no longer takes is replaced without the caller's help."""
    async with people(router) as (alice, bob):
        async with httpx.AsyncClient(base_url=router.origin) as http:
            session = alice._session._credentials
            assert session
            answer = await http.post("/auth/logout", auth=Signed(session.key, session.token))
            assert answer.status_code == 200
        await alice.send(bob.identity.account, "still here")


async def test_the_session_of_a_lost_device_is_found_and_ended(router: Running) -> None:
    """The one that asks goes on."""
    async with people(router) as (alice, _):
        store = Store.in_memory(alice.identity)
        async with (
            Client(router.origin, alice.identity, store) as lost,
            Client(router.origin, alice.identity, store) as pc,
        ):
            await lost.login()
            await pc.login()
            found = await alice.sessions()
            assert [each.is_current for each in found] == [True, False, False]
            await alice.end_session(found[1].id)
            assert await alice.end_other_sessions() == 1
            assert [each.id for each in await alice.sessions()] == [found[0].id]
            with pytest.raises(Refused):
                await alice.end_session(found[1].id)


async def test_a_deleted_account_is_gone(router: Running) -> None:
    """It cannot log in, and its contacts cannot write to it."""
    async with people(router) as (alice, bob):
        gone = bob.identity.account
        await bob.delete_account()
        with pytest.raises(LoginRefused):
            await bob.login()
        with pytest.raises(Refused):
            await alice.send(gone, "anybody?")


async def test_many_messages_keep_their_order(router: Running) -> None:
    """More than a page of them, each once."""
    async with people(router) as (alice, bob):
        for number in range(150):
            await alice.send(bob.identity.account, str(number))
        stream = bob.messages()
        assert [(await first(stream)).text for _ in range(150)] == [str(number) for number in range(150)]


async def test_many_senders_at_once(router: Running) -> None:
    """Concurrent sends of several people all arrive, each once."""
    async with people(router, 4) as (alice, *others):
        await asyncio.gather(
            *(
                other.send(alice.identity.account, f"{index}-{n}")
                for index, other in enumerate(others)
                for n in range(20)
            )
        )
        stream = alice.messages()
        texts = {(await first(stream)).text for _ in range(60)}
        assert texts == {f"{index}-{n}" for index in range(3) for n in range(20)}
