"""The program as an operator starts and ends it: real processes, real signals."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from blindpost.core.embedded import place
from fault.nodes import RawPoll
from fault.servers import Handmade, fresh_database, handmade, tell, until
from sockets import Ws
from support import Person, contacts, person

PROGRAM = (sys.executable, "-c", "from blindpost.cli import main; main()")
READY_S = 10
STOP_S = 5
SLACK_S = 10
"""For a machine that does other things too: the figures themselves are printed."""
POLLS = 300


def environment(data_dir: Path, **more: object) -> dict[str, str]:
    """Return this process's environment without its own settings, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BLINDPOST_")}
    own = {"data_dir": data_dir, "port": 0} | more
    return kept | {f"BLINDPOST_{name.upper()}": str(value) for name, value in own.items()} | {"COLUMNS": "60"}


def blindpost(*arguments: str, data_dir: Path, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        (*PROGRAM, *arguments),
        env=environment(data_dir, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Served:
    """`blindpost serve` as the leader of a process group, as a terminal starts it."""

    def __init__(self, data_dir: Path, log: Path, **more: object) -> None:
        self.began = time.monotonic()
        self._log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                (*PROGRAM, "serve"),
                env=environment(data_dir, **more),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.said = self._read()
        self.took = time.monotonic() - self.began
        self.family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]

    def _read(self) -> str:
        assert self.process.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = self.process.stdout.readline()
            assert line, f"it ended with {self.process.wait(20)}: {said}{self._log.read_text()}"
            said += line
        return said

    @property
    def origin(self) -> str:
        found = re.search(r"listening on (https?://\S+)", self.said)
        assert found, self.said
        return found[1]

    def errors(self) -> str:
        return self._log.read_text()

    def names(self) -> set[str]:
        return {each.name() for each in self.family}

    def left(self) -> list[psutil.Process]:
        """Return what still runs of it; a zombie that only its reaper can see does not."""

        def runs(each: psutil.Process) -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):
                return bool(each.is_running() and each.status() != psutil.STATUS_ZOMBIE)
            return False

        return [each for each in self.family if runs(each)]

    def end(self) -> None:
        for each in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.communicate()


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Served] = []

    def start(**more: object) -> Served:
        started.append(Served(tmp_path / "data", tmp_path / "errors", **more))
        return started[-1]

    yield start
    for each in started:
        each.end()
    if left := place.DataDir(tmp_path / "data").runtime:  # a killed run cannot tidy up after itself
        place.remove_tree(left)


@pytest.fixture(scope="module")
def servers() -> Iterator[Handmade]:
    with handmade() as both:
        yield both


def one_sentence(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a start that failed says: one line and a hint, no traceback."""
    assert result.returncode == 1, (result.returncode, result.stdout, result.stderr)
    said = [line for line in result.stderr.splitlines() if line.startswith("blindpost: ")]
    assert len(said) == 1, result.stderr
    assert "hint: " in result.stderr
    assert "Traceback" not in result.stderr
    return said[0]


def test_a_first_start_without_settings_is_ready_in_seconds_and_says_where_and_what_next(serve: Serve) -> None:
    served = serve()
    tell(f"ready after {served.took:.1f} s")
    assert served.took < READY_S + SLACK_S
    assert httpx.get(f"{served.origin}/health/ready").status_code == 200
    assert f"blindpost register alice --server {served.origin}" in served.said
    assert {"postgres", "redis-server"} <= served.names()


async def test_two_people_write_to_each_other_and_a_restart_keeps_what_was_sent(serve: Serve) -> None:
    first = serve()
    async with httpx.AsyncClient(base_url=first.origin, timeout=60) as http:
        alice, bob = await contacts(http)
        sent = await alice.send(bob)
    first.process.terminate()
    assert first.process.wait(STOP_S + SLACK_S) == 0
    again = serve()
    tell(f"ready again after {again.took:.1f} s")
    async with httpx.AsyncClient(base_url=again.origin, timeout=60) as http:
        bob.http = http
        assert [each["id"] for each in (await bob.poll(0))["messages"]] == [sent.json()["id"]]


def stop(served: Served, how: str) -> None:
    if how == "Ctrl-C":
        os.killpg(served.process.pid, signal.SIGINT)  # a terminal signals the whole group
    else:
        served.process.send_signal(signal.SIGTERM)


async def polls_at(served: Served, someone: Person) -> list[RawPoll]:
    """Open many polls, and wait until all of them wait."""
    metrics = re.search(r"metrics\s+(http://\S+)", served.said)
    assert metrics, served.said
    polls = await asyncio.gather(*(RawPoll.open(served.origin, someone) for _ in range(POLLS)))
    until(lambda: f"\nblindpost_waiting {float(POLLS)}" in httpx.get(metrics[1]).text, what="300 waiting polls")
    return list(polls)


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
async def test_a_stop_answers_all_waiting_polls_ends_with_0_and_leaves_no_process(serve: Serve, how: str) -> None:
    served = serve(waiting_per_user_max=POLLS)
    async with httpx.AsyncClient(base_url=served.origin, timeout=60) as http:
        polls = await polls_at(served, await person(http))
        stop(served, how)
        began = time.monotonic()
        answers = await asyncio.gather(*(poll.answer(STOP_S + SLACK_S) for poll in polls))
        answered = time.monotonic() - began
    assert served.process.wait(STOP_S + SLACK_S) == 0
    tell(f"{how}: all answered after {answered:.2f} s, ended after {time.monotonic() - began:.2f} s")
    assert {(status, page["has_messages"]) for status, page in answers} == {(200, False)}
    assert served.left() == []


def test_a_second_start_on_the_same_directory_says_so_and_ends_with_1(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    said = one_sentence(blindpost("serve", data_dir=tmp_path / "data"))
    assert "in use" in said
    assert str(served.process.pid) in said
    assert httpx.get(f"{served.origin}/health/ready").status_code == 200


def test_kill_9_of_the_program_leaves_no_store_running_and_the_next_start_works(serve: Serve) -> None:
    first = serve()
    assert {"postgres", "redis-server"} <= first.names()
    first.process.kill()
    until(lambda: not first.left(), what="the end of the stores")
    assert httpx.get(f"{serve().origin}/health/ready").status_code == 200


async def test_stores_of_ones_own_are_used_by_their_urls_and_no_other_is_started(
    serve: Serve, servers: Handmade
) -> None:
    urls = await fresh_database(servers.urls)
    served = serve(database_url=urls.database_url, redis_url=urls.redis_url)
    assert not {"postgres", "redis-server"} & served.names()
    async with httpx.AsyncClient(base_url=served.origin, timeout=60) as http:
        alice, bob = await contacts(http)
        assert (await alice.send(bob)).status_code == 201
    stop(served, "SIGTERM")
    assert served.process.wait(STOP_S + SLACK_S) == 0
    assert servers.postgres.alive
    assert servers.redis.alive


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_in_use_is_one_clear_line(servers: Handmade, tmp_path: Path, workers: int) -> None:
    urls = await fresh_database(servers.urls)
    stores = {"database_url": urls.database_url, "redis_url": urls.redis_url}
    # As another router with workers would have it: the port can be shared, and must not be.
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        result = blindpost("serve", data_dir=tmp_path, port=port, workers=workers, **stores)
    assert str(port) in one_sentence(result)


def test_a_port_in_use_leaves_no_embedded_store_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        one_sentence(blindpost("serve", data_dir=tmp_path, port=taken.getsockname()[1]))
    assert not [each for each in psutil.process_iter() if command_has(each, str(tmp_path))]


def command_has(each: psutil.Process, text: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return text in " ".join(each.cmdline()) or text in each.cwd()
    return False


@pytest.mark.parametrize("setting", ["host", "port", "data_dir", "rate_limits"])
def test_a_setting_that_is_not_valid_is_one_clear_line(tmp_path: Path, setting: str) -> None:
    wrong = {"host": "256.1.1.1", "port": "high", "data_dir": "/dev/null/here", "rate_limits": "perhaps"}
    given = {"data_dir": tmp_path} | {setting: wrong[setting]}
    result = blindpost("serve", **given)  # type: ignore[arg-type]
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "blindpost: " in result.stderr


# migrate, doctor


def test_migrate_and_doctor_end_with_0_where_all_is_well(tmp_path: Path) -> None:
    migrated = blindpost("migrate", data_dir=tmp_path)
    assert migrated.returncode == 0, migrated.stderr
    again = blindpost("migrate", data_dir=tmp_path)
    assert again.returncode == 0, again.stderr
    diagnosis = blindpost("doctor", data_dir=tmp_path)
    assert diagnosis.returncode == 0, diagnosis.stdout + diagnosis.stderr
    assert "wrong" not in diagnosis.stdout


def test_migrate_and_doctor_end_with_1_where_no_store_answers(servers: Handmade, tmp_path: Path) -> None:
    away = {"database_url": "postgresql://user:hunter2@127.0.0.1:1/none", "redis_url": servers.redis.url}
    one_sentence(blindpost("migrate", data_dir=tmp_path, **away))
    diagnosis = blindpost("doctor", data_dir=tmp_path, **away)
    assert diagnosis.returncode == 1
    assert "wrong" in diagnosis.stdout
    assert "hunter2" not in diagnosis.stdout + diagnosis.stderr


def test_migrate_to_a_revision_that_does_not_exist_is_one_clear_line(servers: Handmade, tmp_path: Path) -> None:
    urls = {"database_url": servers.urls.database_url, "redis_url": servers.urls.redis_url}
    one_sentence(blindpost("migrate", "--to", "9999", data_dir=tmp_path, **urls))


def test_when_an_embedded_store_ends_by_itself_serve_says_so_and_ends(serve: Serve) -> None:
    served = serve()
    stores = [each for each in served.family if each.name().startswith(("postgres", "redis-server"))]
    next(each for each in stores if each.name().startswith("redis-server")).kill()
    assert served.process.wait(READY_S + SLACK_S) == 1
    assert "Redis has ended by itself" in served.errors()
    until(lambda: not served.left(), what="the end of the rest")


# Workers


def workers_of(served: Served) -> list[psutil.Process]:
    return [each for each in served.family if each.cmdline()[-1:] == ["blindpost.workers"]]


async def test_a_stop_of_several_workers_lets_polls_and_streams_go_ends_with_0_and_leaves_no_process(
    serve: Serve,
) -> None:
    served = serve(workers=2, waiting_per_user_max=POLLS)
    tell(f"two workers ready after {served.took:.1f} s")
    assert "workers  2" in served.said
    assert len(workers_of(served)) == 2
    async with httpx.AsyncClient(base_url=served.origin, timeout=60) as http:
        someone = await person(http)
        polls = [await RawPoll.open(served.origin, someone) for _ in range(SOME)]
        streams = [
            await Ws.connect(served.origin, "/messages/ws", someone.signed("GET", f"{served.origin}/messages/ws"))
            for _ in range(SOME)
        ]
        found = re.search(r"metrics\s+(http://\S+)", served.said)
        assert found
        page = found[1]
        until(lambda: summed(page, "blindpost_waiting") == SOME, what="waiting polls at the workers")
        until(lambda: summed(page, 'blindpost_streams{transport="websocket"') == SOME, what="streams at the workers")
        stop(served, "Ctrl-C")
        began = time.monotonic()
        answers = await asyncio.gather(*(poll.answer(STOP_S + SLACK_S) for poll in polls))
        codes = await asyncio.gather(*(stream.closed() for stream in streams))
        for stream in streams:
            await stream.vanish()
    assert served.process.wait(STOP_S + SLACK_S) == 0
    tell(f"ended after {time.monotonic() - began:.2f} s")
    assert {(status, page["has_messages"]) for status, page in answers} == {(200, False)}
    assert set(codes) == {4200}
    assert served.left() == []
    assert "worker_ended" not in served.errors()


SOME = 20


def summed(page: str, beginning: str) -> float:
    """Add up the samples of all workers."""
    lines = httpx.get(page).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(beginning))


async def test_kill_9_of_the_supervisor_leaves_no_worker_and_no_command_line_or_environment_held_a_secret(
    serve: Serve, servers: Handmade
) -> None:
    urls = await fresh_database(servers.urls)
    served = serve(workers=2, database_url=urls.database_url, redis_url=urls.redis_url)
    workers = workers_of(served)
    assert len(workers) == 2
    for each in workers:
        shown = " ".join([*each.cmdline(), *each.environ().values()])
        assert str(urls.database_url) not in shown
        assert str(urls.redis_url) not in shown
    workers[0].suspend()  # one that hangs, too
    served.process.kill()
    until(lambda: not served.left(), what="the end of the workers")
