"""What is drawn of the figures."""

from collections.abc import Callable
from typing import Final

from blindpost.bench.ground import PAIRS, Row
from blindpost.bench.report import CPU, KNOWN, NAMES, OURS, Figures, grouped, middle, ours
from blindpost.bench.svg import bars, lines


def plots(figures: Figures) -> dict[str, str]:
    """Draw all that was measured; by the names of their files."""
    drawn = {}
    for name, (measurement, draw) in _PLOTS.items():
        if rows := figures["measured"].get(measurement):
            drawn[f"{name}.svg"] = draw(rows)
    if (mine := ours(figures)) is not None:
        servers = {each.name.replace("*", ""): (1000 / each.cpu,) for each in (mine, *KNOWN)}
        drawn["known.svg"] = bars(
            "Messages for each second of processor time", "messages per CPU second (logarithmic)", servers, log=True
        )
    return drawn


def _by_transport(rows: list[Row], figure: str) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for (transport, pairs), each in grouped(rows, "transport", "pairs").items():
        series.setdefault(NAMES[transport], []).append((pairs, middle(each, figure)))
    return series


def _throughput(rows: list[Row]) -> str:
    return lines("Messages, one in flight for each pair", "pairs", "messages/s", _by_transport(rows, "per_second"))


def _latency(rows: list[Row]) -> str:
    series = _by_transport(rows, "received_p50_ms")
    return lines("From send to received, one message in flight for each pair", "pairs", "p50, ms", series)


def _cpu(rows: list[Row]) -> str:
    mine = {
        f"{NAMES[transport]}, {pairs} pair{'s' if pairs > 1 else ''}": [middle(each, name) for name in OURS]
        for (transport, pairs), each in grouped(rows, "transport", "pairs").items()
        if pairs in {1, PAIRS}
    }
    return bars("Processor time of a message", "CPU s per 1,000 messages", mine, [CPU[name] for name in OURS])


def _rate(rows: list[Row]) -> str:
    marks = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9", "max": "worst"}
    shown = {name: (middle(rows, f"received_{mark}_ms"),) for mark, name in marks.items()}
    return bars(f"From due to received, at {middle(rows, 'rate'):,.0f} messages/s", "ms", shown)


def _idle(rows: list[Row]) -> str:
    shown = {f"{row['clients']:,} x {NAMES[row['transport']]}": (row["kib_each"],) for row in rows}
    return bars("Memory of a client that waits", "KiB of the router's process", shown)


def _growth(rows: list[Row]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for (users, database), each in grouped(rows, "users", "database").items():
        name = {"full": "so many users and waiting messages", "empty": "an empty database, in turn"}[database]
        series.setdefault(name, []).append((users, middle(each, "per_second")))
    return lines("Messages as the database grows", "users, and as many waiting messages", "messages/s", series)


def _processes(rows: list[Row]) -> str:
    shown = {
        "1 router" if count == 1 else f"{count} routers, half of the pairs cross": (middle(each, "per_second"),)
        for (count,), each in grouped(rows, "routers").items()
    }
    return bars("One process and two", "messages/s", shown)


_PLOTS: Final[dict[str, tuple[str, Callable[[list[Row]], str]]]] = {
    "throughput": ("stream", _throughput),
    "latency": ("stream", _latency),
    "cpu": ("stream", _cpu),
    "rate": ("rate", _rate),
    "idle": ("idle", _idle),
    "growth": ("growth", _growth),
    "processes": ("processes", _processes),
}
