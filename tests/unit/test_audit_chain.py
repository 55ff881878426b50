"""Whatever is done to the audit's rows, a walk over them finds it; and it finds nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from blindpost.core.audit_chain import BEGINNING, EXPIRED, Entry, Fault, Head, Kind, Row, Walk, hash_of, link

HOUR = datetime(2031, 5, 17, 9, tzinfo=UTC)
PSEUDONYMS = st.none() | st.binary(min_size=16, max_size=16)
TIMES = st.integers(0, 10_000).map(lambda hours: HOUR + timedelta(hours=hours))
COUNTS = st.integers(1, 2**63 - 1)
EVENTS = st.sampled_from(["login_failed", "limit_hit", "identity_key_changed"])
ENTRIES = st.lists(st.builds(Entry, TIMES, EVENTS, PSEUDONYMS, PSEUDONYMS, COUNTS), min_size=2, max_size=8)
OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.integers(-(2**63), 2**63 - 1),
    "at": st.datetimes(timezones=st.just(UTC)),
    "event": st.text(max_size=40),
    "subject": st.none() | st.binary(max_size=20),
    "address": st.none() | st.binary(max_size=20),
    "count": st.integers(-(2**63), 2**63 - 1),
    "previous": st.binary(min_size=32, max_size=32),
    "hash": st.binary(min_size=32, max_size=32),
}


def entry(event: str = "limit_hit", count: int = 1, at: datetime = HOUR) -> Entry:
    return Entry(at, event, None, None, count)


def chain(length: int = 6) -> list[Row]:
    return link(BEGINNING, [entry(count=number + 1) for number in range(length)])


def head_of(row: Row) -> Head:
    return Head(row.id, row.hash, row.at)


def faults(rows: list[Row], anchor: Head | None = None, expected: bytes | None = None) -> list[Fault]:
    walk = Walk([] if anchor is None else [anchor], expected)
    for row in sorted(rows, key=lambda row: row.id):
        walk.take(row)
    return walk.finish()


def found(rows: list[Row], anchor: Head | None = None) -> list[tuple[Kind, int | None]]:
    return [(fault.kind, fault.row) for fault in faults(rows, anchor)]


@given(ENTRIES, st.data())
def test_an_untouched_chain_is_whole_whichever_row_is_remembered(entries: list[Entry], data: st.DataObject) -> None:
    rows = link(BEGINNING, entries)
    known = data.draw(st.sampled_from(rows))
    assert faults(rows, head_of(known), known.hash) == []
    assert [Entry(*row[1:6]) for row in rows] == entries


@given(ENTRIES, st.integers(1, 7))
def test_it_does_not_matter_in_how_many_parts_a_chain_was_written(entries: list[Entry], cut: int) -> None:
    first = link(BEGINNING, entries[:cut])
    assert first + link(head_of(first[-1]), entries[cut:]) == link(BEGINNING, entries)


@pytest.mark.parametrize("column", Row._fields)
@given(entries=ENTRIES, data=st.data())
def test_any_edited_column_of_any_row_is_found(column: str, entries: list[Entry], data: st.DataObject) -> None:
    rows = link(BEGINNING, entries)
    index = data.draw(st.integers(0, len(rows) - 1))
    value = data.draw(OTHERS[column])
    assume(value != getattr(rows[index], column))
    assume(column != "id" or value not in {row.id for row in rows})
    edited = rows[index]._replace(**{column: value})
    assert faults([*rows[:index], edited, *rows[index + 1 :]])


@given(ENTRIES, st.data())
def test_a_row_whose_edit_was_covered_by_a_new_hash_is_found_by_the_row_behind_it(
    entries: list[Entry], data: st.DataObject
) -> None:
    rows = link(BEGINNING, entries)
    index = data.draw(st.integers(0, len(rows) - 2))
    edited = rows[index]._replace(count=rows[index].count % 7 + 1, event="x")
    rows[index] = edited._replace(hash=hash_of(edited))
    assert found(rows) == [(Kind.BROKEN, rows[index].id + 1)]


@given(ENTRIES, st.data())
def test_any_missing_row_is_found(entries: list[Entry], data: st.DataObject) -> None:
    """In the middle by the gap, at the beginning by the reason that is missing, at the end by who remembers it."""
    rows = link(BEGINNING, entries)
    index = data.draw(st.integers(0, len(rows) - 1))
    [(kind, row)] = found(rows[:index] + rows[index + 1 :], head_of(rows[-1]))
    middle = (Kind.MISSING, rows[index].id)
    assert (kind, row) == {0: (Kind.BEGINS_TOO_LATE, 2), len(rows) - 1: (Kind.CUT_OFF, len(rows))}.get(index, middle)


def test_rows_that_changed_places_are_named_with_the_places_that_they_had() -> None:
    rows = chain()
    rows[1], rows[4] = rows[4]._replace(id=2), rows[1]._replace(id=5)
    assert found(rows) == [(Kind.OUT_OF_ORDER, 2), (Kind.OUT_OF_ORDER, 5)]
    assert "row 5" in faults(rows)[0].says


def test_an_edited_row_is_named_alone() -> None:
    rows = chain()
    rows[2] = rows[2]._replace(count=99)
    assert found(rows) == [(Kind.EDITED, 3)]


@pytest.mark.parametrize("number", [-(2**63), 0, 2**63 - 1])
def test_no_number_stops_the_walk(number: int) -> None:
    rows = chain()
    assert found([*rows[:-1], rows[-1]._replace(id=number)])


def test_a_cut_end_is_seen_only_by_who_remembers_it() -> None:
    rows = chain()
    assert found(rows[:3]) == []
    assert found(rows[:3], head_of(rows[5])) == [(Kind.CUT_OFF, 6)]
    assert found([], head_of(rows[5])) == [(Kind.CUT_OFF, 6)]


def test_a_chain_computed_anew_is_seen_only_by_who_remembers_it() -> None:
    rows, other = chain(), link(BEGINNING, [entry("login_failed") for _ in range(6)])
    assert found(other) == []
    assert found(other, head_of(rows[3])) == [(Kind.REWRITTEN, 4)]
    assert [fault.kind for fault in faults(other, expected=rows[3].hash)] == [Kind.REWRITTEN]


def expired(to: int, *, age: timedelta) -> tuple[list[Row], Head]:
    """A chain whose rows up to one were deleted with a word of it, after that time; and one of the deleted rows."""
    rows = chain()
    word = link(head_of(rows[-1]), [entry(EXPIRED, count=to, at=HOUR + age)])
    return rows[to:] + word, head_of(rows[0])


def test_a_chain_may_begin_behind_the_rows_that_it_says_have_expired() -> None:
    rows, first = expired(3, age=timedelta(days=7))
    assert found(rows) == found(rows, first) == []


@pytest.mark.parametrize("to", [2, 4])
def test_and_behind_no_others(to: int) -> None:
    rows = chain()
    word = link(head_of(rows[-1]), [entry(EXPIRED, count=to)])
    assert found(rows[3:] + word) == [(Kind.BEGINS_TOO_LATE, 4)]


def test_a_row_that_was_too_young_to_expire_is_missed_whatever_the_chain_says() -> None:
    rows, first = expired(3, age=timedelta(days=2))
    assert found(rows) == []
    assert found(rows, first) == [(Kind.BEGINS_TOO_LATE, 1)]


def test_the_first_row_follows_from_nothing() -> None:
    other = Head(0, bytes([1]) * 32, HOUR)
    assert found(link(other, [entry(), entry()])) == [(Kind.BROKEN, 1)]


def test_only_the_first_faults_of_many_are_kept() -> None:
    rows = [row._replace(count=99_999) for row in chain(200)]
    assert len(found(rows)) == 20


def test_the_hash_is_that_of_the_written_layout() -> None:
    """A hash that was written down must mean the same for every later version."""
    [row] = link(BEGINNING, [Entry(HOUR, "login_failed", bytes(16), None, 3)])
    assert row.hash.hex() == "84a845a6277838742261b828d7ee205129d3c23c9272b3b282b8c57c40c794da"
