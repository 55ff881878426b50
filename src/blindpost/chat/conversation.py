"""The right half of the screen: what was said, and what is being written."""

from collections.abc import Awaitable, Callable, Iterator
from typing import ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.reactive import var
from textual.widget import Widget
from textual.widgets import Static, TextArea

from blindpost.chat import texts
from blindpost.chat.lines import Line
from blindpost.chat.model import excess
from blindpost.protocol.session import DATA_MAX_BYTES

NEAR_BYTES: Final = DATA_MAX_BYTES // 2
"""From this length on the composer tells how much is left."""
NEW_LINE: Final = frozenset({"ctrl+j", "shift+enter", "alt+enter"})
"""Every terminal sends the first; the others are for those whose terminal can."""
TURNS: Final = {"ctrl+n": 1, "ctrl+p": -1}
"""To the next or the previous conversation."""


class Row(Vertical):
    """One line, under what has to be said before it: the day, whose it is, what did not arrive."""

    def __init__(self, line: Line, name: str, before: Line | None, *, is_first_new: bool = False) -> None:
        super().__init__(classes="mine" if line.is_mine else "theirs")
        self.line = line
        self._them = name
        self._before = before
        self._is_first_new = is_first_new

    def compose(self) -> ComposeResult:
        yield from self._heads()
        with Horizontal():
            yield Static(texts.time_of(self.line), classes="when", markup=False)
            yield Static(texts.body_of(self.line, self._them), classes="what", markup=False)
            yield Static(texts.tick(self.line), classes="tick", markup=False)

    def _heads(self) -> Iterator[Widget]:
        before, day = self._before, texts.day_of(self.line)
        is_new_day = before is None or texts.day_of(before) != day
        if is_new_day:
            yield Static(f"── {day} ──", classes="day", markup=False)
        if self._is_first_new:
            yield Static("── new ──", classes="new", markup=False)
        if gap := texts.gap_of(self.line, self._them):
            yield Static(gap, classes="gap", markup=False)
        if is_new_day or before is None or before.is_mine != self.line.is_mine:
            yield Static("you" if self.line.is_mine else texts.safe(self._them), classes="who", markup=False)

    async def follow(self, before: Line | None) -> None:
        """Come after another line than was known when this one was put up."""
        self._before = before
        await self.recompose()

    async def show(self, line: Line) -> None:
        """Show what became of the line."""
        self.line = line
        await self.recompose()


class Conversation(VerticalScroll, can_focus=False):
    """The lines with one person. It stays at the newest unless the user scrolled away from it."""

    class Reached(Message):
        """The oldest line that is there came into sight."""

    below: var[int] = var(0)
    """How many new messages are below what is in sight."""

    def __init__(self) -> None:
        super().__init__(id="conversation")
        self._rows: list[Row] = []
        self._them = ""

    async def fill(self, lines: list[Line], name: str | None = None, unread: int = 0) -> None:
        """Show these lines and no others, with somebody of this name, or with the same as before."""
        await self.remove_children()
        self._them = name or self._them
        first_new = len(lines) - unread if unread else -1
        self._rows = self._made(lines, None, first_new)
        await self.mount_all(self._rows)
        self.to_end()

    def _made(self, lines: list[Line], before: Line | None, first_new: int = -1) -> list[Row]:
        pairs = zip(lines, [before, *lines], strict=False)
        return [
            Row(line, self._them, last, is_first_new=index == first_new) for index, (line, last) in enumerate(pairs)
        ]

    async def put(self, line: Line) -> None:
        """Show a line that is new, or what became of one."""
        for row in reversed(self._rows):
            if row.line.key == line.key:
                if row.line != line:
                    await row.show(line)
                return
        if not (line.is_mine or self.is_vertical_scroll_end):
            self.below += 1
        [row] = self._made([line], self._rows[-1].line if self._rows else None)
        self._rows.append(row)
        await self.mount(row)

    def knows(self, lines: list[Line]) -> bool:
        """Tell whether what is shown goes on with these lines: it has one of them, or nothing."""
        return not self._rows or not {row.line.key for row in self._rows}.isdisjoint(line.key for line in lines)

    def to_end(self) -> None:
        """Go to the newest line, and stay there."""
        self.below = 0
        self.anchor()

    async def take_away(self, line: Line) -> None:
        """Take a line off, and tell the one below it what it comes after now."""
        for index, row in enumerate(self._rows):
            if row.line.key == line.key:
                self._rows.remove(row)
                await row.remove()
                if index < len(self._rows):
                    await self._rows[index].follow(self._rows[index - 1].line if index else None)
                return

    async def put_before(self, lines: list[Line]) -> None:
        """Show earlier lines above, and keep in sight what was."""
        oldest, height = self._rows[0], self.virtual_size.height
        rows = self._made(lines, None)
        self._rows = rows + self._rows
        await self.mount_all(rows, before=oldest)
        await oldest.follow(lines[-1])
        self.call_after_refresh(self._keep_in_sight, height)

    def _keep_in_sight(self, height: int) -> None:
        self.scroll_to(y=self.scroll_y + self.virtual_size.height - height, animate=False, force=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self.is_vertical_scroll_end:
            self.below = 0
        if new_value < 1 <= old_value:
            self.post_message(self.Reached())


class Composer(TextArea):
    """Where a message is written: Enter sends it.

    `submit` tells whether it took the text; `turn` opens another conversation. Both are called while the key is
    handled, as the keys after it may wait already: what they type belongs to the next message, or to somebody else.
    """

    # Told here and done below: a binding that goes before typed letters would also overtake them.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", key_display="Enter"),
        Binding("ctrl+j", "new_line", "New line", key_display="^j"),
    ]

    def __init__(self, submit: Callable[[str], bool], turn: Callable[[int], Awaitable[None]]) -> None:
        super().__init__(id="composer", show_line_numbers=False, highlight_cursor_line=False)
        self._submit = submit
        self._turn = turn

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            self.action_send()
        elif event.key in NEW_LINE:
            self.action_new_line()
        elif event.key in TURNS:
            await self._turn(TURNS[event.key])
        else:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()

    def action_send(self) -> None:
        """Have it sent."""
        if self._submit(self.text):
            self.clear()

    def action_new_line(self) -> None:
        """Go on in the next line."""
        self.insert("\n")

    async def _on_paste(self, event: events.Paste) -> None:
        # What is pasted may have been written by anybody; and only Enter sends.
        event.stop()
        event.prevent_default()
        self.insert(texts.safe(event.text.replace("\r\n", "\n").replace("\r", "\n")))

    def on_text_area_changed(self) -> None:
        """Tell in time that a message gets too long."""
        over = excess(self.text)
        self.set_class(over > 0, "too-long")
        self.border_subtitle = "" if over < -NEAR_BYTES else f"{-over:,} bytes left"
        if over > 0:
            self.border_subtitle = f"too long by {over:,} bytes: send it in parts"
