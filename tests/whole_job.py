"""Everything that a router does for people, once: for stores that grant it no more than it needs."""

import asyncio
from uuid import UUID

import httpx

from blindpost.protocol import transcripts
from checks import another_session, refusal, success
from prekeys import upload_of
from support import Person, new_key, person, public, sign


async def whole_job(http: httpx.AsyncClient) -> None:
    """Register, log in, search, befriend, send, wait, stream, claim, turn keys, log out, delete: all succeed."""
    alice, bob = await person(http), await person(http)
    await _become_contacts(alice, bob)
    await _write(alice, bob)
    await _stream(alice, bob)
    await _begin_a_session(alice, bob)
    await _turn_keys(alice)
    success(await alice.send(bob), 201)
    twin = await another_session(bob)
    success(await bob.post("/auth/logout"))
    refusal(await bob.get("/auth/me"), 401)
    assert (await twin.poll(0))["has_messages"]
    signature = sign(twin.ecdsa, transcripts.delete_account(UUID(twin.id)))
    success(await twin.call("DELETE", "/auth/me", {"signature": signature}))
    refusal(await http.post("/auth/register", json=Person(http, bob.name).registration()), 409, "username_taken")
    success(await http.get("/health/ready"))


async def _become_contacts(alice: Person, bob: Person) -> None:
    found = success(await alice.get("/contacts/search-users", username=bob.name[:12]))
    assert bob.id in {each["id"] for each in found}
    success(await alice.get("/contacts/users-by-ids", users_ids=bob.id))
    await alice.befriend(bob)
    assert success(await bob.get("/contacts/get-contacts"))[0]["username"] == alice.name
    success(await bob.get(f"/auth/public-keys/{alice.id}"))
    await alice.drain()
    await bob.drain()


async def _write(alice: Person, bob: Person) -> None:
    waiting = asyncio.create_task(bob.poll(20))
    sent = success(await alice.send(bob), 201)
    assert [each["id"] for each in (await waiting)["messages"]] == [sent["id"]]
    assert success(await bob.post("/messages/ack", message_ids=[sent["id"]]))["acknowledged"] == [sent["id"]]
    assert (await alice.poll(20))["delivered"] == [sent["id"]]
    assert success(await alice.get("/messages/status", ids=sent["id"])) == {sent["id"]: "delivered"}


async def _stream(alice: Person, bob: Person) -> None:
    ticket = success(await bob.post("/auth/ticket"))["ticket"]
    async with bob.http.stream("GET", "/messages/events", params={"ticket": ticket}) as answer:
        assert answer.status_code == 200
        sent = success(await alice.send(bob), 201)
        async for line in answer.aiter_lines():
            if f'"id":"{sent["id"]}"' in line:
                break
    success(await bob.post("/messages/ack", message_ids=[sent["id"]]))


async def _begin_a_session(alice: Person, bob: Person) -> None:
    success(await alice.call("POST", "/keys", upload_of(alice)))
    assert success(await bob.post("/keys/claim", user_id=alice.id))["one_time_prekey"]
    success(await alice.call("POST", "/keys", upload_of(alice)))
    assert success(await alice.get("/keys/status"))["one_time_prekeys"] == 1


async def _turn_keys(someone: Person) -> None:
    new = new_key()
    rotation = transcripts.rotate_ecdsa(UUID(someone.id), public(someone.ecdsa), public(new))
    body = {
        "ecdsa_public_key": public(new).pem,
        "ecdh_signature": sign(new, transcripts.register(someone.name, public(new), public(someone.ecdh))),
        "old_key_signature": sign(someone.ecdsa, rotation),
        "new_key_signature": sign(new, rotation),
    }
    success(await someone.put("/auth/ecdsa-update-key", **body))
    someone.ecdsa = new
    ecdh = new_key()
    signature = sign(new, transcripts.register(someone.name, public(new), public(ecdh)))
    success(await someone.put("/auth/ecdh-update-key", ecdh_public_key=public(ecdh).pem, ecdh_signature=signature))
    someone.ecdh = ecdh
