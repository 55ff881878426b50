"""The messenger without its screens: the only part of the chat that speaks to the client."""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Final
from uuid import UUID

from blindpost.chat.lines import Line, line_of
from blindpost.client import (
    Client,
    ClientError,
    ContactBook,
    ContactsChanged,
    Delivered,
    Entry,
    EntryStatus,
    Event,
    FileError,
    History,
    KeyChanged,
    LoginRefused,
    NotOpened,
    Received,
    Unreachable,
    UntrustedAnswer,
    WrongServer,
)
from blindpost.client.history import NEWEST
from blindpost.protocol.session import DATA_MAX_BYTES
from blindpost.services.models.contacts import Contact, ContactStatus, Direction, UserSummary

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_PAUSE_S: Final = 2.0
KEYS_PAUSE_S: Final = 15.0
"""Anybody can make contacts change, by asking to be one: our questions must not be used up by that."""
AGAIN_S: Final = 15.0
"""After how long what waits is tried again, if nothing tells earlier that it may go."""
FAULT_PAUSE_S: Final = 5.0
WATCH_S: Final = 0.5
"""How often is looked whether another process, such as a second chat, changed the store."""
PAGE: Final = 50


class Trust(StrEnum):
    """What is known of somebody's keys."""

    UNCOMPARED = "not compared"
    COMPARED = "compared"
    CHANGED = "keys changed"
    INVALID = "keys not valid"

    @property
    def is_broken(self) -> bool:
        """Whether nothing may be sent."""
        return self in {Trust.CHANGED, Trust.INVALID}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in the list."""

    id: UUID
    name: str
    trust: Trust
    unread: int
    last_at: datetime | None


class Standing(StrEnum):
    """How the user stands with somebody else."""

    NONE = "none"
    ASKED_YOU = "asked you"
    YOU_ASKED = "you asked"
    CONTACT = "contact"
    REJECTED = "rejected"


class Reach(StrEnum):
    """Whether the router answers."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    AWAY = "reconnecting"


@dataclass(frozen=True, slots=True)
class Connection:
    """How it stands with the router, and why."""

    reach: Reach
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PeopleChanged:
    """The list of people, requests, or what is known of somebody changed."""


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """The connection changed."""


@dataclass(frozen=True, slots=True)
class LineChanged:
    """A line is new, or is another than it was."""

    line: Line


@dataclass(frozen=True, slots=True)
class LineGone:
    """A line that was held has opened: it comes again as what it is."""

    line: Line


@dataclass(frozen=True, slots=True)
class NotRead:
    """Somebody could not open messages of the user's."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message of somebody's came."""

    contact_id: UUID


@dataclass(frozen=True, slots=True)
class HistoryChanged:
    """Another process changed what is kept."""


@dataclass(frozen=True, slots=True)
class StoreIsNew:
    """The account has contacts, and nothing is remembered of any: the file was lost, or left behind."""


Change = PeopleChanged | ConnectionChanged | LineChanged | LineGone | NotRead | Arrived | HistoryChanged | StoreIsNew


class Messenger:
    """People, conversations and the connection. `told` hears of each change, and must be quick."""

    def __init__(self, client: Client, book: ContactBook, history: History, *, keeps: bool = True) -> None:
        self.keeps = keeps
        """Whether the history outlasts the program."""
        self._client = client
        self._book = book
        self._history = history
        """The client's."""
        self._held: dict[UUID, Line] = {}
        """Of messages that stay at the router until the user settles their sender's keys."""
        self._newest: dict[UUID, datetime | None] = {}
        """When somebody was heard of last, as far as that was looked up."""
        self._contacts: tuple[Contact, ...] | None = None
        self._names: dict[UUID, str] = {}
        """Of people who wrote and are in no list."""
        self._invalid: dict[UUID, UntrustedAnswer] = {}
        self._may_send = asyncio.Event()
        self._is_stale = asyncio.Event()
        self._is_stale.set()
        self._looked_s = float("-inf")
        self._knew_nobody = False
        """Whether nobody was remembered at the start."""
        self.opened: UUID | None = None
        """Whose conversation is on the screen."""
        self.received: tuple[Contact, ...] = ()
        """Requests that wait for the user."""
        self.asked: tuple[Contact, ...] = ()
        """Requests that wait for others."""
        self.connection = Connection(Reach.CONNECTING)
        self.told: Callable[[Change], object] = lambda _: None

    # What is shown

    @property
    def me(self) -> str:
        """The user's name."""
        return self._client.identity.username

    @property
    def origin(self) -> str:
        """The router's address."""
        return self._client.identity.origin or ""

    @property
    def people(self) -> list[Person]:
        """Everybody to talk to, whoever was heard of last first."""
        unread = self._history.unread()
        people = [self._person(who, name, unread.get(who, 0)) for who, name in self._everybody().items()]
        people.sort(key=lambda each: each.name.lower())
        return sorted(people, key=lambda each: each.last_at or _NEVER, reverse=True)

    def _everybody(self) -> dict[UUID, str]:
        if self._contacts is None:
            # As long as no router answered: those whom the user chose once.
            known = {each.user_id: each.username for each in self._book.all() if each.kept}
        else:
            known = {each.user_id: each.username for each in self._contacts}
        return self._names | known

    def person(self, contact_id: UUID) -> Person | None:
        """Return somebody as they are now."""
        return next((each for each in self.people if each.id == contact_id), None)

    def _person(self, who: UUID, name: str, unread: int) -> Person:
        if who not in self._newest:
            newest = self.page(who, None, 1)
            self._newest[who] = newest[0][1].sent_at if newest else None
        return Person(who, name, self._trust(who), unread, self._newest[who])

    def _trust(self, who: UUID) -> Trust:
        known = self._book.get(who)
        if known is not None and known.offered is not None:
            return Trust.CHANGED
        if who in self._invalid:
            return Trust.INVALID
        return Trust.COMPARED if known is not None and known.verified else Trust.UNCOMPARED

    def page(self, contact_id: UUID, before: int | None = None, limit: int = PAGE) -> list[tuple[int, Line]]:
        """Return lines before a position (None: the newest), with their positions, oldest first."""
        page = [(position, line_of(entry)) for position, entry in self._history.page(contact_id, before, limit)]
        if before is None:
            page += [(NEWEST, line) for line in self._held.values() if line.contact_id == contact_id]
        return page

    def open(self, contact_id: UUID) -> None:
        """Note whose conversation is on the screen: what it has is read."""
        self.opened = contact_id
        self._history.mark_read(contact_id)
        self.told(PeopleChanged())

    # What the user does

    def send(self, contact_id: UUID, text: str) -> None:
        """Let a message go as soon as it can, and keep it until then.

        Raises KeyChanged, UntrustedAnswer, OutboxFull, or ValueError if it is too long.
        """
        if excess(text) > 0:
            raise ValueError(f"the message is {excess(text):,} bytes too long: send it in parts")
        self.demand_trust(contact_id)
        self._show(contact_id, is_mine=True, client_message_id=self._client.enqueue(contact_id, text))
        self._may_send.set()

    def demand_trust(self, contact_id: UUID) -> None:
        """Raise KeyChanged or UntrustedAnswer while somebody's keys may not be used."""
        if (change := self.key_change(contact_id)) is not None:
            raise change
        if contact_id in self._invalid:
            raise self._invalid[contact_id]

    def key_change(self, contact_id: UUID) -> KeyChanged | None:
        """Return what is to be confirmed of somebody's keys."""
        known = self._book.get(contact_id)
        return None if known is None or known.offered is None else self._book.changed(known)

    async def search(self, prefix: str) -> list[UserSummary]:
        """Return people by the beginning of their name."""
        found = [each for each in await self._client.search(prefix) if each.username != self.me]
        if any(each.status is ContactStatus.PENDING for each in found):
            # Who asked whom is in the lists alone, and those that are here may be older than the answer.
            await self._list()
        return found

    def standing(self, user: UserSummary) -> Standing:
        """Return how the user stands with somebody who was found."""
        if user.status is ContactStatus.PENDING:
            has_asked = user.id in {each.user_id for each in self.received}
            return Standing.ASKED_YOU if has_asked else Standing.YOU_ASKED
        known = {ContactStatus.ACCEPTED: Standing.CONTACT, ContactStatus.REJECTED: Standing.REJECTED}
        return Standing.NONE if user.status is None else known[user.status]

    async def ask(self, user_id: UUID) -> Contact:
        """Ask somebody to be a contact."""
        contact = await self._client.request_contact(user_id)
        self._look_again()
        return contact

    async def accept(self, user_id: UUID) -> None:
        """Accept a request."""
        await self._client.accept(user_id)
        self._look_again()

    async def reject(self, user_id: UUID) -> None:
        """Reject a request."""
        await self._client.reject(user_id)
        self._look_again()

    async def number(self, contact_id: UUID) -> str:
        """Return the safety number with a contact."""
        return await self._client.safety_number(contact_id)

    async def compared(self, contact_id: UUID, number: str) -> bool:
        """Note that the user compared this number; False if it is another by now."""
        is_noted = await self._client.mark_verified(contact_id, number)
        self.told(PeopleChanged())
        return is_noted

    async def confirm(self, contact_id: UUID, number: str) -> None:
        """Trust the changed keys of this number, which the user compared; raises KeyChanged if they are others now."""
        await self._client.confirm_keys(contact_id, number)
        self._may_send.set()
        self.told(PeopleChanged())
        # The keys are trusted already: that they are compared, too, can be said again later.
        with suppress(ClientError):
            await self.compared(contact_id, number)

    # What happens

    async def run(self) -> None:
        """Receive, send and look for ever; raises what no waiting mends."""
        self._client.on_reach(self._reached)
        self._knew_nobody = not self._book.all()
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._listen(), self._send_for_ever(), self._look_for_ever(), self._watch_for_ever()):
                    group.create_task(work)
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._client.on_reach(lambda _: None)

    def _reached(self, is_reached: bool) -> None:  # noqa: FBT001 - as the client calls it
        was = self.connection.reach
        if is_reached and was is not Reach.CONNECTED:
            self._connect(Connection(Reach.CONNECTED))
            self._may_send.set()
        elif not is_reached and was is not Reach.AWAY:
            self._connect(Connection(Reach.AWAY))
        if was is Reach.AWAY or not is_reached:
            # Now to learn what was missed, or why nobody answers.
            self._is_stale.set()

    def _connect(self, connection: Connection) -> None:
        if connection != self.connection:
            self.connection = connection
            self.told(ConnectionChanged())

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(self._client.events()) as events:
                    async for event in events:
                        self._take(event)
            except (LoginRefused, WrongServer, FileError):
                raise
            except ClientError as error:
                self._connect(Connection(Reach.AWAY, str(error)))
            await asyncio.sleep(FAULT_PAUSE_S)

    def _take(self, event: Event) -> None:
        match event:
            case Received():
                if event.username is not None:
                    self._names.setdefault(event.sender_id, event.username)
                self._receive(event)
            case Delivered(ids):
                self._tell(self._history.sent_as(ids))
            case NotOpened(contact_id, name, ids):
                failed = [each for each in self._history.sent_as(ids) if each.contact_id == contact_id]
                self._tell(failed)
                self.told(NotRead(name, len(failed)))
            case ContactsChanged():
                self._look_again()

    def _receive(self, received: Received) -> None:
        self.told(Arrived(received.sender_id))
        if received.is_held:
            self._held[received.id] = line = _held_line(received)
            self._enter(line)
            return
        if (held := self._held.pop(received.id, None)) is not None:
            self.told(LineGone(held))
        if received.sender_id == self.opened:
            self._history.mark_read(received.sender_id)
        self._show(received.sender_id, is_mine=False, client_message_id=received.key)

    def _show(self, contact_id: UUID, *, is_mine: bool, client_message_id: UUID) -> None:
        entry = self._history.find(contact_id, is_mine, client_message_id)
        if entry is not None:
            self._enter(line_of(entry))

    def _enter(self, line: Line) -> None:
        self._newest[line.contact_id] = line.sent_at
        self.told(LineChanged(line))
        self.told(PeopleChanged())

    def _tell(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.told(LineChanged(line_of(entry)))

    async def _watch_for_ever(self) -> None:
        known = self._history.version()
        while True:
            await asyncio.sleep(WATCH_S)
            if (version := self._history.version()) != known:
                known = version
                self._catch_up()

    def _catch_up(self) -> None:
        """Show what another process wrote."""
        self._newest.clear()
        if self.opened is not None and self.opened in self._history.unread():
            self._history.mark_read(self.opened)
        # It may have settled somebody's keys.
        self._may_send.set()
        self.told(HistoryChanged())
        self.told(PeopleChanged())

    # What is on its way out

    async def _send_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S if self._client.unsent() else None):
                    await self._may_send.wait()
            self._may_send.clear()
            with suppress(Unreachable):
                await self._send_all()

    async def _send_all(self) -> None:
        """Send what waits; raises Unreachable. What cannot go now keeps its place before others to the same person."""
        held_up: set[UUID] = set()
        for message_id, contact_id in self._client.unsent().items():
            if contact_id not in held_up and not await self._deliver(message_id, contact_id):
                held_up.add(contact_id)

    async def _deliver(self, message_id: UUID, contact_id: UUID) -> bool:
        """Send one; False if it still waits: for the router, or for the user, whose screen says so."""
        try:
            await self._client.deliver(message_id)
        except (Unreachable, FileError):
            raise
        except ClientError:
            if message_id in self._client.unsent():
                return False
        # It may also have been dropped: its line says why.
        entry = self._history.find(contact_id, True, message_id)
        self._tell([] if entry is None else [entry])
        return True

    # Who there is

    def _look_again(self) -> None:
        self._is_stale.set()

    async def _look_for_ever(self) -> None:
        while True:
            await self._is_stale.wait()
            self._is_stale.clear()
            try:
                await self._look()
            except Unreachable as error:
                if self.connection.reach is not Reach.CONNECTED:
                    self._connect(Connection(Reach.AWAY, str(error)))
            except ClientError:
                # A look ahead only: whatever uses a key or a list asks for it again.
                asyncio.get_running_loop().call_later(KEYS_PAUSE_S, self._is_stale.set)
            await asyncio.sleep(LOOK_PAUSE_S)

    async def _list(self) -> None:
        contacts = _once_each(await self._client.contacts())
        received = _once_each(await self._client.contact_requests(Direction.RECEIVED))
        asked = _once_each(await self._client.contact_requests(Direction.SENT))
        # At once: what is on the screen must be what a key that is pressed finds.
        is_first = self._contacts is None
        self._contacts, self.received, self.asked = contacts, received, asked
        self.told(PeopleChanged())
        if is_first and contacts and self._knew_nobody:
            self.told(StoreIsNew())

    async def _look(self) -> None:
        await self._list()
        rest_s = self._looked_s + KEYS_PAUSE_S - monotonic()
        if rest_s > 0:
            asyncio.get_running_loop().call_later(rest_s, self._is_stale.set)
            return
        self._looked_s = monotonic()
        problems = await self._client.distrusted()
        self._invalid = {who: problem for who, problem in problems.items() if isinstance(problem, UntrustedAnswer)}
        self.told(PeopleChanged())


_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def _held_line(received: Received) -> Line:
    return Line(
        key=f"held {received.id}",
        contact_id=received.sender_id,
        is_mine=False,
        text="",
        sent_at=received.timestamp,
        status=EntryStatus.UNREAD,
        problem=str(received.problem),
    )


def _once_each(people: Iterable[Contact]) -> tuple[Contact, ...]:
    """Return people without repetitions: a router may name one twice."""
    return tuple({each.user_id: each for each in people}.values())


def excess(text: str) -> int:
    """Return by how many bytes a text is too long for a message; below 0 if it is not."""
    return len(text.encode("utf-8")) - DATA_MAX_BYTES
