"""What writes messages and acknowledgements: in batches, each one statement and one commit.

A commit that carries a NOTIFY holds one lock of the whole PostgreSQL cluster, so one commit per message would be
a ceiling for everybody; a batch of fifty pays it once.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from blindpost.core.database import Database
from blindpost.core.group_commit import GroupCommit
from blindpost.core.hub import NOTIFY_IDS_MAX, Hint, Hub, Kind, MessageRow
from blindpost.core.own_connection import OwnConnection
from blindpost.errors import InternalFault, NotAContact, OutcomeUnknown, Problem, Unavailable
from blindpost.telemetry import BATCH_SIZE, FLUSH, WRITE_QUEUE, log_fault
from blindpost.tracing import traces

Item = TypeVar("Item")
Result = TypeVar("Result")


GATHER_S: Final = 0.002
"""For acknowledgements to gather: nobody waits for one as for the answer to a send."""


class NewMessage(NamedTuple):
    """A message to store."""

    sender_id: UUID
    recipient_id: UUID
    message: bytes
    client_message_id: UUID | None
    text: str | None = None
    """The message in base64, where it came so: whoever is handed it here need not write it again."""


class Stored(NamedTuple):
    """A message that is on disk."""

    id: UUID
    timestamp: datetime


class Ack(NamedTuple):
    """One caller's acknowledgement."""

    recipient_id: UUID
    message_ids: list[UUID]
    senders: Collection[UUID] = ()
    """Who sent them, as far as the caller knows: of these the streams here can be told without a question."""


# Ids are drawn in the order of arrival (the CTE is materialised), so that a reader who sorts by id sees one
# sender's messages in the order in which they were sent. Where the bus is PostgreSQL's, the hint
# to the recipients rides in the same commit, and leads with the node: its own hub passes over it, and any other looks
# for a user with that id, of whom there is none.
# What lets the two write to each other is locked until the commit: an account that is deleted meanwhile waits for it,
# and then finds the message; one whose deletion came first is found gone.
_INSERT: Final = """
WITH input AS MATERIALIZED (
    SELECT n, uuidv7() AS id, sender_id, recipient_id, message, client_message_id
    FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::uuid[])
        WITH ORDINALITY AS t (sender_id, recipient_id, message, client_message_id, n)
), traced AS (
    INSERT INTO traces (id, sender_id, client_message_id)
    SELECT id, sender_id, client_message_id FROM input
    WHERE {rule}
    ORDER BY n
    ON CONFLICT (sender_id, client_message_id) DO NOTHING
    RETURNING id, timestamp
), stored AS (
    INSERT INTO messages (id, sender_id, recipient_id, timestamp, message)
    SELECT id, sender_id, recipient_id, timestamp, message FROM input JOIN traced USING (id)
    RETURNING id, recipient_id, timestamp
), woken AS MATERIALIZED (
    SELECT count({tell}) AS count FROM (
        SELECT 'm' || $5 || string_agg(hex, '') AS payload FROM (
            SELECT hex, (row_number() OVER () - 1) / {ids_max} AS part
            FROM (SELECT DISTINCT replace(recipient_id::text, '-', '') AS hex FROM stored) AS recipients
        ) AS parts GROUP BY part
    ) AS payloads
)
SELECT stored.id, stored.timestamp, (SELECT count FROM woken) AS woken
FROM input LEFT JOIN stored USING (id) ORDER BY n
"""
_CONTACT: Final = """EXISTS (
        SELECT FROM contact_requests c
        WHERE LEAST(c.sender_id, c.receiver_id) = LEAST(input.sender_id, input.recipient_id)
        AND GREATEST(c.sender_id, c.receiver_id) = GREATEST(input.sender_id, input.recipient_id)
        AND c.status = 'accepted' FOR KEY SHARE
    )"""
_ANYBODY: Final = """EXISTS (SELECT FROM users u WHERE u.id = input.recipient_id FOR KEY SHARE)
    AND EXISTS (SELECT FROM users u WHERE u.id = input.sender_id FOR KEY SHARE)"""

_FIND: Final = """
SELECT m.id, m.timestamp
FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS t (sender_id, client_message_id, n)
LEFT JOIN traces m USING (sender_id, client_message_id) ORDER BY n
"""

_ACK: Final = f"""
WITH acked AS (
    DELETE FROM messages m USING unnest($1::uuid[], $2::uuid[]) AS a (id, recipient_id)
    WHERE m.id = a.id AND m.recipient_id = a.recipient_id
    RETURNING m.id, m.sender_id, m.recipient_id
), due AS (
    INSERT INTO receipts (sender_id, message_id) SELECT sender_id, id FROM acked WHERE sender_id <> ALL($3::uuid[])
    RETURNING sender_id
), woken AS MATERIALIZED (
    SELECT count({{tell}}) AS count FROM (
        SELECT 'r' || string_agg(hex, '') AS payload FROM (
            SELECT hex, (row_number() OVER () - 1) / {NOTIFY_IDS_MAX} AS part
            FROM (SELECT DISTINCT replace(sender_id::text, '-', '') AS hex FROM due) AS senders
        ) AS parts GROUP BY part
    ) AS payloads
)
SELECT id, sender_id, recipient_id, sender_id <> ALL($3::uuid[]) AS is_due, (SELECT count FROM woken) AS woken
FROM acked
"""  # noqa: S608 - constants of this program


class MessageWriter:
    """Stores messages and acknowledgements in batches: the one place that commits outside of a service."""

    def __init__(self, database: Database, hub: Hub, *, require_contact: bool) -> None:
        self._hub = hub
        rule = _CONTACT if require_contact else _ANYBODY
        self._bus = hub.bus
        self._insert_statement = _INSERT.format(rule=rule, tell=hub.bus.in_statement, ids_max=NOTIFY_IDS_MAX)
        self._ack_statement = _ACK.format(tell=hub.bus.in_statement)
        self._sends = OwnConnection(database, loss=OutcomeUnknown)
        self._acks = OwnConnection(database, loss=OutcomeUnknown)
        self.sends: GroupCommit[NewMessage, Stored] = GroupCommit(self._flush_sends)
        self.acks: GroupCommit[Ack, list[UUID]] = GroupCommit(self._flush_acks, gather_s=GATHER_S)
        for kind, queue in (("send", self.sends), ("ack", self.acks)):
            WRITE_QUEUE.labels(kind).set_function(queue.__len__)

    async def send(self, message: NewMessage) -> Stored:
        """Store one message; raises NotAContact, Overloaded, Unavailable, OutcomeUnknown."""
        return await self.sends.submit(message)

    async def acknowledge(self, ack: Ack) -> list[UUID]:
        """Erase messages; returns those that were the caller's and still waiting."""
        return await self.acks.submit(ack)

    def put(self, message: NewMessage, done: Callable[[Stored | Problem], None]) -> None:
        """Store one message, in the order of these calls; raises Overloaded, ShuttingDown, `done` is told the rest."""
        self.sends.put(message, done)

    def put_ack(self, ack: Ack, done: Callable[[list[UUID] | Problem], None]) -> None:
        """Erase messages; raises as `put`."""
        self.acks.put(ack, done)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.sends.run())
                group.create_task(self.acks.run())
        finally:
            await self._sends.close()
            await self._acks.close()

    def close(self) -> None:
        self.sends.close()
        self.acks.close()

    async def _flush_sends(self, batch: Sequence[NewMessage]) -> Sequence[Stored | Problem]:
        BATCH_SIZE.labels("send").observe(len(batch))
        try:
            with FLUSH.labels("send").time(), traces.timed("flush send"):
                rows = await _each_alone_if_refused(self._insert, batch)
        except BaseException:
            # It may have been stored all the same, and our own notification of it is passed over.
            hint = Hint(Kind.MESSAGES, {message.recipient_id for message in batch})
            self._hub.wake(*hint)
            await self._bus.publish([hint])
            raise
        stored = {message.recipient_id for message, row in zip(batch, rows, strict=True) if isinstance(row, Stored)}
        # Before the senders are answered: one who goes on at another node must not be ahead of this hint.
        await self._bus.publish([Hint(Kind.MESSAGES, stored)])
        return await self._resolve(batch, rows)

    async def _insert(self, batch: Sequence[NewMessage]) -> Sequence[Stored | Problem | None]:
        *columns, _ = zip(*batch, strict=True)
        rows = await self._sends.fetch(self._insert_statement, *columns, self._hub.node_id.hex)
        return [
            None if message_id is None else self._stored(message, message_id, timestamp)
            for message, (message_id, timestamp, _) in zip(batch, rows, strict=True)
        ]

    def _stored(self, message: NewMessage, message_id: UUID, timestamp: datetime) -> Stored:
        """Hand a message that is on disk to those who wait for it here."""
        sender_id, recipient_id, data, _, text = message
        self._hub.hand_over(MessageRow(message_id, sender_id, recipient_id, data, timestamp, text))
        return Stored(message_id, timestamp)

    async def _resolve(
        self, batch: Sequence[NewMessage], rows: Sequence[Stored | Problem | None]
    ) -> Sequence[Stored | Problem]:
        """Answer for what was not inserted: a repeat gets the first answer, anything else is refused."""
        repeats = [m for m, row in zip(batch, rows, strict=True) if row is None and m.client_message_id]
        found: dict[tuple[UUID, UUID | None], Stored] = {}
        if repeats:
            ids = [m.sender_id for m in repeats], [m.client_message_id for m in repeats]
            for m, row in zip(repeats, await self._sends.fetch(_FIND, *ids), strict=True):
                if row["id"]:
                    found[m.sender_id, m.client_message_id] = Stored(row["id"], row["timestamp"])
        return [
            row if row is not None else found.get((m.sender_id, m.client_message_id), NotAContact())
            for m, row in zip(batch, rows, strict=True)
        ]

    async def _flush_acks(self, batch: Sequence[Ack]) -> Sequence[list[UUID] | Problem]:
        BATCH_SIZE.labels("ack").observe(len(batch))
        with FLUSH.labels("ack").time(), traces.timed("flush ack"):
            return await _each_alone_if_refused(self._erase, batch)

    async def _erase(self, batch: Sequence[Ack]) -> Sequence[list[UUID]]:
        ids = [message_id for ack in batch for message_id in ack.message_ids]
        recipients = [ack.recipient_id for ack in batch for _ in ack.message_ids]
        told = [each for each in {each for ack in batch for each in ack.senders} if self._hub.is_streaming(each)]
        erased: dict[UUID, UUID] = {}
        delivered: dict[UUID, list[UUID]] = defaultdict(list)
        due: set[UUID] = set()
        rows = await self._acks.fetch(self._ack_statement, ids, recipients, told)
        for message_id, sender_id, recipient_id, is_due, _ in rows:
            erased[message_id] = recipient_id
            if is_due:
                due.add(sender_id)
            else:
                delivered[sender_id].append(message_id)
        for sender_id, message_ids in delivered.items():
            self._hub.delivered(sender_id, message_ids)
        for ack in batch:  # those that were not there are gone as well
            self._hub.acknowledged(ack.recipient_id, ack.message_ids)
        await self._bus.publish([Hint(Kind.RECEIPTS, due)])
        return [_claim(erased, ack) for ack in batch]


def _claim(erased: dict[UUID, UUID], ack: Ack) -> list[UUID]:
    """Take out of `erased` what this acknowledgement erased: one that comes twice in a batch finds it gone."""
    mine = [each for each in dict.fromkeys(ack.message_ids) if erased.get(each) == ack.recipient_id]
    for message_id in mine:
        del erased[message_id]
    return mine


async def _each_alone_if_refused(
    write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], batch: Sequence[Item]
) -> Sequence[Result | Problem]:
    """Write a batch; if the server refuses it (a deadlock, an account deleted meanwhile), write each alone.

    A refused statement changed nothing, so nothing is written twice. OutcomeUnknown is not retried here.
    """
    try:
        return await write(batch)
    except asyncpg.PostgresError as error:
        if len(batch) == 1:
            return [_refusal(error)]
    return [(await _each_alone_if_refused(write, [item]))[0] for item in batch]


def _refusal(error: asyncpg.PostgresError) -> Problem:
    if isinstance(error, asyncpg.DeadlockDetectedError | asyncpg.InsufficientResourcesError):
        return Unavailable()
    log_fault("writer_refused", error)
    return InternalFault()
