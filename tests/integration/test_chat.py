"""The chat on its screen, with a real router behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from textual.events import Key, Paste
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from blindpost.app import Running
from blindpost.chat.app import ChatApp, People
from blindpost.chat.conversation import Composer, Conversation, Row
from blindpost.chat.dialogs import ChangedKeys, Find, Help, Request, SafetyNumber
from blindpost.chat.lines import line_of
from blindpost.chat.model import Connection, Messenger, Reach, Trust
from blindpost.chat.texts import LINES_MAX, NEW_STORE
from blindpost.client import (
    Client,
    Entry,
    EntryStatus,
    History,
    Identity,
    KeyChanged,
    NotOpened,
    Received,
    Retry,
    Store,
    grouped,
)
from blindpost.client.history import NOT_OPENED
from blindpost.core.embedded import StoreUrls
from blindpost.protocol.content import Kind
from blindpost.protocol.session import DATA_MAX_BYTES
from blindpost.services.models.contacts import Contact, Direction
from checks import PATIENCE_S, until
from relays import Relay
from support import running_in_thread, settings_for, unique_name

SIZES = [(60, 20), (80, 24), (120, 40)]


@dataclass
class Someone:
    """A person, with a messenger that is not shown."""

    client: Client
    store: Store
    messenger: Messenger

    @property
    def id(self) -> UUID:
        return self.client.identity.account

    @property
    def name(self) -> str:
        return self.client.identity.username

    async def receives(self, count: int) -> list[str | None]:
        """Return the texts of the next messages."""
        texts: list[str | None] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(texts) < count:
                received = await self.client.receive_once(5)
                await self.client.ack(*received)
                texts += [each.text for each in received]
        return texts


async def someone(origin: str, stem: str) -> Someone:
    identity = Identity.generate(unique_name(stem))
    store = Store.in_memory(identity)
    person = person_of(origin, identity, store)
    await person.client.register()
    return person


def person_of(origin: str, identity: Identity, store: Store, *, keeps: bool = True) -> Someone:
    """Return who this identity is, as the chat is started with it."""
    history = store.history if keeps else History.in_memory(identity)
    retry = Retry(attempts=2, base_s=0.05, cap_s=0.2)
    client = Client(origin, identity, store, history=history, retry=retry)
    return Someone(client, store, Messenger(client, store.contacts, history, keeps=keeps))


def entry(contact_id: UUID, text: str, sent_at: datetime | None = None, **more: Any) -> Entry:
    """Return a message of somebody that was read."""
    sent_at_ms = int((sent_at or datetime.now(UTC)).timestamp() * 1000)
    given = {"client_message_id": uuid4(), "message_id": uuid4(), "is_mine": False, "status": EntryStatus.READ} | more
    return Entry(contact_id=contact_id, kind=Kind.TEXT, data=text.encode(), sent_at_ms=sent_at_ms, **given)


def arrives(person: Someone, given: Entry, router_id: UUID) -> None:
    """Let a message arrive as the client hands it on: it is in the history, and has this id by the router."""
    person.store.history.add(given.model_copy(update={"message_id": router_id, "status": EntryStatus.UNREAD}))
    person.messenger._take(
        Received(
            id=router_id,
            sender_id=given.contact_id,
            username=None,
            timestamp=datetime.now(UTC),
            sent_at=datetime.now(UTC),
            client_message_id=given.client_message_id,
            data=given.data,
            kind=given.kind,
        )
    )


@asynccontextmanager
async def strangers(origin: str) -> AsyncIterator[tuple[Someone, Someone]]:
    alice, bob = await someone(origin, "alice"), await someone(origin, "bob")
    async with alice.client, bob.client:
        yield alice, bob


@asynccontextmanager
async def friends(origin: str) -> AsyncIterator[tuple[Someone, Someone]]:
    async with strangers(origin) as (alice, bob):
        await alice.client.request_contact(bob.id)
        await bob.client.accept(alice.id)
        yield alice, bob


class Screen:
    """What somebody at the chat sees and does."""

    def __init__(self, app: ChatApp, pilot: Pilot[Any]) -> None:
        self.app = app
        self.pilot = pilot

    async def sees(self, condition: Callable[[], bool]) -> None:
        await until(condition)
        await self.pilot.pause()

    def text(self) -> str:
        """Return the screen as it is, line by line."""
        width, height = self.app.size
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).ljust(width) for strip in strips[:height])

    async def shows(self, text: str) -> None:
        await self.sees(lambda: text in self.text())

    async def shows_no(self, text: str) -> None:
        await self.sees(lambda: text not in self.text())

    def has(self, *texts: str) -> bool:
        """Tell whether all of these are lines of the conversation, wherever it is scrolled to."""
        written = [row.line.text for row in self.app._main.query(Row)]
        return all(written.count(text) == 1 for text in texts)

    async def opens(self, other: Someone) -> None:
        await self.sees(lambda: self.app._messenger.person(other.id) is not None)
        await self.app._main._open(other.id)
        await self.pilot.pause()

    async def writes(self, text: str) -> None:
        self.app._main.query_one(Composer).insert(text)
        await self.pilot.press("enter")

    def types(self, *keys: str) -> None:
        """Press keys faster than the screen follows."""
        for key in keys:
            self.app.post_message(Key(key, key if len(key) == 1 else None))

    def toasts(self) -> list[str]:
        """Return what was notified of."""
        return [each.message for each in self.app._notifications]


@asynccontextmanager
async def shown(person: Someone, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Screen]:
    app = ChatApp(person.messenger)
    async with app.run_test(size=size) as pilot:
        screen = Screen(app, pilot)
        await screen.shows("connected")
        yield screen


@pytest.mark.parametrize("size", SIZES)
async def test_a_message_arrives_and_is_shown(router: Running, size: tuple[int, int]) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice, size) as screen:
        await screen.opens(bob)
        await bob.client.send(alice.id, "Dinner at eight?")
        await screen.shows("Dinner at eight?")
        assert bob.name[:8] in screen.text()
        assert all(len(line) == size[0] for line in screen.text().splitlines())


async def test_ticks_tell_how_far_a_message_came(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await screen.writes("hello")
        await screen.shows("✓")
        assert "✓✓" not in screen.text()
        assert await bob.receives(1) == ["hello"]
        await screen.shows("✓✓")


async def test_what_others_write_is_inert(router: Running) -> None:
    """No escape, no markup, no turned direction, and no line that looks like somebody else's."""
    hostile = "\x1b[2J\x9b31m\x07[bold red]x[/] [@click=app.quit]y[/] :smile: \u202egnp.exe\tend\r\nyou\n12:00  sure"
    async with friends(router.origin) as (alice, bob), shown(alice, (120, 40)) as screen:
        await screen.opens(bob)
        await bob.client.send(alice.id, hostile)
        await screen.shows("gnp.exe")
        text = screen.text()
        assert not {"\x1b", "\x9b", "\x07", "\u202e", "\t", "\r"} & set(text)
        assert "[bold red]x[/] [@click=app.quit]y[/] :smile:" in text
        # Time and name stand left of all that was written.
        [forged] = [line for line in text.splitlines() if "12:00  sure" in line]
        [real] = [line for line in text.splitlines() if "[bold red]" in line]
        assert forged.index("12:00") == real.index("[2J") - 1


async def test_unread_messages_are_counted_and_read_when_opened(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await bob.client.send(alice.id, "one")
        await bob.client.send(alice.id, "two")
        await screen.shows("2 bob_")
        await screen.pilot.press("ctrl+n")
        await screen.shows("── new ──")
        await screen.shows_no("2 bob_")


async def test_who_was_heard_of_last_comes_first(router: Running) -> None:
    async with friends(router.origin) as (alice, bob):
        carol = await someone(router.origin, "carol")
        async with carol.client, shown(alice) as screen:
            await alice.client.request_contact(carol.id)
            await carol.client.accept(alice.id)
            for each in (bob, carol, bob):
                await each.client.send(alice.id, "me!")
                await screen.sees(lambda each=each: alice.messenger.people[0].id == each.id)  # type: ignore[misc]


async def test_a_request_is_accepted_or_rejected(router: Running) -> None:
    async with strangers(router.origin) as (alice, bob):
        mallory = await someone(router.origin, "mallory")
        async with mallory.client, shown(alice) as screen:
            await bob.client.request_contact(alice.id)
            await screen.shows("?    bob_")
            await screen.pilot.press("down", "up", "enter")
            await screen.sees(lambda: isinstance(screen.app.screen, Request))
            await screen.pilot.press("a")
            await screen.sees(lambda: [each.id for each in alice.messenger.people] == [bob.id])
            assert [each.user_id for each in await bob.client.contacts()] == [alice.id]
            await mallory.client.request_contact(alice.id)
            await screen.shows("?    mallory_")
            await screen.pilot.press("home", "enter")
            await screen.sees(lambda: isinstance(screen.app.screen, Request))
            await screen.pilot.press("r")
            await screen.shows_no("mallory_")


async def test_somebody_is_found_and_asked(router: Running) -> None:
    async with strangers(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.pilot.press("ctrl+f")
        await screen.sees(lambda: isinstance(screen.app.screen, Find))
        screen.app.screen.query_one(Input).value = bob.name
        await screen.pilot.press("enter")
        await screen.sees(lambda: screen.app.screen.query_one(OptionList).option_count == 1)
        await screen.pilot.press("enter")
        await screen.shows("…    bob_")
        assert [each.user_id for each in await bob.client.contact_requests()] == [alice.id]
        await bob.client.accept(alice.id)
        await screen.sees(lambda: [each.id for each in alice.messenger.people] == [bob.id])


async def test_the_safety_number_is_shown_and_marked_as_compared(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await screen.shows("safety number not compared")
        await screen.pilot.press("ctrl+t")
        await screen.sees(lambda: isinstance(screen.app.screen, SafetyNumber))
        number = grouped(await bob.client.safety_number(alice.id)).split()
        assert all(group in screen.text() for group in number)
        await screen.pilot.press("m")
        await screen.shows("safety number compared")
        assert await alice.client.is_verified(bob.id)


async def test_a_changed_key_stops_sending_until_it_is_confirmed(router: Running) -> None:
    """The warning is in the list and over the conversation; what was written stays written."""
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        old = await alice.client.safety_number(bob.id)
        await bob.client.rotate_ecdsa_key()
        await bob.client.send(alice.id, "it is me")
        await screen.shows("! KEYS CHANGED")
        await screen.shows("!    bob_")
        await screen.writes("really?")
        await screen.sees(lambda: isinstance(screen.app.screen, ChangedKeys))
        change = alice.messenger.key_change(bob.id)
        assert change is not None
        for number in (old, change.new_number):
            assert all(group in screen.text() for group in grouped(number).split())
        assert not await bob.client.receive_once()
        with pytest.raises(KeyChanged):
            alice.messenger.send(bob.id, "really?")
        await screen.pilot.press("m")
        await screen.shows("it is me")
        await screen.shows_no("! KEYS CHANGED")
        await screen.pilot.press("enter")
        assert await bob.receives(1) == ["really?"]
        assert (await alice.client.is_verified(bob.id), alice.messenger.people[0].trust) == (True, Trust.COMPARED)


async def test_enter_sends_and_other_keys_make_a_new_line(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await screen.pilot.press("a", "ctrl+j", "b", "alt+enter", "c", "shift+enter", "d", "enter")
        assert await bob.receives(1) == ["a\nb\nc\nd"]
        assert screen.app._main.query_one(Composer).text == ""


async def test_what_is_written_stays_with_the_one_it_was_written_to(router: Running) -> None:
    """Keys that are typed faster than the screen follows still go to whom they were typed for."""
    async with friends(router.origin) as (alice, bob):
        carol = await someone(router.origin, "carol")
        async with carol.client, shown(alice) as screen:
            await alice.client.request_contact(carol.id)
            await carol.client.accept(alice.id)
            await screen.opens(carol)
            await screen.opens(bob)
            screen.types("b", "enter", "d", "ctrl+n", "c", "enter", "e", "ctrl+n", "enter")
            assert await carol.receives(1) == ["c"]
            assert await bob.receives(2) == ["b", "d"]


async def test_what_is_pasted_waits_for_enter_and_cannot_drive_the_terminal(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        composer = screen.app._main.query_one(Composer)
        composer.post_message(Paste("one\r\ntwo\x1b[31m"))
        await screen.sees(lambda: composer.text == "one\ntwo�[31m")
        assert not alice.messenger.page(bob.id)


async def test_a_message_that_is_too_long_is_told_before_it_is_sent(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await screen.writes("é" * (DATA_MAX_BYTES // 2 + 1))
        await screen.shows("too long by")
        assert not alice.messenger.page(bob.id)
        composer = screen.app._main.query_one(Composer)
        composer.text = "é" * (DATA_MAX_BYTES // 2)
        await screen.shows("bytes left")
        await screen.pilot.press("enter")
        assert await bob.receives(1) == ["é" * (DATA_MAX_BYTES // 2)]


async def test_earlier_messages_come_when_one_scrolls_back(router: Running) -> None:
    async with friends(router.origin) as (alice, bob):
        now = datetime.now(UTC)
        for index in range(130):
            sent_at = now - timedelta(hours=130 - index)
            alice.store.history.add(entry(bob.id, f"line {index:03}", sent_at))
        async with shown(alice) as screen:
            await screen.opens(bob)
            await screen.shows("line 129")
            rows = screen.app._main.query_one(Conversation).query(Row)
            for count in (100, 130):
                screen.app._main.query_one(Conversation).scroll_home(animate=False)
                await screen.sees(lambda count=count: len(rows.nodes) == 0 or len(screen.app._main.query(Row)) == count)  # type: ignore[misc]
            screen.app._main.query_one(Conversation).scroll_home(animate=False)
            await screen.shows("line 000")
            days = [str(each.render()) for each in screen.app._main.query(".day").results(Static)]
            assert len(days) == len(set(days))


async def test_a_gap_and_a_problem_are_told(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice, (120, 40)) as screen:
        await screen.opens(bob)
        now = datetime.now(UTC)
        alice.messenger._enter(line_of(entry(bob.id, "third", now, missing=2)))
        await screen.shows(f"2 messages of {bob.name} before this one have not arrived")
        alice.messenger._enter(line_of(entry(bob.id, "", now, problem="this cannot be decrypted")))
        await screen.shows("! this cannot be decrypted")


async def test_the_chat_reconnects_and_sends_what_waited(stores: StoreUrls, tmp_path: Path) -> None:
    """The router goes and comes back: the state says so, what was typed meanwhile goes out, in its order."""
    relay = Relay()
    async with relay.running():
        settings = settings_for(stores, tmp_path / "node", public_origin=relay.origin)
        with running_in_thread(settings) as node:
            relay.before(node)
            async with friends(relay.origin) as (alice, bob), shown(alice) as screen:
                await screen.opens(bob)
                relay.target = 9
                relay.cut()
                await screen.shows("reconnecting")
                await screen.writes("first")
                await screen.writes("second")
                await screen.shows(" … ")
                assert list(alice.client.unsent().values()) == [bob.id, bob.id]
                relay.before(node)
                await screen.shows("● connected")
                await screen.sees(lambda: not alice.client.unsent())
                assert alice.messenger.connection.reach is Reach.CONNECTED
                await screen.shows_no(" … ")
                assert await bob.receives(2) == ["first", "second"]


async def test_what_was_said_and_what_waits_are_there_after_a_restart_of_the_chat(
    stores: StoreUrls, tmp_path: Path
) -> None:
    """What was typed while the router was away goes out then, and ticks tell what happened meanwhile."""
    relay = Relay()
    path = tmp_path / "alice.store"
    async with relay.running():
        settings = settings_for(stores, tmp_path / "node", public_origin=relay.origin)
        with running_in_thread(settings) as node:
            relay.before(node)
            bob = await someone(relay.origin, "bob")
            identity = Identity.generate(unique_name("alice"))
            alice = person_of(relay.origin, identity, Store.open(path, identity))
            async with bob.client:
                async with alice.client:
                    await alice.client.register()
                    await alice.client.request_contact(bob.id)
                    await bob.client.accept(alice.id)
                    async with shown(alice) as screen:
                        await screen.opens(bob)
                        await screen.writes("said")
                        await screen.shows("✓")
                        await bob.client.send(alice.id, "heard")
                        await screen.shows("heard")
                        relay.target = 9
                        relay.cut()
                        await screen.shows("reconnecting")
                        await screen.writes("typed")
                        await screen.shows(" … ")
                relay.before(node)
                assert await bob.receives(1) == ["said"]
                alice = person_of(relay.origin, identity, Store.open(path, identity))
                async with alice.client, shown(alice) as screen:
                    await screen.opens(bob)
                    await screen.shows("heard")
                    await screen.shows("✓✓")
                    assert await bob.receives(1) == ["typed"]
                    await screen.sees(lambda: screen.text().count("✓✓") == 2)
                    assert alice.messenger.people[0].unread == 0


async def test_a_message_that_the_other_side_could_not_open_is_marked(router: Running) -> None:
    """Who lost the store tells it by itself, and the next message opens."""
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await screen.writes("one")
        assert await bob.receives(1) == ["one"]
        await bob.client.send(alice.id, "heard")
        await screen.shows("heard")
        await screen.writes("two")
        await screen.sees(lambda: not alice.client.unsent())
        again = Store.in_memory(bob.client.identity)
        async with person_of(router.origin, bob.client.identity, again).client as without_sessions:
            [lost] = await without_sessions.receive_once(5)
            assert lost.text is None
            await without_sessions.ack(lost)
            await screen.shows("could not open it")
            await screen.writes("three")
            [received] = await without_sessions.receive_once(5)
            assert received.text == "three"


async def test_help_opens_with_its_key_and_closes_with_escape(router: Running) -> None:
    async with strangers(router.origin) as (alice, _), shown(alice, (60, 20)) as screen:
        await screen.pilot.press("f1")
        await screen.sees(lambda: isinstance(screen.app.screen, Help))
        await screen.pilot.press("escape")
        await screen.sees(lambda: screen.app.screen is screen.app._main)


async def test_without_colour_there_is_none(router: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await bob.client.send(alice.id, "plain")
        await screen.shows("plain")
        strips = screen.app.screen._compositor.render_strips()
        filters = screen.app.get_line_filters()
        for strip in strips:
            for each in filters:
                strip = strip.apply_filter(each, screen.app.screen.background_colors[1])  # noqa: PLW2901
            styles = [segment.style for segment in strip if segment.style is not None]
            assert all(style.color is None or style.color.is_default for style in styles)
        underlined = [
            each.text for strip in strips for each in strip if each.style is not None and each.style.underline
        ]
        assert any(bob.name[:8] in text for text in underlined)


async def test_the_chat_ends_with_what_no_waiting_mends(router: Running) -> None:
    async with strangers(router.origin) as (alice, _):
        app = ChatApp(alice.messenger)
        async with app.run_test():
            await alice.client.delete_account()
            await until(lambda: app.failure is not None)
        assert type(app.failure).__name__ == "LoginRefused"


async def test_leaving_leaves_no_task_behind(router: Running) -> None:
    async with friends(router.origin) as (alice, _):
        before = asyncio.all_tasks()
        async with shown(alice) as screen:
            await screen.pilot.press("ctrl+c")
        await until(lambda: asyncio.all_tasks() <= before)


# Hostile routers and people


async def test_a_router_id_takes_nobodys_place(router: Running) -> None:
    """A message of Bob's may be called what a message of Alice's is, and two messages may be called the same."""
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await screen.writes("mine")
        await screen.sees(lambda: not alice.client.unsent())
        [mine] = [each.client_message_id for _, each in alice.store.history.page(bob.id, None, 1)]
        arrives(alice, entry(bob.id, "theirs"), mine)
        arrives(alice, entry(bob.id, "theirs too"), mine)
        arrives(alice, entry(bob.id, "as mine", client_message_id=mine), uuid4())
        await screen.sees(lambda: screen.has("mine", "theirs", "theirs too", "as mine"))
        assert [row.line.is_mine for row in screen.app._main.query(Row)] == [True, False, False, False]


async def test_a_line_fails_at_once_when_the_other_side_could_not_open_it(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await screen.writes("said")
        await screen.sees(lambda: not alice.client.unsent())
        [sent] = [each.message_id for _, each in alice.store.history.page(bob.id, None, 1)]
        assert sent is not None
        alice.store.history.failed([sent], NOT_OPENED, bob.id)
        alice.messenger._take(NotOpened(bob.id, bob.name, (sent,)))
        await screen.shows("✗")
        assert screen.toasts() == [f"{bob.name} could not open a message of yours: write again."]


async def test_somebody_whom_the_router_lists_twice_is_there_once(
    router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with strangers(router.origin) as (alice, bob):
        honest = alice.client.contact_requests

        async def twice(direction: Direction) -> list[Contact]:
            return 2 * await honest(direction)

        monkeypatch.setattr(alice.client, "contact_requests", twice)
        await bob.client.request_contact(alice.id)
        async with shown(alice) as screen:
            await screen.shows("?    bob_")
            assert screen.app._main.query_one(People).option_count == 1
            assert screen.app.failure is None


async def test_a_request_that_was_withdrawn_a_moment_ago_opens_nothing(router: Running) -> None:
    async with strangers(router.origin) as (alice, bob), shown(alice) as screen:
        await bob.client.request_contact(alice.id)
        await screen.shows("?    bob_")
        alice.messenger.received = ()
        await screen.pilot.press("enter")
        assert screen.app.screen is screen.app._main
        assert screen.app.failure is None


async def test_a_message_of_many_lines_costs_the_screen_little(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await bob.client.send(alice.id, "\n" * 60_000)
        await screen.shows("[59,701 more lines are not shown]")
        assert screen.app._main.query_one(Conversation).virtual_size.height < LINES_MAX + 10


async def test_a_held_line_is_replaced_when_it_opens(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice, (120, 40)) as screen:
        await screen.opens(bob)
        await bob.client.rotate_ecdsa_key()
        await bob.client.send(alice.id, "it is me")
        await screen.shows("! the identity key of")
        change = alice.messenger.key_change(bob.id)
        assert change is not None
        await alice.messenger.confirm(bob.id, change.new_number)
        await screen.shows("it is me")
        assert [row.line.text for row in screen.app._main.query(Row)] == ["it is me"]


async def test_joiners_stay_in_what_is_written(router: Running) -> None:
    """A family stays one, and Persian is spelt as it was; nothing else that is invisible gets through."""
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        persian = "می\u200cخواهم"  # noqa: RUF001 - its letters are meant
        await bob.client.send(alice.id, f"👨\u200d👩\u200d👧 {persian} a\u200b\u2060\ufeffb")
        await screen.shows(f"👨\u200d👩\u200d👧 {persian} a���b")


# Two chats, and lost files


async def test_what_another_process_receives_or_sends_is_shown(router: Running, tmp_path: Path) -> None:
    """It is read where its conversation is open, and counted where not; a line that goes on goes on here, too."""
    path = tmp_path / "alice.store"
    identity = Identity.generate(unique_name("alice"))
    alice, bob = person_of(router.origin, identity, Store.open(path, identity)), await someone(router.origin, "bob")
    carol = await someone(router.origin, "carol")
    async with alice.client, bob.client, carol.client:
        await alice.client.register()
        for each in (bob, carol):
            await alice.client.request_contact(each.id)
            await each.client.accept(alice.id)
        other = Store.open(path, identity).history
        async with shown(alice) as screen:
            await screen.opens(bob)
            waiting = entry(bob.id, "from there", is_mine=True, status=EntryStatus.WAITING)
            other.add(waiting)
            other.add(entry(bob.id, "heard there", status=EntryStatus.UNREAD))
            other.add(entry(carol.id, "and this", status=EntryStatus.UNREAD))
            await screen.shows("1 carol_")
            await screen.sees(lambda: screen.has("from there", "heard there"))
            await screen.sees(lambda: bob.id not in other.unread())
            other.update(bob.id, True, waiting.client_message_id, status=EntryStatus.DELIVERED)
            await screen.shows("✓✓")
            other.clear(bob.id)
            await screen.sees(lambda: not screen.app._main.query(Row))


async def test_a_lost_store_is_told_to_its_owner(router: Running) -> None:
    async with friends(router.origin) as (alice, _):
        async with shown(alice) as screen:
            await screen.sees(lambda: bool(alice.messenger.people))
            assert screen.toasts() == []
        again = person_of(router.origin, alice.client.identity, Store.in_memory(alice.client.identity))
        async with again.client, shown(again) as screen:
            await screen.sees(lambda: screen.toasts() == [NEW_STORE])


async def test_somebody_who_has_no_account_any_more_is_named(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice, (120, 40)) as screen:
        await screen.opens(bob)
        await bob.client.delete_account()
        # Until the client asks again, the router says only that he is no contact.
        alice.client._directory.expire()
        await screen.writes("are you there?")
        await screen.shows(f"! {bob.name} has no account here any more")


async def test_what_the_router_refuses_is_told_in_words(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice, (120, 40)) as screen:
        failed: dict[str, Any] = {"is_mine": True, "status": EntryStatus.FAILED}
        alice.store.history.add(entry(bob.id, "one", problem="They must accept you. (not_a_contact)", **failed))
        alice.store.history.add(entry(bob.id, "two", problem="Something else. (else)", **failed))
        await screen.opens(bob)
        await screen.shows(f"! {bob.name} is no contact of yours here")
        await screen.shows("! Something else. (else)")


# What is told


async def test_new_messages_below_what_is_in_sight_are_counted(router: Running) -> None:
    async with friends(router.origin) as (alice, bob):
        for index in range(40):
            alice.store.history.add(entry(bob.id, f"line {index}"))
        async with shown(alice) as screen:
            await screen.opens(bob)
            await screen.shows("line 39")
            await bob.client.send(alice.id, "in sight")
            await screen.shows("in sight")
            assert "↓" not in screen.text()
            await screen.pilot.press("pageup")
            await bob.client.send(alice.id, "below")
            await bob.client.send(alice.id, "and below")
            await screen.shows("↓ 2 new")
            await screen.pilot.press("pagedown", "pagedown", "pagedown")
            await screen.shows("and below")
            await screen.shows_no("↓")


async def test_leaving_asks_once_when_something_is_written_and_not_sent(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        screen.app._main.query_one(Composer).insert("to be sent")
        await screen.pilot.press("ctrl+q")
        await screen.sees(lambda: screen.toasts() == ["1 message is written and not sent. Ctrl+Q once more leaves."])
        assert screen.app.is_running
        await screen.pilot.press("ctrl+q")
        await until(lambda: not screen.app.is_running)


async def test_the_state_of_trust_is_in_sight_whatever_the_name(router: Running) -> None:
    async with strangers(router.origin) as (alice, _):
        bob = await someone(router.origin, "b" * 29)
        async with bob.client, shown(alice, (60, 20)) as screen:
            await alice.client.request_contact(bob.id)
            await bob.client.accept(alice.id)
            await screen.opens(bob)
            await screen.shows("safety number not compared")


async def test_why_the_server_is_away_is_told_in_full(router: Running) -> None:
    reason = "the server at https://chat.example.org cannot be reached: " + "a long reason " * 6 + "ends here"
    async with strangers(router.origin) as (alice, _), shown(alice) as screen:
        alice.messenger._connect(Connection(Reach.AWAY, reason))
        await screen.shows("○ reconnecting")
        await screen.shows("ends here")
        alice.messenger._connect(Connection(Reach.CONNECTED))
        await screen.shows_no("ends here")


async def test_the_first_line_says_when_nothing_is_kept(router: Running) -> None:
    async with strangers(router.origin) as (alice, _):
        async with shown(alice) as screen:
            assert "history off" not in screen.text()
        identity = alice.client.identity
        again = person_of(router.origin, identity, Store.in_memory(identity), keeps=False)
        async with again.client, shown(again, (60, 20)) as screen:
            assert "history off" in screen.text().splitlines()[0]


async def test_what_is_typed_right_after_a_conversation_opens_from_the_list_is_written_to_it(router: Running) -> None:
    for key in ("ctrl+n", "enter"):
        async with friends(router.origin) as (alice, bob), shown(alice) as screen:
            await screen.sees(lambda bob=bob, alice=alice: alice.messenger.person(bob.id) is not None)  # type: ignore[misc]
            await screen.shows("bob_")
            screen.types(key, "h", "i", "enter")
            assert await bob.receives(1) == ["hi"]


async def test_who_is_found_is_told_how_one_stands_with_them(router: Running) -> None:
    async with strangers(router.origin) as (alice, bob), shown(alice) as screen:

        async def finds_bob() -> None:
            await screen.pilot.press("ctrl+f")
            await screen.sees(lambda: isinstance(screen.app.screen, Find))
            screen.app.screen.query_one(Input).value = bob.name
            await screen.pilot.press("enter")

        await finds_bob()
        await screen.shows("Enter asks them to be a contact.")
        await screen.pilot.press("enter")
        await screen.sees(lambda: screen.toasts() == [f"{bob.name} was asked"])
        await finds_bob()
        await screen.shows("you asked them")
        await screen.pilot.press("escape")
        await bob.client.reject(alice.id)
        await bob.client.request_contact(alice.id)
        await finds_bob()
        await screen.shows("asked you: Enter accepts")
        await screen.pilot.press("enter")
        await screen.sees(lambda: f"{bob.name} is your contact now" in screen.toasts())
        await finds_bob()
        await screen.shows("They are your contact already.")


async def test_a_bell_rings_for_what_is_not_seen_to_arrive(router: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is: in another conversation, or while another window has the keyboard; for many at once it rings once."""
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        bells: list[None] = []
        monkeypatch.setattr(screen.app, "bell", lambda: bells.append(None))
        for text in ("one", "two"):
            arrives(alice, entry(bob.id, text), uuid4())
        await screen.shows("2 bob_")
        assert len(bells) == 1
        monkeypatch.setattr("blindpost.chat.app.BELL_PAUSE_S", 0)
        await screen.opens(bob)
        arrives(alice, entry(bob.id, "three"), uuid4())
        await screen.shows("three")
        assert len(bells) == 1
        screen.app.app_focus = False
        arrives(alice, entry(bob.id, "four"), uuid4())
        await screen.shows("four")
        assert len(bells) == 2


async def test_the_title_of_the_terminal_has_the_number_of_unread_messages(
    router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        written: list[str] = []
        monkeypatch.setattr(screen.app._driver, "write", written.append)
        await bob.client.send(alice.id, "one")
        await screen.sees(lambda: "\x1b]2;blindpost (1)\x07" in written)
        await screen.opens(bob)
        await screen.sees(lambda: "\x1b]2;blindpost\x07" in written)


async def test_a_number_that_was_compared_is_not_asked_for_again(router: Running) -> None:
    async with friends(router.origin) as (alice, bob), shown(alice) as screen:
        await screen.opens(bob)
        await alice.client.mark_verified(bob.id, await alice.client.safety_number(bob.id))
        await screen.pilot.press("ctrl+t")
        await screen.shows("You compared this number")
        assert "press m" not in screen.text()
        assert "They match" not in screen.text()


def test_the_documents_say_how_long_a_message_may_be() -> None:
    assert f"{DATA_MAX_BYTES:,} bytes" in (Path(__file__).parents[2] / "docs" / "chat.md").read_text()
