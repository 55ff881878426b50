"""`blindpost audit` as an operator sees it: processes, sentences, exit codes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blindpost.core.audit import HEAD_FILE, Audit, Event
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls, running_database
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.core.repositories import users

if TYPE_CHECKING:
    import asyncpg

PROGRAM = (sys.executable, "-c", "from blindpost.cli import main; main()", "audit")
NAME = "alice_of_the_audit"
Result = subprocess.CompletedProcess[str]
Command = Callable[..., Result]


def blindpost_audit(*arguments: str, **settings: object) -> Result:
    """Run a subcommand in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BLINDPOST_")}
    own = {f"BLINDPOST_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        (*PROGRAM, *arguments),
        env=kept | own | {"COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(result: Result) -> str:
    """Return what a command says that refuses: one line and a hint, no traceback."""
    assert result.returncode == 1, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    said, hint = result.stderr.splitlines()
    assert said.startswith("blindpost: ")
    assert hint.startswith("hint: ")
    return said


@pytest.fixture
async def database(scratch: StoreUrls) -> AsyncIterator[Database]:
    async with Database(str(scratch.database_url), pool_size=2) as database:
        await database.migrate()
        yield database


@pytest.fixture
async def raw(database: Database) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await database.connect_raw()
    yield connection
    await connection.close()


@pytest.fixture
def command(scratch: StoreUrls, database: Database, tmp_path: Path) -> Command:  # noqa: ARG001 - it migrates
    def run(*arguments: str) -> Result:
        return blindpost_audit(
            *arguments, database_url=scratch.database_url, redis_url=scratch.redis_url, data_dir=tmp_path
        )

    return run


@pytest.fixture
async def written(database: Database, tmp_path: Path) -> str:
    """Write a few events, of a user and of a stranger; return the user's id."""
    async with database.transaction() as tx:
        await users.claim_name(tx, NAME)
        user_id = str(await users.add(tx, users.NewUser(NAME, bytes(120), bytes([1]) * 120, b"x")))
    audit = Audit(database, Pseudonyms(database), tmp_path, 90, interval_s=0.01)
    for _ in range(3):
        audit.note(Event.LOGIN_FAILED, subject=NAME, address="203.0.113.77")
    audit.note(Event.IDENTITY_KEY_CHANGED, subject=user_id)
    audit.note(Event.ACCOUNT_DELETED, subject="somebody else")
    audit.close()
    await audit.run()
    return user_id


def lines_of(result: Result) -> list[list[str]]:
    assert result.returncode == 0, result.stderr
    return [line.split() for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("written")
def test_verify_says_how_many_rows_from_when_to_when_and_their_head_which_it_knows_again(command: Command) -> None:
    result = command("verify")
    assert result.returncode == 0, result.stderr
    assert "The audit is whole: 3 rows, from " in result.stdout
    assert result.stderr == ""
    head = result.stdout.split()[-1]
    assert "Its head is row 3" in result.stdout
    assert command("verify", "--expect", head).returncode == 0


@pytest.mark.usefixtures("written")
async def test_verify_names_the_row_and_the_kind_and_ends_with_1(
    command: Command, raw: "asyncpg.Connection[Any]"
) -> None:
    await raw.execute("ALTER TABLE audit DISABLE TRIGGER USER")
    await raw.execute("UPDATE audit SET count = 1 WHERE id = 1")
    await raw.execute("DELETE FROM audit WHERE id = 3")
    result = await asyncio.to_thread(command, "verify")
    assert "the audit is not whole" in refusal(result)
    edited, cut = result.stdout.splitlines()
    assert edited.startswith("row 1: edited: ")
    assert cut.startswith("row 3: cut off at the end: ")


@pytest.mark.usefixtures("written")
def test_a_head_that_is_not_in_the_chain_is_said(command: Command) -> None:
    result = command("verify", "--expect", "ab" * 32)
    refusal(result)
    assert result.stdout.startswith("rewritten: ")


@pytest.mark.parametrize("text", ["", "abc", "ab" * 31, "x" * 64])
def test_a_head_that_is_no_hash_is_said_before_anything_is_opened(text: str, tmp_path: Path) -> None:
    said = refusal(blindpost_audit("verify", "--expect", text, data_dir=tmp_path / "none"))
    assert "not a hash" in said
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("written")
def test_without_a_head_of_its_own_verify_says_what_it_cannot_see(command: Command, tmp_path: Path) -> None:
    (tmp_path / HEAD_FILE).unlink()
    result = command("verify")
    assert result.returncode == 0
    assert f"There is no {HEAD_FILE}" in result.stderr


def test_a_head_that_cannot_be_read_is_a_sentence(command: Command, tmp_path: Path) -> None:
    (tmp_path / HEAD_FILE).write_text("what?")
    assert HEAD_FILE in refusal(command("verify"))


@pytest.mark.usefixtures("written")
def test_show_prints_events_with_pseudonyms_and_the_newest_only_if_asked(command: Command) -> None:
    header, *rows = lines_of(command("show"))
    assert header == ["row", "hour", "(UTC)", "event", "count", "subject", "address"]
    assert [(row[0], row[3], row[4]) for row in rows] == [
        *(("1", "login_failed", "3"), ("2", "identity_key_changed", "1"), ("3", "account_deleted", "1"))
    ]
    assert [row[6] == "-" for row in rows] == [False, True, True]
    assert [row[0] for row in lines_of(command("show", "--last", "1"))[1:]] == ["3"]


@pytest.mark.usefixtures("written")
def test_show_finds_a_users_events_by_id_and_by_name_and_nobody_elses(command: Command) -> None:
    assert [row[0] for row in lines_of(command("show", "--user", NAME.upper()))[1:]] == ["1", "2"]


async def test_show_finds_a_users_events_of_yesterday(
    command: Command, written: str, raw: "asyncpg.Connection[Any]"
) -> None:
    assert written
    await raw.execute("UPDATE pseudonym_keys SET day = day - 1")
    result = await asyncio.to_thread(command, "show", "--user", NAME)
    assert [row[0] for row in lines_of(result)[1:]] == ["1", "2"]
    await raw.execute("DELETE FROM pseudonym_keys")
    result = await asyncio.to_thread(command, "show", "--user", NAME)
    assert (result.returncode, result.stdout) == (0, "")
    assert "No events of" in result.stderr


def test_show_of_nobody_is_a_sentence(command: Command) -> None:
    assert "no user" in refusal(command("show", "--user", "nobody_here"))


def test_an_empty_audit_is_whole(command: Command) -> None:
    assert "no rows yet" in command("verify").stdout
    assert command("show").returncode == 0


def test_a_database_without_the_schema_is_a_sentence(scratch: StoreUrls, tmp_path: Path) -> None:
    result = blindpost_audit("verify", database_url=scratch.database_url, data_dir=tmp_path)
    assert "schema" in refusal(result)


def test_where_there_is_no_database_none_is_made(tmp_path: Path) -> None:
    assert "no database" in refusal(blindpost_audit("show", data_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("router")  # it made the schema
def test_embedded_stores_that_another_process_runs_are_asked_where_they_are(stores: StoreUrls, data_dir: Path) -> None:
    """The tests' own stores: this process holds their lock."""
    assert running_database(data_dir / "stores") == stores.database_url
    result = blindpost_audit("verify", data_dir=data_dir / "stores")
    assert result.returncode == 0, result.stderr
    assert "The audit is whole" in result.stdout


def test_only_a_directory_of_ours_is_taken_for_that_of_the_sockets(tmp_path: Path) -> None:
    sockets = tmp_path / "blindpost-0123"
    assert running_database(tmp_path) is None
    (tmp_path / "runtime").write_text(f"{sockets}\n")
    assert running_database(tmp_path) is None
    sockets.symlink_to(tmp_path)
    assert running_database(tmp_path) is None
    sockets.unlink()
    sockets.mkdir()
    assert str(sockets) in (running_database(tmp_path) or "")


@pytest.mark.parametrize("arguments", [(), ("verify",), ("show",)])
def test_every_command_explains_itself(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = blindpost_audit(*arguments, "--help", data_dir=tmp_path)
    assert result.returncode == 0
    assert not arguments or "Examples:" in result.stdout
