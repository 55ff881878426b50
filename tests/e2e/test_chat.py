"""`blindpost chat` in real terminals: two people, a real server, and the server's restart between them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from terminal import PASSPHRASE, Run, good, refused

BLINDPOST = Path(sys.executable).with_name("blindpost")
PATIENCE_S = 60
WIDTH, HEIGHT = 80, 24

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed: there is no terminal")


def until(condition: Callable[[], bool], describe: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, server: str, name: str, environment: dict[str, str], *command: str) -> None:
        self._tmux = ("tmux", "-L", server, "-f", "/dev/null")
        self._name = name
        # The shell stays, so that what the program leaves on its terminal can be looked at.
        line = " ".join(command) + '; echo "ended with $?"; exec sleep 600'
        size = ("-x", str(WIDTH), "-y", str(HEIGHT))
        # With a size in the environment the program would not ask its terminal.
        kept = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES"}}
        self._run("new-session", "-d", "-s", name, *size, "/bin/sh", "-c", line, env=kept | environment)

    def _run(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        return subprocess.run((*self._tmux, *arguments), env=env, capture_output=True, text=True, check=True).stdout

    def screen(self) -> str:
        return self._run("capture-pane", "-p", "-t", self._name)

    def shows(self, text: str) -> None:
        until(lambda: text in self.screen(), lambda: f"{text!r} is not shown:\n{self.screen()}")

    def shows_no(self, text: str) -> None:
        until(lambda: text not in self.screen(), lambda: f"{text!r} is still shown:\n{self.screen()}")

    def title(self) -> str:
        return self._run("display-message", "-p", "-t", self._name, "#{pane_title}").strip()

    def presses(self, *keys: str) -> None:
        self._run("send-keys", "-t", self._name, *keys)

    def types(self, text: str) -> None:
        self._run("send-keys", "-t", self._name, "-l", text)

    def resizes(self, width: int, height: int) -> None:
        self._run("resize-window", "-t", self._name, "-x", str(width), "-y", str(height))


class Server:
    """`blindpost serve`, at one address whenever it runs."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self._port}"
        self._log = directory / "serve.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BLINDPOST_")}
        own = {"BLINDPOST_DATA_DIR": str(directory / "data"), "BLINDPOST_PORT": str(self._port)}
        self._environment = kept | own
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            command = (str(BLINDPOST), "serve")
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        until(self._answers, self._log.read_text)

    def _answers(self) -> bool:
        with socket.socket() as there:
            return there.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE_S)
            self._process = None


@pytest.fixture
def server(data_dir: Path) -> Iterator[Server]:
    directory = data_dir / f"chat-{uuid4().hex[:6]}"
    directory.mkdir()
    running = Server(directory)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def tmux() -> Iterator[str]:
    name = f"blindpost-{uuid4().hex[:8]}"
    yield name
    subprocess.run(("tmux", "-L", name, "kill-server"), capture_output=True, check=False)


@needs_tmux
def test_two_people_chat_across_a_restart_of_the_server(
    blindpost: Run, server: Server, tmux: str, tmp_path: Path
) -> None:
    for name in ("alice", "bob"):
        good(blindpost("register", name, "--server", server.origin, "-i", str(tmp_path / f"{name}.identity")))
    alice, bob = (_chat(tmux, name, tmp_path) for name in ("alice", "bob"))
    own_title = alice.title()
    for each in (alice, bob):
        each.shows("● connected")
    bob.presses("C-f")
    bob.shows("Find somebody")
    bob.types("alice")
    bob.presses("Enter")
    bob.shows("Enter asks them")
    bob.presses("Enter")
    alice.shows("?    bob")
    alice.presses("Enter")
    alice.shows("wants to be your contact")
    alice.types("a")
    alice.shows_no("wants to be your contact")
    bob.shows_no("…    alice")
    bob.presses("C-n")
    bob.types("Dinner at eight?")
    bob.presses("C-j")
    bob.types("[bold]Or[/] :x: nine, 晩ご飯?")
    bob.presses("Enter")
    alice.shows("1 bob")
    until(lambda: alice.title() == "blindpost (1)", alice.title)
    alice.presses("C-n")
    alice.shows("[bold]Or[/] :x: nine, 晩ご飯?")
    bob.shows("✓✓")
    server.stop()
    alice.shows("reconnecting")
    alice.types("Eight is good.")
    alice.presses("Enter")
    alice.shows("…")
    server.start()
    bob.shows("Eight is good.")
    alice.shows("✓✓")
    for size in ((60, 20), (120, 40)):
        alice.resizes(*size)
        until(lambda size=size: _fills(alice.screen(), *size), alice.screen)  # type: ignore[misc]
    alice.presses("C-q")
    bob.presses("C-c")
    for each in (alice, bob):
        each.shows("ended with 0")
        assert "Dinner" not in each.screen()
    assert alice.title() == own_title
    heading, *sessions = good(blindpost("account", "sessions", "-i", str(tmp_path / "alice.identity"))).splitlines()
    assert len(sessions) == 1, (heading, sessions)


def _fills(screen: str, width: int, height: int) -> bool:
    """Tell whether the state is at the right edge, and the keys are in the last line."""
    lines = screen.splitlines()
    return len(lines[0]) == width - 1 and len(lines) == height and "Help" in lines[-1]


def _chat(tmux: str, name: str, directory: Path) -> Terminal:
    identity = str(directory / f"{name}.identity")
    environment = {"BLINDPOST_PASSPHRASE": PASSPHRASE, "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    return Terminal(tmux, name, environment, str(BLINDPOST), "chat", "-i", identity)


def test_without_a_terminal_the_chat_says_what_to_use(blindpost: Run) -> None:
    assert "blindpost receive" in refused(blindpost("chat"))


@needs_tmux
def test_without_an_identity_the_chat_says_what_to_run(tmux: str, tmp_path: Path) -> None:
    nobody = Terminal(tmux, "nobody", {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}, str(BLINDPOST), "chat")
    nobody.shows("make one: blindpost register NAME --server URL")
    nobody.shows("ended with 1")


def test_no_other_command_waits_for_the_screen_to_be_read() -> None:
    said = "import sys; from blindpost.cli import program; program('send'); print('textual' in sys.modules)"
    result = subprocess.run((sys.executable, "-c", said), capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
