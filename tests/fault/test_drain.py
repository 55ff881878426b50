"""SIGTERM: nobody is accepted, who waits is sent to another router, what was begun is finished, and it ends soon."""

import asyncio
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from blindpost.app import Served
from blindpost.config import WakeUp
from blindpost.core.embedded import StoreUrls
from blindpost.routers.frames import GOING_AWAY
from blindpost.workers.supervisor import serving
from fault.nodes import Node, node
from fault.servers import connected, eventually, tell
from sockets import Closed, Ws, events, socket
from support import Person, contacts, in_thread, settings_for

BURST = 200
END_S = 15.0


async def waiting(router: Node) -> float:
    """Read how many polls and streams wait there."""
    async with httpx.AsyncClient() as scraper:
        lines = (await scraper.get(router.metrics)).text.splitlines()
    return sum(
        float(each.split()[-1]) for each in lines if each.startswith(("blindpost_waiting ", "blindpost_streams{"))
    )


async def accepts(router: Node | Served) -> bool:
    parts = urlsplit(router.origin)
    with suppress(OSError):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.close()
        return True
    return False


async def last_event(someone: Person) -> dict[str, object]:
    async with events(someone) as stream:
        return [each async for each in stream][-1]


async def answered(ws: Ws, sent: set[str]) -> int:
    """Take answers to sends, up to the close; returns its code."""
    try:
        while True:
            sent.add((await ws.next("sent"))["client_message_id"])
    except Closed as end:
        return end.code


async def test_a_router_that_is_told_to_stop_sends_everybody_to_another_one_and_finishes_what_it_took(
    own_database: StoreUrls, tmp_path: Path, bus: WakeUp
) -> None:
    async with (
        node(own_database, tmp_path, wake_up_bus=bus) as router,
        httpx.AsyncClient(base_url=router.origin, timeout=60) as http,
    ):
        alice, bob = await contacts(http)
        async with socket(alice, router.origin) as ws:
            poll = asyncio.create_task(bob.get("/messages/poll", timeout=60))
            listening = asyncio.create_task(last_event(alice))

            async def all_wait() -> bool:
                return await waiting(router) == 3

            await eventually(all_wait, what="a poll and two streams")
            burst = {ws.send(bob) for _ in range(BURST)}
            first = await ws.next("sent")
            began = time.monotonic()
            router.process.send_signal(signal.SIGTERM)
            page = await poll
            assert page.status_code == 200
            sent = {first["client_message_id"]}
            assert await answered(ws, sent) == GOING_AWAY
            assert await listening == {"type": "close", "code": GOING_AWAY, "reason": "shutting_down"}
            assert not await accepts(router)
        code = await asyncio.to_thread(router.process.wait, END_S)
        tell(f"{bus}: ended {(time.monotonic() - began) * 1000:.0f} ms after SIGTERM, {len(sent)} of {BURST} sent")
        assert code == 0
    async with connected(str(own_database.database_url)) as database:
        rows = await database.fetch("SELECT client_message_id FROM traces WHERE sender_id = $1", alice.id)
    assert {str(row[0]) for row in rows} == sent <= burst, "what was taken was answered, and nothing else is stored"


async def test_a_poll_that_is_let_go_ends_its_connection_and_nobody_is_accepted_by_then(
    own_database: StoreUrls, tmp_path: Path
) -> None:
    """Or the client would ask the same router again, and again, until it is gone."""
    async with (
        node(own_database, tmp_path) as router,
        httpx.AsyncClient(base_url=router.origin, timeout=60) as http,
    ):
        _, bob = await contacts(http)
        poll = asyncio.create_task(bob.get("/messages/poll", timeout=60))

        async def it_waits() -> bool:
            return await waiting(router) == 1

        await eventually(it_waits, what="a waiting poll")
        router.process.send_signal(signal.SIGTERM)
        answer = await poll
        assert answer.headers["Connection"] == "close"
        assert not answer.json()["has_messages"]
        assert not await accepts(router)
        assert await asyncio.to_thread(router.process.wait, END_S) == 0


async def test_a_client_that_neither_reads_nor_says_goodbye_does_not_hold_up_the_end(
    own_database: StoreUrls, tmp_path: Path
) -> None:
    async with (
        node(own_database, tmp_path) as router,
        httpx.AsyncClient(base_url=router.origin, timeout=60) as http,
    ):
        alice, _ = await contacts(http)
        ws = await Ws.connect(router.origin, "/messages/ws", alice.signed("GET", f"{router.origin}/messages/ws"))
        began = time.monotonic()
        router.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(router.process.wait, END_S) == 0
        tell(f"ended {(time.monotonic() - began) * 1000:.0f} ms after SIGTERM beside a client that is silent")
        await ws.vanish()


async def test_a_router_of_several_workers_accepts_nobody_while_they_let_their_clients_go(
    stores: StoreUrls, tmp_path: Path
) -> None:
    """The supervisor holds the sockets too: in the queue of one that nobody empties a client would wait for the end."""
    crew = in_thread(lambda: serving(settings_for(stores, tmp_path, workers=2)))
    with ExitStack() as stack:
        router = stack.enter_context(crew)
        async with httpx.AsyncClient(base_url=router.origin, timeout=60) as http:
            alice, _ = await contacts(http)
        ws = await Ws.connect(router.origin, "/messages/ws", alice.signed("GET", f"{router.origin}/messages/ws"))
        ending = asyncio.create_task(asyncio.to_thread(stack.close))

        async def refuses() -> bool:
            return not await accepts(router)

        await eventually(refuses, what="a refused connection")
        assert not ending.done(), "a silent client holds its worker up: else this shows nothing"
        await ws.vanish()
        await ending
