"""Pseudonyms mean something for a day, on every node, and then nothing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta

import pytest

from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.pseudonyms import Pseudonyms

DAY = date(2031, 5, 17)


@pytest.fixture
async def database(scratch: StoreUrls) -> AsyncIterator[Database]:
    assert scratch.database_url
    async with Database(scratch.database_url, pool_size=4) as database:
        await database.migrate()
        yield database


async def test_nodes_that_meet_a_day_together_agree_on_its_pseudonyms(database: Database) -> None:
    nodes = [Pseudonyms(database, lambda: DAY) for _ in range(4)]
    made = await asyncio.gather(*(node.of("alice", "login") for node in nodes))
    assert len(set(made)) == 1
    assert len(made[0]) == 16


async def test_who_is_told_apart_by_every_part(database: Database) -> None:
    node = Pseudonyms(database, lambda: DAY)
    assert len({await node.of(*whom) for whom in (("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ("",), ())}) == 5


async def test_a_pseudonym_is_another_one_the_next_day(database: Database) -> None:
    days = iter([DAY, DAY, DAY + timedelta(days=1)])
    node = Pseudonyms(database, lambda: next(days))
    first, again, tomorrow = [await node.of("alice") for _ in range(3)]
    assert first == again != tomorrow


async def test_the_keys_of_past_days_are_gone(database: Database) -> None:
    for offset in range(4):
        await Pseudonyms(database, lambda: DAY + timedelta(days=offset)).of("alice")  # noqa: B023 - used at once
    raw = await database.connect_raw()
    days = [row["day"] for row in await raw.fetch("SELECT day FROM pseudonym_keys ORDER BY day")]
    await raw.close()
    assert days == [DAY + timedelta(days=2), DAY + timedelta(days=3)]
