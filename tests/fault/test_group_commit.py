"""Group commit as pure logic: a flush that the test holds in its hand, and no store."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from blindpost.core.group_commit import GroupCommit
from blindpost.errors import (
    InternalFault,
    NotAContact,
    OutcomeUnknown,
    Overloaded,
    Problem,
    ShuttingDown,
    Unavailable,
)


class Disk:
    """What a flush writes to. It waits at the gate, and fails as it is told: before or after it has written."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.stored: list[int] = []
        self.fail_before: BaseException | None = None
        self.fail_after: BaseException | None = None
        self.begun = asyncio.Event()

    async def flush(self, batch: Sequence[int]) -> Sequence[int | Problem]:
        self.batches.append(list(batch))
        self.begun.set()
        await self.gate.wait()
        before, after, self.fail_before, self.fail_after = self.fail_before, self.fail_after, None, None
        if before is not None:
            raise before
        self.stored += [item for item in batch if item >= 0]
        if after is not None:
            raise after
        return [item * 10 if item >= 0 else NotAContact() for item in batch]

    def hold(self) -> None:
        self.gate.clear()
        self.begun.clear()


@asynccontextmanager
async def grouping(disk: Disk, **limits: Any) -> AsyncIterator["GroupCommit[int, int]"]:
    group: GroupCommit[int, int] = GroupCommit(disk.flush, **limits)
    task = asyncio.create_task(group.run())
    try:
        yield group
    finally:
        disk.gate.set()
        group.close()
        await asyncio.wait({task}, timeout=10)
        assert task.done()


def submit(group: "GroupCommit[int, int]", *items: int) -> "list[asyncio.Task[int]]":
    return [asyncio.create_task(group.submit(item)) for item in items]


async def settled() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def outcomes(tasks: "list[asyncio.Task[int]]") -> list[int | BaseException]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lone_item_is_written_at_once_and_gets_its_own_result() -> None:
    disk = Disk()
    async with grouping(disk) as group:
        assert await group.submit(7) == 70
    assert disk.batches == [[7]]


async def test_what_arrives_while_a_flush_runs_is_one_batch_in_the_order_of_arrival() -> None:
    disk = Disk()
    async with grouping(disk) as group:
        disk.hold()
        tasks = submit(group, 0)
        await disk.begun.wait()
        tasks += submit(group, *range(1, 50))
        await settled()
        disk.gate.set()
        assert await outcomes(tasks) == [item * 10 for item in range(50)]
    assert disk.batches == [[0], list(range(1, 50))]


async def test_a_batch_is_never_larger_than_the_limit() -> None:
    disk = Disk()
    async with grouping(disk, batch_max=8) as group:
        disk.hold()
        tasks = submit(group, *range(20))
        await disk.begun.wait()
        disk.gate.set()
        await outcomes(tasks)
    assert [len(batch) for batch in disk.batches] == [8, 8, 4]
    assert disk.stored == list(range(20))


async def test_a_full_queue_refuses_with_overloaded_and_nothing_of_it_is_written() -> None:
    disk = Disk()
    async with grouping(disk, capacity=3) as group:
        disk.hold()
        first = submit(group, 1)
        await disk.begun.wait()
        taken, refused = submit(group, 2, 3, 4), submit(group, 5, 6)
        await settled()
        assert all(isinstance(each, Overloaded) for each in await outcomes(refused))
        disk.gate.set()
        assert await outcomes(first + taken) == [10, 20, 30, 40]
        assert await group.submit(7) == 70
    assert disk.stored == [1, 2, 3, 4, 7]


@pytest.mark.parametrize("persisted", [False, True], ids=["and-not-persisted", "yet-persisted"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Unavailable(), Unavailable),
        (OutcomeUnknown(), OutcomeUnknown),
        (RuntimeError("a fault of ours"), InternalFault),
    ],
    ids=["unavailable", "outcome-unknown", "a-bug"],
)
async def test_a_flush_that_failed_tells_those_who_wait_for_it_and_nobody_else(
    fault: Exception, told: type[Problem], *, persisted: bool
) -> None:
    disk = Disk()
    async with grouping(disk) as group:
        disk.hold()
        if persisted:
            disk.fail_after = fault
        else:
            disk.fail_before = fault
        failing = submit(group, 1, 2)
        await disk.begun.wait()
        later = submit(group, 3, 4)
        await settled()
        disk.gate.set()
        assert [type(each) for each in await outcomes(failing)] == [told, told]
        assert await outcomes(later) == [30, 40]
    assert disk.stored == ([1, 2] if persisted else []) + [3, 4]


async def test_each_of_those_who_are_told_of_a_fault_gets_an_exception_of_their_own() -> None:
    disk = Disk()
    async with grouping(disk) as group:
        disk.fail_before = OutcomeUnknown()
        one, two = await outcomes(submit(group, 1, 2))
    assert one is not two


async def test_one_refused_item_does_not_touch_its_neighbours() -> None:
    disk = Disk()
    async with grouping(disk) as group:
        first, refused, last = await outcomes(submit(group, 1, -1, 2))
    assert (first, type(refused), last) == (10, NotAContact, 20)


async def test_a_caller_who_goes_away_while_queued_or_written_harms_nobody_and_the_item_is_written() -> None:
    disk = Disk()
    async with grouping(disk) as group:
        disk.hold()
        tasks = submit(group, 1)
        await disk.begun.wait()
        tasks += submit(group, 2, 3)
        await settled()
        for task in tasks[:2]:
            task.cancel()
        await settled()
        disk.gate.set()
        gone_flying, gone_queued, stayed = await outcomes(tasks)
        assert isinstance(gone_flying, asyncio.CancelledError)
        assert isinstance(gone_queued, asyncio.CancelledError)
        assert stayed == 30
    assert disk.stored == [1, 2, 3]


async def test_after_close_nothing_is_taken_and_what_was_taken_is_written() -> None:
    disk = Disk()
    async with grouping(disk) as group:
        disk.hold()
        tasks = submit(group, 1)
        await disk.begun.wait()
        tasks += submit(group, 2)
        await settled()
        group.close()
        with pytest.raises(ShuttingDown):
            await group.submit(3)
        disk.gate.set()
        assert await outcomes(tasks) == [10, 20]
    assert disk.stored == [1, 2]


async def test_when_the_loop_is_stopped_the_flying_are_told_unknown_and_the_queued_that_nothing_was_stored() -> None:
    disk = Disk()
    group: GroupCommit[int, int] = GroupCommit(disk.flush)
    running = asyncio.create_task(group.run())
    disk.hold()
    flying = submit(group, 1)
    await disk.begun.wait()
    queued = submit(group, 2, 3)
    await settled()
    running.cancel()
    assert [type(each) for each in await outcomes(flying + queued)] == [OutcomeUnknown, ShuttingDown, ShuttingDown]
    with pytest.raises(ShuttingDown):
        await group.submit(4)
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_group_that_was_closed_before_it_ran_ends_at_once() -> None:
    group: GroupCommit[int, int] = GroupCommit(Disk().flush)
    group.close()
    async with asyncio.timeout(10):
        await group.run()


async def test_where_items_come_in_numbers_a_flush_waits_a_moment_for_more() -> None:
    disk = Disk()
    async with grouping(disk, gather_s=0.05) as group:
        disk.hold()
        tasks = submit(group, 0)
        await disk.begun.wait()
        tasks += submit(group, *range(1, 11))
        await settled()
        disk.gate.set()
        await outcomes(tasks)
        tasks = submit(group, 11)
        await settled()
        assert disk.batches == [[0], list(range(1, 11))]
        tasks += submit(group, 12)
        await outcomes(tasks)
        assert disk.batches[2:] == [[11, 12]]
        await group.submit(13)  # as few came with the last, it is written at once
    assert disk.batches[3:] == [[13]]


async def test_a_fault_in_what_one_is_told_keeps_nobody_else_from_the_answer() -> None:
    disk = Disk()
    told: list[int] = []

    def fail(_: object) -> None:
        raise RuntimeError("not my day")

    async with grouping(disk) as group:
        disk.hold()
        group.put(1, fail)
        group.put(2, lambda result: told.append(result if isinstance(result, int) else -1))
        disk.gate.set()
        assert await group.submit(3) == 30
    assert told == [20]
