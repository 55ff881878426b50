"""Mutation tests: does a test fail for every small fault in what the security of the router rests on?

One mutant at a time, in a process forked from a warm one that has the libraries and, where they are needed, running
stores; the changed module is put in place of the real one when it is imported. Of the tests only those run that
reach the changed line. A mutant that survives is a test that is missing, or is explained in mutants_explained.toml.

    ./task mutants [--only REGEX] [--again] [--jobs N]
"""

# ruff: noqa: T201 - a program of the terminal

import argparse
import importlib
import importlib.machinery
import importlib.metadata
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

import pytest

from mutants_operators import Mutant, mutants_of

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "src" / "blindpost"
EXPLAINED: Final = ROOT / "tests" / "mutants_explained.toml"
SURVIVORS: Final = ROOT / "build" / "mutants-survivors.txt"
PATIENCE_S: Final = 40
NOTHING_RAN: Final = 5
"""What pytest ends with when no test was chosen."""
LIBRARIES: Final = (
    "alembic.command asyncpg cryptography.x509 dishka.integrations.fastapi fastapi httpx"
    " hypothesis.strategies jwt limits.aio.strategies prometheus_client pydantic_settings pytest_asyncio redis.asyncio"
    " sqlalchemy.ext.asyncio sqlalchemy.dialects.postgresql.asyncpg structlog typer.testing uvicorn uvloop"
)
"""What the tests import besides the router itself."""


class Group(NamedTuple):
    """Modules, and the tests that are to find their faults."""

    modules: tuple[Path, ...]
    tests: tuple[str, ...]
    needs_stores: bool


GROUPS: Final = (
    Group(
        tuple(sorted((SOURCE / "protocol").glob("*.py"))),
        (
            *(f"tests/unit/test_{module.stem}.py" for module in sorted((SOURCE / "protocol").glob("[a-z]*.py"))),
            "tests/unit/test_vectors.py",
        ),
        needs_stores=False,
    ),
    Group(
        tuple(
            SOURCE / name for name in ("services/auth.py", "core/tokens.py", "core/token_key.py", "routers/security.py")
        ),
        (
            "tests/integration/test_auth.py",
            "tests/integration/test_auth_edges.py",
            "tests/integration/test_signed_requests.py",
            "tests/integration/test_token_rotation.py",
            "tests/integration/test_sessions.py",
        ),
        needs_stores=True,
    ),
)


class Reach:
    """A plugin of pytest that notes which test runs which line, and for how long each takes."""

    def __init__(self, modules: Sequence[Path]) -> None:
        self._modules = {str(module) for module in modules}
        self._test = ""
        self.tests: defaultdict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        for function in _cached_functions():
            function.cache_clear()  # or only the first test of many would seem to reach what it remembers
        self._test, began = item.nodeid, time.perf_counter()
        yield
        self.seconds[item.nodeid] = time.perf_counter() - began

    def start(self) -> None:
        threading.settrace(self._enter)
        sys.settrace(self._enter)

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        return self._note if frame.f_code.co_filename in self._modules else None

    def _note(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        self.tests[f"{frame.f_code.co_filename}:{frame.f_lineno}"].add(self._test)
        return self._note


def _cached_functions() -> list[Any]:
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("blindpost.")]
    return [each for module in modules for each in vars(module).values() if hasattr(each, "cache_clear")]


class Chosen:
    """A plugin of pytest that runs only these tests, in this order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (each for each in items if each.nodeid in self._place), key=lambda each: self._place[each.nodeid]
        )


class Map:
    """Which tests can tell that a line is wrong."""

    def __init__(self, reach: dict[str, list[str]], seconds: dict[str, float]) -> None:
        self._reach = reach
        self._seconds = seconds

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the statement; all, if it runs when the module is imported. The likeliest first."""
        found = {test for line in mutant.lines for test in self._reach.get(f"{mutant.path}:{line}", ())}
        if "" in found:
            found = set(self._seconds)
        of_module = f"/test_{mutant.path.stem}.py::"
        return sorted(found & self._seconds.keys(), key=lambda test: (of_module not in test, self._seconds[test]))

    def patience_for(self, tests: Sequence[str]) -> float:
        return PATIENCE_S + 4 * sum(self._seconds[test] for test in tests)


def run_tests(tests: Iterable[str], plugins: Sequence[object], *, needs_stores: bool) -> int:
    """Run files of tests in this process, which is a forked one."""
    hypothesis = importlib.import_module("hypothesis")
    hypothesis.settings.register_profile(
        "mutants",
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),  # no need to make an example small
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutants")
    options = ["-x", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options += [] if needs_stores else ["--noconftest"]  # which imports all of the router
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of the libraries that are here already
    return int(pytest.main([*options, *tests], plugins=list(plugins)))


def put_in_place(mutant: Mutant) -> None:
    """Let the import of the module give the changed one."""
    assert not any(getattr(module, "__file__", None) == str(mutant.path) for module in list(sys.modules.values()))
    real = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        return compile(mutant.source, self.path, "exec") if self.path == str(mutant.path) else real(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[assignment, method-assign]


def forked(work: Callable[[], int], output: str = os.devnull) -> int:
    """Do it in a child of its own group; returns the child's id."""
    if child := os.fork():
        return child
    code = 99
    try:
        os.setpgid(0, 0)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = work()
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - there is nobody else to say it
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)  # nothing of what the parent would tidy up at its end


def survey(group: Group, directory: Path) -> Map:
    """Run all tests on the real modules, once, and see what they reach; they must pass."""
    result, output = directory / "reach.json", directory / "survey.log"

    def work() -> int:
        reach = Reach(group.modules)
        reach.start()
        code = run_tests(
            (test for test in group.tests if (ROOT / test).exists()), [reach], needs_stores=group.needs_stores
        )
        result.write_text(json.dumps([{line: sorted(tests) for line, tests in reach.tests.items()}, reach.seconds]))
        return code

    _, status = os.waitpid(forked(work, str(output)), 0)
    if status:
        sys.exit(f"{output.read_text()}\nThe tests fail on the real modules.")
    return Map(*json.loads(result.read_text()))


@contextmanager
def prepared(group: Group, directory: Path) -> Iterator[None]:
    """Import what does not change, and start what all mutants share."""
    for name in LIBRARIES.split():
        importlib.import_module(name)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()
    if not group.needs_stores:
        yield
        return
    embedded: Any = importlib.import_module("blindpost.core.embedded")
    real = embedded.EmbeddedStores
    with real(directory / "stores") as urls:
        # The fixture's stores are these; a test that asks for special ones gets its own.
        embedded.EmbeddedStores = lambda path, **options: real(path, **options) if options else nullcontext(urls)
        yield
        embedded.EmbeddedStores = real


def outcomes(mutants: list[Mutant], tests: Map, jobs: int, *, needs_stores: bool) -> Iterator[tuple[Mutant, bool]]:
    """Run the tests on each mutant; yields it with whether it was noticed."""
    waiting, running = mutants[::-1], dict[int, tuple[Mutant, float]]()

    def work(mutant: Mutant, chosen: list[str]) -> int:
        put_in_place(mutant)
        if not chosen:
            return NOTHING_RAN
        files = dict.fromkeys(test.partition("::")[0] for test in chosen)
        return run_tests(files, [Chosen(chosen)], needs_stores=needs_stores)

    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            chosen = tests.tests_of(mutant)
            child = forked(lambda: work(mutant, chosen))  # noqa: B023 - called in the child, at once
            running[child] = mutant, time.monotonic() + tests.patience_for(chosen)
        time.sleep(0.02)
        for child, (mutant, deadline) in list(running.items()):
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del running[child]
                yield mutant, os.waitstatus_to_exitcode(status) not in {0, NOTHING_RAN}


def explained() -> dict[str, str]:
    """Read which mutants may survive, and why."""
    kinds = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))
    return {mutant: f"{kind}: {why}" for kind, reasons in kinds.items() for mutant, why in reasons.items()}


def chosen_mutants(group: Group, options: argparse.Namespace) -> list[Mutant]:
    every = [mutant for module in group.modules for mutant in mutants_of(module)]
    again = set(SURVIVORS.read_text(encoding="utf-8").splitlines()) if options.again else None
    return [each for each in every if re.search(options.only, each.id) and (again is None or each.id in again)]


def report(results: list[tuple[Mutant, bool]]) -> int:
    """Print the score and what is to do; returns how many mutants neither died nor are explained."""
    reasons = explained()
    alive = [mutant for mutant, was_noticed in results if not was_noticed]
    unexplained = [mutant for mutant in alive if mutant.id not in reasons]
    stale = [mutant for mutant, was_noticed in results if was_noticed and mutant.id in reasons]
    for mutant in unexplained:
        print(f"survived  {mutant.path.relative_to(ROOT)}:{mutant.lines.start}  {mutant.id}")
    for mutant in stale:
        print(f"explained, but a test notices it: {mutant.id}")
    SURVIVORS.parent.mkdir(exist_ok=True)
    SURVIVORS.write_text("".join(f"{mutant.id}\n" for mutant in unexplained), encoding="utf-8")
    total, killed = (
        Counter(mutant.path for mutant, _ in results),
        Counter(mutant.path for mutant, dead in results if dead),
    )
    left = Counter(mutant.path for mutant in unexplained)
    print(f"\n{'module':32}{'killed':>8}{'explained':>11}{'survived':>10}{'total':>7}")
    for path in total:
        name, known = str(path.relative_to(SOURCE)), total[path] - killed[path] - left[path]
        print(f"{name:32}{killed[path]:8}{known:11}{left[path]:10}{total[path]:7}")
    return len(unexplained) + len(stale)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./task mutants")
    parser.add_argument("--only", default="", metavar="REGEX", help="mutants whose name matches")
    parser.add_argument("--again", action="store_true", help="those that survived the last time")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    os.chdir(ROOT)
    results: list[tuple[Mutant, bool]] = []
    for group in GROUPS:
        if not (mutants := chosen_mutants(group, options)):
            continue
        directory = Path(tempfile.mkdtemp(prefix="bpm-"))
        tempfile.tempdir = str(directory)
        with prepared(group, directory):
            tests = survey(group, directory)
            print(f"{len(mutants)} mutants, {len(tests._seconds)} tests", flush=True)
            for result in outcomes(mutants, tests, options.jobs, needs_stores=group.needs_stores):
                results.append(result)
                if not result[1] or len(results) % 20 == 0:
                    print(f"{len(results)} {'killed' if result[1] else 'SURVIVED'}: {result[0].id}", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if report(results) else 0


if __name__ == "__main__":
    sys.exit(main())
