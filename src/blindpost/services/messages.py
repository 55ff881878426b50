"""Sending, waiting, reading, acknowledging: the life of a message on the router."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from blindpost.core.database import Database
from blindpost.core.hub import Hub, MessageRow
from blindpost.core.limiter import REQUEST, SEND, SEND_PAIR, Limiter
from blindpost.core.quota import MailboxQuota, Taken
from blindpost.core.reader import MessageReader
from blindpost.core.repositories import messages
from blindpost.core.writer import Ack, MessageWriter, NewMessage, Stored
from blindpost.errors import MailboxFull, NotAuthenticated, Problem
from blindpost.protocol.limits import PAGE_MAX
from blindpost.services.caller import Caller
from blindpost.services.models.messages import (
    Acknowledged,
    AcknowledgingPollAnswer,
    Message,
    MessagePage,
    MessageStatus,
    SendRequest,
    Sent,
)
from blindpost.services.stream import Sink, Stream

STREAM_READS = 3
"""Streams that read at once: when all must look, as after a loss of the listener, requests still find a connection."""


class MessageService:
    """Messages between contacts."""

    def __init__(
        self,
        database: Database,
        writer: MessageWriter,
        reader: MessageReader,
        hub: Hub,
        quota: MailboxQuota,
        limiter: Limiter,
    ) -> None:
        self._database = database
        self._writer = writer
        self._reader = reader
        self._hub = hub
        self._quota = quota
        self._limiter = limiter
        self._reads = asyncio.Semaphore(STREAM_READS)

    async def send(self, caller: Caller, request: SendRequest) -> Sent:
        """Store a message; it is on disk when this returns.

        Raises NotAContact, MailboxFull, TooManyRequests, Unavailable and its kinds.
        """
        sender, recipient = str(caller.user_id), str(request.recipient_id)
        await self._limiter.spend(SEND, sender)
        await self._limiter.spend(SEND_PAIR, sender, recipient)
        message = NewMessage(caller.user_id, request.recipient_id, request.message, request.client_message_id)
        stored = await self._store(message)
        return Sent(id=stored.id, timestamp=stored.timestamp)

    def send_soon(self, message: NewMessage, done: Callable[[Stored | Problem], None]) -> bool:
        """Do what `send` does, if neither limits nor mailbox need a question; otherwise do nothing, and return false.

        The message has its place in the queue when this returns. Raises Overloaded, ShuttingDown; `done` is told the
        rest.
        """
        room = self._quota.take_known(message.sender_id, message.recipient_id, len(message.message))
        if room is None:
            return False
        is_taken = False
        try:
            sender, recipient = str(message.sender_id), str(message.recipient_id)
            if self._limiter.spend_known((SEND, (sender,)), (SEND_PAIR, (sender, recipient))):
                self._writer.put(message, partial(_settled, room, done))
                is_taken = True
            return is_taken
        finally:
            if not is_taken:
                room.settle()

    async def _store(self, message: NewMessage) -> Stored:
        try:
            room = await self._quota.take(message.sender_id, message.recipient_id, len(message.message))
        except MailboxFull:
            # A repeat needs no room: that an answer was lost must not turn what is stored into a refusal.
            if message.client_message_id is None:
                raise
            async with self._database.reading() as connection:
                stored = await messages.stored(connection, message.sender_id, message.client_message_id)
            if stored is None:
                raise
            return Stored(*stored)
        with room:
            return await self._writer.send(message)

    async def undelivered(self, caller: Caller, limit: int) -> MessagePage:
        async with self._database.reading() as connection:
            rows, has_more = await messages.inbox(connection, caller.user_id, limit)
        return MessagePage(has_messages=bool(rows), has_more=has_more, messages=_messages(rows))

    async def poll(
        self, caller: Caller, address: str | None, timeout_s: float, limit: int, message_ids: Sequence[UUID] = ()
    ) -> AcknowledgingPollAnswer:
        """Acknowledge, then return what there is, or wait for it.

        Raises TooManyWaiting, ShuttingDown, NotAuthenticated, and what `acknowledge` raises.

        The subscription comes before the first read: news between the two wakes the wait at once. No database
        connection is held while it waits, and a session that ends meanwhile is given nothing.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        with self._hub.subscribe(caller.user_id, address) as subscription:
            erased = await self._writer.acknowledge(Ack(caller.user_id, list(message_ids))) if message_ids else []
            while True:
                answer = await self._read(caller, limit)
                answer.acknowledged.extend(erased)
                remaining = deadline - clock()
                if answer.has_messages or answer.contacts_changed or answer.delivered or remaining <= 0:
                    return answer
                news, rows = await subscription.wait(remaining)
                if not (news or rows) or self._hub.is_closing:
                    return answer
                if rows and not news and len(rows) <= limit:
                    return _poll_answer(rows, acknowledged=erased)  # the last read found nothing: this is all there is

    async def _read(self, caller: Caller, limit: int) -> AcknowledgingPollAnswer:
        news = await self._reader.look(caller.user_id, caller.session_id)
        if news is None:
            raise NotAuthenticated
        rows, has_more = news.messages, False
        if rows is None or len(rows) > limit:
            async with self._database.reading() as connection:
                rows, has_more = await messages.inbox(connection, caller.user_id, limit)
        if not (news.receipts or news.contacts):
            return _poll_answer(rows, has_more=has_more)
        delivered: list[UUID] = []
        contacts_changed = False
        async with self._database.transaction() as tx:
            if news.contacts:
                contacts_changed = await messages.take_contacts_changed(tx, caller.user_id, caller.session_id)
            if news.receipts:
                delivered = await messages.take_receipts(tx, caller.user_id, PAGE_MAX)
        return _poll_answer(rows, delivered, has_more=has_more, contacts_changed=contacts_changed)

    def stream(self, caller: Caller, address: str | None, sink: Sink) -> Stream:
        """Open a stream of the caller's news into a sink, to be closed by whoever opened it.

        Raises TooManyWaiting, ShuttingDown.
        """
        return Stream(self._database, self._reader, self._hub, self._reads, caller, address, sink)

    def acknowledge_soon(
        self, stream: Stream, message_ids: list[UUID], done: Callable[[list[UUID] | Problem], None]
    ) -> None:
        """Erase messages that were given to a stream; raises Overloaded, ShuttingDown, `done` is told the rest."""
        self._writer.put_ack(Ack(stream.caller.user_id, message_ids, stream.senders_of(message_ids)), done)

    def has_credit(self, caller: Caller) -> bool:
        """Count one request of a stream; false if that needs a question: then `spend` asks it."""
        return self._limiter.spend_known((REQUEST, (str(caller.user_id),)))

    async def spend(self, caller: Caller) -> None:
        """Count one request of a stream; raises TooManyRequests, Unavailable."""
        await self._limiter.spend(REQUEST, str(caller.user_id))

    async def acknowledge(self, caller: Caller, message_ids: list[UUID]) -> Acknowledged:
        """Erase messages that the caller has; foreign and unknown ids are passed over alike."""
        return Acknowledged(acknowledged=await self._writer.acknowledge(Ack(caller.user_id, message_ids)))

    async def statuses(self, caller: Caller, ids: list[UUID]) -> dict[UUID, MessageStatus]:
        """Tell what became of messages that the caller sent; others are left out."""
        async with self._database.reading() as connection:
            found = await messages.statuses(connection, caller.user_id, ids)
        return {message_id: MessageStatus(status) for message_id, status in found.items()}


def _settled(room: Taken, done: Callable[[Stored | Problem], None], result: Stored | Problem) -> None:
    room.settle()
    done(result)


def _poll_answer(
    rows: list[MessageRow],
    delivered: Sequence[UUID] = (),
    *,
    has_more: bool = False,
    contacts_changed: bool = False,
    acknowledged: Sequence[UUID] = (),
) -> AcknowledgingPollAnswer:
    return AcknowledgingPollAnswer.model_construct(
        has_messages=bool(rows),
        has_more=has_more,
        messages=_messages(rows),
        contacts_changed=contacts_changed,
        delivered=list(delivered),
        acknowledged=list(acknowledged),
    )


def _messages(rows: list[MessageRow]) -> list[Message]:
    return [
        Message.model_construct(
            id=row.id,
            sender_id=row.sender_id,
            recipient_id=row.recipient_id,
            message=row.message,
            timestamp=row.timestamp,
        )
        for row in rows
    ]
