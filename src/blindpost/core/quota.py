"""How much may wait for one person, in all and from each sender.

Nothing is counted when a message is sent: the process knows, for a while, how much room there was at the last count,
and takes from that. When it is used up, PostgreSQL counts what waits, and the room until the next count is an eighth
of what remains. So counts are rare where there is room, and each message is counted where there is next to none.

Of one process the limit is exact: what it took and may not see in the tables yet is added to each count, so that it
can refuse a moment too early and never too late. Processes do not know of each other's room, which is an eighth of
the limit at most: N of them can exceed it by (N - 1)/8, and do so only if all are in the middle of their room when
the mailbox becomes full.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Self
from uuid import UUID
from weakref import WeakValueDictionary

from blindpost.core.database import Database
from blindpost.core.repositories import messages
from blindpost.errors import MailboxFull

SHARE: Final = 4
"""One sender can fill this part of a mailbox, so that the others still get in."""
ROOM: Final = 8
"""This part of what remains can be taken before the next count."""
ROOM_AGE_S: Final = 300.0
"""Room is for this long at most: a process holds nothing back for people who do not write to each other any more."""
FULL_AGE_S: Final = 1.0
"""For this long a full mailbox is not counted again, whoever insists."""
ROOMS_MAX: Final = 20_000

Key = UUID | tuple[UUID, UUID]
"""A mailbox, or a sender's share of one."""


class _Room:
    """What may be taken before the next count, of a mailbox or of a share."""

    __slots__ = ("bytes", "bytes_taken", "bytes_written", "ends", "full_until", "messages", "taken", "written")

    def __init__(self) -> None:
        self.messages = self.bytes = 0
        # All that was ever taken, and of that what is written or given up: the rest is in the writer's hands.
        self.taken = self.bytes_taken = 0
        self.written = self.bytes_written = 0
        self.ends = self.full_until = 0.0

    def has(self, size: int, now: float) -> bool:
        return self.messages > 0 and self.bytes >= size and now < self.ends

    def take(self, size: int) -> None:
        self.messages -= 1
        self.bytes -= size
        self.taken += 1
        self.bytes_taken += size

    def settle(self, size: int) -> None:
        self.written += 1
        self.bytes_written += size


class _Unseen:
    """What a count that begins now may not see: what was taken and is not written yet, and what is taken meanwhile."""

    __slots__ = ("_bytes_written", "_room", "_written")

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._written, self._bytes_written = room.written, room.bytes_written

    @property
    def messages(self) -> int:
        return self._room.taken - self._written

    @property
    def bytes(self) -> int:
        return self._room.bytes_taken - self._bytes_written


class Taken:
    """Room that a message takes: held while it is written, then given up to what the next count will see."""

    __slots__ = ("_rooms", "_size")

    def __init__(self, rooms: tuple[_Room, ...], size: int) -> None:
        self._rooms = rooms
        self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()

    def settle(self) -> None:
        for room in self._rooms:
            room.settle(self._size)


class MailboxQuota:
    """Refuses what would overfill a mailbox."""

    def __init__(
        self,
        database: Database,
        *,
        messages_max: int,
        bytes_max: int,
        require_contact: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._require_contact = require_contact
        self._clock = clock
        self._rooms: OrderedDict[Key, _Room] = OrderedDict()
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def take(self, sender_id: UUID, recipient_id: UUID, size: int) -> Taken:
        """Take room for one message, to be held while it is written; raises MailboxFull, Unavailable.

        For whoever may not write to the recipient it takes nothing and passes: to refuse them is the writer's, whose
        one answer tells them nothing.
        """
        rooms = self._room_for(sender_id, recipient_id, size)
        if rooms is None:
            # One at a time for one mailbox: those who waited mostly find that the first has counted for them.
            turn = self._turns.setdefault(recipient_id, asyncio.Lock())
            async with turn:
                rooms = self._room_for(sender_id, recipient_id, size)
                if rooms is None and not await self._count(sender_id, recipient_id, size):
                    return Taken((), size)
                rooms = rooms or self._room_for(sender_id, recipient_id, size)
        if rooms is None:
            raise MailboxFull
        for room in rooms:
            room.take(size)
        return Taken(rooms, size)

    def take_known(self, sender_id: UUID, recipient_id: UUID, size: int) -> Taken | None:
        """Take room that there is by the last count; None if it is time to count, or there is none: `take` tells."""
        try:
            rooms = self._room_for(sender_id, recipient_id, size)
        except MailboxFull:
            return None
        if rooms is None:
            return None
        for room in rooms:
            room.take(size)
        return Taken(rooms, size)

    def _room_for(self, sender_id: UUID, recipient_id: UUID, size: int) -> tuple[_Room, _Room] | None:
        """Return mailbox and share if both have room, None if they must be counted; raises MailboxFull.

        That a mailbox is full is remembered for those alone whose share is known: they may write to it.
        """
        now = self._clock()
        share = self._rooms.get((sender_id, recipient_id))
        mailbox = self._rooms.get(recipient_id)
        if share is None or mailbox is None or now >= share.ends:
            return None
        if now < mailbox.full_until or now < share.full_until:
            raise MailboxFull
        return (mailbox, share) if mailbox.has(size, now) and share.has(size, now) else None

    async def _count(self, sender_id: UUID, recipient_id: UUID, size: int) -> bool:
        """Count what waits, and give room to what was counted; false for whoever may not write to the recipient."""
        mailbox = self._rooms.get(recipient_id) or _Room()
        share = self._rooms.get((sender_id, recipient_id)) or _Room()
        unseen = _Unseen(mailbox), _Unseen(share)
        async with self._database.reading() as connection:
            waiting = await messages.waiting(connection, sender_id, recipient_id, require_contact=self._require_contact)
        if waiting is None:
            return False
        self._give(mailbox, 1, waiting.messages + unseen[0].messages, waiting.bytes + unseen[0].bytes, size)
        self._give(share, SHARE, waiting.own_messages + unseen[1].messages, waiting.own_bytes + unseen[1].bytes, size)
        self._keep(recipient_id, mailbox)
        self._keep((sender_id, recipient_id), share)
        return True

    def _give(self, room: _Room, part: int, messages_there: int, bytes_there: int, size: int) -> None:
        """Give room for the time until the next count, or note that there is none."""
        messages_left = self._messages_max // part - messages_there
        bytes_left = self._bytes_max // part - bytes_there
        is_full = messages_left < 1 or bytes_left < size
        room.messages = 0 if is_full else max(1, messages_left // ROOM)
        room.bytes = 0 if is_full else max(size, bytes_left // ROOM)
        now = self._clock()
        room.ends = now + ROOM_AGE_S
        room.full_until = now + FULL_AGE_S if is_full else 0.0

    def _keep(self, key: Key, room: _Room) -> None:
        self._rooms[key] = room
        if len(self._rooms) > ROOMS_MAX:
            self._forget_one()

    def _forget_one(self) -> None:
        """Forget the oldest that is not in use: of a message that is being written the next count must know."""
        idle = (key for key, room in self._rooms.items() if room.taken == room.written)
        if (oldest := next(idle, None)) is not None:
            del self._rooms[oldest]
