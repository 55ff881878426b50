"""What spec/threat-model.md says is not stopped yet. These fail today; one that passes must leave this file."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
import redis.asyncio

from blindpost.config import Settings
from blindpost.core.embedded import EmbeddedStores, StoreUrls
from blindpost.protocol.dpop import ProofKey, SignedRequest
from checks import client_of, refusal, success
from support import Person, Signed, person, running_in_thread, settings_for

if TYPE_CHECKING:
    import asyncpg


@pytest.mark.xfail(strict=True, reason="the signature of a login does not cover the session's key")
async def test_a_login_cannot_be_bound_to_another_key_on_the_way(http: httpx.AsyncClient) -> None:
    """Somebody who carries a login, as a proxy that ends TLS does, takes the proof out and shows a key of their own."""
    alice = await Person(http).register()
    body = await alice.login_body()
    proxys = Signed(ProofKey())
    answer = await http.post("/auth/login", json=body, auth=proxys)
    refusal(answer, 401, "login_failed")


@pytest.mark.xfail(strict=True, reason="a proof may be dated ahead, and a Redis begins its memory with the next second")
async def test_a_proof_dated_ahead_does_not_outlive_the_memory_of_redis(stores: StoreUrls, data_dir: Path) -> None:
    with (
        EmbeddedStores(data_dir / "ahead-redis", postgres=False) as own,
        running_in_thread(settings_for(StoreUrls(stores.database_url, own.redis_url), data_dir / "ahead")) as router,
    ):
        async with client_of(router) as http:
            alice = await person(http)
            request = SignedRequest("GET", str(http.base_url.join("/auth/me")), b"", alice.token)
            proof = alice.key.prove(request, time.time() + 20)
            headers = {"Authorization": f"DPoP {alice.token}", "DPoP": proof}
            success(await http.get("/auth/me", headers=headers))
            url = (await router.container.get(Settings)).redis_url
            assert url
            async with redis.asyncio.from_url(url.get_secret_value()) as cache:
                await cache.flushall()
            while (await alice.get("/auth/me")).status_code == 503:  # noqa: ASYNC110 - it is Redis's clock
                await asyncio.sleep(0.05)
            assert (await http.get("/auth/me", headers=headers)).status_code != 200


@pytest.mark.xfail(strict=True, reason="sessions that expired are deleted at the next login of their user alone")
async def test_a_session_that_expired_leaves_no_row(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice = await person(http)
    await database.execute(
        "UPDATE sessions SET expires_at = now() - interval '1 year' WHERE user_id = $1", UUID(alice.id)
    )
    with_router = await person(http)
    success(await with_router.get("/auth/me"))
    assert await database.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", UUID(alice.id)) == 0
