"""What one open connection is told: messages, deliveries, changes among the contacts.

A stream reads "what is unacknowledged, minus what this connection was given", never "what is newer than": ids may
commit out of order. Where it has read all there is, a message that is stored in this process is handed over without
a read, synchronously. An idle stream has no task, no timer and no database connection.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol
from uuid import UUID

from blindpost.core.database import Database
from blindpost.core.hub import ALL, Hub, Kind, MessageRow, Subscriber
from blindpost.core.reader import MessageReader
from blindpost.core.repositories import messages
from blindpost.errors import InternalFault, NotAuthenticated, Problem, ShuttingDown, Unavailable
from blindpost.protocol.limits import PAGE_MAX
from blindpost.services.caller import Caller
from blindpost.telemetry import log_fault

WINDOW_MESSAGES: Final = 500
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""A client that acknowledges nothing is given so much, and then nothing."""
PAGE: Final = 100
GIVEN_FEW: Final = 8
KEPT_MAX: Final = 32
"""Messages that are handed over while others are read; with more it is as well to read again."""
RETRY_S: Final = 1.0
"""After a read that failed, with the store away: the stream stays open."""
TOLD: Final = Kind.RECEIPTS | Kind.CONTACTS | Kind.SESSIONS


class Sink(Protocol):
    """Where a stream goes."""

    @property
    def is_paused(self) -> bool:
        """Whether it can take no more for the moment; `Stream.resume` says when it can again."""

    def messages(self, rows: Sequence[MessageRow]) -> None:
        """Pass on messages, in this order."""

    def delivered(self, message_ids: Sequence[UUID]) -> None:
        """Pass on that messages which the user sent were acknowledged."""

    def contacts_changed(self) -> None:
        """Pass on that something changed among the contacts."""

    def ended(self, problem: Problem) -> None:
        """Let the client go: nothing more will come."""


class Stream(Subscriber):
    """One connection's; close it once."""

    __slots__ = (
        *(
            "_address",
            "_bytes_given",
            "_database",
            "_given",
            "_hub",
            "_is_over",
            "_kept",
            "_news",
            "_look_up",
            "_reader",
        ),
        *("_reads", "_sink", "caller", "session_id"),
    )

    def __init__(
        self,
        database: Database,
        reader: MessageReader,
        hub: Hub,
        reads: asyncio.Semaphore,
        caller: Caller,
        address: str | None,
        sink: Sink,
    ) -> None:
        self.caller = caller
        self.session_id = caller.session_id
        self._database = database
        self._look_up = reader.look
        self._hub = hub
        self._reads = reads
        self._address = address
        self._sink = sink
        self._given: dict[UUID, tuple[UUID, int]] = {}
        """What was given and is not acknowledged, as far as is known here: sender and size."""
        self._bytes_given = 0
        self._news = Kind(0)
        """What there may be that was not read. Of messages: while it says so, none is handed over."""
        self._kept: list[MessageRow] | None = None
        """What is handed over while messages are read: the read may have found it, or have come too early."""
        self._reader: asyncio.Task[None] | None = None
        self._is_over = False
        # Before the first read: what is stored from now on is handed over, or read.
        hub.add(self, caller.user_id, address)

    def start(self) -> None:
        """Begin to read; nothing comes before."""
        self.wake(ALL)

    def stop(self) -> None:
        """Give the sink nothing more; the place is held until `close`."""
        self._is_over = True

    def close(self) -> None:
        self._is_over = True
        if self._reader is not None:
            self._reader.cancel()
        self._hub.remove(self, self.caller.user_id, self._address)

    # What the hub tells

    @property
    def hears_receipts(self) -> bool:
        return not (self._is_over or self._sink.is_paused)

    def wake(self, kind: Kind) -> None:
        self._news |= kind
        # Messages alone cannot be read while the window is full: every one that comes would ask in vain.
        if kind is not Kind.MESSAGES or self._has_room:
            self._read_on()

    def hand_over(self, row: MessageRow) -> None:
        if self._is_over:
            return
        if self._news & Kind.MESSAGES or not self._has_room or self._sink.is_paused:
            self.wake(Kind.MESSAGES)
        elif self._kept is None:
            if row.id not in self._given:
                self._give((row,))
        elif len(self._kept) < KEPT_MAX:
            self._kept.append(row)
        else:
            self.wake(Kind.MESSAGES)

    def acknowledged(self, message_ids: Collection[UUID]) -> None:
        for message_id in message_ids:
            if (known := self._given.pop(message_id, None)) is not None:
                self._bytes_given -= known[1]
        if self._kept:
            gone = set(message_ids)
            self._kept = [row for row in self._kept if row.id not in gone]
        # Not at once: a client that acknowledges one by one would be read for one by one.
        if self._news and len(self._given) <= WINDOW_MESSAGES // 2 and self._bytes_given <= WINDOW_BYTES // 2:
            self._read_on()

    def delivered(self, message_ids: list[UUID]) -> None:
        if not self._is_over:
            self._sink.delivered(message_ids)

    # What the connection tells

    def resume(self) -> None:
        """Go on: the sink can take more."""
        self._read_on()

    def senders_of(self, message_ids: Iterable[UUID]) -> set[UUID]:
        """Name who sent these messages, as far as they were given here."""
        return {known[0] for message_id in message_ids if (known := self._given.get(message_id)) is not None}

    # Reading

    @property
    def _has_room(self) -> bool:
        return len(self._given) < WINDOW_MESSAGES and self._bytes_given < WINDOW_BYTES

    def _give(self, rows: Sequence[MessageRow]) -> None:
        for row in rows:
            size = len(row.message)
            self._given[row.id] = row.sender_id, size
            self._bytes_given += size
        self._sink.messages(rows)

    @property
    def _may_read(self) -> bool:
        # A session that ended is noticed while the client takes nothing, too: what it wrote meanwhile must not count.
        is_due = bool(self._news & Kind.SESSIONS) or not self._sink.is_paused
        return bool(self._news) and not self._is_over and is_due

    def _read_on(self) -> None:
        if self._may_read and self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        """Read until nothing is new, or the client must first acknowledge or take what it has."""
        try:
            while self._may_read:
                if self._hub.is_closing:
                    raise ShuttingDown
                news, self._news = self._news, Kind(0)
                # From now on: between this and the read, what is handed over must not get ahead of what is read.
                self._kept = [] if news & Kind.MESSAGES else None
                try:
                    if not await self._look(news):
                        break
                except Unavailable:
                    self._news |= news
                    self._kept = None
                    await asyncio.sleep(RETRY_S)
        except Problem as problem:
            self._end(problem)
        except Exception as error:  # noqa: BLE001 - one stream's fault must not be lost, nor leave it open and deaf
            log_fault("stream_failed", error)
            self._end(InternalFault())
        finally:
            self._reader = self._kept = None
        # What was noted while the last read ran is read by a new task: this one cannot wait for itself.
        if self._has_room or self._news & TOLD:
            self._read_on()

    async def _look(self, news: Kind) -> bool:
        """Read what there is news of, and pass it on; false if messages must wait for acknowledgements."""
        # What waits for many streams is read at once, as long as what each was given can be left out here.
        is_asked = news & TOLD or len(self._given) <= GIVEN_FEW
        given = set(self._given)  # as of now: what is acknowledged while we read may be found all the same
        found = await self._tell() if is_asked else None
        if not news & Kind.MESSAGES:
            return True
        if self._sink.is_paused:
            self._news |= Kind.MESSAGES
            return False
        if not self._has_room:
            await self._forget_acknowledged()
        if not self._has_room:
            self._news |= Kind.MESSAGES
            return False
        if found is None:
            rows, has_more = await self._unread()
        else:
            rows, has_more = [row for row in found if row.id not in given], False
        kept, self._kept = self._kept or [], None
        if has_more:
            self._news |= Kind.MESSAGES
        elif not self._news & Kind.MESSAGES:
            # What the read came too early for is newer than all that it found.
            ids = {row.id for row in rows}
            rows += [row for row in kept if row.id not in ids]
        if rows and not self._is_over:
            self._give(rows)
        return True

    async def _unread(self) -> tuple[list[MessageRow], bool]:
        async with self._reads, self._database.reading() as connection:
            limit = min(PAGE, WINDOW_MESSAGES - len(self._given))
            return await messages.unread(connection, self.caller.user_id, limit, list(self._given))

    async def _forget_acknowledged(self) -> None:
        """Find out what was acknowledged through another node, of which nobody told us."""
        async with self._reads, self._database.reading() as connection:
            waiting = await messages.still_waiting(connection, self.caller.user_id, self._given)
        self.acknowledged([each for each in self._given if each not in waiting])

    async def _tell(self) -> list[MessageRow] | None:
        """See that the session goes on, and pass on what it was not told; raises NotAuthenticated.

        Returns what waits, unless that is much, or there was something else to pass on.
        """
        caller = self.caller
        news = await self._look_up(caller.user_id, caller.session_id)
        if news is None:
            raise NotAuthenticated
        if not (news.contacts or news.receipts):
            return news.messages
        delivered: list[UUID] = []
        async with self._reads, self._database.transaction() as tx:
            is_changed = news.contacts and await messages.take_contacts_changed(tx, caller.user_id, caller.session_id)
            if news.receipts:
                delivered = await messages.take_receipts(tx, caller.user_id, PAGE_MAX)
        if len(delivered) == PAGE_MAX:
            self._news |= Kind.RECEIPTS
        if is_changed:
            self._sink.contacts_changed()
        if delivered:
            self._sink.delivered(delivered)
        return None  # time has gone by

    def _end(self, problem: Problem) -> None:
        if not self._is_over:
            self._is_over = True
            self._sink.ended(problem)
