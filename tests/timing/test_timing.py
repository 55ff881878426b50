"""The time to an answer tells no stranger who is here: `./task timing [requests]`, many minutes.

For every handler that must not tell: the sorts of requests are sent one at a time over one connection, in random
order, each signed before its clock starts. By Welch's t, neither all the times may differ, nor the fastest 90 %, nor
the fastest half, nor the ranks; and the answers must be the same bytes. A known difference shows that one is found.
"""

import asyncio
import json
import os
import platform
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

import pytest

from blindpost.core.embedded import StoreUrls
from timing.town import Bare, Town, any_of, neighbour, town
from timing.welch import T_MAX, Comparison, compare

REQUESTS: Final = int(os.environ.get("TIMING_REQUESTS", "20000"))
"""For each pair of sorts."""
WARM_UP: Final = 100
PROGRESS_S: Final = 10.0
US: Final = 1e6
PAGE: Final = Path(__file__).parents[2] / "docs" / "timing.md"
TABLE: Final = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- /figures -->)", re.DOTALL)

Step = Callable[[bytes], bytes]
"""Takes the answer to the step before, and writes a request."""

# What differs from answer to answer, whoever is asked about.
VARIES: Final = (
    (re.compile(rb"^(date|x-request-id): [^\r]*", re.IGNORECASE | re.MULTILINE), rb"\1:"),
    (re.compile(rb'"request_id":"[0-9a-f]{32}"'), b'"request_id":"name"'),
    (re.compile(rb"\|[a-z0-9_]{25}\|[\w-]{43}\|[0-9]{10}\""), b'|name|nonce|expiry"'),
    (re.compile(rb'"expires":"[0-9T:.-]{26}Z"'), b'"expires":"time"'),
)


@dataclass(frozen=True)
class Case:
    """One handler, or several in a row, asked about several sorts of things."""

    calls: tuple[str | None, ...]
    """Their names; None for one that is only on the way to the next."""
    kinds: dict[str, tuple[Step, ...]]
    alike: bool = True
    """Whether nobody must be able to tell the sorts from each other."""


class Figure(NamedTuple):
    """A pair, measured."""

    call: str
    pair: str
    requests: int
    found: Comparison
    alike: bool

    @property
    def cells(self) -> tuple[str, ...]:
        whole, cropped, fast, ranks = self.found
        return (
            self.call,
            self.pair,
            f"{self.requests:,}",
            f"{fast.difference * US:+.1f}",
            f"{whole.t:+.2f}",
            f"{cropped.t:+.2f}",
            f"{fast.t:+.2f}",
            f"{ranks.t:+.2f}",
            f"{fast.error * T_MAX * US:.1f}",
        )


@dataclass
class Record:
    """What was measured of one call."""

    times: dict[str, list[float]]
    answers: dict[str, set[bytes]] = field(default_factory=dict)


def challenge_and_login(here: Town) -> Case:
    def steps(names: list[str]) -> tuple[Step, ...]:
        return (
            any_of(names, here.challenge),
            lambda answer: here.login(_name_in(answer), _challenge_in(answer)),
        )

    kinds = {
        "known name": steps([each.name for each in here.known]),
        "unknown": steps(here.unused_names),
        "deleted": steps([each.name for each in here.deleted]),
    }
    return Case(("challenge", "login, wrong signature"), kinds)


def login_with_anothers_challenge(here: Town) -> Case:
    mine: Step = lambda _: here.challenge(here.me.name)  # noqa: E731

    def steps(names: list[str]) -> tuple[Step, ...]:
        return mine, lambda answer: any_of(names, lambda name: here.login(name, _challenge_in(answer)))(answer)

    kinds = {"known name": steps([each.name for each in here.known]), "unknown": steps(here.unused_names)}
    return Case((None, "login, challenge of another name"), kinds)


def register(here: Town) -> Case:
    return one_call(
        "register",
        {"taken name": [each.name for each in here.known], "deleted": [each.name for each in here.deleted]},
        here.registration,
    )


def search(here: Town) -> Case:
    return one_call(
        "search",
        {"unknown full name": here.unused_names, "deleted": [each.name for each in here.deleted]},
        lambda name: here.mine("GET", f"/contacts/search-users?username={name}"),
    )


def public_keys(here: Town) -> Case:
    return one_call("public-keys", _gone(here), lambda who: here.mine("GET", f"/auth/public-keys/{who}"))


def users_by_ids(here: Town) -> Case:
    return one_call(
        "users-by-ids", _gone(here), lambda who: here.mine("GET", f"/contacts/users-by-ids?users_ids={who}")
    )


def contact_request(here: Town) -> Case:
    return one_call(
        "send-contact-request",
        _gone(here),
        lambda who: here.mine("POST", "/contacts/send-contact-request", {"receiver_id": who}),
    )


def accept(here: Town) -> Case:
    return _decision(here, "accept-contact-request")


def reject(here: Town) -> Case:
    return _decision(here, "reject-contact-request")


def _decision(here: Town, call: str) -> Case:
    kinds = {"known, did not ask": [each.id for each in here.known], **_gone(here)}
    return one_call(call, kinds, lambda who: here.mine("PUT", f"/contacts/{call}", {"sender_id": who}))


def send(here: Town) -> Case:
    kinds = {
        "known, no contact": [each.id for each in here.known],
        **_gone(here),
        "rejected me": [each.id for each in here.blocking],
    }
    return one_call(
        "send", kinds, lambda who: here.mine("POST", "/messages/send", {"recipient_id": who, "message": "b3BhcXVl"})
    )


def ack(here: Town) -> Case:
    return one_call(
        "ack", _messages(here), lambda which: here.mine("POST", "/messages/ack", {"message_ids": [str(which)]})
    )


def status(here: Town) -> Case:
    return one_call("status", _messages(here), lambda which: here.mine("GET", f"/messages/status?ids={which}"))


def end_session(here: Town) -> Case:
    return one_call(
        "end-session",
        {"foreign id": [str(each) for each in here.foreign_sessions], "unknown": here.unused_ids},
        lambda which: here.mine("DELETE", f"/auth/sessions/{which}"),
    )


def control(here: Town) -> Case:
    """One row more in an answer, which everybody may see."""
    kinds = {"known id": [each.id for each in here.known], "unknown": here.unused_ids}
    case = one_call(
        "control: users-by-ids", kinds, lambda who: here.mine("GET", f"/contacts/users-by-ids?users_ids={who}")
    )
    return Case(case.calls, case.kinds, alike=False)


def one_call(name: str, kinds: dict[str, list[str]], write: Callable[[str], bytes]) -> Case:
    return Case((name,), {kind: (any_of(choices, write),) for kind, choices in kinds.items()})


def _gone(here: Town) -> dict[str, list[str]]:
    return {"unknown id": here.unused_ids, "deleted": [each.id for each in here.deleted]}


def _messages(here: Town) -> dict[str, list[str]]:
    foreign = here.foreign_messages
    return {"foreign id": [str(each) for each in foreign], "unknown": [str(neighbour(each)) for each in foreign]}


def _challenge_in(answer: bytes) -> str:
    challenge: str = json.loads(answer.partition(b"\r\n\r\n")[2])["challenge"]
    return challenge


def _name_in(answer: bytes) -> str:
    return _challenge_in(answer).split("|")[2]


CASES: Final = (
    challenge_and_login,
    login_with_anothers_challenge,
    register,
    search,
    public_keys,
    users_by_ids,
    contact_request,
    accept,
    reject,
    send,
    ack,
    status,
    end_session,
    control,
)


@pytest.fixture(scope="module")
def here(stores: StoreUrls, data_dir: Path) -> Iterator[Town]:
    with asyncio.Runner() as runner:
        opened = town(stores, data_dir / "timing")
        yield runner.run(opened.__aenter__())
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def figures() -> Iterator[list[Figure]]:
    """The figures of all cases; at the end they are shown, and written to the page with UPDATE_TIMING=1."""
    gathered: list[Figure] = []
    yield gathered
    table = _table(gathered)
    sys.stderr.write(f"\n{table}\n")
    if os.environ.get("UPDATE_TIMING"):
        PAGE.write_text(TABLE.sub(lambda _: table, PAGE.read_text()))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_the_time_to_an_answer_tells_no_stranger_who_is_here(
    make: Callable[[Town], Case], here: Town, figures: list[Figure]
) -> None:
    case = make(here)
    records = _measure(case, here.origin)
    mine = [each for name, record in records.items() for each in _figures(name, record, alike=case.alike)]
    figures += mine
    if case.alike:
        for name, record in records.items():
            assert len(set.union(*record.answers.values())) == 1, f"{name}: the answers differ"
    wrong = [" ".join(each.cells) for each in mine if each.found.differs is each.alike]
    assert not wrong, wrong


def _measure(case: Case, origin: str) -> dict[str, Record]:
    names = [each for each in case.calls if each is not None]
    records = {name: Record({kind: [] for kind in case.kinds}) for name in names}
    order = list(case.kinds)
    told = monotonic()
    with Bare(origin) as connection:
        for number in range(-WARM_UP, REQUESTS // 2):
            random.shuffle(order)
            for kind in order:
                answer = b""
                for name, step in zip(case.calls, case.kinds[kind], strict=True):
                    took, answer = connection.exchange(step(answer))
                    if name is not None and number >= 0:
                        records[name].times[kind].append(took)
                        records[name].answers.setdefault(kind, set()).add(_bare(answer))
            if monotonic() - told > PROGRESS_S:
                told = monotonic()
                sys.stderr.write(f"{names[-1]}: {number:,} of {REQUESTS // 2:,}\n")
    return records


def _bare(answer: bytes) -> bytes:
    for pattern, put in VARIES:
        answer = pattern.sub(put, answer)
    return answer


def _figures(name: str, record: Record, *, alike: bool) -> list[Figure]:
    return [
        Figure(name, f"{one} / {two}", len(record.times[one]) * 2, compare(record.times[one], record.times[two]), alike)
        for one, two in combinations(record.times, 2)
    ]


def _table(figures: list[Figure]) -> str:
    head = (
        "call",
        "pair",
        "requests",
        "difference, µs",
        "t, all",
        "t, fastest 90 %",
        "t, fastest half",
        "t, ranks",
        "seen from, µs",
    )
    rows = [head, tuple("---" for _ in head), *(each.cells for each in figures)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    load = f"load average at the end {os.getloadavg()[0]:.1f}"
    return "\n".join([*lines, "", f"Machine: {machine}, shared with other work ({load}).", ""])
