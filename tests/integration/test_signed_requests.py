"""Signed requests (RFC 9449) at the running router: a token alone opens nothing, and a proof works once, anywhere."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import jwt
import pytest
import redis.asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.app import Running
from blindpost.config import Settings
from blindpost.core.embedded import EmbeddedStores, StoreUrls
from blindpost.core.tokens import Tokens
from blindpost.protocol import transcripts
from blindpost.protocol.dpop import AHEAD_MAX_S, ProofKey, SignedRequest
from checks import client_of, refusal, success
from support import Person, Signed, b64, contacts, person, running_in_thread, settings_for, sign, signed, unique_name

if TYPE_CHECKING:
    from pathlib import Path


ORIGIN = "https://chat.example.org"
CHALLENGE = 'DPoP algs="ES256 ES384", error="invalid_dpop_proof"'


def url_of(someone: Person, path: str) -> str:
    return str(someone.http.base_url.join(path))


async def demand_refused(answer: httpx.Response) -> None:
    refusal(answer, 401, "invalid_proof")
    assert answer.headers["WWW-Authenticate"] == CHALLENGE


# What a thief of a token can do


async def test_a_stolen_token_without_its_key_opens_nothing(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    thief = Person(http, token=alice.token)
    await demand_refused(await thief.get("/auth/me"))
    bare = {"Authorization": f"DPoP {alice.token}"}
    await demand_refused(await http.get("/auth/me", headers=bare))
    refusal(await http.get("/auth/me", headers={"Authorization": f"Bearer {alice.token}"}), 401, "not_authenticated")
    success(await alice.get("/auth/me"))


async def test_a_proof_without_its_token_opens_nothing(http: httpx.AsyncClient) -> None:
    alice, bob = await person(http), await person(http)
    proof = alice.signed("GET", url_of(alice, "/auth/me"))["DPoP"]
    refusal(await http.get("/auth/me", headers={"DPoP": proof}), 401, "not_authenticated")
    await demand_refused(await http.get("/auth/me", headers={"DPoP": proof, "Authorization": f"DPoP {bob.token}"}))


ELSEWHERE: dict[str, Callable[[SignedRequest, Person], SignedRequest]] = {
    "method": lambda made, _: made._replace(method="GET"),
    "path": lambda made, _: made._replace(url=made.url.replace("send", "ack")),
    "host": lambda made, _: made._replace(url="http://evil.example.org/messages/send"),
    "scheme": lambda made, _: made._replace(url=made.url.replace("http:", "https:")),
    "body": lambda made, _: made._replace(body=made.body + b" "),
    "no body": lambda made, _: made._replace(body=b""),
    "token": lambda made, bob: made._replace(token=bob.token),
    "no token": lambda made, _: made._replace(token=None),
}


@pytest.mark.parametrize("change", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_a_proof_made_for_something_else_sends_nothing(
    http: httpx.AsyncClient, change: Callable[[SignedRequest, Person], SignedRequest]
) -> None:
    alice, bob = await contacts(http)
    body = http.build_request("POST", "/", json={"recipient_id": bob.id, "message": b64(b"x")}).content
    right = SignedRequest("POST", url_of(alice, "/messages/send"), body, alice.token)
    headers = {"Authorization": f"DPoP {alice.token}", "Content-Type": "application/json"}
    forged = headers | {"DPoP": alice.key.prove(change(right, bob), time.time())}
    await demand_refused(await http.post("/messages/send", content=body, headers=forged))
    assert (await bob.poll(0))["messages"] == []
    good = headers | {"DPoP": alice.key.prove(right, time.time())}
    success(await http.post("/messages/send", content=body, headers=good), 201)


@pytest.mark.parametrize("offset_s", [-3_600, -65, 10, 3_600])
async def test_a_proof_of_another_time_is_refused(http: httpx.AsyncClient, offset_s: int) -> None:
    alice = await person(http)
    request = SignedRequest("GET", url_of(alice, "/auth/me"), b"", alice.token)
    headers = {"Authorization": f"DPoP {alice.token}", "DPoP": alice.key.prove(request, time.time() + offset_s)}
    await demand_refused(await http.get("/auth/me", headers=headers))


async def test_two_headers_of_one_kind_are_refused(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    first, second = (alice.signed("GET", url_of(alice, "/auth/me")) for _ in range(2))
    both = [("Authorization", first["Authorization"]), ("DPoP", first["DPoP"]), ("DPoP", second["DPoP"])]
    await demand_refused(await http.get("/auth/me", headers=both))
    twice = [("Authorization", first["Authorization"])] * 2 + [("DPoP", first["DPoP"])]
    refusal(await http.get("/auth/me", headers=twice), 401, "not_authenticated")


# Replay


async def test_a_proof_works_once(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    headers = alice.signed("GET", url_of(alice, "/auth/me"))
    success(await http.get("/auth/me", headers=headers))
    for _ in range(3):
        await demand_refused(await http.get("/auth/me", headers=headers))


async def test_a_proof_works_once_also_when_many_try_at_once(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    body = http.build_request("POST", "/", json={"recipient_id": bob.id, "message": b64(b"once")}).content
    headers = alice.signed("POST", url_of(alice, "/messages/send"), body) | {"Content-Type": "application/json"}
    answers = await asyncio.gather(*(http.post("/messages/send", content=body, headers=headers) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] + 11 * [401]
    assert len((await bob.poll(0))["messages"]) == 1


async def test_the_same_proof_id_under_another_signature_is_a_replay(http: httpx.AsyncClient) -> None:
    """ECDSA signatures can be changed by anybody and made anew by their owner: the id is what counts."""
    alice = await person(http)
    url = url_of(alice, "/auth/me")
    headers = alice.signed("GET", url)
    success(await http.get("/auth/me", headers=headers))
    claims = jwt.decode(headers["DPoP"], options={"verify_signature": False})
    header = jwt.get_unverified_header(headers["DPoP"])
    again = jwt.encode(claims, alice.key._private, header["alg"], headers=header)
    assert again != headers["DPoP"]
    await demand_refused(await http.get("/auth/me", headers=headers | {"DPoP": again}))


async def test_one_session_cannot_use_up_anothers_proof_ids(http: httpx.AsyncClient) -> None:
    alice, bob = await person(http), await person(http)
    for someone in (alice, bob):
        header = jwt.get_unverified_header(someone.signed("GET", url_of(someone, "/auth/me"))["DPoP"])
        claims = jwt.decode(
            someone.signed("GET", url_of(someone, "/auth/me"))["DPoP"], options={"verify_signature": False}
        )
        proof = jwt.encode(claims | {"jti": "one"}, someone.key._private, header["alg"], headers=header)
        shown = {"Authorization": f"DPoP {someone.token}", "DPoP": proof}
        success(await http.get("/auth/me", headers=shown))


@pytest.fixture
def one_origin(stores: StoreUrls, data_dir: "Path") -> Iterator[tuple[Running, Running]]:
    """Two nodes behind one public origin."""
    one, two = (settings_for(stores, data_dir / name, public_origin=ORIGIN) for name in ("shared-1", "shared-2"))
    with running_in_thread(one) as first, running_in_thread(two) as second:
        yield first, second


async def test_a_proof_that_was_used_on_one_node_is_refused_on_another(one_origin: tuple[Running, Running]) -> None:
    async with client_of(one_origin[0]) as first, client_of(one_origin[1]) as second:
        alice = Person(first, origin=ORIGIN)
        await alice.register()
        request = first.build_request("POST", "/auth/login", json=await alice.login_body())
        request.headers.update(signed("POST", f"{ORIGIN}/auth/login", alice.key, None, request.content))
        alice.token = success(await first.send(request))["access_token"]
        headers = alice.signed("GET", f"{ORIGIN}/auth/me")
        success(await second.get("/auth/me", headers=headers))
        for node in (first, second):
            await demand_refused(await node.get("/auth/me", headers=headers))
        success(await alice.at(second).get("/auth/me"))


@pytest.fixture
async def forgetful(stores: StoreUrls, data_dir: "Path") -> AsyncIterator[Running]:
    """A router with a Redis of its own, which the test makes lose its memory."""
    with (
        EmbeddedStores(data_dir / "forgetful-redis", postgres=False) as own,
        running_in_thread(
            settings_for(StoreUrls(stores.database_url, own.redis_url), data_dir / "forgetful")
        ) as running,
    ):
        yield running


async def test_a_redis_that_lost_its_memory_lets_no_proof_from_before_pass(forgetful: Running) -> None:
    async with client_of(forgetful) as http:
        alice = await person(http)
        headers = alice.signed("GET", url_of(alice, "/auth/me"))
        request = SignedRequest("GET", url_of(alice, "/auth/me"), b"", alice.token)
        ahead = headers | {"DPoP": alice.key.prove(request, time.time() + AHEAD_MAX_S - 1)}
        for shown in (headers, ahead):
            success(await http.get("/auth/me", headers=shown))
        url = (await forgetful.container.get(Settings)).redis_url
        assert url
        async with redis.asyncio.from_url(url.get_secret_value()) as cache:
            await cache.flushall()
        answer = await http.get("/auth/me", headers=headers)
        refusal(answer, 503, "unavailable")
        assert answer.headers["Retry-After"] == "5"
        while (fresh := await alice.get("/auth/me")).status_code == 503:  # noqa: ASYNC110 - it is Redis's clock
            await asyncio.sleep(0.05)
        success(fresh)
        for shown in (headers, ahead):
            refusal(await http.get("/auth/me", headers=shown), 503, "unavailable")


# Login


async def test_a_login_shows_the_key_that_its_token_is_then_bound_to(http: httpx.AsyncClient) -> None:
    alice = await Person(http).register()
    for key in (ProofKey(), ProofKey(ec.generate_private_key(ec.SECP384R1()))):
        body = success(await http.post("/auth/login", json=await alice.login_body(), auth=Signed(key)))
        assert body["token_type"] == "DPoP"
        claims = jwt.decode(body["access_token"], options={"verify_signature": False})
        assert claims["cnf"] == {"jkt": key.thumbprint}
        success(await http.get("/auth/me", auth=Signed(key, body["access_token"])))


async def test_a_login_with_no_proof_or_a_wrong_one_fails_and_loses_no_challenge(http: httpx.AsyncClient) -> None:
    alice = await Person(http).register()
    body = await alice.login_body()
    url = url_of(alice, "/auth/login")
    refusal(await http.post("/auth/login", json=body), 401, "login_failed")
    wrong: list[dict[str, str]] = [
        {"DPoP": ""},
        {"DPoP": "a.b.c"},
        signed("POST", url, alice.key, None, b"another body"),
        {"DPoP": signed("POST", url, alice.key, "token", b"")["DPoP"]},
        signed("POST", url_of(alice, "/auth/register"), alice.key, None),
    ]
    for headers in wrong:
        refusal(await http.post("/auth/login", json=body, headers=headers), 401, "login_failed")
    success(await http.post("/auth/login", json=body, auth=Signed(alice.key)))


async def bound_body(someone: Person, key: ProofKey) -> dict[str, Any]:
    """Return a body for /auth/login whose signature is good for one key."""
    challenge = await someone.challenge()
    signature = sign(someone.ecdsa, transcripts.login(challenge, key.thumbprint))
    return {"username": someone.name, "challenge": challenge, "signature": signature, "key_bound": True}


async def test_a_login_that_was_signed_for_one_key_opens_no_session_for_another(http: httpx.AsyncClient) -> None:
    """Somebody who carries a login, as a proxy that ends TLS does, takes the proof out and shows a key of their own."""
    alice, proxys = await Person(http).register(), ProofKey()
    for change in ({}, {"key_bound": False}):
        body = await bound_body(alice, alice.key) | change
        refusal(await http.post("/auth/login", json=body, auth=Signed(proxys)), 401, "login_failed")
        body = await bound_body(alice, alice.key) | change
        refusal(await http.post("/auth/login", json=body | {"key_bound": False}), 401, "login_failed")
    success(await http.post("/auth/login", json=await bound_body(alice, alice.key), auth=Signed(alice.key)))
    plain = await alice.login_body() | {"key_bound": True}
    refusal(await http.post("/auth/login", json=plain, auth=Signed(alice.key)), 401, "login_failed")


# Bearer tokens, where the operator allows them


@pytest.fixture(scope="module")
def lenient(stores: StoreUrls, data_dir: "Path") -> Iterator[Running]:
    with running_in_thread(settings_for(stores, data_dir / "lenient", allow_bearer=True)) as running:
        yield running


async def test_a_bearer_token_is_given_only_where_it_is_allowed_and_no_key_is_shown(lenient: Running) -> None:
    async with client_of(lenient) as http:
        alice = await Person(http).register()
        stripped = await bound_body(alice, alice.key)
        refusal(await http.post("/auth/login", json=stripped), 401, "login_failed")
        body = success(await http.post("/auth/login", json=await alice.login_body()))
        assert body["token_type"] == "Bearer"
        plain = {"Authorization": f"Bearer {body['access_token']}"}
        success(await http.get("/auth/me", headers=plain))
        for proof in ({"DPoP": ""}, {"DPoP": "a.b.c"}):
            answer = await http.post("/auth/login", json=await alice.login_body(), headers=proof)
            refusal(answer, 401, "login_failed")


async def test_a_bound_token_is_never_taken_as_a_plain_one_nor_the_other_way_round(
    lenient: Running, http: httpx.AsyncClient
) -> None:
    async with client_of(lenient) as open_http:
        alice = await person(open_http)
        stripped = {"Authorization": f"Bearer {alice.token}"}
        refusal(await open_http.get("/auth/me", headers=stripped), 401, "not_authenticated")
        plain = success(await open_http.post("/auth/login", json=await alice.login_body()))["access_token"]
        refusal(await open_http.get("/auth/me", auth=Signed(alice.key, plain)), 401, "not_authenticated")
        refusal(await http.get("/auth/me", headers={"Authorization": f"Bearer {plain}"}), 401, "not_authenticated")


async def test_a_token_for_another_key_needs_the_nodes_signature(http: httpx.AsyncClient, router: Running) -> None:
    alice = await person(http)
    header = jwt.get_unverified_header(alice.token)
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    thief = Person(http, name=unique_name())
    mine = ec.generate_private_key(ec.SECP256R1())
    for bound in ({"jkt": thief.key.thumbprint}, {}, {"jkt": None}, {"jkt": 1}, None, "x"):
        thief.token = jwt.encode(claims | {"cnf": bound}, mine, "ES256", headers=header)
        refusal(await thief.get("/auth/me"), 401, "not_authenticated")
    nodes = (await router.container.get(Tokens))._key.private
    odd: list[Any] = [{}, {"jkt": None}, None, "x", [], 1, {"jkt": ["x"]}]
    for bound in odd:
        thief.token = jwt.encode(claims | {"cnf": bound}, nodes, "ES256", headers=header)
        answer = await thief.get("/auth/me")
        assert answer.status_code == 401, bound
        bare = {"Authorization": f"Bearer {thief.token}"}
        assert (await http.get("/auth/me", headers=bare)).status_code == 401, bound


async def test_what_redis_keeps_of_a_proof_names_nobody_and_goes_away(http: httpx.AsyncClient, cache: Any) -> None:
    alice = await person(http)
    before = set(await cache.keys("proof:*"))
    success(await alice.get("/auth/me"))
    new = set(await cache.keys("proof:*")) - before
    assert new
    for key in new:
        assert await cache.get(key) == b""
        assert 0 < await cache.ttl(key) <= 120
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    everything = b"".join([key + (await cache.get(key) or b"") for key in await cache.keys("session:*")])
    for secret in (alice.id, claims["jti"]):
        assert bytes.fromhex(secret.replace("-", "")) not in everything
        assert secret.encode() not in everything


async def test_a_body_on_a_call_that_takes_none_is_signed_too(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    headers = alice.signed("GET", url_of(alice, "/auth/me"))
    await demand_refused(await http.request("GET", "/auth/me", content=b"unsigned", headers=headers))
    success(await http.request("GET", "/auth/me", content=str(uuid4()).encode(), auth=alice.auth))
