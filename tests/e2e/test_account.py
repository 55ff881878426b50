"""The account's commands, as they are typed; and what the others say when keys change."""

import os
import pty
import re
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from blindpost.app import Running
from blindpost.cli import program
from support import unique_name
from terminal import PASSPHRASE, PROGRAM, Run, good, refused

OTHER = "another battery staple"


@dataclass
class Somebody:
    """One person at the terminal, with an identity file of their own."""

    blindpost: Run
    name: str
    path: Path

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.blindpost(*arguments, "-i", str(self.path), **more)


def register(blindpost: Run, router: Running, directory: Path, stem: str) -> Somebody:
    someone = Somebody(blindpost, unique_name(stem), directory / f"{stem}.identity")
    good(someone("register", someone.name, "--server", router.origin))
    return someone


@pytest.fixture
def alice(blindpost: Run, router: Running, tmp_path: Path) -> Somebody:
    return register(blindpost, router, tmp_path, "alice")


@pytest.fixture
def bob(blindpost: Run, router: Running, tmp_path: Path, alice: Somebody) -> Somebody:
    """Alice's contact."""
    bob = register(blindpost, router, tmp_path, "bob")
    good(bob("contacts", "add", alice.name))
    good(alice("contacts", "accept", bob.name))
    return bob


def fingerprint(shown: str) -> str:
    found = re.search(r"Identity key +((?:[0-9a-f]{4} ?){16})", shown)
    assert found, shown
    return found[1].strip()


def number_in(said: str) -> str:
    """Return the safety number of the command that a warning gives."""
    found = re.search(r'contacts confirm \w+ "([0-9 ]+)"', said)
    assert found, said
    return found[1]


def test_the_account_shows_who_one_is(alice: Somebody, router: Running) -> None:
    shown = good(alice("account", "show"))
    for part in (alice.name, router.origin, str(alice.path), "1, this command's among them"):
        assert part in shown
    assert len(fingerprint(shown)) == 79


def test_a_command_leaves_no_session_open_and_others_can_be_listed_and_ended(alice: Somebody) -> None:
    """The session of a command that is over would be of no use to anybody but a thief."""
    good(alice("account", "show"))
    following = subprocess.Popen(
        # SIGINT is ignored, as in a script's background job: SIGTERM must end it all the same.
        ("sh", "-c", 'trap "" INT; exec "$@"', "sh", *PROGRAM, "receive", "--follow", "-i", str(alice.path)),
        env=os.environ | {"BLINDPOST_PASSPHRASE": PASSPHRASE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        lines = _sessions_of(alice, 2)
        assert [line.rstrip().endswith("this") for line in lines] == [False, True]
        assert "ended" in good(alice("account", "end-session", lines[0].split()[0]))
    finally:
        following.terminate()
        following.wait(30)


def _sessions_of(someone: Somebody, count: int) -> list[str]:
    """Return the lines of the table, once there are so many."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = good(someone("account", "sessions")).splitlines()[1:]
        if len(lines) == count:
            return lines
    raise AssertionError(f"not {count} sessions: {lines}")


def test_what_is_no_session_is_refused_with_the_way_to_find_one(alice: Somebody) -> None:
    for given in ("nonsense", "01890a5d-ac96-774b-bcce-b302099a8057"):
        assert "blindpost account sessions" in refused(alice("account", "end-session", given))
    assert "Ended 0 other sessions." in good(alice("account", "end-others"))


def test_a_new_identity_key_is_told_and_confirmed(alice: Somebody, bob: Somebody) -> None:
    """`rotate-key` says it, the contact's `receive`, `list` and `send` stop, and `confirm` goes on."""
    number = good(alice("contacts", "number", bob.name, "--same"))
    assert re.search(rf"{bob.name}  compared", good(alice("contacts", "list")))
    before = fingerprint(good(bob("account", "show")))
    rotated = bob("account", "rotate-key")
    assert "asked to confirm" in rotated.stderr
    assert fingerprint(good(rotated)) != before
    told = alice("receive")
    assert f"Your contacts changed: see `blindpost contacts list -i {alice.path}`" in told.stderr
    assert f"identity key of {bob.name} changed" in told.stderr
    new = number_in(told.stderr)
    assert new != number.strip()
    listed = alice("contacts", "list")
    assert re.search(rf"{bob.name}  KEY CHANGED", good(listed))
    assert number_in(listed.stderr) == new
    assert number_in(refused(alice("send", bob.name, "hello"))) == new
    assert "--sure" in refused(alice("contacts", "forget", bob.name))
    assert "trusted" in good(alice("contacts", "confirm", bob.name, new))
    # The number that was typed is the one that was compared.
    assert good(alice("contacts", "list")).split() == [bob.name, "compared"]
    good(alice("send", bob.name, "hello"))
    assert "hello" in good(bob("receive"))


def test_a_new_encryption_key_is_taken_without_a_question(alice: Somebody, bob: Somebody) -> None:
    good(alice("send", bob.name, "to the old one"))
    assert "30 days" in good(bob("account", "rotate-encryption-key"))
    good(alice("send", bob.name, "to the new one"))
    received = good(bob("receive"))
    assert "to the old one" in received
    assert "to the new one" in received


def test_forgetting_is_local_and_takes_a_word_where_there_is_trust(alice: Somebody, bob: Somebody) -> None:
    good(alice("contacts", "number", bob.name, "--same"))
    assert "compared" in refused(alice("contacts", "forget", bob.name))
    assert "forgotten" in good(alice("contacts", "forget", bob.name, "--sure"))
    refused(alice("contacts", "forget", bob.name))
    assert good(alice("contacts", "list")).split() == [bob.name]


def test_a_new_passphrase_opens_identity_and_store_and_the_old_one_no_more(alice: Somebody, bob: Somebody) -> None:
    good(alice("contacts", "number", bob.name, "--same"))
    changed = alice("account", "passphrase", BLINDPOST_NEW_PASSPHRASE=OTHER)
    assert str(alice.path) in good(changed)
    assert "Copies" in changed.stderr
    assert "passphrase" in refused(alice("account", "show"))
    assert "compared" in good(alice("contacts", "list", BLINDPOST_PASSPHRASE=OTHER))
    again = alice("account", "passphrase", BLINDPOST_PASSPHRASE=OTHER, BLINDPOST_NEW_PASSPHRASE=OTHER)
    assert "present one" in refused(again)
    assert alice.path.stat().st_mode & 0o777 == 0o600


def test_a_new_passphrase_has_eight_characters(alice: Somebody) -> None:
    assert "fewer than 8" in refused(alice("account", "passphrase", BLINDPOST_NEW_PASSPHRASE="seven77"))
    good(alice("account", "show"))


def test_an_account_is_deleted_by_its_name_and_no_other(alice: Somebody, bob: Somebody) -> None:
    """It says before what is erased, and what is not."""
    for arguments in ((), ("--yes", "somebody"), ("--yes", alice.name.upper())):
        refused(alice("account", "delete", *arguments))
    good(alice("account", "show"))
    deleted = alice("account", "delete", "--yes", alice.name)
    assert alice.name in good(deleted)
    for word in ("vacuum", "write-ahead log", "backups", "contacts keep", "still here", str(alice.path)):
        assert word in deleted.stderr.replace("\n", " ")
    assert "does not know this identity" in refused(alice("account", "show"))
    assert good(bob("contacts", "list")).split() == []


def test_at_a_terminal_the_name_is_asked_for(alice: Somebody) -> None:
    main, side = pty.openpty()
    with subprocess.Popen(
        (*PROGRAM, "account", "delete", "-i", str(alice.path)),
        env=os.environ | {"BLINDPOST_PASSPHRASE": PASSPHRASE, "TERM": "dumb"},
        stdin=side,
        stdout=side,
        stderr=side,
    ) as process:
        os.close(side)
        said = _until(main, "Type your name")
        assert "There is no way back" in said.replace("\r\n", " ")
        os.write(main, f"{alice.name}\n".encode())
        assert "is deleted" in _until(main, "is deleted")
        process.wait(60)
    os.close(main)
    refused(alice("account", "show"))


def _until(terminal: int, text: str) -> str:
    said = ""
    while text not in said:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, said
        said += os.read(terminal, 4096).decode()
    return said


def test_a_persons_commands_do_not_import_the_routers_half() -> None:
    """They start quickly, and need nothing of the router."""
    for command in ("account", "contacts", "send"):
        script = (
            f"import sys; from blindpost.cli import program; program({command!r});"
            "print([name for name in ('blindpost.app', 'blindpost.routers', 'fastapi') if name in sys.modules])"
        )
        done = subprocess.run((PROGRAM[0], "-c", script), capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
    assert "account" in {group.name for group in program("account").registered_groups}
