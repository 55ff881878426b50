"""Every parser, given anything: it takes the one canonical form, and refuses all else in the documented way."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.corpus import CORPUS, HASH_CHARS, file_name, inputs_of
from fuzz.mutate import mutated
from fuzz.targets import TARGETS

by_target = pytest.mark.parametrize("target", TARGETS)
bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@by_target
def test_every_input_that_was_kept_is_still_taken_or_refused_as_it_must_be(target: str) -> None:
    inputs = inputs_of(target)
    assert inputs
    for name, data in inputs.items():
        try:
            TARGETS[target].run(data)
        except Exception as error:
            error.add_note(f"This is {target}/{name}.")
            raise


@by_target
@bounded
@given(data=st.binary(max_size=600))
def test_no_bytes_break_a_parser(target: str, data: bytes) -> None:
    TARGETS[target].run(data)


@by_target
@bounded
@given(data=st.data(), random=st.randoms(use_true_random=False))
def test_no_change_of_a_known_input_breaks_a_parser(target: str, data: st.DataObject, random: Random) -> None:
    """Of its bytes, of the JSON in it, and of the parts of a token: values, names, order, what stands twice."""
    known = list(inputs_of(target).values())
    TARGETS[target].run(mutated(random, data.draw(st.sampled_from(known)), known))


@by_target
def test_every_forgery_that_we_know_is_kept(target: str) -> None:
    """`./task fuzz 0` writes those that are missing."""
    kept = {path.name for path in (CORPUS / target).iterdir()}
    assert {file_name(seed) for seed in TARGETS[target].seeds} <= kept


def test_what_was_found_is_kept_under_its_hash_and_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} >= TARGETS.keys()
    for path in CORPUS.rglob("*"):
        if path.is_file() and path.name not in {file_name(seed) for seed in TARGETS[path.parent.name].seeds}:
            assert len(path.name) == HASH_CHARS, path
            int(path.name, 16)
