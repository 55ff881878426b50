"""Faults put in on purpose: a harness that does not find them proves nothing."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from blindpost.core.hub import CHANNEL, Kind
from blindpost.core.writer import MessageWriter, NewMessage, Stored
from blindpost.errors import Problem

LATE_S: Final = 0.3
_insert = MessageWriter._insert
_tasks: set["asyncio.Task[object]"] = set()


def acknowledge_before_commit() -> None:
    """Answer senders at once, and write some moments later. Only who dies in between loses anything."""
    turn = asyncio.Lock()

    async def insert(self: MessageWriter, batch: Sequence[NewMessage]) -> Sequence[Stored | Problem | None]:
        async def later() -> None:
            await asyncio.sleep(LATE_S)
            async with turn:
                await _insert(self, batch)

        task: asyncio.Task[object] = asyncio.create_task(later())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return [Stored(uuid4(), datetime.now(UTC)) for _ in batch]

    MessageWriter._insert = insert  # type: ignore[method-assign]


def wake_before_commit() -> None:
    """Tell recipients of what is not there yet, and nobody again. Only a sweep would heal it."""

    async def insert(self: MessageWriter, batch: Sequence[NewMessage]) -> Sequence[Stored | Problem | None]:
        recipients = {message.recipient_id for message in batch}
        self._hub.wake(Kind.MESSAGES, recipients)
        hint = "m" + "".join(each.hex for each in recipients)
        await self._sends.fetch("SELECT pg_notify($1, $2)", CHANNEL, hint)
        await asyncio.sleep(LATE_S)
        *columns, _ = zip(*batch, strict=True)
        silent = self._insert_statement.replace("count(pg_notify(", "count(concat(")
        rows = await self._sends.fetch(silent, *columns, self._hub.node_id.hex)
        return [None if each["id"] is None else Stored(each["id"], each["timestamp"]) for each in rows]

    MessageWriter._insert = insert  # type: ignore[method-assign]


BUGS: Final[dict[str, Callable[[], None]]] = {
    "acknowledge-before-commit": acknowledge_before_commit,
    "wake-before-commit": wake_before_commit,
}
