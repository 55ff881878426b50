"""register, contacts, send, receive: for a person at a terminal."""

import asyncio
import sys
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.text import Text

from blindpost.cli.common import command, err, errors_as_sentences, fail, hint_for, out, run
from blindpost.cli.me import SUFFIX, IdentityFile, as_me, ask_passphrase, directory, leave, store_of
from blindpost.client import (
    Client,
    ClientError,
    ContactsChanged,
    Delivered,
    Event,
    FileError,
    Identity,
    KeyChanged,
    NotOpened,
    Received,
    SealedToOldKey,
    StillTrusted,
    UnknownContact,
    UntrustedAnswer,
    grouped,
)
from blindpost.client.files import discard
from blindpost.printable import printable
from blindpost.protocol.limits import POLL_MAX_S
from blindpost.services.models.contacts import Contact, Direction

LOOK_PAUSE_S: Final = 15.0
OTHER_PLACE: Final = "give a file in a directory of yours with --identity"

Name = Annotated[str, typer.Argument(help="Their username")]


def register(
    name: Annotated[str, typer.Argument(help="3 to 50 letters, digits and underscores")],
    server: Annotated[str, typer.Option("--server", "-s", help="The router, such as https://chat.example.org")],
    identity: IdentityFile = None,
) -> None:
    """Make an identity, protect it with a passphrase, and register it.

    The keys stay in one file of yours, encrypted; without the file and the passphrase nobody can be you again,
    you included. If the answer was lost, run the same command again.

    Examples:
      blindpost register alice --server http://127.0.0.1:8000

      BLINDPOST_PASSPHRASE=... blindpost register alice --server https://chat.example.org -i alice.identity
    """
    with errors_as_sentences():
        path = identity or directory() / f"{name}{SUFFIX}"
        is_new = not _is_there(path)
        me = _new(name, path) if is_new else _left_unregistered(name, path)
        try:
            run(_register(server, me, path))
        except (ValueError, ClientError) as error:
            # Surely not registered anywhere: keys that are nobody's must not stand in the way of another try.
            if is_new and me.origin is None:
                with suppress(FileError):
                    discard(path)
            if isinstance(error, ValueError):
                fail(str(error), "give it as https://chat.example.org")
            raise
        out.print(Text.assemble("You are ", (name, "bold green"), f" at {server}; your keys are in {path}."))
        out.print(f"Next: {command('contacts add NAME')}, and {command('chat')}", markup=False, soft_wrap=True)


def _is_there(path: Path) -> bool:
    """Tell whether there is such a file; one that cannot be looked at is not taken for none."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        fail(f"{path} cannot be looked at: {error.strerror}", OTHER_PLACE)
    return True


def _left_unregistered(name: str, path: Path) -> Identity:
    """Return the identity that an earlier try left."""
    me = Identity.load(path, ask_passphrase(path))
    if me.user_id is not None:
        fail(f"{path} is registered already, as {me.username}", "use it, or give another file with --identity")
    if me.username != name:
        fail(f"{path} was made for {me.username}", "register that name, or give another file with --identity")
    return me


def _new(name: str, path: Path) -> Identity:
    try:
        me = Identity.generate(name)
    except ValueError as error:
        fail(str(error), "choose another name")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{path.parent} cannot be made: {error.strerror}", OTHER_PLACE)
    passphrase = ask_passphrase(path, new=True)
    try:
        me.save(path, passphrase)
    except FileError as error:
        fail(str(error), error.hint or OTHER_PLACE)
    return me


async def _register(server: str, me: Identity, path: Path) -> None:
    async with Client(server, me, store_of(path, me)) as client:
        await client.register()
        await leave(client)


contacts = typer.Typer(no_args_is_help=True, help="Find people, ask them, accept them, compare safety numbers.")


@contacts.command("list")
def list_contacts(identity: IdentityFile = None) -> None:
    """List your contacts, with those whose safety number you compared, and those whose keys changed.

    Example:
      blindpost contacts list
    """
    as_me(identity, _list)


async def _list(client: Client) -> None:
    people = await client.contacts()
    problems = await client.distrusted()
    for person in people:
        out.print(Text.assemble(person.username, await _mark(client, person.user_id, problems.get(person.user_id))))
    for person in people:
        if problem := problems.get(person.user_id):
            _say(problem)


async def _mark(client: Client, user_id: UUID, problem: ClientError | None) -> tuple[str, str]:
    if problem is not None:
        return ("  KEY CHANGED" if isinstance(problem, KeyChanged) else "  KEYS NOT VALID"), "bold red"
    # Whose keys were never needed yet is not remembered.
    with suppress(UnknownContact):
        if await client.is_verified(user_id):
            return "  compared", "green"
    return "", ""


def _say(problem: ClientError) -> None:
    err.print(Text.assemble((printable(str(problem)), "bold red")), soft_wrap=True)
    if hint := hint_for(problem):
        err.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)


@contacts.command()
def search(
    prefix: Annotated[str, typer.Argument(help="The beginning of a name, three letters or more")],
    identity: IdentityFile = None,
) -> None:
    """Find people by the beginning of their name.

    Example:
      blindpost contacts search ali
    """
    as_me(identity, partial(_search, prefix))


async def _search(prefix: str, client: Client) -> None:
    found = await client.search(prefix)
    if not found:
        err.print("Nobody.", style="dim")
    for person in found:
        out.print(f"{person.username}  {person.status or ''}".rstrip(), markup=False)


@contacts.command()
def requests(identity: IdentityFile = None) -> None:
    """List the requests that wait: for you to decide, and for others.

    Example:
      blindpost contacts requests
    """
    as_me(identity, _requests)


async def _requests(client: Client) -> None:
    received = await client.contact_requests(Direction.RECEIVED)
    sent = await client.contact_requests(Direction.SENT)
    for person in received:
        out.print(
            f"from {person.username}   {command(f'contacts accept {person.username}')}", markup=False, soft_wrap=True
        )
    for person in sent:
        out.print(f"to {person.username}   waiting for them", markup=False)
    if not received and not sent:
        err.print("No requests wait.", style="dim")


@contacts.command()
def add(name: Name, identity: IdentityFile = None) -> None:
    """Ask somebody to be a contact; if they asked you already, this accepts.

    Example:
      blindpost contacts add bob
    """
    as_me(identity, partial(_act, "request_contact", name))


@contacts.command()
def accept(name: Name, identity: IdentityFile = None) -> None:
    """Accept a request: the two of you can write to each other.

    Example:
      blindpost contacts accept alice
    """
    as_me(identity, partial(_act, "accept", name))


@contacts.command()
def reject(name: Name, identity: IdentityFile = None) -> None:
    """Reject a request: its sender cannot ask again, you still can. A stranger's keys are forgotten.

    Example:
      blindpost contacts reject mallory
    """
    as_me(identity, partial(_act, "reject", name))


async def _act(action: str, name: str, client: Client) -> None:
    person = await getattr(client, action)(name)
    out.print(f"{person.username}: {person.status}", markup=False)


@contacts.command()
def number(
    name: Name,
    same: Annotated[bool, typer.Option("--same", help="You compared it with them, and it is the same")] = False,
    identity: IdentityFile = None,
) -> None:
    """Show the safety number of you and a contact, to compare by voice or in person.

    If it is the same on both sides, nobody sits between you: not even the router.

    Examples:
      blindpost contacts number bob

      blindpost contacts number bob --same
    """
    as_me(identity, partial(_number, name, same))


async def _number(name: str, same: bool, client: Client) -> None:
    digits = await client.safety_number(name)
    if same:
        await client.mark_verified(name, digits)
    out.print(grouped(digits), markup=False)
    is_verified = await client.is_verified(name)
    state = "compared" if is_verified else "not compared yet; once it is the same on both sides, add --same"
    err.print(f"{name}: {state}", style="dim", markup=False)


@contacts.command()
def confirm(
    name: Name,
    digits: Annotated[str, typer.Argument(help="The new safety number, as the warning showed it", metavar="NUMBER")],
    identity: IdentityFile = None,
) -> None:
    """Trust a contact's changed keys, after you compared the new safety number with them.

    Example:
      blindpost contacts confirm bob "12345 67890 ..."
    """
    as_me(identity, partial(_confirm, name, digits))


async def _confirm(name: str, digits: str, client: Client) -> None:
    try:
        await client.safety_number(name)
    except KeyChanged:
        try:
            await client.confirm_keys(name, digits)
        except KeyChanged as still:
            fail("this is not the safety number of the keys that are offered now", hint_for(still))
        # It is this number that was compared.
        await client.mark_verified(name, digits)
        out.print(f"The new keys of {name} are trusted, and marked as compared.", markup=False)
    else:
        out.print(f"The keys of {name} have not changed.", markup=False)


@contacts.command()
def forget(
    name: Name,
    sure: Annotated[
        bool, typer.Option("--sure", help="Also if you compared their safety number, or their key changed")
    ] = False,
    identity: IdentityFile = None,
) -> None:
    """Forget somebody's keys on this computer: the next key that the server gives for them is trusted unseen.

    The server hears nothing of it: a contact stays one, and can write to you. Which of their messages you read is
    forgotten as well.

    Examples:
      blindpost contacts forget mallory

      blindpost contacts forget bob --sure
    """
    as_me(identity, partial(_forget, name, sure))


async def _forget(name: str, sure: bool, client: Client) -> None:
    try:
        client.forget(name, sure=sure)
    except StillTrusted as error:
        fail(str(error), f"if that is what you want: {command(f'contacts forget {error.username} --sure')}")
    out.print(f"{name} is forgotten here; compare the safety number before you trust the next key.", markup=False)


def send(
    name: Name,
    text: Annotated[str | None, typer.Argument(help="The message; without it, standard input is read")] = None,
    identity: IdentityFile = None,
) -> None:
    """Encrypt a message for a contact and send it.

    Examples:
      blindpost send bob "Dinner at eight?"

      blindpost send bob < letter.txt
    """
    with errors_as_sentences():
        message = _typed() if text is None else text
        if not message.strip():
            fail("there is nothing to send", f"give the text: {command('send NAME TEXT')}")
    as_me(identity, partial(_send, name, message))


def _typed() -> str:
    if sys.stdin.isatty():
        err.print("Type the message; end it with Ctrl-D.", style="dim")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        fail("this is not text in UTF-8", "only text can be sent from here")


async def _send(name: str, text: str, client: Client) -> None:
    if client.unsent():
        err.print("Sending first what waits from an earlier time.", style="dim")
        await _flush(client)
    waiting = set(client.unsent())
    try:
        sent = await client.send(name, text)
    except ValueError as error:
        fail(str(error), "send it in parts")
    except ClientError as error:
        if set(client.unsent()) - waiting:
            fail(f"{error}", "the message is kept and goes out with your next `send`: do not type it again")
        raise
    out.print(f"Sent at {sent.timestamp.astimezone():%H:%M:%S}; the router has it on disk.", markup=False)


async def _flush(client: Client) -> None:
    """Send what waits, but let one person's keys not stand in the way of a message to another."""
    try:
        await client.flush()
    except (KeyChanged, UntrustedAnswer, SealedToOldKey) as problem:
        _say(problem)


def receive(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show what arrives")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the first message", min=0, max=POLL_MAX_S)] = 0,
    identity: IdentityFile = None,
) -> None:
    """Fetch, decrypt and show the messages that wait, and acknowledge them: the router then erases them.

    Examples:
      blindpost receive

      blindpost receive --follow
    """
    as_me(identity, _follow if follow else partial(_receive, wait))


async def _receive(wait: float, client: Client) -> None:
    count, told = 0, KeyNews(client)
    while events := await client.events_once(wait if not count else 0):
        for event in events:
            await _show_event(event, told)
        received = [event for event in events if isinstance(event, Received)]
        count += len(received)
        await client.ack(*received)
        if all(message.is_held for message in received):
            break
    if not count:
        err.print("No messages.", style="dim")


async def _follow(client: Client) -> None:
    err.print("Waiting for messages; Ctrl-C ends it.", style="dim")
    told = KeyNews(client)
    client.on_reach(Reach().tell)
    try:
        async with aclosing(client.events()) as events:
            async for event in events:
                await _show_event(event, told)
    finally:
        # Nothing is tried again once the user has ended it.
        client.on_reach(lambda _: None)


class Reach:
    """Tells once that the server is away, and once that it is back."""

    def __init__(self) -> None:
        self._is_away = False

    def tell(self, is_reached: bool) -> None:
        if self._is_away != is_reached:
            return
        self._is_away = not is_reached
        text = "The server is back." if is_reached else "The server cannot be reached; trying again."
        err.print(text, style="dim")


class KeyNews:
    """Tells of each change of a key once.

    It looks at once, and then not again for a while: anybody can make contacts change, by asking to be one.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._told: set[str] = set()
        self._next_s = monotonic()
        self._later: asyncio.Task[None] | None = None

    async def tell_change(self) -> None:
        """Say that contacts changed, and where to look."""
        waits: list[Contact] = []
        # It is news already, whatever became of the question.
        with suppress(ClientError):
            waits = await self._client.contact_requests()
        where = command("contacts requests" if waits else "contacts list")
        err.print(f"Your contacts changed: see `{where}`", style="dim", markup=False, soft_wrap=True)

    async def tell(self) -> None:
        """Look at the contacts' keys, now or soon, and say whose may not be used."""
        if self._later is not None and not self._later.done():
            return
        wait_s = self._next_s - monotonic()
        self._next_s = max(monotonic(), self._next_s) + LOOK_PAUSE_S
        if wait_s <= 0:
            await self._look()
        else:
            self._later = asyncio.create_task(self._look(wait_s))

    async def _look(self, wait_s: float = 0) -> None:
        await asyncio.sleep(wait_s)
        try:
            problems = (await self._client.distrusted()).values()
        except ClientError as error:
            # A look ahead only: whatever uses a key asks for it again.
            err.print(f"The keys of your contacts could not be looked at: {error}", style="dim", markup=False)
            return
        for problem in problems:
            if str(problem) not in self._told:
                self._told.add(str(problem))
                _say(problem)


async def _show_event(event: Event, told: KeyNews) -> None:
    match event:
        case Received():
            _show(event)
        case Delivered(ids):
            err.print(f"Delivered: {len(ids)}", style="dim")
        case NotOpened(_, username, ids):
            what = "1 message" if len(ids) == 1 else f"{len(ids)} messages"
            err.print(f"{username} could not open {what} of yours: write again.", style="bold red", markup=False)
        case ContactsChanged():
            await told.tell_change()
            await told.tell()


def _local(moment: datetime) -> datetime:
    """Return a time as it is here; a router may name one that is no time here."""
    try:
        return moment.astimezone()
    except (OverflowError, ValueError):
        return moment


def _show(message: Received) -> None:
    who = Text(f"{message.username or message.sender_id}", "bold cyan")
    when = Text(f"{_local(message.timestamp):%Y-%m-%d %H:%M}", "dim")
    if (problem := message.problem) is not None:
        err.print(Text.assemble(when, " ", who, " ", (printable(str(problem)), "bold red")), soft_wrap=True)
        if hint := hint_for(problem):
            err.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)
    if message.missing:
        what = "1 message" if message.missing == 1 else f"{message.missing} messages"
        err.print(f"{what} of {who} before the next one have not arrived.", style="bold yellow", markup=False)
    if message.data is not None:
        body = message.text if message.text is not None else f"[{len(message.data)} bytes]"
        # Further lines are indented: nobody can write a line that looks like somebody else's message.
        out.print(Text.assemble(when, " ", who, " ", printable(body).replace("\n", "\n    ")), soft_wrap=True)
