"""What reads for those who come with a question of their own, such as a poll: many at once, in one statement.

Each would take a connection, a round trip and a statement or two; together they take one. Whoever has much waiting is
told so, and reads it alone: what one batch can make the process hold is bounded.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from blindpost.core.database import Database
from blindpost.core.group_commit import GroupCommit
from blindpost.core.hub import LETTERS, Kind, MessageRow
from blindpost.core.own_connection import OwnConnection
from blindpost.errors import Problem, Unavailable

BATCH_MAX: Final = 64
GATHER_S: Final = 0.001
MESSAGES_MAX: Final = 16
BYTES_MAX: Final = 65_536
"""Messages are read until so much is reached: two of the largest size for each reader, 8 MiB for a batch."""


class Question(NamedTuple):
    """Of one session."""

    user_id: UUID
    session_id: UUID


class News(NamedTuple):
    """What a session has not been told yet."""

    receipts: bool
    contacts: bool
    messages: list[MessageRow] | None
    """What waits, oldest first; None if it is more than is read for many at once."""


# Joined and not EXISTS, which PostgreSQL may answer by reading all receipts of everybody once.
_LOOK: Final = f"""
SELECT n, s.id IS NOT NULL AS is_open, r.is_due IS NOT NULL AS receipts,
    u.contacts_version > s.contacts_seen AS contacts,
    m.id, m.sender_id, m.recipient_id, CASE WHEN m.before < {BYTES_MAX} THEN m.message END AS message, m.timestamp
FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS asked (user_id, session_id, n)
LEFT JOIN sessions s ON s.id = asked.session_id AND s.user_id = asked.user_id AND s.expires_at > now()
LEFT JOIN users u ON u.id = s.user_id
LEFT JOIN LATERAL (SELECT true AS is_due FROM receipts WHERE sender_id = s.user_id LIMIT 1) AS r ON true
LEFT JOIN LATERAL (
    SELECT id, sender_id, recipient_id, message, timestamp,
        sum(octet_length(message)) OVER (ORDER BY id) - octet_length(message) AS before
    FROM messages WHERE recipient_id = s.user_id ORDER BY id LIMIT {MESSAGES_MAX + 1}
) AS m ON true
ORDER BY n, m.id
"""  # noqa: S608 - constants of this program


_FIND_NEWS: Final = f"""
SELECT asked.id, '{LETTERS[Kind.MESSAGES]}' FROM unnest($1::uuid[]) AS asked (id) CROSS JOIN LATERAL (
    SELECT FROM messages WHERE recipient_id = asked.id AND timestamp < now() - interval '250 milliseconds' LIMIT 1
) AS found
UNION ALL
SELECT asked.id, '{LETTERS[Kind.RECEIPTS]}' FROM unnest($1::uuid[]) AS asked (id) CROSS JOIN LATERAL (
    SELECT FROM receipts WHERE sender_id = asked.id LIMIT 1
) AS found
UNION ALL
SELECT id, '{LETTERS[Kind.CONTACTS]}' FROM users WHERE id = ANY($1::uuid[]) AND contacts_version > contacts_told
"""  # noqa: S608 - constants of this program


class MessageReader:
    """Answers questions in batches."""

    def __init__(self, database: Database) -> None:
        self._connection = OwnConnection(database, loss=Unavailable)
        self._database = database
        self._questions: GroupCommit[Question, News | None] = GroupCommit(
            self._flush, batch_max=BATCH_MAX, gather_s=GATHER_S
        )

    async def look(self, user_id: UUID, session_id: UUID) -> News | None:
        """Read what a session has not been told; None if it has ended. Raises Unavailable and its kinds."""
        return await self._questions.submit(Question(user_id, session_id))

    async def run(self) -> None:
        try:
            await self._questions.run()
        finally:
            await self._connection.close()

    async def find_news(self, user_ids: list[UUID]) -> list[tuple[UUID, str]]:
        """Find those for whom something waits, and what (a letter of notifications): what a lost one would have told.

        Messages that were stored just now are on their way by themselves: of those nothing was lost yet. On the
        driver's own connection, which writes thousands of ids in C; raises Unavailable.
        """
        async with self._database.reading() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            if driver is None:
                raise Unavailable
            return [(row[0], row[1]) for row in await driver.fetch(_FIND_NEWS, user_ids)]

    def close(self) -> None:
        self._questions.close()

    async def _flush(self, batch: Sequence[Question]) -> Sequence[News | Problem | None]:
        try:
            rows = await self._connection.fetch(_LOOK, *zip(*batch, strict=True))
        except asyncpg.PostgresError as error:
            raise Unavailable from error
        return [_news([tuple(row) for row in mine]) for _, mine in groupby(rows, itemgetter(0))]


def _news(rows: "list[tuple[object, ...]]") -> News | None:
    _, is_open, receipts, contacts, first_id, *_ = rows[0]
    if not is_open:
        return None
    found = [] if first_id is None else [MessageRow(*row[4:]) for row in rows]  # type: ignore[arg-type]
    is_all = len(found) <= MESSAGES_MAX and all(row.message is not None for row in found)
    return News(bool(receipts), bool(contacts), found if is_all else None)
