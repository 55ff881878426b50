"""A Redis that comes back with an old memory is believed no more than one that comes back with none."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio

from blindpost.core.embedded import StoreUrls
from checks import client_of, refusal, success
from fault.servers import RedisHandmade
from support import person, running_in_thread, settings_for


@pytest.fixture
def snapshots() -> Iterator[RedisHandmade]:
    home = Path(tempfile.mkdtemp(prefix="bp-snap-"))
    home.chmod(0o711)
    server = RedisHandmade(home)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(home, ignore_errors=True)


async def test_a_redis_restored_from_a_snapshot_revives_no_proof_and_no_session(
    stores: StoreUrls, snapshots: RedisHandmade, tmp_path: Path
) -> None:
    """What it remembers is older than what was: the proof was used, and the session ended, after the snapshot."""
    settings = settings_for(StoreUrls(stores.database_url, snapshots.url), tmp_path / "node")
    with running_in_thread(settings) as router:
        async with client_of(router) as http, redis.asyncio.from_url(snapshots.url) as cache:
            alice, bob = await person(http), await person(http)
            for someone in (alice, bob):
                success(await someone.get("/auth/me"))
            assert await cache.save()
            used = alice.signed("GET", str(http.base_url.join("/auth/me")))
            success(await http.get("/auth/me", headers=used))
            success(await bob.post("/auth/logout"))
            snapshots.kill()
            snapshots.start()
            while (answer := await alice.get("/auth/me")).status_code == 503:  # noqa: ASYNC110 - Redis's clock
                await asyncio.sleep(0.05)
            success(answer)
            assert (await http.get("/auth/me", headers=used)).status_code in {401, 503}
            refusal(await bob.get("/auth/me"), 401, "not_authenticated")
