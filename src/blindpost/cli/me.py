"""Who acts at the terminal: the identity file, its passphrase, and a client in its name."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from getpass import getpass
from pathlib import Path
from typing import Annotated, Final

import typer

from blindpost.cli.common import command, errors_as_sentences, fail, identity_given, run
from blindpost.client import Client, ClientError, History, Identity, Store

PASSPHRASE: Final = "BLINDPOST_PASSPHRASE"  # noqa: S105 - the name of a variable
IDENTITY: Final = "BLINDPOST_IDENTITY"
SUFFIX: Final = ".identity"
LEAVE_TIMEOUT_S: Final = 3.0

PASSPHRASE_MIN: Final = 8


def _noted(given: Path | None) -> Path | None:
    identity_given.set(given)
    return given


IdentityFile = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        "-i",
        help=f"Your identity file (or {IDENTITY}); by default the only one there is",
        callback=_noted,
    ),
]


def directory() -> Path:
    """Return where identities are kept, if nothing else is said."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "blindpost"


def identity_path(given: Path | None) -> Path:
    """Return the file to use: the one given, the one chosen for good, or the only one there is."""
    if given is not None:
        return given
    if chosen := os.environ.get(IDENTITY):
        return Path(chosen)
    there = sorted(directory().glob(f"*{SUFFIX}"))
    if not there:
        fail("you have no identity yet", "make one: blindpost register NAME --server URL")
    if len(there) > 1:
        names = ", ".join(each.name for each in there)
        fail(f"there are several identities in {directory()}: {names}", "choose one with --identity FILE")
    return there[0]


def ask_passphrase(path: Path, *, new: bool = False, variable: str = PASSPHRASE, what: str = "Passphrase") -> str:
    """Ask at the terminal, without showing it; a script gives it by the environment.

    A new one has a length that it must have; one that was chosen before opens what it opens.
    """
    text = os.environ.get(variable) or _typed(path, variable, what)
    if new and len(text) < PASSPHRASE_MIN:
        fail(f"a passphrase of fewer than {PASSPHRASE_MIN} characters is soon guessed", "think of several words")
    if new and not os.environ.get(variable) and getpass("Once more: ") != text:
        fail("the two passphrases differ", "try again")
    return text


def _typed(path: Path, variable: str, what: str) -> str:
    if not _has_terminal():
        fail(f"there is no terminal to ask for the {what.lower()}", f"set {variable}")
    text = getpass(f"{what} for {path.name}: ")
    if not text:
        fail("an empty passphrase protects nothing", "think of several words")
    return text


def _has_terminal() -> bool:
    """The terminal itself is asked, not standard input: that may be the message."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def store_of(path: Path, identity: Identity) -> Store:
    """Open the store that belongs to an identity file."""
    return Store.open(store_path(path), identity)


def store_path(path: Path) -> Path:
    """Return where the store of an identity file is."""
    return path.with_suffix(".store")


def load_me(given: Path | None) -> tuple[Path, Identity]:
    """Open the identity of somebody who is registered."""
    path = identity_path(given)
    identity = Identity.load(path, ask_passphrase(path))
    if identity.user_id is None or identity.origin is None:
        fail("this identity is not registered anywhere", command(f"register {identity.username} --server URL"))
    return path, identity


def as_me(given: Path | None, work: Callable[[Client], Awaitable[None]]) -> None:
    """Run something as the user. The passphrase is asked for before the event loop runs, or Ctrl-C would do nothing."""
    with errors_as_sentences():
        run_as(*load_me(given), work)


def run_as(
    path: Path,
    identity: Identity,
    work: Callable[[Client], Awaitable[None]],
    store: Store | None = None,
    history: History | None = None,
) -> None:
    """Run something with an identity that is open already, and its store if that is open, too."""
    if identity.origin is None:
        raise AssertionError("an identity without a server")
    store = store or store_of(path, identity)
    run(_with_client(partial(Client, identity.origin, identity, store, history=history), work))


async def _with_client(made: Callable[[], Client], work: Callable[[Client], Awaitable[None]]) -> None:
    async with made() as client:
        try:
            await work(client)
        finally:
            await leave(client)


async def leave(client: Client) -> None:
    """End the session: its key is gone with this program, so it would only stand open for hours.

    What was taken is acknowledged first, as a client does at its end: that needs the session.
    """
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(LEAVE_TIMEOUT_S):
            await client.ack()
            await client.logout()
