"""Group commit: what arrives while one flush runs goes with the next, in one round trip and one answer.

A lone item is flushed at once. Where asked to, a flush waits a moment for half as many as went with the last: each has
a price of its own, and the more share it the less each pays. Two kinds of failure: a flush fails, and
those who wait for it are told; or the loop stops, and all are told.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

from blindpost.errors import InternalFault, OutcomeUnknown, Overloaded, Problem, ShuttingDown
from blindpost.telemetry import log_fault

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_MAX: Final = 256
CAPACITY: Final = 2_048
"""Items that may wait; with messages of the largest size this is 128 MiB."""


class GroupCommit(Generic[Item, Result]):
    """A bounded queue in front of one flush at a time; every item gets its own answer."""

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Problem]]],
        *,
        capacity: int = CAPACITY,
        batch_max: int = BATCH_MAX,
        gather_s: float = 0,
    ) -> None:
        self._flush = flush
        self._gather_s = gather_s
        self._capacity = capacity
        self._batch_max = batch_max
        self._waiting: deque[tuple[Item, Callable[[Result | Problem], None]]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._last = 0
        """How many went with the last flush."""

    def __len__(self) -> int:
        """Count what waits."""
        return len(self._waiting)

    async def submit(self, item: Item) -> Result:
        """Return the item's own result, when it is durable; raises Overloaded, ShuttingDown or what flush gave.

        A caller who is cancelled stops waiting; the item is written all the same.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.put(item, partial(_answer, future))
        return await future

    def put(self, item: Item, done: Callable[[Result | Problem], None]) -> None:
        """Submit without waiting; what is put first is written first. Raises Overloaded, ShuttingDown.

        `done` is called, once, with the item's own result, within the flush: a future would cost as much again as the
        rest of an item's way through here.
        """
        if self._closing:
            raise ShuttingDown
        if len(self._waiting) >= self._capacity:
            raise Overloaded
        self._waiting.append((item, done))
        self._arrived.set()

    async def run(self) -> None:
        """Flush until closed and empty; cancelling it answers ShuttingDown to all who wait."""
        try:
            while not (self._closing and not self._waiting):
                await self._arrived.wait()
                while self._waiting:
                    # One turn of the loop: what has arrived at the sockets while the last flush ran goes with this one.
                    await asyncio.sleep(0)
                    if self._gather_s and len(self._waiting) < self._last // 2:
                        await asyncio.sleep(self._gather_s)
                    self._last = count = min(len(self._waiting), self._batch_max)
                    await self._flush_batch([self._waiting.popleft() for _ in range(count)])
                if not self._closing:
                    self._arrived.clear()
        finally:
            self._closing = True
            for _, done in self._waiting:
                _call(done, ShuttingDown())

    def close(self) -> None:
        """Take no more, and let `run` end when all that was taken is written."""
        self._closing = True
        self._arrived.set()

    async def _flush_batch(self, batch: list[tuple[Item, Callable[[Result | Problem], None]]]) -> None:
        results: Sequence[Result | Problem]
        try:
            results = await self._flush([item for item, _ in batch])
        except Problem as problem:
            results = [problem] * len(batch)
        except asyncio.CancelledError:
            for _, done in batch:
                _call(done, OutcomeUnknown())
            raise
        except Exception as error:  # noqa: BLE001 - the loop must outlive any one batch
            log_fault("flush_failed", error)
            results = [InternalFault()] * len(batch)
        for (_, done), result in zip(batch, results, strict=True):
            _call(done, result)


def _call(done: Callable[[Result | Problem], None], result: Result | Problem) -> None:
    try:
        done(result)
    except Exception as error:  # noqa: BLE001 - the fault of one must not keep the others from their answers
        log_fault("answer_failed", error)


def _answer(future: "asyncio.Future[Result]", result: Result | Problem) -> None:
    if future.done():  # the caller went away
        return
    if isinstance(result, Problem):
        # A fresh one each: a shared exception would gather the tracebacks of all who wait.
        future.set_exception(type(result)())
    else:
        future.set_result(result)
