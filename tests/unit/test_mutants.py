"""The explanations of mutants are about mutants that there are; and the operators make the faults that they promise."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from mutants import GROUPS, explained
from mutants_operators import mutants_of


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """Keep what other tests left from being collected inside of the parser: greenlets do not survive that."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_every_explanation_is_of_a_mutant_that_exists() -> None:
    ids = {mutant.id for group in GROUPS for module in group.modules for mutant in mutants_of(module)}
    assert explained().keys() <= ids


def test_every_mutant_is_another_program_that_compiles(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from functools import lru_cache\nLIMIT: int = 3\n\n\n@lru_cache(7)\ndef f(x: int) -> bool:\n"
        '    """Text."""\n    if x < LIMIT or not x:\n        raise ValueError(f"{x} is 1")\n'
        "    return g(x, y=[1]) == 2\n"
    )
    mutants = mutants_of(path)
    for mutant in mutants:
        compile(mutant.source, "module.py", "exec")
        assert mutant.source != path.read_text()
    assert len({mutant.id for mutant in mutants}) == len(mutants)
    assert {
        "module.py: module: 3 -> 4",
        "module.py: f: x < LIMIT -> x <= LIMIT",
        "module.py: f: x < LIMIT or not x -> x < LIMIT and (not x)",
        "module.py: f: x < LIMIT or not x -> not x",
        "module.py: f: not x -> x",
        'module.py: f: raise ValueError(f"{x} is 1") -> pass',
        "module.py: f: g(x, y=[1]) == 2 -> g(x, y=[1]) != 2",
        "module.py: f: g(x, y=[1]) -> g(x)",
        "module.py: f: return g(x, y=[1]) == 2 -> return None",
    } <= {mutant.id for mutant in mutants}
    assert not any("7" in mutant.old or "Text" in mutant.old for mutant in mutants)
