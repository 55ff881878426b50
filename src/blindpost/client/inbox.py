"""What arrives: fetched, opened, checked against what came before, acknowledged once the user has it."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID, uuid5

from blindpost.client.directory import Directory
from blindpost.client.errors import (
    AlreadyOpened,
    CannotDecrypt,
    ClientError,
    HeldTooMany,
    KeyChanged,
    MaybeRepeated,
    Refused,
    ReplacedKey,
    UnknownContact,
    UntrustedAnswer,
)
from blindpost.client.history import EXPIRED, NOT_OPENED, Changes, Entry, EntryStatus, History
from blindpost.client.sealer import Opened, Sealer
from blindpost.client.session import Session
from blindpost.client.store import Contact, Store
from blindpost.client.transport import TIMEOUT_S, parse
from blindpost.protocol.content import Content, Kind
from blindpost.protocol.limits import PAGE_MAX, POLL_MAX_S
from blindpost.services.models.messages import Message, PollAnswer

T = TypeVar("T")

PAGE: Final = 64
HELD_MAX: Final = 64
HELD_MAX_BYTES: Final = 524_288
"""Of one sender. Held messages lead every page of the router, and a page ends by count and by bytes: without a bound
one contact with a new key could keep everybody else's messages out of sight."""
MESSAGE_MAX_CHARS: Final = 88_064
"""The largest message in base64, and its other fields."""
ANSWER_HEAD_BYTES: Final = 65_536
AWAITED_MAX: Final = 500
"""Messages of mine whose receipts are asked for if they may have been lost: the newest."""
NOT_FOUND: Final = 404
UNREADABLE: Final = UUID("b7c3a1de-6c34-4a6c-9c5e-0e8e8f6f3d1a")
"""A namespace of names for what has none (RFC 9562, section 5.5)."""
NOTHING: Final = UUID(int=0)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NotOpened:
    """Messages of mine that somebody could not open, by the router's ids: what they open messages with was lost."""

    contact_id: UUID
    username: str
    ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Received:
    """One message as the user sees it.

    With a `problem`, `data` is None unless the problem is MaybeRepeated or ReplacedKey: such a message is genuine, but
    may be old, or by whoever has a key that was replaced.
    """

    id: UUID
    """The router's."""
    sender_id: UUID
    username: str | None
    """The sender's; None if their keys were never seen."""
    timestamp: datetime
    """By the router, which may lie."""
    sent_at: datetime | None = None
    """By the sender: the router cannot change it."""
    client_message_id: UUID | None = None
    data: bytes | None = field(default=None, repr=False)
    kind: Kind | None = None
    problem: ClientError | None = None
    missing: int = 0
    """How many messages of this sender were found missing by it: sent before, and not come."""

    @property
    def key(self) -> UUID:
        """What it is known by, among all of its sender: their id for it.

        One that did not open has none, and the router's, which knows theirs, must not be taken for one.
        """
        return self.client_message_id or uuid5(UNREADABLE, str(self.id))

    @property
    def text(self) -> str | None:
        """The message, if it is text."""
        return self.data.decode("utf-8") if self.data is not None and self.kind is Kind.TEXT else None

    @property
    def is_held(self) -> bool:
        """Whether the message stays at the router, to be opened once the user has settled the sender's keys."""
        return is_holding(self.problem)


def is_holding(problem: ClientError | None) -> bool:
    """Tell whether a message with this problem may open later."""
    return isinstance(problem, KeyChanged | UntrustedAnswer)


class Inbox:
    """Opens messages and remembers them. A message counts as read when the user has taken it, not before."""

    def __init__(
        self,
        session: Session,
        store: Store,
        history: History | None,
        directory: Directory,
        sealer: Sealer,
        acknowledge: Callable[[list[UUID]], Awaitable[None]],
    ) -> None:
        self._session = session
        self._send_acknowledgement = acknowledge
        self._store = store
        self._history = history
        self._directory = directory
        self._sealer = sealer
        self._held: dict[UUID, tuple[UUID, int]] = {}
        """Sender and size of each held message."""
        self._done: dict[UUID, None] = {}
        """Ids to acknowledge, in order."""
        self._taken: dict[tuple[UUID, UUID], Received] = {}
        """What the user has and the disk does not know of, by sender and the sender's id for it."""
        self._awaited: dict[UUID, None] = {}
        self._told: dict[UUID, UUID | None] = {}
        """Messages of which something was told before it was known that they are mine: who did not open them, or None
        for those that arrived. The newest."""
        for message_id in [] if history is None else history.awaited():
            _add(self._awaited, message_id, None)

    @property
    def has_done(self) -> bool:
        """Whether messages were taken and not acknowledged yet."""
        return bool(self._done)

    async def poll(self, timeout_s: float) -> PollAnswer:
        """Wait for news, at most 60 s; raises UntrustedAnswer or what `Session.call` raises."""
        # Held messages stay in front of the queue, so the page grows by them: they must not hide the others.
        limit = min(PAGE + len(self._held), PAGE_MAX)
        wait_s = int(min(max(timeout_s, 0), POLL_MAX_S))
        try:
            body = await self._session.call(
                "GET",
                "/messages/poll",
                params={"timeout": str(wait_s), "limit": str(limit)},
                timeout_s=wait_s + TIMEOUT_S,
                max_bytes=limit * MESSAGE_MAX_CHARS + ANSWER_HEAD_BYTES,
            )
        except ClientError:
            # News of changed contacts is told once, and may have been in the answer that was lost.
            self.contacts_changed()
            raise
        answer = parse(PollAnswer, body)
        if len(answer.messages) > limit:
            raise UntrustedAnswer("the server sent more messages than were asked for")
        # Held messages lead every page; ids that are gone are forgotten, so the router cannot make the set grow.
        self._forget_held(answer)
        if answer.contacts_changed:
            self.contacts_changed()
        self.delivered(answer.delivered)
        return answer

    def take_in(self, answer: PollAnswer) -> PollAnswer:
        """Take in what a stream has: of that which the router gives to it, a part may be still to come."""
        if len(self._held) > PAGE_MAX:
            self._forget_held(answer)
        self.delivered(answer.delivered)
        return answer

    def _forget_held(self, answer: PollAnswer) -> None:
        there = {message.id for message in answer.messages}
        self._held = {message_id: held for message_id, held in self._held.items() if message_id in there}

    def contacts_changed(self) -> None:
        """Ask for everybody's keys again before their next use."""
        self._directory.expire()

    @property
    def awaited(self) -> tuple[UUID, ...]:
        """Messages of mine, as the router calls them, of whose delivery nothing was heard."""
        return tuple(self._awaited)

    def sent(self, message_id: UUID, contact_id: UUID) -> Changes:
        """Note that a message of mine was sent, and return what is known to have become of it."""
        # Contacts may name whatever they like: only the word of who got it counts.
        not_opened_by = self._told.pop(message_id, NOTHING)
        if not_opened_by == contact_id:
            return {"message_id": message_id, "status": EntryStatus.FAILED, "problem": NOT_OPENED}
        if not_opened_by is None:
            return {"message_id": message_id, "status": EntryStatus.DELIVERED}
        _add(self._awaited, message_id, None)
        return {"message_id": message_id, "status": EntryStatus.SENT}

    def delivered(self, message_ids: Collection[UUID]) -> None:
        """Note that messages of mine arrived."""
        if not message_ids:
            return
        for message_id in message_ids:
            if message_id in self._awaited:
                del self._awaited[message_id]
            else:
                _add(self._told, message_id, self._told.get(message_id))
        if self._history is not None:
            self._history.delivered(message_ids)

    def expired(self, message_ids: Collection[UUID]) -> None:
        """Note that messages of mine waited for too long."""
        self.give_up(message_ids)
        if self._history is not None and message_ids:
            self._history.failed(message_ids, EXPIRED)

    def give_up(self, message_ids: Iterable[UUID]) -> None:
        """Note that nothing more is to be heard of messages of mine."""
        for message_id in message_ids:
            self._awaited.pop(message_id, None)

    async def open(self, message: Message) -> Received | NotOpened | None:
        """Open one message; None if the user had it before. Raises Unreachable or Refused if keys cannot be had."""
        if message.id in self._done or self._store.was_flagged(message.id):
            self._done[message.id] = None
            return None
        if message.id in self._held and self._is_unconfirmed(message.sender_id):
            return None
        try:
            sender, opened, doubt = await self._decrypt(message)
        except AlreadyOpened:
            self._held.pop(message.id, None)
            self._done[message.id] = None
            return None
        except CannotDecrypt as problem:
            if self._store.contacts.get(message.sender_id) is not None:
                self._store.unopened.add(message.sender_id, message.id)
            return self._problem(message, problem)
        except (KeyChanged, UntrustedAnswer) as problem:
            return self._problem(message, problem)
        self._held.pop(message.id, None)
        return self._opened(message, sender, opened, doubt)

    def _opened(
        self, message: Message, sender: Contact, opened: Opened, doubt: ClientError | None
    ) -> Received | NotOpened | None:
        content = opened.content
        if self._was_taken(sender.user_id, content.client_message_id):
            self._done[message.id] = None
            return None
        if content.kind is Kind.LOST:
            return self._not_opened(message, sender, content)
        # As it is now: another process may have read more of this sender's messages meanwhile.
        sender = self._store.contacts.get(sender.user_id) or sender
        if doubt is None and content.sent_at_ms <= sender.forgotten_until:
            doubt = MaybeRepeated()
        return self._kept(_received(message, sender, opened, doubt))

    def _kept(self, received: Received) -> Received:
        """Put a message into the history, once, before anybody has it."""
        # Senders who do not exist could fill it, and nobody could clear it.
        is_somebodys = self._store.contacts.get(received.sender_id) is not None
        if self._history is not None and is_somebodys and not received.is_held:
            sent_at = received.sent_at or received.timestamp
            self._history.add(
                Entry(
                    client_message_id=received.key,
                    contact_id=received.sender_id,
                    is_mine=False,
                    kind=received.kind or Kind.BYTES,
                    data=received.data or b"",
                    sent_at_ms=(sent_at - EPOCH) // timedelta(milliseconds=1),
                    message_id=received.id,
                    status=EntryStatus.UNREAD,
                    problem=None if received.problem is None else str(received.problem),
                    missing=received.missing,
                )
            )
        return received

    def _not_opened(self, message: Message, sender: Contact, notice: Content) -> NotOpened:
        """Take in a notice. If it comes again it is recognised by its ciphertext, and acknowledged."""
        if self._history is not None:
            self._history.failed(notice.lost, NOT_OPENED, sender.user_id)
        for message_id in notice.lost:
            _add(self._told, message_id, sender.user_id)
        with self._store.change():
            self._store.mark_read(sender.user_id, notice.client_message_id, notice.sent_at_ms)
        self._done[message.id] = None
        return NotOpened(sender.user_id, sender.username, notice.lost)

    def _was_taken(self, sender_id: UUID, client_message_id: UUID) -> bool:
        is_taken = (sender_id, client_message_id) in self._taken
        return is_taken or self._store.was_read(sender_id, client_message_id)

    def take(self, received: Received) -> None:
        """Note that the user has a message. A held one is not done with."""
        if received.is_held:
            return
        self._taken[received.sender_id, received.key] = received
        self._done[received.id] = None

    def _remember(self) -> None:
        """Put all that was taken on disk: at once, as each write waits for it."""
        if not self._taken:
            return
        with self._store.change():
            for received in self._taken.values():
                if not self._mark(received):
                    self._store.flag(received.id)
        self._taken.clear()

    def _mark(self, received: Received) -> bool:
        if received.client_message_id is None or received.sent_at is None:
            return False
        sent_at_ms = (received.sent_at - EPOCH) // timedelta(milliseconds=1)
        return self._store.mark_read(received.sender_id, received.client_message_id, sent_at_ms)

    async def acknowledge(self) -> int:
        """Acknowledge all that is done, and return how many; raises what `Session.call` raises.

        What was read is on disk first: if the acknowledgement is lost, the message comes again and is recognised.
        """
        done = list(self._done)
        self._remember()
        for start in range(0, len(done), PAGE_MAX):
            ids = done[start : start + PAGE_MAX]
            await self._send_acknowledgement(ids)
            for message_id in ids:
                self._done.pop(message_id, None)
        return len(done)

    async def _decrypt(self, message: Message) -> tuple[Contact, Opened, ClientError | None]:
        """Return sender, content, and what speaks against it; raises CannotDecrypt, KeyChanged, UntrustedAnswer."""
        known = self._store.contacts.get(message.sender_id)
        if known is None:
            sender = await self._current(message.sender_id)
            return sender, self._sealer.open(sender, message.message), None
        try:
            await self._ask(message.sender_id)
        except KeyChanged as change:
            return known, self._opened_before(known, message, change), ReplacedKey(known.username)
        # As it is now: another process may have confirmed other keys while these were asked for.
        sender = self._store.contacts.get(message.sender_id) or known
        try:
            return sender, self._sealer.open(sender, message.message), None
        except CannotDecrypt:
            # The sender may have changed the keys a moment ago.
            current = await self._current(message.sender_id)
            if (current.ecdsa, current.ecdh) == (sender.ecdsa, sender.ecdh):
                raise
        return current, self._sealer.open(current, message.message), None

    async def _ask(self, sender_id: UUID) -> None:
        """Have the sender's keys up to date, also if a message would open without: the change may be news."""
        try:
            await self._directory.contact(sender_id)
        except Refused as error:
            # The sender deleted the account; what they wrote before still opens under the remembered key.
            if error.status != NOT_FOUND:
                raise

    def _opened_before(self, known: Contact, message: Message, change: KeyChanged) -> Opened:
        """Open a message under the key that was trusted before a change; raises the change if it is not under that."""
        try:
            return self._sealer.open(known, message.message)
        except CannotDecrypt:
            raise change from None

    async def _current(self, sender_id: UUID) -> Contact:
        try:
            return await self._directory.refresh(sender_id)
        except (Refused, UnknownContact) as error:
            if isinstance(error, Refused) and error.status != NOT_FOUND:
                raise
            # The sender deleted the account, and the keys with it.
            raise CannotDecrypt from None

    def _is_unconfirmed(self, sender_id: UUID) -> bool:
        sender = self._store.contacts.get(sender_id)
        return sender is not None and sender.offered is not None

    def _problem(self, message: Message, problem: ClientError) -> Received | None:
        sender = self._store.contacts.get(message.sender_id)
        name = None if sender is None else sender.username
        if message.id in self._held and is_holding(problem):
            return None
        if is_holding(problem) and not self._has_room(message):
            problem = HeldTooMany(name)
        received = Received(message.id, message.sender_id, name, message.timestamp, problem=problem)
        if received.is_held:
            self._held[message.id] = message.sender_id, len(message.message)
        else:
            self._held.pop(message.id, None)
        return self._kept(received)

    def _has_room(self, message: Message) -> bool:
        sizes = [size for sender_id, size in self._held.values() if sender_id == message.sender_id]
        return len(sizes) < HELD_MAX and sum(sizes) + len(message.message) <= HELD_MAX_BYTES


def _add(ids: dict[UUID, T], message_id: UUID, value: T) -> None:
    """Put an id at the end, and drop the oldest beyond the bound."""
    ids[message_id] = value
    if len(ids) > AWAITED_MAX:
        del ids[next(iter(ids))]


def _received(message: Message, sender: Contact, opened: Opened, problem: ClientError | None) -> Received:
    content = opened.content
    return Received(
        id=message.id,
        sender_id=sender.user_id,
        username=sender.username,
        timestamp=message.timestamp,
        sent_at=EPOCH + timedelta(milliseconds=content.sent_at_ms),
        client_message_id=content.client_message_id,
        data=content.data,
        kind=content.kind,
        problem=problem,
        missing=opened.missing,
    )
