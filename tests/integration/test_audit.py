"""Security events reach one chain, whatever the stores do; and whatever is done to the chain is found."""

import asyncio
import math
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from blindpost.core.audit import HEAD_FILE, Audit, Event, read_head, read_heads, verify, worker_dir, write_head
from blindpost.core.audit_chain import Entry, Fault, Head, Kind, Row, hash_of, link
from blindpost.core.database import Database, Transaction
from blindpost.core.embedded import StoreUrls
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.core.repositories import audit as repository
from blindpost.errors import ConfigurationError, OutcomeUnknown, Unavailable
from blindpost.telemetry import registry
from checks import until
from support import running_in_thread, settings_for

KEEP_DAYS = 90
NAME, ADDRESS = "alice_of_the_audit", "203.0.113.77"


@pytest.fixture
async def database(scratch: StoreUrls) -> AsyncIterator[Database]:
    assert scratch.database_url
    async with Flaky(scratch.database_url, pool_size=4) as database:
        await database.migrate()
        yield database


@pytest.fixture
async def raw(database: Database) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """PostgreSQL as the owner of the table sees it."""
    connection = await database.connect_raw()
    yield connection
    await connection.close()


class Flaky(Database):
    """A database that fails as often as it is told to: before a transaction, or in its commit."""

    def __init__(self, url: str, *, pool_size: int) -> None:
        super().__init__(url, pool_size=pool_size)
        self.trials = 0
        self.away = 0
        self.fault: Exception | None = None
        self.unknown: list[bool] = []
        """For the next commits, whose answer is lost: whether they happen."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        self.trials += 1
        if self.away:
            self.away -= 1
            raise Unavailable
        if self.fault:
            raise self.fault
        happens = self.unknown.pop(0) if self.unknown else None
        with suppress(Undone):
            async with super().transaction() as tx:
                yield tx
                if happens is False:
                    raise Undone
        if happens is not None:
            raise OutcomeUnknown


class Undone(Exception):
    pass


def node(database: Database, data_dir: Path, **more: Any) -> Audit:
    data_dir.mkdir(parents=True, exist_ok=True)
    return Audit(database, Pseudonyms(database), data_dir, KEEP_DAYS, **({"interval_s": 0.01} | more))


async def written(audit: Audit) -> None:
    """Let a node write what it has noted, and end, without an expiry."""
    audit._expiry_due = math.inf
    audit.close()
    async with asyncio.timeout(20):
        await audit.run()


async def write(database: Database, data_dir: Path, *events: Event, **more: Any) -> None:
    audit = node(database, data_dir, **more)
    for event in events:
        audit.note(event)
    await written(audit)


async def rows_of(database: Database) -> list[Row]:
    async with database.reading() as connection:
        return await repository.after(connection, None, 10_000)


async def faults(database: Database, data_dir: Path) -> list[Fault]:
    return (await verify(database, read_heads(data_dir))).faults


async def found(database: Database, data_dir: Path) -> list[tuple[Kind, int | None]]:
    return [(fault.kind, fault.row) for fault in await faults(database, data_dir)]


def counted(outcome: str) -> float:
    return registry.get_sample_value("blindpost_audit_events_total", {"outcome": outcome}) or 0.0


def faults_logged() -> float:
    return registry.get_sample_value("blindpost_faults_total", {"event": "audit_failed"}) or 0.0


# What is written


async def test_a_flood_of_equal_events_is_one_row_with_a_count(database: Database, tmp_path: Path) -> None:
    audit = node(database, tmp_path)
    for _ in range(10_000):
        audit.note(Event.LOGIN_FAILED, subject=NAME, address=ADDRESS)
    audit.note(Event.LOGIN_FAILED, address=ADDRESS)
    await written(audit)
    assert [(row.event, row.count) for row in await rows_of(database)] == [
        ("login_failed", 10_000),
        ("login_failed", 1),
    ]


async def test_what_does_not_fit_in_is_counted_and_the_count_is_a_row(database: Database, tmp_path: Path) -> None:
    audit = node(database, tmp_path, capacity=4)
    before = counted("lost"), counted("written")
    for number in range(10):
        audit.note(Event.SESSIONS_ENDED, subject=str(number % 7))
    await written(audit)
    rows = await rows_of(database)
    assert [row.event for row in rows] == ["sessions_ended"] * 4 + ["events_lost"]
    assert [row.count for row in rows] == [2, 2, 2, 1, 3]
    assert (counted("lost") - before[0], counted("written") - before[1]) == (3, 7)


async def test_no_flood_by_strangers_hides_what_happens_to_an_account(database: Database, tmp_path: Path) -> None:
    audit = node(database, tmp_path, capacity=4)
    for number in range(1_000):
        audit.note(Event.LOGIN_FAILED, subject=str(number))
        audit.note(Event.LIMIT_HIT, address=str(number))
    audit.note(Event.IDENTITY_KEY_CHANGED, subject=NAME)
    await written(audit)
    assert {row.event for row in await rows_of(database)} >= {"identity_key_changed", "events_lost"}


async def test_the_table_holds_pseudonyms_and_whole_hours_and_no_name(
    database: Database, raw: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    audit = node(database, tmp_path)
    audit.note(Event.LOGIN_FAILED, subject=NAME, address=ADDRESS)
    audit.note(Event.SESSIONS_ENDED, subject=NAME, address=NAME)
    await written(audit)
    first, second = await rows_of(database)
    assert first.subject == second.subject
    assert second.address not in {None, second.subject, first.address}
    assert {(row.at.minute, row.at.second, row.at.microsecond) for row in (first, second)} == {(0, 0, 0)}
    dump = await raw.fetchval("SELECT string_agg(a::text || encode(subject || address, 'escape'), '') FROM audit a")
    assert NAME not in dump
    assert ADDRESS not in dump


async def test_an_event_keeps_the_hour_in_which_it_was_noted(database: Database, tmp_path: Path) -> None:
    times = [datetime(2031, 5, 17, hour, 59, 59, 999_999, UTC) for hour in (9, 9, 10)]
    audit = node(database, tmp_path, now=iter([*times, *times]).__next__)
    for _ in times:
        audit.note(Event.LIMIT_HIT)
    await written(audit)
    assert [(row.at.hour, row.count) for row in await rows_of(database)] == [(9, 2), (10, 1)]


async def test_a_running_node_writes_without_being_closed(database: Database, tmp_path: Path) -> None:
    audit = node(database, tmp_path)
    running = asyncio.create_task(audit.run())
    before = counted("written")
    audit.note(Event.ACCOUNT_DELETED, subject=NAME)
    await until(lambda: counted("written") > before)
    audit.close()
    await running
    assert len(await rows_of(database)) == 1


async def test_nodes_that_write_at_once_write_one_chain_without_a_gap(database: Database, tmp_path: Path) -> None:
    """And none of them is ever refused: they take turns."""
    refused = faults_logged()

    async def busy(name: str) -> None:
        for _ in range(20):
            audit = node(database, tmp_path / name)
            for subject in range(3):
                audit.note(Event.SESSIONS_ENDED, subject=f"{name} {subject}")
            await written(audit)

    await asyncio.gather(busy("one"), busy("two"), busy("three"))
    rows = await rows_of(database)
    assert [row.id for row in rows] == list(range(1, 3 * 20 * 3 + 1))
    assert faults_logged() == refused
    for name in ("one", "two", "three"):
        assert await faults(database, tmp_path / name) == []


# The stores fail


async def test_a_database_that_is_away_loses_nothing(database: Flaky, tmp_path: Path) -> None:
    audit = node(database, tmp_path)
    running = asyncio.create_task(audit.run())
    audit.note(Event.LOGIN_FAILED, subject=NAME)
    database.away = 5
    await until(lambda: not database.away)
    audit.note(Event.LOGIN_FAILED, subject=NAME)
    audit.note(Event.LIMIT_HIT)
    audit.close()
    await running
    counts: dict[str, int] = {}
    for row in await rows_of(database):
        counts[row.event] = counts.get(row.event, 0) + row.count
    assert counts == {"login_failed": 2, "limit_hit": 1}


@pytest.mark.parametrize("happens", [[True], [False], [False, True], [True, False, False]], ids=str)
async def test_a_commit_whose_answer_was_lost_is_written_once(
    database: Flaky, tmp_path: Path, happens: list[bool]
) -> None:
    """The later answers that are lost are those to the question what became of it."""
    audit = node(database, tmp_path)
    audit._expiry_due = math.inf
    await audit._pseudonyms.of("so that the day has its key")
    database.unknown = list(happens)
    audit.note(Event.SESSIONS_ENDED, subject=NAME)
    running = asyncio.create_task(audit.run())
    await until(lambda: not database.unknown)
    audit.close()
    await running
    assert [(row.event, row.count) for row in await rows_of(database)] == [("sessions_ended", 1)]
    assert await faults(database, tmp_path) == []
    assert read_head(tmp_path) is not None


async def test_what_cannot_be_written_at_the_end_is_counted_and_the_end_comes(database: Flaky, tmp_path: Path) -> None:
    audit = node(database, tmp_path)
    before = counted("lost")
    for _ in range(3):
        audit.note(Event.SESSIONS_ENDED)
    database.away = 1_000
    await written(audit)
    assert counted("lost") - before == 3


async def test_a_fault_is_logged_once_and_keeps_the_events(database: Flaky, tmp_path: Path) -> None:
    audit = node(database, tmp_path)
    before, trials = faults_logged(), database.trials
    database.fault = RuntimeError("a fault of ours")
    running = asyncio.create_task(audit.run())
    audit.note(Event.SESSIONS_ENDED)
    await until(lambda: database.trials > trials + 3)
    database.fault = None
    audit.close()
    await running
    assert faults_logged() - before == 1
    assert len(await rows_of(database)) == 1


# What is done to the table


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET count = 2",
        "UPDATE audit SET event = event",
        "DELETE FROM audit WHERE id = 1",
        "DELETE FROM audit",
        "TRUNCATE audit",
    ],
)
async def test_the_database_refuses_to_change_what_was_written(
    database: Database, raw: "asyncpg.Connection[Any]", tmp_path: Path, statement: str
) -> None:
    await write(database, tmp_path, Event.SCHEMA_MIGRATED)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await raw.execute(statement)
    assert len(await rows_of(database)) == 1


@pytest.fixture
async def three(database: Database, raw: "asyncpg.Connection[Any]", tmp_path: Path) -> Path:
    """A node that wrote three rows, in a table whose owner has taken the triggers away."""
    audit = node(database, tmp_path)
    for event in (Event.LOGIN_FAILED, Event.SESSIONS_ENDED, Event.ACCOUNT_DELETED):
        audit.note(event, subject=NAME, address=ADDRESS)
    await written(audit)
    await raw.execute("ALTER TABLE audit DISABLE TRIGGER USER")
    assert await faults(database, tmp_path) == []
    return tmp_path


SWAP = "UPDATE audit SET id = -id WHERE id < 3; UPDATE audit SET id = 3 + id WHERE id < 0"


@pytest.mark.parametrize(
    ("statement", "kind", "row"),
    [
        ("UPDATE audit SET at = at - interval '1 hour' WHERE id = 2", Kind.EDITED, 2),
        ("UPDATE audit SET at = 'infinity' WHERE id = 2", Kind.EDITED, 2),
        ("UPDATE audit SET at = '4000-01-01 BC' WHERE id = 2", Kind.EDITED, 2),
        ("UPDATE audit SET event = 'limit_hit' WHERE id = 1", Kind.EDITED, 1),
        ("UPDATE audit SET subject = NULL WHERE id = 2", Kind.EDITED, 2),
        ("UPDATE audit SET address = subject WHERE id = 2", Kind.EDITED, 2),
        ("UPDATE audit SET count = 7 WHERE id = 3", Kind.EDITED, 3),
        ("UPDATE audit SET previous = hash WHERE id = 2", Kind.EDITED, 2),
        ("UPDATE audit SET hash = previous WHERE id = 2", Kind.EDITED, 2),
        ("UPDATE audit SET id = 9 WHERE id = 2", Kind.MISSING, 2),
        ("DELETE FROM audit WHERE id = 1", Kind.BEGINS_TOO_LATE, 2),
        ("DELETE FROM audit WHERE id = 2", Kind.MISSING, 2),
        ("DELETE FROM audit WHERE id = 3", Kind.CUT_OFF, 3),
        ("DELETE FROM audit", Kind.CUT_OFF, 3),
        (SWAP, Kind.OUT_OF_ORDER, 1),
    ],
)
async def test_whatever_is_done_to_a_row_is_found(
    database: Database, raw: "asyncpg.Connection[Any]", three: Path, statement: str, kind: Kind, row: int
) -> None:
    await raw.execute(statement)
    assert (await found(database, three))[0] == (kind, row)


async def recompute(database: Database, raw: "asyncpg.Connection[Any]", change: Row) -> None:
    """Change a row, and every hash from there on, as somebody would who knows the code."""
    previous = change.previous
    for row in [change, *(await rows_of(database))[change.id :]]:
        linked = row._replace(previous=previous)
        previous = hash_of(linked)
        statement = "UPDATE audit SET event = $2, previous = $3, hash = $4 WHERE id = $1"
        await raw.execute(statement, row.id, row.event, linked.previous, previous)


async def test_a_chain_that_was_computed_anew_is_found_by_the_node_that_wrote_it(
    database: Database, raw: "asyncpg.Connection[Any]", three: Path
) -> None:
    rows = await rows_of(database)
    await recompute(database, raw, rows[0]._replace(event="limit_hit"))
    assert (await verify(database, [])).faults == []
    assert await found(database, three) == [(Kind.REWRITTEN, 3)]
    assert [fault.kind for fault in (await verify(database, [], rows[1].hash)).faults] == [Kind.REWRITTEN]


@pytest.mark.parametrize("again", [False, True], ids=["by-the-same-run", "by-a-later-run"])
async def test_a_node_that_goes_on_writing_does_not_wipe_out_the_proof(
    database: Database, raw: "asyncpg.Connection[Any]", three: Path, *, again: bool
) -> None:
    """The node appends to what it finds, and remembers what it wrote before."""
    remembered = read_head(three)
    audit = node(database, three)
    if not again:
        await audit._remember()
    await raw.execute("DELETE FROM audit WHERE id > 1")
    for _ in range(3):
        audit.note(Event.LIMIT_HIT, address=uuid4().hex)
    await written(audit)
    assert len(await rows_of(database)) == 4
    assert read_head(three) == remembered
    assert await found(database, three) == [(Kind.REWRITTEN, 3)]


async def test_a_worker_that_has_seen_nothing_does_not_wipe_out_what_another_remembers(
    database: Database, raw: "asyncpg.Connection[Any]", three: Path
) -> None:
    """All workers append to what they find, and the second one's head is of the very id that was cut off."""
    await raw.execute("DELETE FROM audit WHERE id > 2")
    await write(database, worker_dir(three, 2), Event.SCHEMA_MIGRATED)
    heads = read_heads(three)
    assert [head.id for head in heads] == [3, 3]
    assert heads[0].hash != heads[1].hash
    assert await found(database, three) == [(Kind.REWRITTEN, 3)]


async def test_the_heads_of_workers_that_are_no_more_still_count(
    database: Database, raw: "asyncpg.Connection[Any]", three: Path
) -> None:
    await write(database, worker_dir(three, 4), Event.SCHEMA_MIGRATED)
    await write(database, three, Event.ACCOUNT_DELETED)
    assert await found(database, three) == []
    await raw.execute("DELETE FROM audit WHERE id > 3")
    assert {(Kind.CUT_OFF, 4), (Kind.CUT_OFF, 5)} == set(await found(database, three))


# Expiry


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


async def test_rows_older_than_the_days_that_are_kept_go_and_the_chain_says_so(
    database: Database, tmp_path: Path
) -> None:
    await write(database, tmp_path / "one", *list(Event)[:4], now=lambda: days_ago(KEEP_DAYS + 1))
    await write(database, tmp_path / "two", *list(Event)[4:6], now=lambda: days_ago(KEEP_DAYS - 1))
    assert await node(database, tmp_path / "two").expire() == 4
    rows = await rows_of(database)
    assert [row.id for row in rows] == [5, 6, 7]
    assert (rows[-1].event, rows[-1].count) == ("audit_expired", 4)
    for name in ("one", "two"):  # the first one's last row is among the deleted
        assert await faults(database, tmp_path / name) == []
    assert await node(database, tmp_path / "two").expire() == 0


async def test_a_running_node_expires_by_itself(database: Database, tmp_path: Path) -> None:
    await write(database, tmp_path, Event.LIMIT_HIT, Event.LOGIN_FAILED, now=lambda: days_ago(200))
    audit = node(database, tmp_path)
    running = asyncio.create_task(audit.run())
    await until(lambda: audit._expiry_due > 0)
    audit.close()
    await running
    assert [(row.id, row.event, row.count) for row in await rows_of(database)] == [(3, "audit_expired", 2)]
    await write(database, tmp_path, Event.LIMIT_HIT)
    assert [row.id for row in await rows_of(database)] == [3, 4]
    assert await faults(database, tmp_path) == []


async def test_only_the_beginning_expires(database: Database, tmp_path: Path) -> None:
    """An old row behind a younger one waits for it: a chain has no holes."""
    for days in (200, 1, 200):
        await write(database, tmp_path, Event.LIMIT_HIT, now=lambda: days_ago(days))  # noqa: B023 - used at once
    assert await node(database, tmp_path).expire() == 1
    assert [row.id for row in await rows_of(database)] == [2, 3, 4]
    assert await faults(database, tmp_path) == []


async def test_a_false_word_of_an_expiry_is_found_by_the_node_that_wrote_what_is_gone(
    database: Database, raw: "asyncpg.Connection[Any]", three: Path
) -> None:
    async with database.transaction() as tx:
        word = Entry(days_ago(0), "audit_expired", None, None, 3)
        await repository.append(tx, link(await repository.head(tx), [word]))
    await raw.execute("DELETE FROM audit WHERE id <= 3")
    assert (await verify(database, [])).faults == []
    assert await found(database, three) == [(Kind.BEGINS_TOO_LATE, 3)]


# The file


def names_in(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


async def test_the_head_is_a_file_of_its_owner_alone_replaced_whole(database: Database, tmp_path: Path) -> None:
    for event in (Event.LIMIT_HIT, Event.LOGIN_FAILED):
        await write(database, tmp_path, event)
    last = (await rows_of(database))[-1]
    assert read_head(tmp_path) == Head(last.id, last.hash, last.at)
    assert stat.S_IMODE((tmp_path / HEAD_FILE).stat().st_mode) == 0o600
    assert names_in(tmp_path) == [HEAD_FILE]


@pytest.mark.parametrize(
    "text", ["", "1", f"1 {'0' * 64}\n", f"1 {'0' * 64} soon\n", "\x00", f"x {'0' * 64} 2031-05-17\n"]
)
async def test_a_head_that_a_node_did_not_write_is_a_sentence_and_is_left_as_it_is(
    database: Database, tmp_path: Path, text: str
) -> None:
    (tmp_path / HEAD_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=HEAD_FILE):
        read_head(tmp_path)
    await write(database, tmp_path, Event.LIMIT_HIT)
    assert (tmp_path / HEAD_FILE).read_text() == text
    assert len(await rows_of(database)) == 1


async def test_a_directory_that_takes_no_file_does_not_stop_the_events(database: Database, tmp_path: Path) -> None:
    audit = node(database, tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    audit.note(Event.LIMIT_HIT)
    await written(audit)
    assert len(await rows_of(database)) == 1


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    head = Head(7, bytes(range(32)), datetime(2031, 5, 17, 9, tzinfo=UTC))
    assert read_head(tmp_path) is None
    write_head(tmp_path, head)
    assert read_head(tmp_path) == head


# The router


async def test_a_router_that_changes_the_schema_notes_it_and_one_that_finds_it_done_does_not(
    scratch: StoreUrls, data_dir: Path
) -> None:
    settings = settings_for(scratch, data_dir / uuid4().hex)

    def start_and_stop() -> None:
        with running_in_thread(settings):
            pass

    for _ in range(2):
        await asyncio.to_thread(start_and_stop)
    async with Database(str(scratch.database_url), pool_size=1) as database:
        assert [row.event for row in await rows_of(database)] == ["schema_migrated"]
        assert await faults(database, settings.data_dir) == []
    assert read_head(settings.data_dir)
