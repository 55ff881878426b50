"""When a WebSocket is tried again: what each close code demands, and that nothing is tried without end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.client import Refused, Unreachable
from blindpost.client.pauses import AT_ONCE, AWAY_S, LONGEST_S, NEVER, REFUSED_S, STABLE_S, Pauses

AT_ONCE_CODES = sorted(AT_ONCE)
codes = st.one_of(st.none(), st.sampled_from([1000, 1001, 1006, 1011, 4000, 4300, *AT_ONCE_CODES]))
chances = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("code", AT_ONCE_CODES)
def test_who_is_told_to_come_back_at_once_does_so_with_some_jitter(code: int) -> None:
    assert [Pauses(lambda: 0.0).closed(code, 0), Pauses(lambda: 0.5).closed(code, 0)] == [0.0, 0.5]


@pytest.mark.parametrize("code", AT_ONCE_CODES)
def test_a_router_that_says_so_without_end_is_not_asked_without_end(code: int) -> None:
    pauses = Pauses(lambda: 0.5)
    assert [pauses.closed(code, 0) for _ in range(7)] == [0.5, 0.5, 0.5, 0.5, 1.0, 2.0, 4.0]


def test_who_is_told_to_come_later_waits_ten_seconds_and_then_twice_as_long_each_time() -> None:
    pauses = Pauses(lambda: 0.0)
    assert [pauses.closed(4300, 1) for _ in range(5)] == [10, 20, 40, 80, 160]


@pytest.mark.parametrize("code", sorted(NEVER))
def test_what_was_not_understood_is_not_said_again(code: int) -> None:
    pauses = Pauses(lambda: 0.5)
    assert pauses.closed(code, 1_000) == math.inf
    assert pauses.closed(None, 1_000) == math.inf
    assert pauses.away() == math.inf
    assert pauses.refused(Refused(426, "upgrade_required", "no")) == math.inf


def test_a_connection_that_breaks_again_and_again_is_tried_ever_less() -> None:
    pauses = Pauses(lambda: 0.5)
    assert [pauses.closed(None, 1) for _ in range(4)] == [0.5, 1, 2, 4]
    assert pauses.closed(None, STABLE_S) == 0.5


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 426, 500])
def test_a_refused_upgrade_leaves_the_polls_alone_for_a_minute_and_longer(status: int) -> None:
    pauses = Pauses(lambda: 0.0)
    assert [pauses.refused(Refused(status, "x", "no")) for _ in range(3)] == [REFUSED_S, 2 * REFUSED_S, 4 * REFUSED_S]


def test_a_handshake_without_an_answer_counts_as_refused() -> None:
    assert Pauses(lambda: 0.0).refused(Unreachable("no answer", sent=True)) == REFUSED_S


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_tried_soon_but_not_before_it_was_asked_to(status: int) -> None:
    assert Pauses(lambda: 0.5).refused(Refused(status, "x", "no")) == 0.5
    assert Pauses(lambda: 0.5).refused(Refused(status, "x", "no", retry_after=7)) == 7
    assert Pauses(lambda: 0.5).refused(Refused(status, "x", "no", retry_after=1e9)) == LONGEST_S


def test_while_nobody_is_reached_nothing_is_held_against_websockets() -> None:
    pauses = Pauses(lambda: 0.0)
    for _ in range(5):
        pauses.refused(Refused(404, "x", "no"))
    assert pauses.refused(Unreachable("away", sent=False)) == AWAY_S
    assert pauses.refused(Refused(404, "x", "no")) == REFUSED_S


@given(st.lists(st.tuples(codes, st.floats(0, 100_000)), max_size=200), chances)
def test_no_pause_is_negative_or_longer_than_an_hour(ends: list[tuple[int | None, float]], chance: float) -> None:
    pauses = Pauses(lambda: chance)
    for code, lasted_s in ends:
        assert 0 <= pauses.closed(code, lasted_s) <= LONGEST_S
