"""`blindpost top`: a frame says what the router did between two looks, and nothing about anybody."""

import json
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from blindpost.app import Running
from blindpost.cli import whereabouts
from blindpost.cli.top import frame
from blindpost.observe.page import Page
from checks import refusal
from e2e.test_serve import PROGRAM, blindpost, environment
from support import contacts

WORKERS = """\
# TYPE blindpost_worker_up gauge
blindpost_worker_up{worker="1"} 1
blindpost_worker_up{worker="2"} 0
# TYPE blindpost_worker_starts_total counter
blindpost_worker_starts_total{worker="1"} 1
blindpost_worker_starts_total{worker="2"} 4
# TYPE blindpost_oldest_message_seconds gauge
blindpost_oldest_message_seconds{worker="1"} 7200
# TYPE blindpost_queued_messages gauge
blindpost_queued_messages{worker="1"} 12345
"""


def shown(page: Page, since: Page) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(frame(page, since))
    return re.sub(r" +\n", "\n", captured.get())


async def page_of(router: Running, at: float) -> Page:
    async with httpx.AsyncClient() as scraper:
        return Page.read((await scraper.get(router.metrics)).text, at)


async def test_a_frame_has_rates_times_and_errors_of_the_time_between(router: Running, http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    before = await page_of(router, 10.0)
    for _ in range(4):
        await alice.send(bob)
    refusal(await http.get("/auth/me"), 401, "not_authenticated")
    text = shown(await page_of(router, 12.0), before)
    assert re.search(r"POST /messages/send +2\.0 +[\d.]+ ms +[\d.]+ ms\n", text)
    assert re.search(r"not_authenticated +0\.5 +\d+\n", text)
    # Whether it listens is of the process: another router of a test's may have ended in this one.
    assert re.search(r"listening +[01] of 1\n", text)
    assert re.search(r"pool +\d+ of \d+ connections in use\n", text)
    for name in (alice.name, alice.id, bob.id):
        assert name not in text


def test_a_frame_has_the_workers_and_the_queue() -> None:
    text = shown(Page.read(WORKERS, 2.0), Page.read(WORKERS, 1.0))
    assert re.search(r"worker 1 +0\.0/s, started 1 times\n", text)
    assert re.search(r"worker 2 +does not answer, started 4 times\n", text)
    assert re.search(r"queue +12,345 messages, the oldest for 2 h\n", text)


def test_once_prints_a_frame_and_ends_with_0(router: Running, tmp_path: Path) -> None:
    result = blindpost("top", router.metrics, "--once", "--every", "0.2", data_dir=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "connections in use" in result.stdout
    assert "\x1b" not in result.stdout


def test_it_finds_the_router_of_the_data_directory(router: Running, tmp_path: Path) -> None:
    with whereabouts.noted(tmp_path, router):
        result = blindpost("top", "--once", "--every", "0.2", data_dir=tmp_path)
        assert result.returncode == 0, result.stderr
    assert whereabouts.find(tmp_path) is None


@pytest.mark.parametrize("note", [None, "", "[]", json.dumps({"origin": "x", "metrics": "http://127.0.0.1:1/"})])
def test_without_a_router_it_says_so_in_a_sentence(note: str | None, tmp_path: Path) -> None:
    if note is not None:
        (tmp_path / whereabouts.FILE).write_text(note)
    result = blindpost("top", "--once", data_dir=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("blindpost: no ")
    assert "hint: " in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_ends_it_with_0_and_no_traceback(router: Running, tmp_path: Path) -> None:
    command = (*PROGRAM, "top", router.metrics, "--every", "0.2")
    with subprocess.Popen(
        command, env=environment(tmp_path), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        while "connections in use" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
