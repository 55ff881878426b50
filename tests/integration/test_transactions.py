"""A transaction whose task is cancelled: the connection is given back in order, and the cancellation is heard."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.errors import Unavailable


@pytest.fixture
async def database(scratch: StoreUrls) -> AsyncIterator[Database]:
    """One connection in the pool: whatever holds it back stops the next."""
    assert scratch.database_url
    async with Database(scratch.database_url, pool_size=1) as each:
        async with each.transaction() as tx:
            await tx.execute(text("CREATE TABLE things (n int)"))
        yield each


async def insert(database: Database, number: int) -> None:
    async with database.transaction() as tx:
        await tx.execute(text("INSERT INTO things VALUES (:n)"), {"n": number})


async def numbers(database: Database) -> list[int]:
    async with database.reading() as connection:
        return list((await connection.execute(text("SELECT n FROM things ORDER BY n"))).scalars())


class Gate:
    """Holds a call until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        original = getattr(owner, name)

        async def held(target: object) -> None:
            self.reached.set()
            await self.open.wait()
            await original(target)

        monkeypatch.setattr(owner, name, held)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_commit_is_waited_for_and_then_the_cancellation_is_heard(
    database: Database, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    gate = Gate(monkeypatch, AsyncTransaction, "commit")
    task = asyncio.create_task(insert(database, 1))
    await gate.reached.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await numbers(database) == [1]


@pytest.mark.parametrize(
    ("owner", "name"), [(AsyncTransaction, "rollback"), (AsyncConnection, "close")], ids=["rollback", "close"]
)
async def test_a_cancelled_end_of_a_refused_transaction_is_waited_for_too(
    database: Database, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    async def refuse() -> None:
        async with database.transaction() as tx:
            await tx.execute(text("INSERT INTO things VALUES (1)"))
            raise LookupError

    gate = Gate(monkeypatch, owner, name)
    task = asyncio.create_task(refuse())
    await gate.reached.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await numbers(database) == []


async def test_a_rollback_that_fails_hides_neither_a_cancellation_nor_the_refusal(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another error it would be taken for the loss of the store, and whoever retries would never end."""

    async def fail(_: object) -> None:
        raise ConnectionResetError

    async def refuse(error: BaseException) -> None:
        async with database.transaction():
            raise error

    monkeypatch.setattr(AsyncTransaction, "rollback", fail)
    for error in (asyncio.CancelledError(), LookupError()):
        with pytest.raises(type(error)):
            await refuse(error)
    with pytest.raises(Unavailable):
        await refuse(ConnectionResetError())


async def test_a_task_that_retries_ends_whenever_it_is_cancelled(database: Database) -> None:
    """What runs behind the requests goes on after a loss of the store: a cancellation must never look like one."""

    async def forever() -> None:
        while True:
            try:
                await insert(database, 1)
            except Unavailable:
                await asyncio.sleep(0)

    for step in range(60):
        task = asyncio.create_task(forever())
        await asyncio.sleep(0.005 + step * 0.0003)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=20)
        assert done, f"it went on after step {step}"
        assert task.cancelled()
    assert set(await numbers(database)) == {1}
