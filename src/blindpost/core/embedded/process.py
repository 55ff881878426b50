"""Child processes: their start, their end, and those that an earlier run left behind."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindpost.core.embedded.place import Account, Runtime, until
from blindpost.errors import StartError

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""Nothing of ours: our variables hold secrets, and PG... variables would change what a store does."""


@dataclass(frozen=True, slots=True)
class Start:
    """What the launcher shall do before it becomes the store."""

    cwd: Path
    account: Account | None
    death_signal: signal.Signals

    def command(self, program: Path, arguments: Sequence[str]) -> list[str]:
        plan = {
            "cwd": str(self.cwd),
            "uid": self.account and self.account.uid,
            "gid": self.account and self.account.gid,
            "death_signal": int(self.death_signal),
            "parent": os.getpid(),
        }
        launcher = Path(__file__).with_name("launch.py")
        return [sys.executable, "-I", "-S", str(launcher), json.dumps(plan), str(program), *arguments]


class Child:
    """A running store. In a session of its own: Ctrl-C is for our program, which stops the stores last."""

    def __init__(
        self, start: Start, program: Path, arguments: Sequence[str], *, log: int, stdin: bytes | None = None
    ) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a program from a wheel of ours, no shell
                start.command(program, arguments),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        finally:
            os.close(log)
        self.pid = self._process.pid
        if self._process.stdin is not None:
            # Shorter than a pipe's buffer: cannot block. A child that died early is found by who waits for it.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(stdin or b"")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self, *steps: tuple[signal.Signals, float]) -> None:
        """Ask in ever clearer words, each with its time, the last with none; reaps the child."""
        for step, seconds in (*steps, (signal.SIGKILL, None)):
            if not self.alive:
                return
            self._process.send_signal(step)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)


def run(start: Start, program: Path, arguments: Sequence[str], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Bounded: a disk that hangs must not hang the start without a word."""
    try:
        return subprocess.run(  # noqa: S603 - see above
            start.command(program, arguments),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            env=ENVIRONMENT,
            start_new_session=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StartError(
            f"{program.name} did not end within two minutes", "Is the disk of the data directory very slow or full?"
        ) from None


def last_line(text: str) -> str:
    """The line that says why, in one line: the last that names a fault, else the last of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    faults = [line for line in lines if any(word in line.lower() for word in ("fatal", "panic", "error", "could not"))]
    return next(reversed(faults or lines), "it said nothing")


def hint_for(reason: str, data: Path) -> str:
    """What to do about a store's own words."""
    if "No space left" in reason or "Disk quota" in reason:
        return f"Free some space on the disk of {data}."
    if "Permission denied" in reason or "Read-only" in reason:
        return f"Let the account of the stores write below {data}, or set BLINDPOST_DATA_DIR."
    return f"The logs are in {data}."


def _copy_readable(source: Path, target: Path) -> None:
    """Copy programs so that any account can run them, and only we can change them."""
    if source.is_dir():
        target.mkdir()
        for each in source.iterdir():
            _copy_readable(each, target / each.name)
    else:
        shutil.copyfile(source, target)
    target.chmod(0o755 if target.is_dir() or os.access(source, os.X_OK) else 0o644)


def _copy_of(package: Path, parts: Sequence[str], target: Path) -> Path:
    """Copy what a program needs; in the wheel's own layout, since programs find their libraries relative to it."""
    wanted = package / parts[0]
    for source in (wanted, package.with_name(f"{package.name}.libs")):
        if source.is_dir():
            copy = target / source.relative_to(package.parent)
            copy.parent.mkdir(mode=0o755, exist_ok=True)
            copy.parent.chmod(0o755 if copy.parent != target else 0o711)
            _copy_readable(source, copy)
    return target.joinpath(package.name, *parts)


def program_of(package: str, parts: Sequence[str], program: str, runtime: Runtime, *, variable: str) -> Path:
    """Find a program in a wheel, without importing the wheel, and see that it runs.

    Where the account cannot reach it (an environment below /root, an installation under umask 077), this run gets a
    copy of its own, with the files beside it: 37 MB for PostgreSQL, a tenth of a second, gone at stop.
    """
    hint = f"Use a server of your own: set {variable}."
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else [Path(each) for each in spec.submodule_search_locations or ()]
    found = next((place for place in places if place.joinpath(*parts, program).is_file()), None)
    if found is None:
        raise StartError(f"There is no embedded {program} for this platform", hint)
    start = Start(runtime.path, runtime.account, signal.SIGKILL)
    original = found.joinpath(*parts, program)
    result = run(start, original, ["--version"])
    if result.returncode and runtime.account is not None:
        original = _copy_of(found, parts, runtime.path) / program
        result = run(start, original, ["--version"])
    if result.returncode:
        raise StartError(f"The embedded {program} does not run here: {last_line(result.stderr)}", hint)
    return original


def _processes() -> Iterator[tuple[int, str, str]]:
    """Every process as pid, name of the program, command line."""
    if sys.platform != "linux":
        listing = subprocess.run(  # a fixed command of the system
            ["/bin/ps", "-axww", "-o", "pid=,ucomm=,command="], capture_output=True, text=True, check=False
        )
        for line in listing.stdout.splitlines():
            pid, name, command = (*line.split(maxsplit=2), "", "")[:3]
            yield int(pid), name, command
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                yield int(entry.name), (entry / "comm").read_text(errors="replace").strip(), command


def program_name(pid: int) -> str | None:
    """What runs under this number: empty for a dead process that nobody has reaped, None for no process."""
    return next((name if command else "" for each, name, command in _processes() if each == pid), None)


def leftovers(runtime: Path) -> dict[int, str]:
    """The stores of an earlier run: their command lines hold that run's random name, so it can be no other's."""
    names = {"postgres", "redis-server"}
    return {pid: name for pid, name, command in _processes() if name in names and runtime.name in command}


def end_leftovers(runtime: Path) -> None:
    """End what an earlier run left: on Linux it is going already (PDEATHSIG), elsewhere nobody has told it."""
    for step, seconds in ((signal.SIGINT, 20), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        for pid in leftovers(runtime):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, step)
        if until(lambda: not leftovers(runtime), seconds):
            return
    raise StartError(
        f"An earlier run's stores do not end (process {', '.join(map(str, leftovers(runtime)))})",
        "Is the disk of the data directory hanging? Otherwise end that process yourself.",
    )
