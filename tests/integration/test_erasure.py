"""Where the ciphertext still is on the disk when the router has deleted it, and until when (docs/retention.md)."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from blindpost.app import Running
from blindpost.core.database import Database
from blindpost.core.embedded import EmbeddedStores, StoreUrls
from blindpost.protocol import transcripts
from blindpost.protocol.limits import MESSAGE_MAX_BYTES
from blindpost.services.housekeeping import kinds
from checks import client_of, success
from support import Person, contacts, running_in_thread, settings_for, sign

WAL = "pg_wal"
NEEDLE = 32
PATIENCE_S = 60
SIZES = [512, 5_000, MESSAGE_MAX_BYTES]
"""In the row, and in pieces beside the table."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, StoreUrls]]:
    """Stores of these tests' own: what others send would write over what is looked for."""
    path = tmp_path_factory.mktemp("d")
    with EmbeddedStores(path) as urls:
        yield path / "postgres", urls


@pytest.fixture(scope="module")
def alone(disk: tuple[Path, StoreUrls]) -> Iterator[Running]:
    with running_in_thread(settings_for(disk[1], disk[0].parent / "node")) as running:
        yield running


@pytest.fixture
async def people(alone: Running) -> AsyncIterator[tuple[Person, Person]]:
    async with client_of(alone) as http:
        yield await contacts(http)


@pytest.fixture
async def superuser(disk: tuple[Path, StoreUrls]) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await asyncpg.connect(disk[1].database_url, user="postgres")
    yield connection
    await connection.execute("DELETE FROM messages")
    await connection.close()


def places(cluster: Path, data: list[bytes]) -> set[str]:
    """Return in which directories of the cluster there is a piece of one of these."""
    needles = [each[at : at + NEEDLE] for each in data for at in range(0, len(each) - NEEDLE, len(each) // 8)]
    return {
        each.relative_to(cluster).parts[0]
        for each in cluster.rglob("*")
        if each.is_file() and any(map(each.read_bytes().__contains__, needles))
    }


async def sent(people: tuple[Person, Person], size: int, count: int = 3) -> tuple[list[bytes], list[str]]:
    """Send messages; returns them, and their ids."""
    alice, bob = people
    data = [os.urandom(size) for _ in range(count)]
    return data, [success(await alice.send(bob, each), 201)["id"] for each in data]


async def until_only_in(
    cluster: Path, data: list[bytes], where: set[str], superuser: "asyncpg.Connection[Any]", *statements: str
) -> None:
    """Clean up until it is so: a glance of the router at the table can make PostgreSQL leave something for later."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for statement in (*statements, "CHECKPOINT"):
                await superuser.execute(statement)
            if not await asyncio.to_thread(places, cluster, data) - where:
                return


async def acknowledged(people: tuple[Person, Person], ids: list[str], _: StoreUrls) -> None:
    assert success(await people[1].post("/messages/ack", message_ids=ids))["acknowledged"] == ids


async def expired(_: tuple[Person, Person], ids: list[str], urls: StoreUrls) -> None:
    async with Database(str(urls.database_url), pool_size=1) as database, database.transaction() as tx:
        assert (await kinds(0, 3_600)["messages"]()(tx)).purged >= len(ids)


async def deleted_with_the_account(people: tuple[Person, Person], _ids: list[str], _: StoreUrls) -> None:
    bob = people[1]
    signature = sign(bob.ecdsa, transcripts.delete_account(UUID(bob.id)))
    success(await bob.call("DELETE", "/auth/me", {"signature": signature}))


Ending = Callable[[tuple[Person, Person], list[str], StoreUrls], Awaitable[None]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("end", [acknowledged, expired, deleted_with_the_account])
async def test_after_a_vacuum_of_a_table_where_nothing_waits_no_file_but_the_log_holds_the_ciphertext(
    disk: tuple[Path, StoreUrls],
    people: tuple[Person, Person],
    superuser: "asyncpg.Connection[Any]",
    end: Ending,
    size: int,
) -> None:
    cluster, urls = disk
    data, ids = await sent(people, size)
    await superuser.execute("CHECKPOINT")
    assert places(cluster, data) == {"base", WAL}, "the search is blind"
    await end(people, ids, urls)
    await until_only_in(cluster, data, {WAL}, superuser, "VACUUM messages")


@pytest.mark.parametrize("size", SIZES)
async def test_beside_a_message_that_waits_it_takes_a_table_that_is_written_anew(
    disk: tuple[Path, StoreUrls], people: tuple[Person, Person], superuser: "asyncpg.Connection[Any]", size: int
) -> None:
    """VACUUM gives the room in a page back, and does not wipe it: the page must stay for the other's sake."""
    cluster, urls = disk
    data, ids = await sent(people, size)
    waiting, _ = await sent(people, size, count=1)
    await acknowledged(people, ids, urls)
    for statement in ("VACUUM messages", "CHECKPOINT"):
        await superuser.execute(statement)
    assert "base" in places(cluster, data)
    await until_only_in(cluster, data, {WAL}, superuser, "VACUUM (FULL) messages")
    assert "base" in places(cluster, waiting)


async def test_the_log_forgets_with_its_segment_where_segments_are_not_used_again(
    disk: tuple[Path, StoreUrls], people: tuple[Person, Person], superuser: "asyncpg.Connection[Any]"
) -> None:
    """As the documentation tells an operator who wants it: the segment ends by itself, and a checkpoint removes it."""
    cluster, urls = disk
    for setting in ("wal_recycle = off", "archive_timeout = '1s'"):
        await superuser.execute(f"ALTER SYSTEM SET {setting}")
    await superuser.execute("SELECT pg_reload_conf()")
    data, ids = await sent(people, 512)
    await acknowledged(people, ids, urls)
    assert WAL in places(cluster, data)
    await until_only_in(cluster, data, set(), superuser, "VACUUM messages")
