"""A longer session of fuzzing that is led by what the inputs reach: ./task fuzz [seconds].

Inputs that run through the code on a way that none ran before are kept in the corpus, and mutated further. One that
breaks a target's promise is kept too, and printed: it fails `./task test` until the fault is mended.
"""

# ruff: noqa: T201 - a program of the terminal

import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final, Self

import blindpost
from fuzz.corpus import inputs_of, keep, sow
from fuzz.mutate import mutated
from fuzz.targets import TARGETS

SOURCE: Final = str(Path(str(blindpost.__file__)).parent)
SECONDS: Final = 60.0
TURN_S: Final = 2.0
KEPT_BYTES_MAX: Final = 4_096
"""Longer inputs are followed, and not kept: the corpus is for people to read."""
KEPT_FILES_MAX: Final = 100
SLOW_S: Final = 1.0


class Way:
    """Which lines of ours follow on which, while an input runs."""

    def __init__(self) -> None:
        self.steps: set[tuple[str, int, int]] = set()
        self._last: dict[FrameType, int] = {}

    def __enter__(self) -> Self:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self._last.clear()

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        return self._step if frame.f_code.co_filename.startswith(SOURCE) else None

    def _step(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        self.steps.add((frame.f_code.co_filename, self._last.get(frame, 0), frame.f_lineno))
        self._last[frame] = frame.f_lineno
        return self._step


class Session:
    """The fuzzing of one target."""

    def __init__(self, target: str, random: Random) -> None:
        self.target = target
        self.runs = self.crashes = self.found = 0
        self._run = TARGETS[target].run
        self._random = random
        self._pool = list(inputs_of(target).values())
        self._kept = len(self._pool)
        self._seen: set[tuple[str, int, int]] = set()
        self._ways: set[frozenset[tuple[str, int, int]]] = set()
        for data in self._pool:
            self._try(data)

    def turn(self) -> None:
        deadline = time.monotonic() + TURN_S
        while time.monotonic() < deadline:
            data = mutated(self._random, self._random.choice(self._pool), self._pool)
            if self._try(data):
                self._pool.append(data)

    def _try(self, data: bytes) -> bool:
        """Run an input; tells whether it went a way of its own, and keeps it if it is of use to people."""
        self.runs += 1
        way, began = Way(), time.thread_time()
        try:
            with way:
                self._run(data)
            assert time.thread_time() - began < SLOW_S, "it takes too long"
        except Exception:  # noqa: BLE001 - whatever comes is a finding
            self.crashes += 1
            print(f"CRASH {keep(self.target, data)}\n{traceback.format_exc(limit=-3)}", flush=True)
            return False
        steps = frozenset(way.steps)
        is_new, has_new_line = steps not in self._ways, not steps <= self._seen
        self._ways.add(steps)
        self._seen |= steps
        is_small = len(data) <= KEPT_BYTES_MAX and self._kept < KEPT_FILES_MAX
        if self.runs > self._kept and is_new and (is_small or has_new_line):
            keep(self.target, data)
            self._kept += 1
            self.found += 1
        return is_new


def turns(seconds: float, seed: int) -> Iterator[Session]:
    """Let the targets take turns until the time is over."""
    random = Random(seed)  # noqa: S311 - it is to be repeatable
    sessions = [Session(target, random) for target in TARGETS]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for session in sessions:
            if time.monotonic() < deadline:
                session.turn()
    yield from sessions


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    sow()
    seed = time.time_ns()
    crashes = 0
    for session in turns(seconds, seed):
        print(f"{session.target:14}{session.runs:9} inputs, {session.found:4} kept, {session.crashes:3} crashes")
        crashes += session.crashes
    print(f"seed {seed}")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
