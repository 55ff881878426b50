"""A client's prekeys: when they are replaced and erased, and what a router that asks for more gets."""

import asyncio
import time

import httpx
import pytest

from blindpost.client import Client, Identity, Store
from blindpost.client import prekeys as prekeys_module
from blindpost.client.prekeys import DAY_S, HINT_S, KEPT_AFTER_S, ONE_TIME_KEPT, RENEW_S
from blindpost.client.saved import PrekeySort
from lying_router import LyingRouter

STATUS = "GET /keys/status"
LASTING = {PrekeySort.SIGNED, PrekeySort.KEM_LAST_RESORT}


class Clock:
    """Goes when told."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def router() -> LyingRouter:
    return LyingRouter()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def registered(router: LyingRouter, clock: Clock) -> tuple[Client, Store]:
    identity = Identity.generate("bob")
    store = Store.in_memory(identity)
    client = router.client(identity, store)
    await client.register()
    client._prekeys._clock = clock
    return client, store


async def test_a_lasting_prekey_is_erased_a_month_after_it_was_replaced(router: LyingRouter, clock: Clock) -> None:
    """Messages that were begun with it may wait for so long; a thief of it opens nothing after that."""
    client, store = await registered(router, clock)
    before = {each.id for each in store.prekeys.all() if each.sort in LASTING}
    clock.now += RENEW_S + 1
    await client._prekeys.keep()
    replaced_at = clock.now
    assert before <= {each.id for each in store.prekeys.all()}
    clock.now = replaced_at + KEPT_AFTER_S
    await client._prekeys.keep()
    assert before <= {each.id for each in store.prekeys.all()}
    clock.now = replaced_at + KEPT_AFTER_S + DAY_S
    await client._prekeys.keep()
    assert not before & {each.id for each in store.prekeys.all()}


async def test_a_router_that_always_wants_more_gets_more_once_a_minute_and_fills_no_disk(
    router: LyingRouter, clock: Clock
) -> None:
    client, store = await registered(router, clock)
    router.news["contacts_changed"] = True

    def used_up(*_: object) -> dict[str, object]:
        status = router._keys_status(client.identity.account)
        assert isinstance(status, dict)
        return status | {"one_time_prekeys": 0, "one_time_kem_prekeys": 0}

    router.lies[STATUS] = used_up
    router.calls.clear()
    for _ in range(5):
        await client.receive_once()
    assert router.calls.count("POST /keys") <= 1
    for _ in range(ONE_TIME_KEPT // 25 + 3):
        clock.now += HINT_S
        await client.receive_once()
    for sort in (PrekeySort.ONE_TIME, PrekeySort.KEM_ONE_TIME):
        assert sum(each.sort is sort for each in store.prekeys.all()) <= ONE_TIME_KEPT + 25


async def test_messages_are_read_while_the_router_does_not_answer_for_prekeys(
    router: LyingRouter, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prekeys_module, "PATIENCE_S", 0.05)
    client, _ = await registered(router, clock)
    client._prekeys.expire()

    async def never(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/keys/status":
            await asyncio.sleep(60)
        return router.answer(request)

    client._transport._http._transport = httpx.MockTransport(never)  # type: ignore[attr-defined]
    router.deliver(client.identity.account, client.identity.account, "AAAA")
    async with asyncio.timeout(10):
        assert len(await client.receive_once()) == 1
