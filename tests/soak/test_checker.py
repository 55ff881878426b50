"""The checker finds what it is there to find, in journals that are written by hand."""

from pathlib import Path

import pytest

from soak.checker import check
from soak.journal import Journal, Note, What, read

GOOD = (
    ("alice", What.ENTERED, "bob", 0),
    ("alice", What.SENT, "bob", 0),
    ("bob", What.RECEIVED, "alice", 0),
    ("alice", What.ENTERED, "bob", 1),
    ("bob", What.RECEIVED, "alice", 1),
    ("alice", What.SENT, "bob", 1),
)
BAD = {
    "lost": ("alice", What.SENT, "bob", 7),
    "stuck": ("alice", What.ENTERED, "bob", 7),
    "refused": ("alice", What.REFUSED, "bob", 1),
    "doubled": ("bob", What.RECEIVED, "alice", 0),
    "unfounded": ("alice", What.RECEIVED, "bob", 0),
    "strays": ("carol", What.STRAY, "alice", 0),
    "problems": ("bob", What.PROBLEM, "alice", 1),
}


def notes(*lines: tuple[str, What, str, int]) -> list[Note]:
    return [Note(float(index), *line) for index, line in enumerate(lines)]


def test_nothing_is_found_where_all_arrives_once_and_in_order() -> None:
    found = check(notes(*GOOD))
    assert (found.is_clean, found.sent, found.received) == (True, 2, 2)


@pytest.mark.parametrize("name", BAD)
def test_one_bad_note_is_found_for_what_it_is(name: str) -> None:
    found = check(notes(*GOOD, BAD[name]))
    assert {each for each, count in found.summary().items() if count} == {"sent", "received", name}
    assert not found.is_clean


def test_what_comes_after_a_later_one_is_out_of_order() -> None:
    """To its own recipient: what others get is another row."""
    late = [GOOD[0], GOOD[1], GOOD[3], GOOD[5], GOOD[4], GOOD[2]]
    assert check(notes(*late)).reordered == [("alice", "bob", 0)]
    others = [("carol", *line[1:]) if line[0] == "alice" else (*line[:2], "carol", line[3]) for line in GOOD]
    assert check(notes(*late, *others)).reordered == [("alice", "bob", 0)]


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("w") as file:
        journal = Journal(file)
        for line in GOOD:
            journal.note(*line)
    assert [each[1:] for each in read(path)] == list(GOOD)
    assert journal.counts[What.SENT] == 2
