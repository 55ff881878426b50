"""The chat on the screen."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import ClassVar, Final
from uuid import UUID

from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.filter import LineFilter, NoColor
from textual.screen import Screen
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from blindpost.chat import texts
from blindpost.chat.conversation import TURNS, Composer, Conversation
from blindpost.chat.dialogs import ChangedKeys, Find, Help, Request, SafetyNumber
from blindpost.chat.lines import Line
from blindpost.chat.model import (
    Arrived,
    Change,
    ConnectionChanged,
    HistoryChanged,
    LineChanged,
    LineGone,
    Messenger,
    NotRead,
    PeopleChanged,
    Person,
    StoreIsNew,
)
from blindpost.client import ClientError, KeyChanged, UntrustedAnswer

NOBODY: Final = "Choose somebody in the list, or find them with Ctrl+F."
PERSON, REQUEST, ASKED = "person", "request", "asked"
TITLE, KEEP_TITLE, RESTORE_TITLE = "\x1b]2;{}\x07", "\x1b[22;2t", "\x1b[23;2t"
"""To the terminal: the window's title, and its own for before and after."""
BELL_PAUSE_S: Final = 2.0
"""Many messages may come at once, and are one piece of news."""
LONG_S: Final = 30.0
"""For what is said once, and matters."""


class People(OptionList):
    """The list of people and requests.

    `choose` and `turn` are called before the next key goes anywhere: what is typed next is for whom they open.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", show=False, priority=True),
        *(Binding(key, f"turn({step})", show=False, priority=True) for key, step in TURNS.items()),
    ]

    def __init__(self, choose: Callable[[str], Awaitable[None]], turn: Callable[[int], Awaitable[None]]) -> None:
        super().__init__(id="people", markup=False, compact=True)
        self._choose = choose
        self._turn = turn

    async def action_choose(self) -> None:
        """Open what is highlighted."""
        option = self.highlighted_option
        if option is not None:
            await self._choose(str(option.id))

    async def action_turn(self, step: int) -> None:
        """Open the next or the previous conversation."""
        await self._turn(step)


class Main(Screen[None]):
    """The list on the left, the conversation on the right."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+f", "find", "Find", priority=True),
        Binding("ctrl+t", "trust", "Safety", priority=True),
        Binding("f1", "help", "Help", priority=True),
        Binding("ctrl+q,ctrl+c", "app.quit", "Leave", key_display="^q", priority=True),
        Binding("pageup", "page(-1)", show=False, priority=True),
        Binding("pagedown", "page(1)", show=False, priority=True),
    ]

    def __init__(self, messenger: Messenger) -> None:
        super().__init__()
        self._messenger = messenger
        self._first: int | None = None
        """The position of the oldest line that is shown."""
        self._drafts: dict[UUID, str] = {}
        self._rung_s = float("-inf")
        self._drawing = asyncio.Lock()
        """Lines go into one conversation at a time: that which is open when their turn comes."""

    def compose(self) -> ComposeResult:
        with Horizontal(id="top"):
            me = texts.me_of(self._messenger.me, self._messenger.origin, keeps=self._messenger.keeps)
            yield Static(me, id="me", markup=False)
            yield Static(id="connection", markup=False)
        yield Static(id="reason", markup=False)
        with Horizontal(id="halves"):
            yield People(self.choose, self.action_turn)
            with Vertical(id="talk"):
                yield Static(NOBODY, id="about", markup=False)
                yield Static("", id="warning", markup=False)
                yield Conversation()
                yield Composer(self._send, self.action_turn)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin in the list: there is nobody to write to yet."""
        composer = self.query_one(Composer)
        composer.disabled = True
        self._connect()
        self._list_people()
        self.query_one(People).focus()
        self.watch(
            self.query_one(Conversation), "below", lambda count: setattr(composer, "border_title", texts.below(count))
        )

    async def take(self, change: Change) -> None:
        """Show what changed."""
        match change:
            case PeopleChanged():
                self._list_people()
                self._head()
            case ConnectionChanged():
                self._connect()
            case LineChanged(line):
                async with self._drawing:
                    if line.contact_id == self._messenger.opened:
                        await self.query_one(Conversation).put(line)
            case LineGone(line):
                async with self._drawing:
                    await self.query_one(Conversation).take_away(line)
            case NotRead(name, count):
                what = "a message" if count == 1 else f"{count} messages"
                self.notify(texts.safe(f"{name} could not open {what} of yours: write again."), markup=False)
            case Arrived(contact_id):
                self._ring(contact_id)
            case HistoryChanged():
                await self._catch_up()
            case StoreIsNew():
                self.notify(texts.NEW_STORE, severity="warning", timeout=LONG_S, markup=False)

    def _connect(self) -> None:
        connection = self._messenger.connection
        self.query_one("#connection", Static).update(texts.state_of(connection))
        reason = self.query_one("#reason", Static)
        reason.display = bool(connection.reason)
        reason.update(texts.safe(connection.reason))

    def _ring(self, contact_id: UUID) -> None:
        """Ring for what the user does not see arrive."""
        is_seen = self.app.app_focus and contact_id == self._messenger.opened
        if not is_seen and monotonic() - self._rung_s >= BELL_PAUSE_S:
            self._rung_s = monotonic()
            self.app.bell()

    async def _catch_up(self) -> None:
        async with self._drawing:
            opened = self._messenger.opened
            if opened is None:
                return
            conversation = self.query_one(Conversation)
            page = self._messenger.page(opened)
            lines = [line for _, line in page]
            if not conversation.knows(lines):
                await self._fill(page)
            for line in lines:
                await conversation.put(line)

    # The list

    def _list_people(self, wanted: str | None = None) -> None:
        """List everybody, and highlight the one wanted, or who was highlighted before."""
        people = self.query_one(People)
        if wanted is None and people.highlighted_option is not None:
            wanted = people.highlighted_option.id
        options = self._options()
        people.set_options(options)
        ids = [each.id for each in options]
        if ids:
            people.highlighted = ids.index(wanted) if wanted in ids else 0
        self.app.title = texts.title(sum(each.unread for each in self._messenger.people))

    def _options(self) -> list[Option]:
        asking = [_option(REQUEST, each.user_id, f"?    {each.username}", "bold") for each in self._messenger.received]
        people = [Option(texts.entry_of(each), id=f"{PERSON} {each.id}") for each in self._messenger.people]
        asked = [_option(ASKED, each.user_id, f"…    {each.username}", "$text-muted") for each in self._messenger.asked]
        return [*asking, *people, *asked]

    @on(OptionList.OptionSelected, "#people")
    async def choose_clicked(self, event: OptionList.OptionSelected) -> None:
        """Open what was clicked."""
        await self.choose(str(event.option_id))

    async def choose(self, option_id: str) -> None:
        """Open a conversation, or what is to be decided."""
        kind, _, who = option_id.partition(" ")
        if kind == PERSON:
            await self._open(UUID(who))
        elif kind == REQUEST:
            person = next((each for each in self._messenger.received if each.user_id == UUID(who)), None)
            # It may have been withdrawn a moment ago.
            if person is not None:
                self.app.push_screen(Request(self._messenger, person))
        else:
            self.notify("They have not answered your request yet.", markup=False)

    async def action_turn(self, step: int) -> None:
        """Open the next or the previous conversation."""
        ids = [each.id for each in self._messenger.people]
        if not ids:
            return
        opened = self._messenger.opened
        at = (ids.index(opened) + step) % len(ids) if opened in ids else 0
        await self._open(ids[at])

    # The conversation

    async def _open(self, contact_id: UUID) -> None:
        person = self._messenger.person(contact_id)
        if person is None:
            return
        self._turn_to(contact_id)
        async with self._drawing:
            if contact_id == self._messenger.opened:
                await self._fill(self._messenger.page(contact_id), person.name, person.unread)
        self._head()
        self._list_people(f"{PERSON} {contact_id}")

    async def _fill(self, page: list[tuple[int, Line]], name: str | None = None, unread: int = 0) -> None:
        self._first = page[0][0] if page else None
        await self.query_one(Conversation).fill([line for _, line in page], name, unread)

    def _turn_to(self, contact_id: UUID) -> None:
        """Change at once whom one writes to, and what is written: no key may come between."""
        composer = self.query_one(Composer)
        self._drafts = self.drafts
        composer.text = self._drafts.pop(contact_id, "")
        composer.move_cursor(composer.document.end)
        composer.disabled = False
        # The widget's own would be later.
        self.set_focus(composer)
        self._messenger.open(contact_id)

    @property
    def drafts(self) -> dict[UUID, str]:
        """What is written and not sent."""
        opened, text = self._messenger.opened, self.query_one(Composer).text
        return self._drafts | ({opened: text} if opened is not None and text.strip() else {})

    def _person(self) -> Person | None:
        return None if self._messenger.opened is None else self._messenger.person(self._messenger.opened)

    def _head(self) -> None:
        person = self._person()
        if person is None:
            return
        self.query_one("#about", Static).update(texts.about(person))
        warning = self.query_one("#warning", Static)
        warning.display = person.trust.is_broken
        warning.update(texts.warning_of(person))

    @on(Conversation.Reached)
    async def show_earlier(self) -> None:
        """Show what was said before."""
        opened = self._messenger.opened
        if opened is None or self._first is None:
            return
        async with self._drawing:
            page = self._messenger.page(opened, self._first) if opened == self._messenger.opened else []
            if page:
                self._first = page[0][0]
                await self.query_one(Conversation).put_before([line for _, line in page])

    def action_page(self, step: int) -> None:
        """Scroll the conversation from wherever the cursor is."""
        conversation = self.query_one(Conversation)
        if step < 0:
            conversation.scroll_page_up(animate=False)
        else:
            conversation.scroll_page_down(animate=False)

    def _send(self, text: str) -> bool:
        """Send what was written; False if it may not go, so that it stays in the composer."""
        opened = self._messenger.opened
        if opened is None or not text.strip():
            return False
        try:
            self._messenger.send(opened, text)
        except (KeyChanged, UntrustedAnswer):
            self.action_trust()
        except (ValueError, ClientError) as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            self.query_one(Conversation).to_end()
            return True
        return False

    # What else there is

    @work(exclusive=True, group="trust")
    async def action_trust(self) -> None:
        """Show the safety number, or what changed."""
        person = self._person()
        if person is None:
            self.notify(NOBODY, markup=False)
            return
        try:
            self._messenger.demand_trust(person.id)
            number = await self._messenger.number(person.id)
        except KeyChanged as change:
            self.app.push_screen(ChangedKeys(self._messenger, change))
        except ClientError as error:
            self.notify(texts.safe(f"{error}\n{error.hint}".strip()), severity="error", markup=False)
        else:
            self.app.push_screen(SafetyNumber(self._messenger, person, number))

    def action_find(self) -> None:
        """Find somebody."""
        self.app.push_screen(Find(self._messenger))

    def action_help(self) -> None:
        """Show the keys and signs."""
        self.app.push_screen(Help())


def _option(kind: str, user_id: UUID, text: str, style: str) -> Option:
    return Option(Content.styled(texts.safe(text), style), id=f"{kind} {user_id}")


class ChatApp(App[None]):
    """The chat, from the first screen to the end."""

    CSS_PATH = Path(__file__).with_name("chat.tcss")
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    TITLE = "blindpost"

    def __init__(self, messenger: Messenger) -> None:
        super().__init__()
        self._messenger = messenger
        self._main = Main(messenger)
        self._work: asyncio.Task[None] | None = None
        self._asked_about: dict[UUID, str] = {}
        """Drafts of which the user knows that leaving loses them."""
        self.failure: BaseException | None = None
        """What ended the chat, if the user did not."""

    def get_default_screen(self) -> Screen[None]:
        return self._main

    def on_mount(self) -> None:
        """Begin to send and receive once there is something to show it on."""
        self._write(KEEP_TITLE)
        self._messenger.told = lambda change: self.call_later(self._main.take, change)
        self._work = asyncio.create_task(self._messenger.run())
        self._work.add_done_callback(self._ended)

    async def action_quit(self) -> None:
        """Leave; if something is written and not sent, at the second time."""
        drafts = self._main.drafts
        if drafts == self._asked_about:
            self.exit()
            return
        self._asked_about = drafts
        self.notify(texts.drafts(len(drafts)), severity="warning", markup=False)

    def _ended(self, work: "asyncio.Task[None]") -> None:
        if not work.cancelled():
            self.failure = work.exception()
            self.exit()

    async def on_unmount(self) -> None:
        """Send and receive no more."""
        self._messenger.told = lambda _: None
        self._write(RESTORE_TITLE)
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    def watch_title(self, title: str) -> None:
        """Show the title as the terminal's. It has a number in it, and nothing that others wrote."""
        self._write(TITLE.format(title))

    def _write(self, sequence: str) -> None:
        # As the framework's bell does: it knows nothing of titles.
        if self._driver is not None:
            self._driver.write(sequence)

    def get_line_filters(self) -> Sequence[LineFilter]:
        # Without colour is without any: the framework's own would be shades of grey.
        return [NoColor()] if self.no_color else super().get_line_filters()

    def _handle_exception(self, error: Exception) -> None:
        # The framework's own would print the values of locals: they hold keys.
        self.failure = self.failure or error
        self.exit(return_code=1)
