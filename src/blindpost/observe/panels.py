"""What an operator looks at: each panel as queries of Prometheus for Grafana, and as figures of two pages.

One description of both, so that the picture in the documentation shows what the dashboard shows.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from blindpost.observe.page import Page

WIDTH, HEIGHT = 8, 7
"""Of a panel, in Grafana's units: three of them fill a row of 24."""
ACROSS: Final = 24 // WIDTH


class Kind(StrEnum):
    """What is made of a metric."""

    RATE = "rate"
    LEVEL = "level"
    MEAN = "mean"
    P50 = "p50"
    P99 = "p99"


@dataclass(frozen=True, slots=True)
class Series:
    """Lines of a panel: one, or one for each value of a label."""

    kind: Kind
    metric: str
    by: str = ""
    name: str = ""
    """What the line is called, where it is one; the value of the label goes before it where there are more."""

    def query(self) -> str:
        """Write it in the language of Prometheus; workers and nodes are added up."""
        by = f" by ({self.by})" if self.by else ""
        if self.kind is Kind.LEVEL:
            return f"sum{by}({self.metric}{_CHOSEN})"
        if self.kind is Kind.RATE:
            return f"sum{by}({_rate(self.metric)})"
        if self.kind is Kind.MEAN:
            return f"sum{by}({_rate(self.metric + '_sum')}) / sum{by}({_rate(self.metric + '_count')})"
        le = f"le, {self.by}" if self.by else "le"
        buckets = _rate(self.metric + "_bucket")
        return f"histogram_quantile({_PARTS[self.kind]}, sum by ({le})({buckets}))"

    def figures(self, page: Page, since: Page) -> dict[str, float]:
        """Reckon the same from two pages, by the names of the lines."""
        by = [self.by] if self.by else []
        return {self._called(*key): value for key, value in _RECKONED[self.kind](page, since, self.metric, by).items()}

    @property
    def legend(self) -> str:
        return self._called(f"{{{{{self.by}}}}}" if self.by else "")

    def _called(self, value: str = "") -> str:
        return " ".join(each for each in (value, self.name) if each)


_CHOSEN: Final = '{job=~"$job"}'


def _rate(metric: str) -> str:
    return f"rate({metric}{_CHOSEN}[$__rate_interval])"


_PARTS: Final = {Kind.P50: 0.5, Kind.P99: 0.99}
_RECKONED: Final[Mapping[Kind, Callable[[Page, Page, str, list[str]], dict[tuple[str, ...], float]]]] = {
    Kind.RATE: lambda page, since, metric, by: page.rate(since, metric, *by),
    Kind.LEVEL: lambda page, _, metric, by: page.level(metric, *by),
    Kind.MEAN: lambda page, since, metric, by: page.mean(since, metric, *by),
    Kind.P50: lambda page, since, metric, by: page.quantile(since, 0.5, metric, *by),
    Kind.P99: lambda page, since, metric, by: page.quantile(since, 0.99, metric, *by),
}


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time."""

    title: str
    unit: str
    """As Grafana names it."""
    series: tuple[Series, ...]


PANELS: Final = (
    Panel("Answers", "reqps", (Series(Kind.RATE, "blindpost_requests_total", "route"),)),
    Panel("Time to answer, p99", "s", (Series(Kind.P99, "blindpost_request_seconds", "route"),)),
    Panel("Errors by code", "ops", (Series(Kind.RATE, "blindpost_problems_total", "code"),)),
    Panel(
        "Written",
        "s",
        (
            Series(Kind.P50, "blindpost_flush_seconds", "kind", "p50"),
            Series(Kind.P99, "blindpost_flush_seconds", "kind", "p99"),
        ),
    ),
    Panel("Items in a transaction", "short", (Series(Kind.MEAN, "blindpost_batch_size", "kind"),)),
    Panel("Waiting to be written", "short", (Series(Kind.LEVEL, "blindpost_write_queue", "kind"),)),
    Panel("Messages that wait", "short", (Series(Kind.LEVEL, "blindpost_queued_messages", name="messages"),)),
    Panel("Age of the oldest", "s", (Series(Kind.LEVEL, "blindpost_oldest_message_seconds", name="oldest"),)),
    Panel(
        "Queue of notifications", "percentunit", (Series(Kind.LEVEL, "blindpost_notify_queue_ratio", name="in use"),)
    ),
    Panel(
        "Who waits",
        "short",
        (
            Series(Kind.LEVEL, "blindpost_waiting", name="polls"),
            Series(Kind.LEVEL, "blindpost_streams", "transport"),
        ),
    ),
    Panel("Frames of WebSockets", "ops", (Series(Kind.RATE, "blindpost_frames_total", "type"),)),
    Panel(
        "Connections to PostgreSQL",
        "short",
        (
            Series(Kind.LEVEL, "blindpost_pool_in_use", name="in use"),
            Series(Kind.LEVEL, "blindpost_pool_size", name="at most"),
        ),
    ),
    Panel(
        "Refused",
        "ops",
        (
            Series(Kind.RATE, "blindpost_limits_hit_total", "limit"),
            Series(Kind.RATE, "blindpost_connections_refused_total", "reason", "(connection)"),
        ),
    ),
    Panel("Purged", "ops", (Series(Kind.RATE, "blindpost_purged_total", "kind"),)),
    Panel(
        "Listeners and faults",
        "short",
        (
            Series(Kind.LEVEL, "blindpost_listener_up", name="listeners"),
            Series(Kind.LEVEL, "blindpost_worker_up", name="workers"),
            Series(Kind.LEVEL, "blindpost_faults_total", "event", "(fault)"),
        ),
    ),
)


def grafana() -> str:
    """Write the dashboard as Grafana imports it."""
    job = {
        "name": "job",
        "type": "query",
        "query": "label_values(blindpost_requests_total, job)",
        "datasource": _SOURCE,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 1,
    }
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    dashboard = {
        "uid": "blindpost",
        "title": "Blindpost",
        "tags": ["blindpost"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, job]},
        "panels": [_grafana_panel(number, each) for number, each in enumerate(PANELS)],
    }
    return json.dumps(dashboard, indent=1) + "\n"


_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


def _grafana_panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, ACROSS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": each.query(), "legendFormat": each.legend, "datasource": _SOURCE}
            for place, each in enumerate(panel.series)
        ],
    }
