"""Waiting for as long as somebody is there to be answered."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request

from blindpost.errors import ShuttingDown

Result = TypeVar("Result")


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for the work, and stop it when the client has gone: a poll of nobody must not take up a place."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else await _cancelled(task)
    finally:
        for each in (task, gone):
            each.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def _cancelled(task: "asyncio.Future[Result]") -> Result:
    task.cancel()
    with suppress(asyncio.CancelledError):
        return await task
    raise ShuttingDown  # nobody reads this answer


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
