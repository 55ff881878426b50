"""Traces for OpenTelemetry, where they are asked for: what took how long, and nothing of who it was for.

Each span is a trace of its own. A transaction and a question to Redis are shared by many people's requests, so they
belong to none of them; and an id that a client may choose (traceparent) is not taken over.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from blindpost.core.addresses import is_here
from blindpost.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

EXPORT_S: Final = 2
"""For a collector to take what it is sent, also when the router ends."""


class Traces:
    """What this process records; nothing, unless it is told where to."""

    def __init__(self) -> None:
        self._tracer: Tracer | None = None

    def record(self, name: str, started: float, **attributes: str | int) -> None:
        """Record what began at `started` (of perf_counter) and ends now."""
        if self._tracer is None:
            return
        end = time_ns()
        begin = end - round((perf_counter() - started) * 1e9)
        named = {key.replace("__", "."): value for key, value in attributes.items()}
        self._tracer.start_span(name, start_time=begin, attributes=named).end(end)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the block, and the type of the error that ends it."""
        started = perf_counter()
        try:
            yield
        except BaseException as error:
            self.record(name, started, error__type=type(error).__name__)
            raise
        self.record(name, started)

    @contextmanager
    def exported(self, endpoint: str | None) -> Iterator[None]:
        """Send what is recorded inside the block to a collector, by OTLP over HTTP; raises ConfigurationError."""
        if endpoint is None:
            yield
            return
        with self.to(_exporter(endpoint)):
            yield

    @contextmanager
    def to(self, exporter: "SpanExporter") -> Iterator[None]:
        """Give what is recorded inside the block to an exporter."""
        provider = _provider(exporter)
        self._tracer = provider.get_tracer("blindpost")
        try:
            yield
        finally:
            self._tracer = None
            provider.shutdown()


traces: Final = Traces()


def _exporter(endpoint: str) -> "SpanExporter":
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(
            "BLINDPOST_OTLP_ENDPOINT is no address", "write it as https://collector.example.org:4318"
        )
    if parts.scheme == "http" and not is_here(parts.hostname):
        raise ConfigurationError(
            "BLINDPOST_OTLP_ENDPOINT is another machine, without TLS: who is on the way sees when somebody is active",
            "give an https:// address, or let a collector on this machine send it on",
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - optional
            OTLPSpanExporter,
        )
    except ImportError:
        raise ConfigurationError(
            "BLINDPOST_OTLP_ENDPOINT is set, and OpenTelemetry is not installed", "pip install 'blindpost[otel]'"
        ) from None
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S)


def _provider(exporter: "SpanExporter") -> "TracerProvider":
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    # Its own resource: the library's would name the machine and the process.
    provider = TracerProvider(resource=Resource({"service.name": "blindpost"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
