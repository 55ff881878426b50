"""What the benchmark writes, on the wire and into reports."""

import json
import time
from uuid import uuid4
from xml.etree import ElementTree as ET

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.bench import report
from blindpost.bench.people import Pair, Person
from blindpost.bench.plots import plots
from blindpost.bench.svg import nice_steps
from blindpost.bench.talks import new_message, send_frame
from blindpost.bench.wire import WebSocketWire, frame
from blindpost.protocol.dpop import ProofKey, SignedRequest, check

FIGURES: report.Figures = {
    "machine": {
        "date": "2026-01-01",
        "processor": "Q",
        "processors": 2,
        "memory_gib": 8,
        "python": "3.11",
        "load": 0.1,
    },
    "plan": {"rounds": 1, "seconds": 2},
    "measured": {
        "stream": [
            {"transport": "websocket", "pairs": pairs, "per_second": 2_000.0, "per_transaction": 10.0}
            | {f"{what}_cpu": 0.1 for what in ("router", "postgres", "redis", "generator")}
            | {f"{what}_{mark}_ms": 2.0 for what in ("received", "sent") for mark in ("p50", "p99")}
            for pairs in (1, 50)
        ]
    },
}


def someone() -> Person:
    key = ec.generate_private_key(ec.SECP256R1())
    header = ProofKey(key).prove(SignedRequest("GET", ""), 0).partition(".")[0]
    return Person(uuid4(), "someone", "token", key, header)


def test_the_lean_proof_passes_as_the_sdks_does() -> None:
    signer = someone().signer("POST", "http://router/messages/send?x=1")
    proofs = [signer.proof(b"{}").decode() for _ in range(2)]
    asked = SignedRequest("POST", "http://router/messages/send", b"{}", "token")
    ids = {check(each, asked, time.time()).id for each in proofs}
    assert len(ids) == 2


def test_a_frame_is_as_long_as_it_says_and_no_message_id_comes_twice() -> None:
    before = send_frame(Pair(someone(), someone()))
    frames = [new_message(before) for _ in range(2)]
    for each in frames:
        assert int.from_bytes(each[2:4], "big") == len(each) - 8
    first, second = (json.loads(each[8:]) for each in frames)
    assert first["client_message_id"] != second["client_message_id"]
    assert len(first["message"]) == 684


@pytest.mark.parametrize("size", [3, 125, 126, 70_000])
async def test_texts_are_found_wherever_the_bytes_are_cut(size: int) -> None:
    wire, found, text = WebSocketWire(), [], b"a" * size
    wire.on_text = lambda data, start, stop: found.append(data[start:stop])
    masked = frame(text)
    said = bytes((masked[0], masked[1] & 127)) + masked[2 : -size - 4] + text
    whole = b"HTTP/1.1 101 OK\r\n\r\n" + said * 2
    for start in range(0, len(whole), 37):
        wire.data_received(whole[start : start + 37])
    assert found == [text, text]


@pytest.mark.parametrize(("value", "written"), [(1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123")])
def test_figures_have_about_three_digits(value: float, written: str) -> None:
    assert report.number(value) == written


@pytest.mark.parametrize(("most", "last"), [(0, 1), (0.7, 0.8), (1, 1), (960, 1000), (1_349, 1_500)])
def test_an_axis_ends_at_a_round_number(most: float, last: float) -> None:
    assert nice_steps(most)[-1] == pytest.approx(last)


def test_tables_are_filled_in_between_their_marks_and_nothing_else_is_touched() -> None:
    text = "a\n<!-- bench: stream -->\nold\n<!-- /bench -->\nb\n<!-- bench: idle -->\nkept\n<!-- /bench -->\n"
    filled = report.fill(text, FIGURES)
    assert "| WebSocket | 50 | 2,000 |" in filled
    assert "old" not in filled
    assert filled.endswith("b\n<!-- bench: idle -->\nkept\n<!-- /bench -->\n")
    assert report.fill(filled, FIGURES) == filled


def test_plots_are_well_formed() -> None:
    drawn = plots(FIGURES)
    assert drawn.keys() == {"throughput.svg", "latency.svg", "cpu.svg", "known.svg"}
    for each in drawn.values():
        ET.fromstring(each)  # noqa: S314 - our own
