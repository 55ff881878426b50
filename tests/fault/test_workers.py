"""Several workers on one address: as far as anybody can tell, one router that does not end with one of them."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from blindpost.app import Served
from blindpost.config import Settings
from blindpost.core.embedded import StoreUrls
from blindpost.errors import StartError
from blindpost.workers import serving, supervisor
from checks import success
from fault.servers import eventually
from support import Person, contacts, in_thread, person, settings_for

NEVER_S = 300
"""No sweep comes while a test lasts: what crosses does so by the notification."""
LIVE = ("blindpost_requests_total", "/health/live")


@pytest.fixture(scope="module")
def crew(stores: StoreUrls, data_dir: Path) -> Iterator[Served]:
    settings = settings_for(stores, data_dir / "crew", workers=2, sweep_interval_s=NEVER_S)
    with in_thread(lambda: serving(settings)) as served:
        yield served


class Metrics:
    """One page of metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    @classmethod
    async def of(cls, served: Served) -> "Metrics":
        async with httpx.AsyncClient() as scraper:
            return cls((await scraper.get(served.metrics)).text)

    def at(self, worker: int, name: str, *values: str) -> float:
        """Add up the samples of a worker whose labels have these values."""
        return sum(
            each.value
            for each in self.samples
            if each.name == name and each.labels.get("worker") == str(worker) and {*values} <= {*each.labels.values()}
        )

    def of_all(self, name: str) -> float:
        return sum(each.value for each in self.samples if each.name == name)


@asynccontextmanager
async def client_at(served: Served, worker: int) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client whose one connection is this worker's: the kernel chooses, so try until it is."""
    limits = httpx.Limits(max_connections=1, keepalive_expiry=60)
    while True:
        async with httpx.AsyncClient(base_url=served.origin, timeout=90, limits=limits) as client:
            before = (await Metrics.of(served)).at(worker, *LIVE)
            success(await client.get("/health/live"))
            if (await Metrics.of(served)).at(worker, *LIVE) > before:
                yield client
                return


async def a_poll_waits_at(served: Served, worker: int) -> None:
    async def waits() -> bool:
        return (await Metrics.of(served)).at(worker, "blindpost_waiting") == 1

    await eventually(waits, what="a waiting poll")


async def test_messages_receipts_contact_changes_and_logouts_cross_from_worker_to_worker(crew: Served) -> None:
    async with client_at(crew, 1) as first, client_at(crew, 2) as second:
        alice, bob = await contacts(first)
        poll = asyncio.create_task(bob.at(second).poll(60))
        await a_poll_waits_at(crew, 2)
        sent = success(await alice.send(bob), 201)["id"]
        assert [each["id"] for each in (await poll)["messages"]] == [sent]

        receipt = asyncio.create_task(alice.at(second).poll(60))
        await a_poll_waits_at(crew, 2)
        success(await bob.post("/messages/ack", message_ids=[sent]))
        assert (await receipt)["delivered"] == [sent]

        carol = await person(first)
        change = asyncio.create_task(alice.at(second).poll(60))
        await a_poll_waits_at(crew, 2)
        success(await carol.post("/contacts/send-contact-request", receiver_id=alice.id), 201)
        assert (await change)["contacts_changed"] is True

        waiting = asyncio.create_task(bob.at(second).get("/messages/poll", timeout=60))
        await a_poll_waits_at(crew, 2)
        success(await bob.post("/auth/logout"))
        assert (await waiting).status_code == 401
        assert (await bob.at(second).get("/auth/me")).status_code == 401


def processes() -> list[psutil.Process]:
    """Return the workers that this process started."""
    return [each for each in psutil.Process().children() if "blindpost.workers" in _command(each)]


def _command(each: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(each.cmdline())
    return []


async def send_on(alice: Person, bob: Person, stop: asyncio.Event, sent: list[str]) -> None:
    """Send one message after another, each again with its id until there is an answer, as a client does."""
    while not stop.is_set():
        identifier = str(uuid4())
        while True:
            try:
                answer = await alice.send(bob, client_message_id=identifier)
            except httpx.TransportError:
                continue
            if answer.status_code == 201:
                sent.append(answer.json()["id"])
                break
            assert answer.status_code == 503, answer.text


async def test_kill_9_of_a_worker_under_load_loses_and_doubles_nothing_and_another_takes_its_place(
    crew: Served,
) -> None:
    sent: list[str] = []
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_at(crew, number)) for number in (1, 2)]
        alice, bob = await contacts(clients[0])
        starts = (await Metrics.of(crew)).of_all("blindpost_worker_starts_total")
        sending = [asyncio.create_task(send_on(alice.at(each), bob, stop, sent)) for each in clients]

        async def many() -> bool:
            return len(sent) > 20

        await eventually(many, what="some messages")
        processes()[0].kill()

        async def replaced() -> bool:
            page = await Metrics.of(crew)
            return page.of_all("blindpost_worker_starts_total") > starts and page.of_all("blindpost_worker_up") == 2

        await eventually(replaced, what="another worker")
        assert not crew.failed.is_set()
        stop.set()
        await asyncio.gather(*sending)
        found: Counter[str] = Counter()
        while messages := (await bob.poll(0))["messages"]:
            found.update(each["id"] for each in messages)
            success(await bob.post("/messages/ack", message_ids=[each["id"] for each in messages]))
    assert found == Counter(sent)
    assert len(processes()) == 2


async def test_one_page_of_metrics_has_each_metric_once_and_every_workers_samples(crew: Served) -> None:
    async with client_at(crew, 1), client_at(crew, 2):
        page = await Metrics.of(crew)
    described = [line for line in page.text.splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described))
    assert {each.labels["worker"] for each in page.samples} == {"1", "2"}
    for worker in (1, 2):
        assert page.at(worker, *LIVE) >= 1
        assert page.at(worker, "blindpost_listener_up") == 1
        assert page.at(worker, "blindpost_request_seconds_bucket", "/health/live", "+Inf") == page.at(worker, *LIVE)


def test_waiting_polls_are_divided_among_the_workers_and_what_one_household_has_is_not() -> None:
    given = Settings(workers=3, waiting_max=100, waiting_per_user_max=4, connections_per_address_max=50)
    each = given.of_one_worker()
    assert (each.waiting_max, each.waiting_per_user_max, each.connections_per_address_max) == (34, 4, 50)
    alone = Settings(waiting_max=100)
    assert alone.of_one_worker() == alone


# What the supervisor makes of workers that end: programs that say what a worker says, and then end


PREAMBLE = """
import json, os, socket, sys, time
channel = socket.socket(fileno=0)
plan = channel.recv(1 << 16)
number = json.loads(plan)["number"]
with open(sys.argv[1], "a") as starts: starts.write(f"{number}\\n")
count = open(sys.argv[1]).read().count("1\\n")
def say(**what): channel.sendall(json.dumps(what).encode() + b"\\n")
def stay(): channel.recv(1)
"""


def pretend(monkeypatch: pytest.MonkeyPatch, starts: Path, body: str) -> Settings:
    """Put a program in the workers' place, which writes each start's number into a file."""
    monkeypatch.setattr(supervisor, "PROGRAM", (sys.executable, "-I", "-S", "-c", PREAMBLE + body, str(starts)))
    monkeypatch.setattr(supervisor, "PAUSES_S", (0.0, 0.01))
    monkeypatch.setattr(supervisor, "AGAIN_S", 0.01)
    return Settings(data_dir=starts.parent, port=0, workers=2)


async def test_workers_that_end_again_and_again_as_soon_as_they_start_end_the_router(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = pretend(monkeypatch, tmp_path / "starts", "say(is_ready=True)\nif number == 2: stay()")
    async with serving(settings) as served, asyncio.timeout(20):
        await served.failed.wait()
    assert Counter((tmp_path / "starts").read_text().split()) == {"1": 3, "2": 1}, "the first, and one per pause"


async def test_what_keeps_a_worker_from_starting_is_said_once_and_no_other_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = pretend(monkeypatch, tmp_path / "starts", "say(error='there is no store', hint='look')")
    with pytest.raises(StartError, match="there is no store"):
        async with serving(settings):
            pass
    assert (tmp_path / "starts").read_text().split() == ["1"]


async def test_a_worker_that_says_why_it_cannot_start_is_tried_again_and_ends_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = """
if number == 1 and 1 < count < 8: say(error="the store is away", hint=""); sys.exit(1)
say(is_ready=True)
if number == 2 or count == 8: stay()
"""
    settings = pretend(monkeypatch, tmp_path / "starts", body)

    async def is_back() -> bool:
        return (tmp_path / "starts").read_text().count("1\n") == 8

    async with serving(settings) as served:
        await eventually(is_back, what="the eighth start")
        assert not served.failed.is_set()
    assert (tmp_path / "starts").read_text().count("2\n") == 1
