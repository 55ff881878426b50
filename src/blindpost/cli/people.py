"""register, contacts, send, receive: for a person at a terminal."""

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from getpass import getpass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from blindpost.cli.common import err, errors_as_sentences, fail, hint_for, out, printable, run
from blindpost.client import (
    Client,
    ClientError,
    ContactsChanged,
    Delivered,
    Event,
    Identity,
    KeyChanged,
    Received,
    Store,
    grouped,
)
from blindpost.protocol.limits import POLL_MAX_S
from blindpost.services.models.contacts import Direction

PASSPHRASE: Final = "BLINDPOST_PASSPHRASE"  # noqa: S105 - the name of a variable
IDENTITY: Final = "BLINDPOST_IDENTITY"
SUFFIX: Final = ".identity"

IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", "-i", help=f"Your identity file (or {IDENTITY}); by default the only one there is"),
]
Name = Annotated[str, typer.Argument(help="Their username")]


def _directory() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "blindpost"


def _identity_path(given: Path | None) -> Path:
    if given is not None:
        return given
    if chosen := os.environ.get(IDENTITY):
        return Path(chosen)
    there = sorted(_directory().glob(f"*{SUFFIX}"))
    if not there:
        fail("you have no identity yet", "make one: blindpost register NAME --server URL")
    if len(there) > 1:
        names = ", ".join(each.name for each in there)
        fail(f"there are several identities in {_directory()}: {names}", "choose one with --identity FILE")
    return there[0]


def _passphrase(path: Path, *, new: bool = False) -> str:
    """Ask at the terminal, without showing it; a script gives it by the environment."""
    if given := os.environ.get(PASSPHRASE):
        return given
    if not _has_terminal():
        fail("there is no terminal to ask for the passphrase", f"set {PASSPHRASE}")
    text = getpass(f"Passphrase for {path.name}: ")
    if not text:
        fail("an empty passphrase protects nothing", "think of several words")
    if new and getpass("Once more: ") != text:
        fail("the two passphrases differ", "try again")
    return text


def _has_terminal() -> bool:
    """The terminal itself is asked, not standard input: that may be the message."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def _as_me(given: Path | None, work: Callable[[Client], Awaitable[None]]) -> None:
    """Run something as the user. The passphrase is asked for before the event loop runs, or Ctrl-C would do nothing."""
    with errors_as_sentences():
        path = _identity_path(given)
        identity = Identity.load(path, _passphrase(path))
        if identity.user_id is None or identity.origin is None:
            fail("this identity is not registered anywhere", f"blindpost register {identity.username} --server URL")
        run(_with_client(identity.origin, identity, path, work))


async def _with_client(origin: str, identity: Identity, path: Path, work: Callable[[Client], Awaitable[None]]) -> None:
    async with Client(origin, identity, _store(path, identity)) as client:
        await work(client)


def _store(path: Path, identity: Identity) -> Store:
    return Store.open(path.with_suffix(".store"), identity)


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
        path = identity or _directory() / f"{name}{SUFFIX}"
        is_new = not path.exists()
        try:
            me = _own_or_new(name, path)
            run(_register(server, me, path))
        except ValueError as error:
            fail(str(error))
        except ClientError:
            # Surely not registered anywhere: keys that are nobody's must not stand in the way of another try.
            if is_new and me.origin is None:
                path.unlink(missing_ok=True)
            raise
        out.print(Text.assemble("You are ", (name, "bold green"), f" at {server}; your keys are in {path}."))
        out.print(f"Next: blindpost contacts add NAME{_option(identity)}", markup=False)


def _option(identity: Path | None) -> str:
    return f" --identity {identity}" if identity else ""


def _own_or_new(name: str, path: Path) -> Identity:
    """Return the identity that an earlier try left unregistered, or make one."""
    if path.exists():
        me = Identity.load(path, _passphrase(path))
        if me.user_id is not None:
            fail(f"{path} is registered already, as {me.username}", "use it, or give another file with --identity")
        if me.username != name:
            fail(f"{path} was made for {me.username}", "register that name, or give another file with --identity")
        return me
    me = Identity.generate(name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    me.save(path, _passphrase(path, new=True))
    return me


async def _register(server: str, me: Identity, path: Path) -> None:
    async with Client(server, me, _store(path, me)) as client:
        await client.register()


contacts = typer.Typer(no_args_is_help=True, help="Find people, ask them, accept them, compare safety numbers.")


@contacts.command("list")
def list_contacts(identity: IdentityFile = None) -> None:
    """List your contacts.

    Example:
      blindpost contacts list
    """
    _as_me(identity, _list)


async def _list(client: Client) -> None:
    for person in await client.contacts():
        out.print(person.username, markup=False)


@contacts.command()
def search(
    prefix: Annotated[str, typer.Argument(help="The beginning of a name, three letters or more")],
    identity: IdentityFile = None,
) -> None:
    """Find people by the beginning of their name.

    Example:
      blindpost contacts search ali
    """
    _as_me(identity, partial(_search, prefix))


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
    _as_me(identity, _requests)


async def _requests(client: Client) -> None:
    received = await client.contact_requests(Direction.RECEIVED)
    sent = await client.contact_requests(Direction.SENT)
    for person in received:
        out.print(f"from {person.username}   blindpost contacts accept {person.username}", markup=False)
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
    _as_me(identity, partial(_act, "request_contact", name))


@contacts.command()
def accept(name: Name, identity: IdentityFile = None) -> None:
    """Accept a request: the two of you can write to each other.

    Example:
      blindpost contacts accept alice
    """
    _as_me(identity, partial(_act, "accept", name))


@contacts.command()
def reject(name: Name, identity: IdentityFile = None) -> None:
    """Reject a request: its sender cannot ask again, you still can.

    Example:
      blindpost contacts reject mallory
    """
    _as_me(identity, partial(_act, "reject", name))


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
    _as_me(identity, partial(_number, name, same))


async def _number(name: str, same: bool, client: Client) -> None:
    digits = await client.safety_number(name)
    if same:
        await client.mark_verified(name, digits)
    out.print(grouped(digits), markup=False)
    state = "compared" if await client.is_verified(name) else "not compared yet"
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
    _as_me(identity, partial(_confirm, name, digits))


async def _confirm(name: str, digits: str, client: Client) -> None:
    try:
        await client.safety_number(name)
    except KeyChanged:
        try:
            await client.confirm_keys(name, digits)
        except KeyChanged as still:
            fail("this is not the safety number of the keys that are offered now", hint_for(still))
        out.print(f"The new keys of {name} are trusted.", markup=False)
    else:
        out.print(f"The keys of {name} have not changed.", markup=False)


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
            fail("there is nothing to send", 'give the text: blindpost send NAME "TEXT"')
    _as_me(identity, partial(_send, name, message))


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
        await client.flush()
    try:
        sent = await client.send(name, text)
    except ValueError as error:
        fail(str(error), "send it in parts")
    except ClientError as error:
        if client.unsent():
            fail(f"{error}", "the message is kept and goes out with your next `send`: do not type it again")
        raise
    out.print(f"Sent at {sent.timestamp.astimezone():%H:%M:%S}; the router has it on disk.", markup=False)


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
    _as_me(identity, _follow if follow else partial(_receive, wait))


async def _receive(wait: float, client: Client) -> None:
    count = 0
    while received := await client.receive_once(wait if not count else 0):
        for message in received:
            _show(message)
        count += len(received)
        await client.ack(*received)
        if all(message.is_held for message in received):
            break
    if not count:
        err.print("No messages.", style="dim")


async def _follow(client: Client) -> None:
    err.print("Waiting for messages; Ctrl-C ends it.", style="dim")
    async with aclosing(client.events()) as events:
        async for event in events:
            _show_event(event)


def _show_event(event: Event) -> None:
    match event:
        case Received():
            _show(event)
        case Delivered(ids):
            err.print(f"Delivered: {len(ids)}", style="dim")
        case ContactsChanged():
            err.print("Your contacts changed: see `blindpost contacts requests`", style="dim")


def _show(message: Received) -> None:
    who = Text(f"{message.username or message.sender_id}", "bold cyan")
    when = Text(f"{message.timestamp.astimezone():%Y-%m-%d %H:%M}", "dim")
    if (problem := message.problem) is not None:
        err.print(Text.assemble(when, " ", who, " ", (printable(str(problem)), "bold red")), soft_wrap=True)
        if hint := hint_for(problem):
            err.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)
    if message.data is not None:
        body = message.text if message.text is not None else f"[{len(message.data)} bytes]"
        # Further lines are indented: nobody can write a line that looks like somebody else's message.
        out.print(Text.assemble(when, " ", who, " ", printable(body).replace("\n", "\n    ")), soft_wrap=True)
