"""A connection of one's own for statements that run in batches, again and again."""

from typing import Any, Final

import asyncpg

from blindpost.core.database import LOSSES, Database
from blindpost.errors import Unavailable

# A plan made while the table was small would read all of it, and be kept while it grows. A batch is looked up by its
# keys, always: so one plan is right, and need not be made again for each batch. Bitmaps leave the entries of messages
# that are gone where they are, for the next one to look at again: an inbox would get slower with each message.
_PLANNING: Final = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan"


class OwnConnection:
    """Opened when it is needed, and again after a loss; each statement is prepared once."""

    def __init__(self, database: Database, *, loss: type[Unavailable]) -> None:
        self._database = database
        self._loss = loss
        self._connection: asyncpg.Connection[Any] | None = None

    async def fetch(self, sql: str, *arguments: object) -> list[Any]:
        """Run one statement in a commit of its own.

        Raises Unavailable if it was not sent, and `loss` if it was, and the connection went before the answer came.
        """
        connection = await self._connect()
        try:
            rows: list[Any] = await connection.fetch(sql, *arguments)
            return rows
        except LOSSES as error:
            connection.terminate()
            raise self._loss from error

    async def _connect(self) -> "asyncpg.Connection[Any]":
        if self._connection is None or self._connection.is_closed():
            try:
                connection = await self._database.connect_raw()
                await connection.execute(_PLANNING)
                self._connection = connection
            except (*LOSSES, asyncpg.PostgresError) as error:
                raise Unavailable from error
        return self._connection

    async def close(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.close(timeout=2)
