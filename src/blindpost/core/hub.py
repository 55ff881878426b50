"""The hub: those who wait in this process, and the wake-up bus by which it hears of what other processes wrote.

A notification is a hint, never the news itself: whoever is woken reads the tables. So a lost hint costs time and
not a message: after a reconnect everybody is woken, and a slow sweep asks once for all who wait.

What this process wrote itself it need not be told of: the writer hands the rows to the streams that are here, and the
hint, which leads with this node's id, is passed over. What carries hints is a WakeUpBus, of which there are two
(docs/decisions/0021-wake-up-bus.md).
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import Flag, auto
from time import monotonic
from typing import Final, NamedTuple, Protocol
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

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
KINDS: Final = {"m": Kind.MESSAGES, "r": Kind.RECEIPTS, "c": Kind.CONTACTS, "s": Kind.SESSIONS}
LETTERS: Final = {kind: letter for letter, kind in KINDS.items()}


class Hint(NamedTuple):
    """That there may be news of a kind for some users."""

    kind: Kind
    user_ids: Collection[UUID]


class Ears(Protocol):
    """What a bus tells."""

    node_id: UUID
    """Of this process."""

    def is_listening(self) -> None:
        """Take that from now on every hint is heard."""

    def wake(self, kind: Kind, user_ids: Iterable[UUID]) -> None:
        """Take a hint."""

    def wake_all(self) -> None:
        """Take that there may be news of any kind for anybody."""


class WakeUpBus(Protocol):
    """What carries hints from the process that wrote something to those where somebody waits for it.

    A hint may be lost, come twice, or come where nobody waits: that costs time. It never comes before the commit.
    """

    losses: tuple[type[Exception], ...]
    """What `listen` raises when the connection is gone."""
    refusal: tuple[str, str]
    """What an operator is told where it cannot listen at the start, and what to do."""
    in_statement: str
    """What a statement of the writer's does with a `payload` of ids, in SQL."""

    async def ride(self, tx: AsyncConnection, hints: Sequence[Hint]) -> None:
        """Have hints go with the commit of a transaction that is all but over, if this bus can."""

    async def publish(self, hints: Sequence[Hint]) -> None:
        """Hint at what was just committed, unless it rode in the commit. Bounded in time; never raises a loss."""

    def attend(self, user_id: UUID) -> None:
        """Take that somebody begins to wait here for news of this user, who was not waited for."""

    def leave(self, user_id: UUID) -> None:
        """Take that nobody waits for this user any more."""

    def hears_of(self, user_id: UUID) -> bool:
        """Tell whether hints for this user, who is waited for, are heard already."""
        raise NotImplementedError

    async def listen(self, ears: Ears) -> None:
        """Hear until the connection is lost: returns then, or raises one of `losses`."""

    async def run(self) -> None:
        """Do what must be done behind `publish`, if anything."""

    async def close(self) -> None:
        """Let connections go."""


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
    """Subscriptions by user, and the bus that feeds them."""

    def __init__(
        self,
        bus: WakeUpBus,
        find_waiting: Callable[[list[UUID]], Awaitable[Iterable[tuple[UUID, str]]]],
        find_sessions: Callable[[list[UUID]], Awaitable[dict[UUID, bool]]],
        *,
        sweep_interval_s: float,
        waiting_max: int,
        waiting_per_user_max: int,
        waiting_per_address_max: int,
    ) -> None:
        self.bus = bus
        self._find_waiting = find_waiting
        self._find_sessions = find_sessions
        self._sweep_interval_s = sweep_interval_s
        self._waiting_max = waiting_max
        self._waiting_per_user_max = waiting_per_user_max
        self._waiting_per_address_max = waiting_per_address_max
        self.node_id = uuid4()
        """Leads the notifications of what this process wrote. No user has it, so other nodes look for nobody there."""
        self._failures = 0
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
        if user_id not in self._subscriptions:
            self._subscriptions[user_id] = set()
            self.bus.attend(user_id)
        self._subscriptions[user_id].add(subscriber)
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
            self.bus.leave(user_id)

    def hand_over(self, row: MessageRow) -> None:
        """Give what this process has just stored to those who wait here for it.

        Not while something stored elsewhere may not have been heard of: the order of a sender who changed nodes would
        be lost. Then they are woken, and read all of it in order.
        """
        for each in tuple(self._subscriptions.get(row.recipient_id, ())):
            if self._is_current and self.bus.hears_of(row.recipient_id):
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
        self.wake_all()

    async def run(self) -> None:
        """Listen, and sweep, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen_forever())
            group.create_task(self._sweep_forever())
            group.create_task(self.bus.run())

    async def _listen_forever(self) -> None:
        while True:
            try:
                await self.bus.listen(self)
                log.warning("listener_lost", error="terminated")
            except self.bus.losses as error:
                log.warning("listener_lost", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - without a listener the process is deaf: never give up
                log_fault("listener_failed", error)
            finally:
                self.listening.clear()
                self._is_current = False
                LISTENER_UP.set(0)
            await asyncio.sleep(RETRY_S[min(self._failures, len(RETRY_S) - 1)])
            self._failures += 1

    def is_listening(self) -> None:
        """Go on, with all hints from now on."""
        self._failures = 0
        self.listening.set()
        LISTENER_UP.set(1)
        # Whatever was hinted at while nobody listened is lost: look for yourselves. Those who look are behind until
        # they have looked, so that what is handed over from now on waits for it.
        self.wake_all()
        self._is_current = True

    def wake_all(self) -> None:
        """Wake everybody who waits here."""
        self.wake(ALL, tuple(self._subscriptions))

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_interval_s)
            if not self._subscriptions:
                continue
            try:
                for user_id, letter in await self._find_waiting(list(self._subscriptions)):
                    self.wake(KINDS[letter], (user_id,))
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
