"""account: your own account, its sessions and keys, its passphrase, and its end."""

import sys
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from blindpost.cli.common import command, err, errors_as_sentences, fail, out
from blindpost.cli.me import IdentityFile, as_me, ask_passphrase, identity_path, load_me, run_as, store_path
from blindpost.client import Client, ClientError, Identity, Refused
from blindpost.protocol.keys import PublicKey

NEW_PASSPHRASE: Final = "BLINDPOST_NEW_PASSPHRASE"  # noqa: S105 - the name of a variable
GROUP_CHARS: Final = 4
NOT_FOUND: Final = 404
TIME: Final = "%Y-%m-%d %H:%M"

account = typer.Typer(no_args_is_help=True, help="Your account: sessions, keys, passphrase, and how to end it.")


def _fingerprint(key: PublicKey) -> str:
    digest = sha256(key.der).hexdigest()
    return " ".join(digest[start : start + GROUP_CHARS] for start in range(0, len(digest), GROUP_CHARS))


def _say(label: str, value: str) -> None:
    out.print(Text.assemble((f"{label:<14}", "dim"), value), soft_wrap=True)


@account.command()
def show(identity: IdentityFile = None) -> None:
    """Show who you are: name, server, the fingerprint of your identity key, and how many sessions are open.

    The fingerprint (SHA-256) tells you which key this computer has. To check somebody else's, compare safety numbers.

    Example:
      blindpost account show
    """
    as_me(identity, _show)


async def _show(client: Client) -> None:
    me = client.identity
    _say("Name", me.username)
    _say("Server", me.origin or "")
    _say("Account", str(me.account))
    _say("Identity key", _fingerprint(me.ecdsa_key))
    _say("Keys are in", str(me.path))
    count = len(await client.sessions())
    _say("Sessions", f"{count}, this command's among them")
    err.print(f"To check a person: {command('contacts number NAME')}", style="dim", markup=False, soft_wrap=True)


@account.command()
def sessions(identity: IdentityFile = None) -> None:
    """List the open sessions: id, when each was opened, and when it ends by itself.

    Each command has one of its own while it runs, marked `this`.

    Example:
      blindpost account sessions
    """
    as_me(identity, _sessions)


async def _sessions(client: Client) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("ID", "Opened", "Ends", ""):
        table.add_column(column, no_wrap=True)
    for each in await client.sessions():
        times = (f"{time.astimezone():{TIME}}" for time in (each.created_at, each.expires_at))
        table.add_row(str(each.id), *times, "this" if each.is_current else "")
    out.print(table)


@account.command()
def end_session(
    session: Annotated[str, typer.Argument(help="Its id, as `account sessions` shows it", metavar="ID")],
    identity: IdentityFile = None,
) -> None:
    """End one of your sessions, at once and on every node.

    Whoever has only the session is out. A device that has your identity file logs in again by itself: if you lost
    one that is unlocked, replace the key too (account rotate-key).

    Example:
      blindpost account end-session 01890a5d-ac96-774b-bcce-b302099a8057
    """
    as_me(identity, partial(_end_session, session))


async def _end_session(session: str, client: Client) -> None:
    hint = f"list them: {command('account sessions')}"
    try:
        await client.end_session(UUID(session))
    except ValueError:
        fail("this is not the id of a session", hint)
    except Refused as refusal:
        if refusal.status != NOT_FOUND:
            raise
        fail("you have no open session with this id", hint)
    out.print("The session has ended.")


@account.command()
def end_others(identity: IdentityFile = None) -> None:
    """End all of your sessions but this command's own, at once and on every node.

    A device that has your identity file logs in again by itself: if you lost one that is unlocked, replace the key
    too (account rotate-key).

    Example:
      blindpost account end-others
    """
    as_me(identity, _end_others)


async def _end_others(client: Client) -> None:
    ended = await client.end_other_sessions()
    out.print(f"Ended {ended} other {'session' if ended == 1 else 'sessions'}.")


@account.command()
def rotate_key(identity: IdentityFile = None) -> None:
    """Replace your identity key: all your contacts will be asked to confirm the new one.

    Until a contact does, they get nothing from you and send you nothing; your safety number with everybody changes.
    All other sessions end, and older copies of your identity file log in no more. If the answer is lost, run it again.

    Example:
      blindpost account rotate-key
    """
    as_me(identity, _rotate_key)


async def _rotate_key(client: Client) -> None:
    err.print("All your contacts will be asked to confirm the new key: tell them, by another way than this server.")
    await _send_waiting(client)
    await client.rotate_ecdsa_key()
    out.print("Your identity key is replaced, and all other sessions have ended.")
    _say("Identity key", _fingerprint(client.identity.ecdsa_key))
    _say_copies(client.identity)


async def _send_waiting(client: Client) -> None:
    """Send what waits, as it may be sealed under the key that goes. What cannot be sent must not keep a stolen one."""
    try:
        await client.flush()
    except ClientError as error:
        err.print(f"Not all that waits could be sent: {error}", markup=False)
    if count := len(client.unsent()):
        err.print(
            f"{count} messages still wait. Those that are encrypted already are of sessions under the old key:"
            " who confirms the new one cannot read them."
        )


@account.command()
def rotate_encryption_key(identity: IdentityFile = None) -> None:
    """Replace the key that sessions begin with. Contacts take it without being asked: your identity key signs it.

    Sessions that have begun go on, and those that began with the old key can be taken up for 30 days. If the answer is
    lost, run it again.

    Example:
      blindpost account rotate-encryption-key
    """
    as_me(identity, _rotate_encryption_key)


async def _rotate_encryption_key(client: Client) -> None:
    await client.rotate_ecdh_key()
    out.print("Your encryption key is replaced; what was sent under the old one can be read for 30 days.")
    _say_copies(client.identity)


def _say_copies(me: Identity) -> None:
    err.print(f"Copies of {me.path} made before this do not have the new key: make them anew.", markup=False)


@account.command()
def passphrase(identity: IdentityFile = None) -> None:
    """Set a new passphrase for your identity file, and so for your store, whose key is in it.

    The file is replaced as a whole: if the computer stops, one of the two passphrases opens it, never none. Copies made
    before still open with the old one; if somebody may have both, replace your keys as well.

    Examples:
      blindpost account passphrase

      BLINDPOST_PASSPHRASE=... BLINDPOST_NEW_PASSPHRASE=... blindpost account passphrase
    """
    with errors_as_sentences():
        path = identity_path(identity)
        old = ask_passphrase(path)
        me = Identity.load(path, old)
        new = ask_passphrase(path, new=True, variable=NEW_PASSPHRASE, what="New passphrase")
        if new == old:
            fail("the new passphrase is the present one", "think of another")
        me.save(path, new)
        out.print(f"The passphrase of {path} is changed; end other programs that use it.", markup=False)
        err.print("Copies made before still open with the old one.", style="dim")


ERASED: Final = """\
The router erases at once: your account and its keys, your sessions, your contacts and requests, and every message
that waits for you or from you. There is no way back, and nobody can take your name again, not even you."""
REMAINS: Final = """\
What it cannot promise: dead rows stay on the database's disk until a vacuum, changes in its write-ahead log until that
is recycled, and all of it in backups and replicas for as long as the operator keeps them. The audit holds, under
pseudonyms of the day, that there were sessions and a deletion. Your contacts keep what you wrote, your name and your
public keys."""


@account.command()
def delete(
    yes: Annotated[
        str | None, typer.Option("--yes", metavar="NAME", help="Your name, for scripts: it is not asked for then")
    ] = None,
    identity: IdentityFile = None,
) -> None:
    """Delete your account at the router. It asks you to type your name.

    Erased at once: account, keys, sessions, contacts and requests, waiting messages. Not erased: your name (it stays
    taken), dead rows until the database's vacuum, its write-ahead log and backups, pseudonymous marks in the audit,
    what your contacts have, and your files on this computer.

    Examples:
      blindpost account delete

      blindpost account delete --yes alice
    """
    with errors_as_sentences():
        path, me = load_me(identity)
        err.print(ERASED)
        err.print(REMAINS)
        if (yes if yes is not None else _typed_name(me.username)) != me.username:
            fail("that is not your name: nothing was deleted", f"this account is {me.username}")
        run_as(path, me, _delete)
        out.print(f"The account {me.username} is deleted.", markup=False)
        _say_files(path)


def _typed_name(name: str) -> str:
    if not sys.stdin.isatty():
        fail("there is no terminal to ask whether you are sure", f"add --yes {name}")
    return str(typer.prompt("Type your name to delete the account", err=True)).strip()


async def _delete(client: Client) -> None:
    await client.delete_account()


def _say_files(path: Path) -> None:
    err.print(
        f"Your files are still here: {path} and {store_path(path)}. Who has them and the passphrase can read what"
        " they keep of your messages; remove them, and their copies, if you do not need them.",
        markup=False,
    )
