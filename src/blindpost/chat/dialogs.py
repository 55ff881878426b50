"""What stands before the conversation: help, safety numbers, changed keys, requests, search, the end."""

from typing import ClassVar, Final
from uuid import UUID

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from blindpost.chat import texts
from blindpost.chat.model import Messenger, Person, Trust
from blindpost.client import ClientError, KeyChanged, grouped
from blindpost.services.models.contacts import Contact, ContactStatus, UserSummary

GROUPS_IN_ROW: Final = 4
HELP: Final = """\
Tab              between the list and the message
Ctrl+N, Ctrl+P   the next, the previous conversation
Ctrl+F           find somebody, and ask them to be a contact
Ctrl+T           the safety number, or what changed of their keys
Ctrl+Q, Ctrl+C   leave; twice, if something is written and not sent

In the list: Enter opens a conversation, or a request to decide on.
  ✓  safety number compared     !  keys changed: nothing is sent
  ?  wants to be your contact   …  has not answered your request
  3  messages that you have not read

Your message: Enter sends it, Ctrl+J begins a new line (in some
terminals also Shift+Enter and Alt+Enter).
  …  waits on this computer     ✓  at the router
  ✓✓ arrived                    ✗  not sent

Page Up and Page Down scroll the conversation; earlier messages come
at its top. To copy text, hold Shift while you select with the mouse."""


class Dialog(ModalScreen[None]):
    """A box over the conversation; Escape leaves it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back"),
        # The end is the same everywhere.
        Binding("ctrl+q,ctrl+c", "app.quit", "Leave", show=False, priority=True),
    ]
    heading = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = Content(self.heading)
            yield from self.inside()
        yield Footer(show_command_palette=False, compact=True)

    def inside(self) -> ComposeResult:
        """Return what is in the box."""
        raise NotImplementedError

    def say(self, error: ClientError) -> None:
        """Show what went wrong, and what to do."""
        self.notify(texts.safe(f"{error}\n{error.hint}".strip()), severity="error", markup=False)


class Help(Dialog):
    """The keys and signs."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("f1", "dismiss", show=False)]
    heading = "Help"

    def inside(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(HELP, markup=False)


class SafetyNumber(Dialog):
    """The number of two people, to compare."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("m", "same", "They match")]

    def __init__(self, messenger: Messenger, person: Person, number: str) -> None:
        super().__init__()
        self._messenger = messenger
        self._person = person
        self._number = number
        self.heading = f"Safety number with {texts.safe(person.name)}"

    def inside(self) -> ComposeResult:
        name = texts.safe(self._person.name)
        yield Static(in_rows(self._number), classes="number", markup=False)
        if self._is_compared:
            said = f"You compared this number with {name}: nobody sits between you, not even the router."
            yield Static(said, markup=False)
        else:
            yield Static(
                f"Call {name}, or meet, and compare: if it is the same on both sides, nobody sits between you, not "
                "even the router. Then press m.",
                markup=False,
            )
        yield Static(texts.about(self._person), markup=False)

    @property
    def _is_compared(self) -> bool:
        return self._person.trust is Trust.COMPARED

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:  # noqa: ARG002 - as it is called
        # There is nothing left to say once it was said.
        return action != "same" or not self._is_compared

    @work
    async def action_same(self) -> None:
        """Note that the numbers match."""
        try:
            is_noted = await self._messenger.compared(self._person.id, self._number)
        except ClientError as error:
            self.say(error)
            return
        if is_noted:
            self.dismiss()
        else:
            self.notify("The number is another by now: look again.", severity="error", markup=False)


class ChangedKeys(Dialog):
    """The old and the new number of somebody whose keys changed."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("m", "same", "The new one matches: trust it")]

    def __init__(self, messenger: Messenger, change: KeyChanged) -> None:
        super().__init__()
        self._messenger = messenger
        self._change = change
        self.heading = f"The keys of {texts.safe(change.username)} changed"

    def inside(self) -> ComposeResult:
        name = texts.safe(self._change.username)
        with VerticalScroll():
            yield Static(
                f"{name} may have a new device, or somebody may sit between you. Nothing is sent to {name} until you "
                "have compared the new number by a call or in person.",
                markup=False,
            )
            yield Static("new number", classes="caption", markup=False)
            yield Static(in_rows(self._change.new_number), classes="number new", markup=False)
            yield Static("old number", classes="caption", markup=False)
            yield Static(in_rows(self._change.old_number), classes="number old", markup=False)

    @work
    async def action_same(self) -> None:
        """Trust the keys of the number that is shown."""
        try:
            await self._messenger.confirm(self._change.user_id, self._change.new_number)
        except KeyChanged as change:
            self.notify("The keys changed once more: look at the number again.", severity="error", markup=False)
            self._change = change
            await self.recompose()
        except ClientError as error:
            self.say(error)
        else:
            self.dismiss()


class Request(Dialog):
    """Somebody who wants to be a contact."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "decide('accept')", "Accept"),
        Binding("r", "decide('reject')", "Reject"),
    ]

    def __init__(self, messenger: Messenger, person: Contact) -> None:
        super().__init__()
        self._messenger = messenger
        self._person = person
        self.heading = "A request"

    def inside(self) -> ComposeResult:
        yield Static(
            f"{texts.safe(self._person.username)} wants to be your contact.\n\nIf you accept, you can write to each "
            "other. If you reject, they cannot ask again; you still can.",
            markup=False,
        )

    @work
    async def action_decide(self, what: str) -> None:
        """Accept or reject."""
        decide = self._messenger.accept if what == "accept" else self._messenger.reject
        try:
            await decide(self._person.user_id)
        except ClientError as error:
            self.say(error)
        else:
            self.dismiss()


class Find(Dialog):
    """Search for somebody, and ask them to be a contact."""

    heading = "Find somebody"

    def __init__(self, messenger: Messenger) -> None:
        super().__init__()
        self._messenger = messenger
        self._found: dict[str, UserSummary] = {}

    def inside(self) -> ComposeResult:
        yield Input(placeholder="the beginning of a name, then Enter", max_length=50)
        yield OptionList(markup=False, compact=True)
        yield Static("Three letters or more.", id="said", markup=False)

    @on(Input.Submitted)
    def look(self, event: Input.Submitted) -> None:
        """Look for the name."""
        self._search(event.value.strip())

    @work(exclusive=True)
    async def _search(self, prefix: str) -> None:
        said = self.query_one("#said", Static)
        try:
            people = await self._messenger.search(prefix)
        except ClientError as error:
            said.update(texts.safe(str(error)))
            return
        self._found = {str(each.id): each for each in people}
        found = self.query_one(OptionList)
        found.clear_options()
        found.add_options(Option(self._entry(each), id=str(each.id)) for each in people)
        said.update("" if people else "Nobody.")
        if people:
            found.highlighted = 0
            found.focus()

    def _entry(self, user: UserSummary) -> Content:
        standing, _ = texts.STANDINGS[self._messenger.standing(user)]
        return Content.assemble(texts.safe(user.username), "  ", (standing, "$text-muted"))

    @on(OptionList.OptionHighlighted)
    def explain(self, event: OptionList.OptionHighlighted) -> None:
        """Say what Enter does with this one."""
        _, said = texts.STANDINGS[self._messenger.standing(self._found[str(event.option_id)])]
        self.query_one("#said", Static).update(said)

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        """Ask the one chosen."""
        self._ask(self._found[str(event.option_id)].id)

    @work(exclusive=True)
    async def _ask(self, user_id: UUID) -> None:
        try:
            contact = await self._messenger.ask(user_id)
        except ClientError as error:
            self.query_one("#said", Static).update(texts.safe(str(error)))
            return
        is_contact = contact.status is ContactStatus.ACCEPTED
        self.app.notify(texts.asked(contact.username, is_contact=is_contact), markup=False)
        self.dismiss()


def in_rows(number: str) -> str:
    """Write a safety number in rows of groups, as two people read it to each other."""
    groups = grouped(number).split()
    rows = [groups[start : start + GROUPS_IN_ROW] for start in range(0, len(groups), GROUPS_IN_ROW)]
    return "\n".join("  ".join(row) for row in rows)
