"""The hub: one listening connection for the whole process, which wakes those who wait in it.

A notification is a hint, never the news itself: whoever is woken reads the tables. So a lost hint costs time and
not a message: after a reconnect everybody is woken, and a slow sweep asks once for all who wait.

What this process wrote itself it need not be told of: the writer hands the rows to the streams that are here, and the
notification, which leads with this node's id, is passed over.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import Flag, auto
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from blindpost.core.database import LOSSES
from blindpost.errors import ShuttingDown, TooManyWaiting
from blindpost.telemetry import LISTENER_UP, WAITING, log, log_fault

CHANNEL: Final = "blindpost"
NOTIFY_IDS_MAX: Final = 240
"""PostgreSQL takes payloads under 8,000 bytes, and an id is 32 hexadecimal digits."""
ID_CHARS: Final = 32
HEARTBEAT_S: Final = 10.0
"""A connection can die without a word (a cut cable, a frozen server): ask it now and then."""
HEARTBEAT_TIMEOUT_S: Final = 5.0
SESSIONS_S: Final = 60.0
"""How often it is asked whether the sessions of open streams go on."""
RETRY_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0)


class Kind(Flag):
    """What there may be news of."""

    MESSAGES = auto()
    RECEIPTS = auto()
    CONTACTS = auto()
    SESSIONS = auto()
    """A session ended: whoever waits in it must not be given anything more."""


ALL: Final = ~Kind(0)
HANDED_OVER_MAX: Final = 16
"""Messages that a poll is given without a read; if there are more it reads."""
_KINDS: Final = {"m": Kind.MESSAGES, "r": Kind.RECEIPTS, "c": Kind.CONTACTS, "s": Kind.SESSIONS}
LETTERS: Final = {kind: letter for letter, kind in _KINDS.items()}


class MessageRow(NamedTuple):
    """A message that waits for its recipient."""

    id: UUID
    sender_id: UUID
    recipient_id: UUID
    message: bytes
    timestamp: datetime
    text: str | None = None
    """The message in base64, if it was there already."""


class Subscriber:
    """Whoever waits for news of one user."""

    __slots__ = ()
    session_id: UUID | None = None
    """Of a stream: it lasts, so somebody must ask whether its session does."""

    @property
    def hears_receipts(self) -> bool:
        """Whether `delivered` reaches the user: then it need not be kept for later."""
        return False

    def wake(self, kind: Kind) -> None:
        """Hear that there may be news of these kinds."""
        raise NotImplementedError

    def hand_over(self, row: MessageRow) -> None:
        """Take a message that was just stored: there is no need to read it."""
        del row
        self.wake(Kind.MESSAGES)

    def acknowledged(self, message_ids: Collection[UUID]) -> None:
        """Hear that messages of the user's are erased."""

    def delivered(self, message_ids: list[UUID]) -> None:
        """Hear that messages which the user sent were acknowledged."""


class Subscription(Subscriber):
    """One waiting poll."""

    __slots__ = ("_event", "_news", "_rows")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._news = Kind(0)
        self._rows: list[MessageRow] = []

    def wake(self, kind: Kind) -> None:
        self._news |= kind
        self._event.set()

    def hand_over(self, row: MessageRow) -> None:
        if len(self._rows) < HANDED_OVER_MAX:
            self._rows.append(row)
            self._event.set()
        else:
            self.wake(Kind.MESSAGES)

    def acknowledged(self, message_ids: Collection[UUID]) -> None:
        if self._rows:
            self._rows = [row for row in self._rows if row.id not in message_ids]

    async def wait(self, timeout_s: float) -> tuple[Kind, list[MessageRow]]:
        """Return what there may be news of since the last call, and what was handed over; nothing when time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()
        news, self._news = self._news, Kind(0)
        rows, self._rows = self._rows, []
        return news, rows


class Hub:
    """Subscriptions by user, and the connection that feeds them."""

    def __init__(
        self,
        connect: Callable[[], Awaitable["asyncpg.Connection[Any]"]],
        find_waiting: Callable[[list[UUID]], Awaitable[Iterable[tuple[UUID, str]]]],
        find_sessions: Callable[[list[UUID]], Awaitable[dict[UUID, bool]]],
        *,
        sweep_interval_s: float,
        waiting_max: int,
        waiting_per_user_max: int,
        waiting_per_address_max: int,
    ) -> None:
        self._connect = connect
        self._find_waiting = find_waiting
        self._find_sessions = find_sessions
        self._sweep_interval_s = sweep_interval_s
        self._waiting_max = waiting_max
        self._waiting_per_user_max = waiting_per_user_max
        self._waiting_per_address_max = waiting_per_address_max
        self.node_id = uuid4()
        """Leads the notifications of what this process wrote. No user has it, so other nodes look for nobody there."""
        self._subscriptions: dict[UUID, set[Subscriber]] = {}
        self._count = 0
        self._count_from: Counter[str] = Counter()
        self.listening = asyncio.Event()
        self._is_current = False
        """Whether all that was stored elsewhere was heard of: only then can what is stored here be handed over."""
        self._sessions_due = 0.0
        self.is_closing = False

    @contextmanager
    def subscribe(self, user_id: UUID, address: str | None) -> Iterator[Subscription]:
        """Hear of this user's news inside the block; raises TooManyWaiting, ShuttingDown.

        Subscriptions are bounded per user, per address and in all; from no address (None) only per user and in all.
        """
        subscription = Subscription()
        self.add(subscription, user_id, address)
        WAITING.inc()
        try:
            yield subscription
        finally:
            WAITING.dec()
            self.remove(subscription, user_id, address)

    def add(self, subscriber: Subscriber, user_id: UUID, address: str | None) -> None:
        """Let it hear of this user's news, until it is removed; raises TooManyWaiting, ShuttingDown."""
        if self.is_closing:
            raise ShuttingDown
        if self._is_full_for(user_id, address):
            raise TooManyWaiting
        self._subscriptions.setdefault(user_id, set()).add(subscriber)
        self._count += 1
        if address is not None:
            self._count_from[address] += 1

    def remove(self, subscriber: Subscriber, user_id: UUID, address: str | None) -> None:
        """Undo `add`, once."""
        self._count -= 1
        if address is not None:
            self._leave(address)
        mine = self._subscriptions[user_id]
        mine.remove(subscriber)
        if not mine:
            del self._subscriptions[user_id]

    def hand_over(self, row: MessageRow) -> None:
        """Give what this process has just stored to those who wait here for it.

        Not while something stored elsewhere may not have been heard of: the order of a sender who changed nodes would
        be lost. Then they are woken, and read all of it in order.
        """
        for each in tuple(self._subscriptions.get(row.recipient_id, ())):
            if self._is_current:
                each.hand_over(row)
            else:
                each.wake(Kind.MESSAGES)

    def wake(self, kind: Kind, user_ids: Iterable[UUID]) -> None:
        """Wake those who wait here for news of these users."""
        for user_id in user_ids:
            for each in tuple(self._subscriptions.get(user_id, ())):
                each.wake(kind)

    def acknowledged(self, user_id: UUID, message_ids: Collection[UUID]) -> None:
        """Tell the user's streams that these messages are erased."""
        for each in tuple(self._subscriptions.get(user_id, ())):
            each.acknowledged(message_ids)

    def is_streaming(self, user_id: UUID) -> bool:
        """Tell whether the user has a stream here, which can be told of deliveries."""
        return any(each.hears_receipts for each in self._subscriptions.get(user_id, ()))

    def delivered(self, user_id: UUID, message_ids: list[UUID]) -> None:
        """Tell the user's streams that these messages, which the user sent, were acknowledged."""
        for each in tuple(self._subscriptions.get(user_id, ())):
            each.delivered(message_ids)

    def _is_full_for(self, user_id: UUID, address: str | None) -> bool:
        return (
            self._count >= self._waiting_max
            or len(self._subscriptions.get(user_id, ())) >= self._waiting_per_user_max
            or (address is not None and self._count_from[address] >= self._waiting_per_address_max)
        )

    def _leave(self, address: str) -> None:
        self._count_from[address] -= 1
        if not self._count_from[address]:
            del self._count_from[address]  # nothing is kept of who is not there

    def close(self) -> None:
        """Let everybody go: waiting polls answer at once, streams end, and none begins to wait."""
        self.is_closing = True
        self._wake_all()

    async def run(self) -> None:
        """Listen, and sweep, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen_forever())
            group.create_task(self._sweep_forever())

    async def _listen_forever(self) -> None:
        failures = 0
        while True:
            try:
                async for _ in self._listen():
                    failures = 0
            except (*LOSSES, asyncpg.PostgresError) as error:
                log.warning("listener_lost", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - without a listener the process is deaf: never give up
                log_fault("listener_failed", error)
            finally:
                self.listening.clear()
                self._is_current = False
                LISTENER_UP.set(0)
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
            failures += 1

    async def _listen(self) -> Any:
        """Listen on one connection, never in a transaction, until it is lost; yields at each sign of life."""
        connection = await self._connect()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(CHANNEL, self._heard)
            self.listening.set()
            LISTENER_UP.set(1)
            # Whatever was notified while nobody listened is lost: look for yourselves. Those who look are behind until
            # they have looked, so that what is handed over from now on waits for it.
            self._wake_all()
            self._is_current = True
            while not lost.is_set():
                yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await lost.wait()
                if not lost.is_set():
                    await connection.fetchval("SELECT 1", timeout=HEARTBEAT_TIMEOUT_S)
            log.warning("listener_lost", error="terminated")
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        text = str(payload)
        try:
            kind = _KINDS[text[:1]]
            if text.startswith(self.node_id.hex, 1):
                return  # our own: the writer has told everybody here
            user_ids = [UUID(hex=text[start : start + ID_CHARS]) for start in range(1, len(text), ID_CHARS)]
        except (KeyError, ValueError):  # a newer version's: whatever it means, looking does no harm
            self._wake_all()
            return
        self.wake(kind, user_ids)

    def _wake_all(self) -> None:
        self.wake(ALL, tuple(self._subscriptions))

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_interval_s)
            if not self._subscriptions:
                continue
            try:
                for user_id, letter in await self._find_waiting(list(self._subscriptions)):
                    self.wake(_KINDS[letter], (user_id,))
                if monotonic() >= self._sessions_due:
                    await self._look_at_sessions()
                    self._sessions_due = monotonic() + SESSIONS_S
            except Exception as error:  # noqa: BLE001 - the store is away: the next sweep will do
                log_fault("sweep_failed", error)

    async def _look_at_sessions(self) -> None:
        """Wake the streams whose session is over, or was not told of a change: a hint was lost, or time ended it."""
        streams = [each for mine in self._subscriptions.values() for each in mine if each.session_id]
        if not streams:
            return
        are_told = await self._find_sessions([each.session_id for each in streams if each.session_id])
        for each in streams:
            if each.session_id and not are_told.get(each.session_id, False):
                each.wake(Kind.SESSIONS | Kind.CONTACTS)


def payloads(kind: Kind, user_ids: Iterable[UUID]) -> list[str]:
    """Write notifications for these users, as many as their number needs."""
    hexes = sorted({user_id.hex for user_id in user_ids})
    return [
        LETTERS[kind] + "".join(hexes[start : start + NOTIFY_IDS_MAX]) for start in range(0, len(hexes), NOTIFY_IDS_MAX)
    ]
