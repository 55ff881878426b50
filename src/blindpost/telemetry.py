"""Logs and metrics that tell how the server does, and nothing about who uses it.

A log line may hold only fields named in SAFE_FIELDS; the value of any other is struck out. Faults are logged by
type and place, without their text, because the text of a driver's or parser's error can hold names and keys.
Third parties' lines keep their wording and lose their arguments.
"""

import logging
import sys
import traceback
from collections import Counter as Numbers
from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from structlog.typing import EventDict, Processor

SAFE_FIELDS: Final = frozenset(
    {
        *("event", "level", "timestamp", "logger", "error", "frames", "request_id"),
        *("method", "route", "status", "code", "duration_ms", "count", "seconds"),
        *("address", "metrics", "origin", "store", "action", "revision", "pid", "signal", "setting", "worker"),
    }
)
STRUCK: Final = "[struck out]"
FRAMES_MAX: Final = 12

registry = CollectorRegistry()
REQUESTS: Final = Counter(
    "blindpost_requests_total", "Answers by route and status", ["method", "route", "status"], registry=registry
)
PROBLEMS: Final = Counter(
    "blindpost_problems_total", "Errors that clients were answered, by code", ["code"], registry=registry
)
DURATION: Final = Histogram(
    "blindpost_request_seconds",
    "Time to answer, without waiting polls",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=registry,
)
FAULTS: Final = Counter("blindpost_faults_total", "Faults of the server", ["event"], registry=registry)
BATCH_SIZE: Final = Histogram(
    "blindpost_batch_size",
    "Items written per transaction",
    ["kind"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=registry,
)
FLUSH: Final = Histogram(
    "blindpost_flush_seconds",
    "Time of a transaction of the writer",
    ["kind"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=registry,
)
WRITE_QUEUE: Final = Gauge("blindpost_write_queue", "Items that wait to be written", ["kind"], registry=registry)
POOL_IN_USE: Final = Gauge("blindpost_pool_in_use", "Connections to PostgreSQL that are in use", registry=registry)
POOL_SIZE: Final = Gauge("blindpost_pool_size", "Connections to PostgreSQL that there can be", registry=registry)
LIMITS_HIT: Final = Counter("blindpost_limits_hit_total", "Rate limits that refused", ["limit"], registry=registry)
WAITING: Final = Gauge("blindpost_waiting", "Polls that wait now", registry=registry)
STREAMS: Final = Gauge("blindpost_streams", "Streams that are open now", ["transport"], registry=registry)
STREAM_CLOSES: Final = Counter(
    "blindpost_stream_closes_total", "Streams that the router closed, by code", ["code"], registry=registry
)
FRAMES: Final[Numbers[str]] = Numbers()
"""Frames of WebSockets by type: plain numbers, as counting them with a lock would be felt."""


class _Frames(Collector):
    def collect(self) -> Iterator[CounterMetricFamily]:
        """Write FRAMES as a metric."""
        family = CounterMetricFamily("blindpost_frames", "Frames of WebSockets, both ways, by type", labels=["type"])
        for kind, number in list(FRAMES.items()):
            family.add_metric([kind], number)
        yield family


registry.register(_Frames())
OBSERVED: Final[dict[str, float]] = {}
"""What `core/observer.py` found, by the names of these metrics: empty in all processes but one."""
_OBSERVED: Final = {
    "blindpost_queued_messages": "Messages that wait to be acknowledged",
    "blindpost_oldest_message_seconds": "Age of the oldest of them",
    "blindpost_notify_queue_ratio": "How full the queue of PostgreSQL's notifications is, from 0 to 1",
}


class _Observed(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Write OBSERVED as metrics, without a sample where nothing was observed."""
        found = dict(OBSERVED)
        for name, documentation in _OBSERVED.items():
            yield GaugeMetricFamily(name, documentation, value=found.get(name))


registry.register(_Observed())
CONNECTIONS_REFUSED: Final = Counter(
    "blindpost_connections_refused_total",
    "Connections beyond what the open files allow, or one address",
    ["reason"],
    registry=registry,
)
AUDIT_EVENTS: Final = Counter(
    "blindpost_audit_events_total", "Security events, by whether they were written", ["outcome"], registry=registry
)
PURGED: Final = Counter("blindpost_purged_total", "Rows that had had their time, by kind", ["kind"], registry=registry)
LISTENER_UP: Final = Gauge("blindpost_listener_up", "1 while the listening connection is open", registry=registry)
HINTS_OWED: Final = Gauge("blindpost_hints_owed", "Hints that Redis has not taken yet", registry=registry)

log: structlog.stdlib.BoundLogger = structlog.get_logger("blindpost")


def configure_logging(*, json: bool, level: str) -> None:
    """Send everything, the libraries' lines too, to standard error through one redacting chain."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        strike_out,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_forget_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak up only when something is wrong.
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    # uvicorn has a warning for each request that is none: anybody could fill the log with them.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("blindpost").setLevel(level.upper())


def strike_out(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Keep the value of the fields that are known to be safe, and of no other."""
    for field in event:
        if field not in SAFE_FIELDS and not field.startswith("_"):
            event[field] = STRUCK
    return event


def _forget_arguments(record: logging.LogRecord) -> bool:
    """Turn a library's line into its bare wording, and its traceback into type and place."""
    if record.name == "blindpost":
        return True
    # A template is wording; a text without arguments may have had values put into it already.
    record.msg = str(record.msg) if record.args or record.name.startswith("uvicorn") else STRUCK
    if record.exc_info and record.exc_info[1] is not None:
        record.msg = f"{record.msg}: {describe(record.exc_info[1])['error']}"
    record.args = ()
    record.exc_info = None
    record.exc_text = None
    record.stack_info = None
    return True


def describe(error: BaseException) -> Mapping[str, Any]:
    """Say what went wrong and where: the chain of types, and the frames as file:line:function."""
    types: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(types) < FRAMES_MAX:
        types.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    return {
        "error": " < ".join(types),
        "frames": [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}:{frame.name}" for frame in frames],
    }


def log_fault(event: str, error: BaseException, **fields: object) -> None:
    """Log a fault of ours so that it can be found, count it, and leak nothing."""
    FAULTS.labels(event).inc()
    log.error(event, **describe(error), **fields)
