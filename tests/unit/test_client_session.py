"""Requests signed by the session's own key, as the client makes them: a proof each, and no token without one."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest

from blindpost.client import Client, Identity, LoginRefused, Refused, Retry, Store, Unreachable, UntrustedAnswer
from blindpost.protocol import dpop
from blindpost.protocol.encoding import b64url_decode
from lying_router import ORIGIN, Answer, LyingRouter, lost, no_sleep, pair, problem, says


@dataclass
class Checking(LyingRouter):
    """Checks every proof as an honest router does, by its own clock, and keeps what it saw."""

    ahead_s: float = 0.0
    """How far its clock is ahead of this computer's."""
    proofs: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """The thumbprint for each token."""

    def answer(self, request: httpx.Request) -> httpx.Response:
        if "DPoP" not in request.headers:
            assert "Authorization" not in request.headers, "a token without a proof"
            return super().answer(request)
        proof, token = request.headers["DPoP"], request.headers.get("Authorization", "").removeprefix("DPoP ") or None
        signed = dpop.SignedRequest(request.method, ORIGIN + request.url.path, request.content, token)
        try:
            found = dpop.check(proof, signed, time.time() + self.ahead_s)
        except dpop.InvalidProof:
            return problem(401, "invalid_proof")
        self.proofs.append(json.loads(b64url_decode(proof.split(".")[1])) | {"key": found.thumbprint})
        if token is not None and self.keys.get(token) not in {None, found.thumbprint}:
            return problem(401, "invalid_proof")
        answer = super().answer(request)
        if request.url.path == "/auth/login" and answer.is_success:
            self.keys[answer.json()["access_token"]] = found.thumbprint
        return answer

    def _challenge_get(self, request: httpx.Request, _: dict[str, Any]) -> Answer:
        return self.challenge(ORIGIN, request.url.path.split("/")[-1], int(time.time() + self.ahead_s) + 60)


@pytest.fixture
def router() -> Iterator[Checking]:
    router = Checking()
    yield router
    ids = [proof["jti"] for proof in router.proofs]
    assert len(ids) == len(set(ids)), "a proof was used twice"


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "", "mac"])
async def test_a_token_that_is_not_bound_is_refused(kind: str, router: Checking) -> None:
    """Somebody on the way may have taken the proof out of the login, to use the token without a key."""
    alice, _ = await router.account("alice")
    router.lies["POST /auth/login"] = says({"access_token": "stolen", "token_type": kind, "expires_in": 60})
    with pytest.raises(UntrustedAnswer, match="not bound"):
        await alice.login()
    with pytest.raises(UntrustedAnswer, match="not bound"):
        await alice.receive_once()
    assert "GET /messages/poll" not in router.calls


async def test_every_login_has_a_key_of_its_own(router: Checking) -> None:
    """What was seen of one session says nothing of the next, and a key never outlives its token."""
    alice, _ = await router.account("alice")
    router.keys.clear()
    for _ in range(3):
        await alice.login()
        await alice.receive_once()
    assert len(router.keys) == 3
    assert len(set(router.keys.values())) == 3


async def test_each_request_is_signed_for_itself(router: Checking) -> None:
    """Method, path without query, body and token are in the proof."""
    alice, *_ = await pair(router)
    await alice.send("bob", "hello")
    await alice.status([uuid4()])
    assert {("POST", f"{ORIGIN}/messages/send"), ("GET", f"{ORIGIN}/messages/status")} <= {
        (proof["htm"], proof["htu"]) for proof in router.proofs
    }
    for proof in router.proofs:
        assert ("bd" in proof) == (proof["htm"] == "POST")
        assert ("ath" in proof) == (not proof["htu"].endswith("/auth/login"))


@pytest.mark.parametrize("ahead_s", [-119, -61, 0, 61, 119])
async def test_proofs_are_dated_by_the_routers_clock(ahead_s: int, router: Checking) -> None:
    """A computer's clock may be two minutes wrong, which is more than a proof may be."""
    router.ahead_s = ahead_s
    alice, *_ = await pair(router)
    await alice.send("bob", "hello")
    for proof in router.proofs:
        assert abs(proof["iat"] - time.time() - ahead_s) < 10


@pytest.mark.parametrize("ahead_s", [-190, 130])
async def test_a_clock_that_is_further_off_is_told(ahead_s: int, router: Checking) -> None:
    """No signature is given to a challenge of another time, so there is nothing to correct the clock by."""
    alice, _ = await router.account("alice")
    router.ahead_s = ahead_s
    with pytest.raises(UntrustedAnswer) as caught:
        await alice.login()
    assert "clock" in caught.value.hint


async def test_a_clock_set_right_in_a_session_costs_one_login(router: Checking) -> None:
    """Proofs are then dated wrongly, and refused: the next challenge tells the time anew."""
    alice, *_ = await pair(router)
    router.ahead_s = 100
    router.calls.clear()
    await alice.send("bob", "hello")
    await alice.send("bob", "hello")
    assert router.calls.count("POST /auth/login") == 1
    assert router.calls.count("POST /messages/send") == 2


async def test_a_refused_proof_leads_to_one_login_and_no_loop(router: Checking) -> None:
    """Each call tries once more under a new session, with a new key and a new proof, and then gives up."""
    alice, _ = await router.account("alice")
    await alice.login()
    router.lies["GET /messages/poll"] = says(problem(401, "invalid_proof"))
    router.calls.clear()
    with pytest.raises(Refused) as caught:
        await alice.receive_once()
    assert caught.value.code == "invalid_proof"
    assert router.calls.count("POST /auth/login") == 1
    assert router.calls.count("GET /messages/poll") == 2
    router.lies["GET /messages/poll"] = [says(problem(401, "invalid_proof"))]
    assert await alice.receive_once() == []


async def test_a_login_whose_proof_is_refused_is_not_repeated(router: Checking) -> None:
    """Neither by itself nor by the call that needed it: a router that refuses all logins is asked once for each."""
    alice, _ = await router.account("alice")
    router.lies["POST /auth/login"] = says(problem(401, "invalid_proof"))
    router.calls.clear()
    with pytest.raises(LoginRefused):
        await alice.receive_once()
    assert router.calls == ["GET /auth/challenge", "POST /auth/login"]


@pytest.mark.parametrize("failure", [lost, says(httpx.Response(502)), says(problem(503, "unavailable"))])
async def test_a_repeated_request_has_a_proof_of_its_own(failure: Any, router: Checking) -> None:
    """The first one may have arrived: the same proof again would be refused as a replay."""
    alice, *_ = await pair(router)
    router.proofs.clear()
    router.lies["POST /messages/send"] = [failure, failure, None]
    await alice.send("bob", "hello")
    sends = [proof for proof in router.proofs if proof["htu"].endswith("/send")]
    assert len(sends) == 3
    assert len({proof["jti"] for proof in sends}) == 3
    assert len({proof["bd"] for proof in sends}) == 1


async def test_a_lost_login_is_not_repeated_with_its_challenge(router: Checking) -> None:
    """A challenge works once: the caller's next call asks for another."""
    alice, _ = await router.account("alice")
    router.lies["POST /auth/login"] = [lost]
    with pytest.raises(Unreachable):
        await alice.receive_once()
    assert router.calls.count("POST /auth/login") == 1
    assert await alice.receive_once() == []
    assert router.calls.count("GET /auth/challenge") == 2


async def test_neither_token_nor_key_is_shown(router: Checking) -> None:
    """Whatever is printed of a session, or of an error that it raised."""
    alice, _ = await router.account("alice")
    await alice.login()
    credentials = alice._session._credentials
    assert credentials is not None
    token = str(credentials.token)
    private = str(credentials.key._private.private_numbers().private_value)
    for secretive in (alice, alice._session, credentials, credentials.key, credentials.sign("GET", ORIGIN, b"").keys()):
        assert token not in repr(secretive)
        assert private not in repr(secretive)
    assert repr(credentials) == "Credentials(key=<ProofKey>)"
    router.lies["GET /messages/poll"] = says(httpx.Response(200, json={"token": token}))
    with pytest.raises(UntrustedAnswer) as caught:
        await alice.receive_once()
    assert token not in repr(caught.value) + repr(caught.value.__cause__)


async def test_what_answers_without_checking_is_believed_no_more_than_any_router(router: Checking) -> None:
    """Whether a router checks proofs is its own matter: the client sends them all the same."""
    plain = LyingRouter()
    seen: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return plain.answer(request)

    identity = Identity.generate("alice")
    store, transport = Store.in_memory(identity), httpx.MockTransport(note)
    alice = Client(ORIGIN, identity, store, transport=transport, retry=Retry(attempts=1, sleep=no_sleep))
    await alice.register()
    await alice.receive_once()
    assert all("DPoP" in request.headers for request in seen if "Authorization" in request.headers)
    assert router.proofs == []
