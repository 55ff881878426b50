"""Traces tell what took how long, and nothing of whom it was for; they are made where they are asked for alone."""

import sys
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from blindpost.errors import ConfigurationError
from blindpost.tracing import Traces, traces
from checks import refusal
from e2e.test_serve import blindpost
from support import contacts


async def test_requests_flushes_and_redis_are_spans_without_a_name_of_anybody(http: httpx.AsyncClient) -> None:
    exporter = InMemorySpanExporter()
    chosen = uuid4().hex
    alice, bob = await contacts(http)
    with traces.to(exporter):
        message_id = (await alice.send(bob)).json()["id"]
        await alice.get("/contacts/search-users", username=alice.name)
        await http.get(f"/auth/challenge/{alice.name}", headers={"traceparent": f"00-{chosen}-{chosen[:16]}-01"})
        refusal(await http.get(f"/{chosen}"), 404)
        await http.get("/health/live")  # until its answer, the spans of all before it are recorded
    spans = {each.name: each for each in exporter.get_finished_spans()}
    assert {"POST /messages/send", "GET /auth/challenge/{username}", "GET unmatched"} <= spans.keys()
    assert {"flush send", "redis admit"} <= spans.keys()
    sent = spans["POST /messages/send"]
    assert dict(sent.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/messages/send",
        "http.response.status_code": 201,
    }
    assert sent.start_time is not None
    assert sent.end_time is not None
    assert 0 < sent.end_time - sent.start_time < 30e9
    written = "".join(each.to_json() for each in exporter.get_finished_spans())
    for value in (alice.name, alice.id, bob.id, message_id, chosen, alice.token):
        assert value not in written


async def test_nothing_is_traced_unless_it_is_asked_for(http: httpx.AsyncClient) -> None:
    await http.get("/health/live")
    assert traces._tracer is None


async def test_an_error_is_a_spans_type_and_not_its_text() -> None:
    exporter, mine = InMemorySpanExporter(), Traces()
    with mine.to(exporter), pytest.raises(ValueError, match="hush"), mine.timed("step"):
        raise ValueError("hush")
    (span,) = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {"error.type": "ValueError"}
    assert "hush" not in span.to_json()


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://127.0.0.1", "http://collector.example.org:4318"])
def test_a_collector_elsewhere_wants_tls(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="BLINDPOST_OTLP_ENDPOINT"), Traces().exported(endpoint):
        pass


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match="not installed") as raised, Traces().exported("http://127.0.0.1:4318"):
        pass
    assert "blindpost[otel]" in raised.value.hint


def test_a_start_with_an_unsafe_collector_fails_with_a_sentence(tmp_path: Path) -> None:
    result = blindpost("serve", data_dir=tmp_path, otlp_endpoint="http://collector.example.org:4318")
    assert result.returncode == 1
    assert "hint: give an https:// address" in result.stderr
    assert "Traceback" not in result.stderr
