"""Thousands may wait at once: what it costs in connections and in memory, and that nobody is forgotten."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from blindpost.core.embedded import StoreUrls
from fault.nodes import Node, RawPoll, node
from fault.servers import database_of, eventually, superuser, tell
from support import Person, person

POLLS = 1_000
PER_USER = 100
CONNECTIONS_MAX = 10
KIB_MAX = 100


async def people(origin: str, count: int) -> list[Person]:
    async with httpx.AsyncClient(base_url=origin, timeout=90) as http:
        return [await person(http) for _ in range(count)]


async def connections_to(urls: StoreUrls) -> int:
    """Count the router's connections; this one goes to another database."""
    async with superuser(urls) as connection:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
        return int(await connection.fetchval(count, database_of(urls)))


async def waiting_at(metrics: str, count: int) -> None:
    seen = -1.0
    async with httpx.AsyncClient(timeout=30) as http:

        async def enough() -> bool:
            nonlocal seen
            text = (await http.get(metrics)).text
            seen = float(text.partition("\nblindpost_waiting ")[2].split()[0])
            return seen == count

        try:
            await eventually(enough, what=f"{count} waiting polls")
        except AssertionError:
            raise AssertionError(f"{seen} polls wait instead of {count}") from None


@asynccontextmanager
async def waiting_polls(node: Node, everybody: list[Person], count: int) -> AsyncIterator[list[RawPoll]]:
    """Open polls, as many for each person as they may have; all vanish in the end."""
    polls: list[RawPoll] = []
    try:
        for start in range(0, count, 100):
            some = range(start, min(start + 100, count))
            polls += await asyncio.gather(*(RawPoll.open(node.origin, everybody[i // PER_USER]) for i in some))
            await waiting_at(node.metrics, len(polls))
        yield polls
    finally:
        for poll in polls:
            await poll.vanish()


async def send_to_all(origin: str, everybody: list[Person]) -> None:
    async with httpx.AsyncClient(base_url=origin, timeout=90) as http:
        for each in everybody:
            each.http = http
            assert (await everybody[0].send(each)).status_code == 201


async def test_a_thousand_waiting_polls_take_ten_connections_at_most_little_memory_and_are_all_woken(
    own_database: StoreUrls, tmp_path: Path
) -> None:
    limits = {"require_contact": False, "sweep_interval_s": 300, "waiting_per_user_max": PER_USER}
    async with node(own_database, tmp_path, **limits) as one:
        everybody = await people(one.origin, POLLS // PER_USER)
        async with waiting_polls(one, everybody, 50):  # what is made once, at the first requests
            pass
        await waiting_at(one.metrics, 0)
        before = one.memory
        async with waiting_polls(one, everybody, POLLS) as polls:
            each_kib = (one.memory - before) / POLLS / 1_024
            assert await connections_to(own_database) <= CONNECTIONS_MAX
            began = time.monotonic()
            answers = asyncio.gather(*(poll.answer() for poll in polls))
            await send_to_all(one.origin, everybody)
            assert await connections_to(own_database) <= CONNECTIONS_MAX
            assert {(status, page["has_messages"]) for status, page in await answers} == {(200, True)}
        tell(f"{each_kib:.1f} KiB per waiting poll; all woken in {time.monotonic() - began:.1f} s")
        assert each_kib < KIB_MAX
        await waiting_at(one.metrics, 0)


async def test_a_poller_who_vanishes_frees_the_place(own_database: StoreUrls, tmp_path: Path) -> None:
    limits = {"waiting_per_user_max": 3, "waiting_max": 3}
    async with node(own_database, tmp_path, **limits) as one:
        alice, bob = await people(one.origin, 2)
        for _ in range(3):
            async with waiting_polls(one, [alice], 3):
                for each in (alice, bob):
                    status, problem = await (await RawPoll.open(one.origin, each)).answer()
                    assert (status, problem["code"]) == (429, "too_many_waiting")
            await waiting_at(one.metrics, 0)


async def test_polls_without_news_all_end_at_their_time(own_database: StoreUrls, tmp_path: Path) -> None:
    async with node(own_database, tmp_path) as one:
        (alice,) = await people(one.origin, 1)
        polls = await asyncio.gather(*(RawPoll.open(one.origin, alice, 3) for _ in range(16)))
        answers = await asyncio.gather(*(poll.answer() for poll in polls))
        assert [(status, page["has_messages"]) for status, page in answers] == [(200, False)] * 16
        await waiting_at(one.metrics, 0)
