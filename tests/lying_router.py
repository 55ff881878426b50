"""A router in one process that does what a test tells it to: mostly to lie. It stands for the peer, not for a store."""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx

from blindpost.client import Client, Entry, EntryStatus, History, Identity, Retry, Store
from blindpost.protocol import dpop, transcripts
from blindpost.protocol.challenge import Challenge
from blindpost.protocol.keys import PublicKey

ORIGIN = "https://chat.example.org"
NOW = "2026-01-02T03:04:05.000000Z"

Answer = dict[str, Any] | list[Any] | httpx.Response
Handler = Callable[[httpx.Request, dict[str, Any]], Answer]


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"type": "about:blank", "title": "t", "status": status, "detail": "no", "code": code}
    return httpx.Response(status, json=body, headers=headers)


def says(answer: Answer) -> Handler:
    return lambda *_: answer


def lost(_: httpx.Request, __: dict[str, Any]) -> Answer:
    raise httpx.ReadError("the connection broke")


@dataclass
class LyingRouter:
    """Honest until `lies` has an entry for "METHOD /path": then that answers, or the next of a list does."""

    users: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    queues: dict[UUID, list[dict[str, Any]]] = field(default_factory=dict)
    lies: dict[str, Handler | list[Handler | None]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    sent: dict[tuple[UUID, str], dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, UUID] = field(default_factory=dict)
    challenges: set[str] = field(default_factory=set)
    prekeys: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    news: dict[str, Any] = field(default_factory=lambda: {"contacts_changed": False, "delivered": []})

    def client(self, identity: Identity, store: Store | None = None, history: History | None = None) -> Client:
        return Client(
            ORIGIN,
            identity,
            store or Store.in_memory(identity),
            history=history,
            transport=httpx.MockTransport(self.answer),
            retry=Retry(attempts=3, sleep=no_sleep, random=lambda: 0.0),
        )

    async def account(self, username: str) -> tuple[Client, UUID]:
        """Return somebody registered, who has no session."""
        identity = Identity.generate(username)
        store = Store.in_memory(identity)
        user_id = await self.client(identity, store).register()
        self.tokens = {token: user for token, user in self.tokens.items() if user != user_id}
        self.calls.clear()
        return self.client(identity, store), user_id

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        name = f"{request.method} {'/'.join(path.split('/')[:3])}"
        self.calls.append(name)
        body = json.loads(request.content) if request.content else {}
        lie = self.lies.get(name)
        if isinstance(lie, list):
            lie = lie.pop(0) if lie else None
        if lie is None and "Authorization" in request.headers and not self.is_open(request):
            return problem(401, "not_authenticated")
        room = name.rsplit("/", 1)[-1].replace("-", "_")
        handler: Handler = lie or getattr(self, f"_{room}_{request.method.lower()}")
        answer = handler(request, body)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def me(self, request: httpx.Request) -> UUID:
        return self.tokens[request.headers["Authorization"].removeprefix("DPoP ")]

    def is_open(self, request: httpx.Request) -> bool:
        return request.headers.get("Authorization", "").removeprefix("DPoP ") in self.tokens

    def named(self, username: str) -> tuple[UUID, dict[str, Any]] | None:
        return next((entry for entry in self.users.items() if entry[1]["username"] == username), None)

    def _register_post(self, _: httpx.Request, body: dict[str, Any]) -> Answer:
        if self.named(body["username"]):
            return problem(409, "username_taken")
        user_id = uuid4()
        self.users[user_id] = body
        self.queues[user_id] = []
        return {"id": str(user_id), "username": body["username"]}

    def _challenge_get(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        return self.challenge(ORIGIN, request.url.path.split("/")[-1], int(time.time()) + 60)

    def challenge(self, origin: str, username: str, expiry: int) -> Answer:
        text = str(Challenge(origin, username, secrets.token_urlsafe(32), expiry))
        self.challenges.add(text)
        return {"challenge": text, "expires": NOW}

    def _login_post(self, request: httpx.Request, body: dict[str, Any]) -> Answer:
        user = self.named(body["username"])
        self.challenges.remove(body["challenge"])
        signature = base64.b64decode(body["signature"])
        shown = dpop._read_header(request.headers["DPoP"].split(".")[0])
        signed = transcripts.login(body["challenge"], shown.thumbprint)
        key = PublicKey.from_pem(user[1]["ecdsa_public_key"]) if user else None
        if user is None or key is None or not key.verifies(signature, signed):
            return problem(401, "login_failed")
        token = secrets.token_hex(8)
        self.tokens[token] = user[0]
        return {"access_token": token, "token_type": "DPoP", "expires_in": 60}

    def _logout_post(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        self.tokens.pop(request.headers["Authorization"].removeprefix("DPoP "), None)
        return {"status": "ok"}

    def _me_get(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        user_id = self.me(request)
        return {"id": str(user_id), "created_at": NOW, **self.users[user_id]}

    def _me_delete(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        del self.users[self.me(request)]
        self.tokens.clear()
        return {"status": "ok"}

    def _public_keys_get(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        user_id = request.url.path.split("/")[-1]
        user = self.users.get(UUID(user_id))
        return problem(404, "user_not_found") if user is None else {"user_id": user_id, **user}

    def _ecdsa_update_key_put(self, request: httpx.Request, body: dict[str, Any]) -> Answer:
        self.users[self.me(request)].update({key: body[key] for key in ("ecdsa_public_key", "ecdh_signature")})
        self.prekeys.pop(self.me(request), None)
        return {"status": "ok"}

    def _ecdh_update_key_put(self, request: httpx.Request, body: dict[str, Any]) -> Answer:
        self.users[self.me(request)].update(body)
        return {"status": "ok"}

    def _keys_post(self, request: httpx.Request, body: dict[str, Any]) -> Answer:
        self.prekeys[self.me(request)] = body
        return self._keys_status(self.me(request))

    def _keys_status(self, user_id: UUID) -> Answer:
        kept = self.prekeys.get(user_id, {})
        signed, kem = kept.get("signed_prekey") or {}, kept.get("last_resort_kem_prekey") or {}
        return {
            "signed_prekey_id": signed.get("id"),
            "signed_prekey_expires": signed.get("expires"),
            "last_resort_kem_prekey_id": kem.get("id"),
            "last_resort_kem_prekey_expires": kem.get("expires"),
            "one_time_prekeys": len(kept.get("one_time_prekeys", [])),
            "one_time_kem_prekeys": len(kept.get("one_time_kem_prekeys", [])),
        }

    def _claim_post(self, _: httpx.Request, body: dict[str, Any]) -> Answer:
        kept = self.prekeys.get(UUID(body["user_id"]))
        if kept is None:
            return problem(404, "no_prekeys")
        once, kem = kept["one_time_prekeys"], kept["one_time_kem_prekeys"]
        return {
            "user_id": body["user_id"],
            "signed_prekey": kept["signed_prekey"],
            "one_time_prekey": once.pop(0) if once else None,
            "kem_prekey": kem.pop(0) if kem else kept["last_resort_kem_prekey"],
        }

    def _search_users_get(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        prefix = request.url.params["username"]
        matches = ((key, each["username"]) for key, each in self.users.items())
        return [{"id": str(key), "username": name, "status": None} for key, name in matches if name.startswith(prefix)]

    def _users_by_ids_get(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        user_id = request.url.params["users_ids"]
        user = self.users.get(UUID(user_id))
        return [] if user is None else [{"id": user_id, "username": user["username"], "status": None}]

    def entry(self, sender: UUID, receiver: UUID, other: UUID, status: str = "pending") -> dict[str, Any]:
        parties = {"sender_id": str(sender), "receiver_id": str(receiver), "user_id": str(other)}
        times = {"created_at": NOW, "updated_at": NOW}
        return {"id": str(uuid4()), "status": status, "username": self.users[other]["username"], **parties, **times}

    def _send_contact_request_post(self, request: httpx.Request, body: dict[str, Any]) -> Answer:
        receiver = UUID(body["receiver_id"])
        return self.entry(self.me(request), receiver, receiver)

    def _accept_contact_request_put(self, request: httpx.Request, body: dict[str, Any]) -> Answer:
        sender = UUID(body["sender_id"])
        return self.entry(sender, self.me(request), sender, "accepted")

    def _get_contacts_get(self, _: httpx.Request, __: dict[str, Any]) -> Answer:
        return []

    def _get_contact_requests_get(self, _: httpx.Request, __: dict[str, Any]) -> Answer:
        return []

    def _send_post(self, request: httpx.Request, body: dict[str, Any]) -> Answer:
        me = self.me(request)
        key = (me, body["client_message_id"])
        if key not in self.sent:
            self.sent[key] = {"id": str(uuid4()), "timestamp": NOW, "status": "sent"}
            self.deliver(me, UUID(body["recipient_id"]), body["message"], self.sent[key]["id"])
        return self.sent[key]

    def deliver(self, sender: UUID, recipient: UUID, message: str, message_id: str | None = None) -> None:
        item = {"sender_id": str(sender), "recipient_id": str(recipient), "message": message, "timestamp": NOW}
        self.queues[recipient].append({"id": message_id or str(uuid4()), **item})

    def _poll_get(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        messages = self.queues[self.me(request)][: int(request.url.params["limit"])]
        return {"has_messages": bool(messages), "has_more": False, "messages": messages, **self.news}

    def _ack_post(self, request: httpx.Request, body: dict[str, Any]) -> Answer:
        queue = self.queues[self.me(request)]
        queue[:] = [item for item in queue if item["id"] not in body["message_ids"]]
        return {"status": "ok", "acknowledged": body["message_ids"]}

    def _status_get(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        if request.url.path.startswith("/keys"):
            return self._keys_status(self.me(request))
        return dict.fromkeys(request.url.params["ids"].split(","), "delivered")


async def pair(router: LyingRouter) -> tuple[Client, UUID, Client, UUID]:
    """Return Alice, who knows Bob's keys, and Bob, who knows nobody's."""
    alice, alice_id = await router.account("alice")
    bob, bob_id = await router.account("bob")
    await alice.request_contact("bob")
    return alice, alice_id, bob, bob_id


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


async def someone(router: LyingRouter, name: str) -> Someone:
    """Return somebody registered."""
    identity = Identity.generate(name)
    store = Store.in_memory(identity)
    client = router.client(identity, store, store.history)
    await client.register()
    return Someone(client, store)


async def no_sleep(_: float) -> None:
    """Tests do not wait, but let others run."""
    await asyncio.sleep(0)
