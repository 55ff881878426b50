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
from blindpost.chat.app import ChatApp
from blindpost.chat.conversation import Composer, Conversation, Row
from blindpost.chat.dialogs import ChangedKeys, Find, Help, Request, SafetyNumber
from blindpost.chat.lines import line_of
from blindpost.chat.model import Messenger, Reach, Trust
from blindpost.client import Client, Entry, EntryStatus, Identity, KeyChanged, Retry, Store, grouped
from blindpost.core.embedded import StoreUrls
from blindpost.protocol.content import Kind
from blindpost.protocol.session import DATA_MAX_BYTES
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


def person_of(origin: str, identity: Identity, store: Store) -> Someone:
    """Return who this identity is, as the chat is started with it."""
    retry = Retry(attempts=2, base_s=0.05, cap_s=0.2)
    client = Client(origin, identity, store, history=store.history, retry=retry)
    return Someone(client, store, Messenger(client, store.contacts, store.history))


def entry(contact_id: UUID, text: str, sent_at: datetime, **more: Any) -> Entry:
    """Return a message of somebody that was read."""
    given = {"client_message_id": uuid4(), "message_id": uuid4(), "status": EntryStatus.READ} | more
    sent_at_ms = int(sent_at.timestamp() * 1000)
    return Entry(
        contact_id=contact_id, is_mine=False, kind=Kind.TEXT, data=text.encode(), sent_at_ms=sent_at_ms, **given
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

    async def opens(self, other: Someone) -> None:
        await self.sees(lambda: self.app._messenger.person(other.id) is not None)
        await self.app._main._open(other.id)
        await self.pilot.pause()

    async def writes(self, text: str) -> None:
        self.app._main.query_one(Composer).insert(text)
        await self.pilot.press("enter")


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
            for key in ("b", "enter", "d", "ctrl+n", "c", "enter", "e", "ctrl+n", "enter"):
                screen.app.post_message(Key(key, key if len(key) == 1 else None))
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
