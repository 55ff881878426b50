"""The commands of a person, and the demonstration, as they are typed."""

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from blindpost.app import Running
from blindpost.cli import program
from blindpost.cli.people import Reach
from support import unique_name
from terminal import Run, good, refused


def test_two_people_meet_and_write_to_each_other(blindpost: Run, router: Running, tmp_path: Path) -> None:
    alice, bob = unique_name("alice"), unique_name("bob")
    as_alice, as_bob = ("-i", str(tmp_path / "a.identity")), ("-i", str(tmp_path / "b.identity"))
    for name, identity in ((alice, as_alice), (bob, as_bob)):
        assert name in good(blindpost("register", name, "--server", router.origin, *identity))
    assert alice in good(blindpost("contacts", "search", alice[:8], *as_bob))
    good(blindpost("contacts", "add", alice, *as_bob))
    assert bob in good(blindpost("contacts", "requests", *as_alice))
    good(blindpost("contacts", "accept", bob, *as_alice))
    assert good(blindpost("contacts", "list", *as_bob)).split() == [alice]
    numbers = {good(blindpost("contacts", "number", *other)) for other in ((bob, *as_alice), (alice, *as_bob))}
    assert len(numbers) == 1
    good(blindpost("send", alice, "from the command line", *as_bob))
    good(blindpost("send", alice, *as_bob, stdin="from\nstandard input\x1b[31m"))
    received = good(blindpost("receive", *as_alice))
    assert "from the command line" in received
    # Indented: nobody can write a line that looks like somebody else's message.
    assert "\n    standard input" in received
    assert "\x1b" not in received
    assert blindpost("receive", *as_alice).stderr.strip() == "No messages."


def test_an_identity_file_is_private_and_useless_without_its_passphrase(
    blindpost: Run, router: Running, tmp_path: Path
) -> None:
    name = unique_name()
    good(blindpost("register", name, "--server", router.origin))
    path = tmp_path / "config" / "blindpost" / f"{name}.identity"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "passphrase" in refused(blindpost("contacts", "list", BLINDPOST_PASSPHRASE="guess"))


def test_an_error_is_a_sentence_with_a_hint_and_no_traceback(blindpost: Run, tmp_path: Path) -> None:
    for arguments in (
        ("contacts", "list"),
        ("register", "x", "--server", "http://127.0.0.1:9"),
        ("register", "nobody", "--server", "http://127.0.0.1:9", "-i", str(tmp_path / "n.identity")),
        ("register", "nobody", "--server", "not a url"),
    ):
        result = blindpost(*arguments)
        assert result.returncode == 1, arguments
        assert result.stderr.startswith("blindpost: "), result.stderr
        assert "Traceback" not in result.stderr


def test_a_place_that_cannot_be_used_is_a_sentence_with_a_hint(blindpost: Run, tmp_path: Path) -> None:
    """No directory, one that nobody can write to, and a path that cannot even be looked at."""
    (tmp_path / "file").touch()
    for path in (str(tmp_path / "file" / "a.identity"), "/proc/a.identity", str(tmp_path / ("a" * 300))):
        said = refused(blindpost("register", "alice", "--server", "http://127.0.0.1:9", "-i", path))
        assert "--identity" in said, said


def test_a_refused_register_leaves_nothing_behind(blindpost: Run, tmp_path: Path) -> None:
    path = tmp_path / "here" / "a.identity"
    for server in ("http://127.0.0.1:9", "http://chat.example.org", "not a url"):
        refused(blindpost("register", "alice", "--server", server, "-i", str(path)))
    refused(blindpost("register", "alice", "--server", "http://127.0.0.1:9", "-i", str(path), BLINDPOST_PASSPHRASE="7"))
    assert list(path.parent.iterdir()) == []


def test_following_tells_once_that_the_server_is_away_and_once_that_it_is_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reach = Reach()
    for is_reached in (True, False, False, True, True):
        reach.tell(is_reached)
    assert capsys.readouterr().err.splitlines() == [
        "The server cannot be reached; trying again.",
        "The server is back.",
    ]


def test_registering_a_taken_name_says_so_and_another_name_can_be_tried(
    blindpost: Run, router: Running, tmp_path: Path
) -> None:
    name = unique_name()
    good(blindpost("register", name, "--server", router.origin, "-i", str(tmp_path / "one.identity")))
    two = str(tmp_path / "two.identity")
    second = blindpost("register", name, "--server", router.origin, "-i", two)
    assert second.returncode == 1
    assert "username" in second.stderr
    good(blindpost("register", unique_name(), "--server", router.origin, "-i", two))


def test_the_demonstration_shows_what_it_promises_and_leaves_nothing(blindpost: Run, tmp_path: Path) -> None:
    result = blindpost("demo", TMPDIR=str(tmp_path))
    shown = good(result)
    for promise in ("reached him in", "waited on disk", "not_a_contact", "cannot be decrypted", "none of the four"):
        assert promise in shown
    assert not list(tmp_path.glob("blindpost-*"))
    assert not _processes_that_name(str(tmp_path))


def _processes_that_name(text: str) -> list[str]:
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = each.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


def test_every_command_has_help_with_an_example() -> None:
    runner, app = CliRunner(), program()

    def check(command: object, path: list[str]) -> None:
        subcommands = getattr(command, "commands", None)
        if subcommands:
            for name, each in subcommands.items():
                check(each, [*path, name])
            return
        result = runner.invoke(app, [*path, "--help"])
        assert result.exit_code == 0
        assert re.search(r"Examples?:", result.output), path

    check(get_command(app), [])
