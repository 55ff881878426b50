"""The chat on the screen."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
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
from blindpost.chat.conversation import Composer, Conversation
from blindpost.chat.dialogs import ChangedKeys, Find, Help, Request, SafetyNumber
from blindpost.chat.model import (
    Change,
    ConnectionChanged,
    LineChanged,
    LineGone,
    Messenger,
    NotRead,
    PeopleChanged,
    Person,
)
from blindpost.client import ClientError, KeyChanged, UntrustedAnswer

NOBODY: Final = "Choose somebody in the list, or find them with Ctrl+F."
PERSON, REQUEST, ASKED = "person", "request", "asked"


class Main(Screen[None]):
    """The list on the left, the conversation on the right."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+f", "find", "Find", priority=True),
        Binding("ctrl+t", "trust", "Safety", priority=True),
        Binding("ctrl+n", "turn(1)", "Next", show=False),
        Binding("ctrl+p", "turn(-1)", "Prev", show=False),
        Binding("f1", "help", "Help", priority=True),
        Binding("question_mark", "help", show=False),
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
        self._drawing = asyncio.Lock()
        """Lines go into one conversation at a time: that which is open when their turn comes."""

    def compose(self) -> ComposeResult:
        with Horizontal(id="top"):
            yield Static(f"{self._messenger.me} at {self._messenger.origin}", id="me", markup=False)
            yield Static(texts.state_of(self._messenger.connection), id="connection", markup=False)
        with Horizontal(id="halves"):
            yield OptionList(id="people", markup=False, compact=True)
            with Vertical(id="talk"):
                yield Static(NOBODY, id="about", markup=False)
                yield Static("", id="warning", markup=False)
                yield Conversation()
                yield Composer(self._send, self.action_turn)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin in the list: there is nobody to write to yet."""
        self.query_one(Composer).disabled = True
        self._list_people()
        self.query_one("#people").focus()

    async def take(self, change: Change) -> None:
        """Show what changed."""
        match change:
            case PeopleChanged():
                self._list_people()
                self._head()
            case ConnectionChanged():
                self.query_one("#connection", Static).update(texts.state_of(self._messenger.connection))
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

    # The list

    def _list_people(self) -> None:
        people = self.query_one("#people", OptionList)
        at = people.highlighted_option
        options = self._options()
        people.set_options(options)
        ids = [each.id for each in options]
        if ids:
            people.highlighted = ids.index(at.id) if at is not None and at.id in ids else 0

    def _options(self) -> list[Option]:
        asking = [_option(REQUEST, each.user_id, f"?    {each.username}", "bold") for each in self._messenger.received]
        people = [Option(texts.entry_of(each), id=f"{PERSON} {each.id}") for each in self._messenger.people]
        asked = [_option(ASKED, each.user_id, f"…    {each.username}", "$text-muted") for each in self._messenger.asked]
        return [*asking, *people, *asked]

    @on(OptionList.OptionSelected, "#people")
    async def choose(self, event: OptionList.OptionSelected) -> None:
        """Open a conversation, or what is to be decided."""
        kind, _, who = str(event.option_id).partition(" ")
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
            page = self._messenger.page(contact_id)
            self._first = page[0][0] if page else None
            await self.query_one(Conversation).fill(person.name, [line for _, line in page], person.unread)
        self._head()
        people = self.query_one("#people", OptionList)
        people.highlighted = people.get_option_index(f"{PERSON} {contact_id}")
        self.query_one(Composer).focus()

    def _turn_to(self, contact_id: UUID) -> None:
        """Change at once whom one writes to, and what is written: no key may come between."""
        composer = self.query_one(Composer)
        if self._messenger.opened is not None:
            self._drafts[self._messenger.opened] = composer.text
        composer.text = self._drafts.pop(contact_id, "")
        composer.move_cursor(composer.document.end)
        self._messenger.open(contact_id)

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
        self.query_one(Composer).disabled = False

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
            self.query_one(Conversation).anchor()
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
        self.failure: BaseException | None = None
        """What ended the chat, if the user did not."""

    def get_default_screen(self) -> Screen[None]:
        return self._main

    def on_mount(self) -> None:
        """Begin to send and receive once there is something to show it on."""
        self._messenger.told = lambda change: self.call_later(self._main.take, change)
        self._work = asyncio.create_task(self._messenger.run())
        self._work.add_done_callback(self._ended)

    def _ended(self, work: "asyncio.Task[None]") -> None:
        if not work.cancelled():
            self.failure = work.exception()
            self.exit()

    async def on_unmount(self) -> None:
        """Send and receive no more."""
        self._messenger.told = lambda _: None
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    def get_line_filters(self) -> Sequence[LineFilter]:
        # Without colour is without any: the framework's own would be shades of grey.
        return [NoColor()] if self.no_color else super().get_line_filters()

    def _handle_exception(self, error: Exception) -> None:
        # The framework's own would print the values of locals: they hold keys.
        self.failure = self.failure or error
        self.exit(return_code=1)
