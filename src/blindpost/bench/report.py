"""Tables of the figures, for the terminal and for docs/performance.md."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, NamedTuple

from blindpost.bench.ground import PAIRS, Row

Figures = dict[str, Any]
"""The raw figures of a run: `machine`, `plan`, and rows by measurement in `measured`."""
NAMES: Final = {
    "websocket": "WebSocket",
    "poll": "HTTP and long-poll",
    "acking": "HTTP, polls that acknowledge",
    "events": "HTTP and Server-Sent Events",
}
CPU: Final = {"router_cpu": "router", "postgres_cpu": "PostgreSQL", "redis_cpu": "Redis", "generator_cpu": "generator"}
QUEUE: Final = 5_000
"""What waited where other servers were measured."""
OURS: Final = ("router_cpu", "postgres_cpu", "redis_cpu")
NOT_KNOWN: Final = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """One table; the first `left` columns are words, the others figures."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int = 1

    def markdown(self) -> str:
        rule = ["---"] * self.left + ["---:"] * (len(self.columns) - self.left)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows))


class Server(NamedTuple):
    """What is known of a server, on two cores: 512-byte messages, 50 pairs, one in flight each."""

    name: str
    per_second: float
    cpu: float
    """Seconds per 1,000 messages, its database's included."""
    pair_ms: float | None = None
    idle_kib: float | None = None
    queue_s: float | None = None


KNOWN: Final = (
    Server("ejabberd, archive in PostgreSQL", 1_280, 1.21, 4.5, 108, 0.64),
    Server("ejabberd, nothing stored", 10_500, 0.102, 1.0),
    Server("Prosody", 432, 1.71),
    Server("Synapse", 29, 48),
    Server("the same API, FastAPI and SQLAlchemy", 92, 14.7),
)


def number(value: float | None) -> str:
    """Write a figure with about three digits."""
    if value is None:
        return NOT_KNOWN
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3  # noqa: PLR2004 - what it says
    return f"{value:,.{digits}f}"


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Put the rounds of the same thing together, in the order in which it first came."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def middle(rows: list[Row], name: str) -> float:
    """Return the median of a figure over some rounds."""
    return float(median(row[name] for row in rows))


def middles(rows: list[Row], *names: str) -> tuple[str, ...]:
    """Write the medians of some figures."""
    return tuple(number(middle(rows, name)) for name in names)


CPU_COLUMNS: Final = tuple(("CPU s / 1,000: " if not place else "") + name for place, name in enumerate(CPU.values()))


def _stream(rows: list[Row]) -> Table:
    figures = (
        "per_second",
        *CPU,
        "per_transaction",
        "received_p50_ms",
        "received_p99_ms",
        "sent_p50_ms",
        "sent_p99_ms",
    )
    return Table(
        "Messages of 512 bytes: sent, stored, delivered, acknowledged",
        (
            *("", "pairs", "messages/s", *CPU_COLUMNS, "messages / transaction"),
            *("received: p50 ms", "p99 ms", "sent: p50 ms", "p99 ms"),
        ),
        [
            (NAMES[transport], f"{pairs:,}", *middles(each, *figures))
            for (transport, pairs), each in sorted(
                grouped(rows, "transport", "pairs").items(), key=lambda item: list(NAMES).index(item[0][0])
            )
        ],
    )


def _rate(rows: list[Row]) -> Table:
    marks = ("p50", "p90", "p99", "p999", "max")
    return Table(
        f"Latency at half of the most that {PAIRS} pairs make, by when each message was due",
        ("messages/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "worst ms", *CPU_COLUMNS, "generator late: p99 ms"),
        [middles(rows, "rate", *(f"received_{mark}_ms" for mark in marks), *CPU, "late_p99_ms")],
        left=0,
    )


def _pair(rows: list[Row]) -> Table:
    return Table(
        "One pair, one message at a time",
        ("", "received: p50 ms", "p99 ms", "sent: p50 ms", "p99 ms", "messages/s"),
        [
            (NAMES[name], *middles(each, *_latency("received"), *_latency("sent"), "per_second"))
            for (name,), each in grouped(rows, "transport").items()
        ],
    )


def _latency(name: str) -> tuple[str, str]:
    return f"{name}_p50_ms", f"{name}_p99_ms"


def _login(rows: list[Row]) -> Table:
    return Table(
        "Logins: a challenge, and its signature by a P-384 key",
        ("logins/s", *CPU_COLUMNS, "p50 ms", "p99 ms"),
        [middles(rows, "per_second", *CPU, *_latency("login"))],
        left=0,
    )


def _idle(rows: list[Row]) -> Table:
    return Table(
        "Clients that wait for news, on one process",
        ("", "clients", "KiB each", "% of a core while idle", "to wake one: p50 ms", "p99 ms"),
        [(NAMES[row["transport"]], f"{row['clients']:,}", *middles([row], *_IDLE)) for row in rows],
    )


_IDLE: Final = ("kib_each", "idle_core_percent", *_latency("woken"))


def _queue(rows: list[Row]) -> Table:
    return Table(
        "What waited for somebody who was away, fetched and acknowledged",
        ("", "messages", "seconds", *CPU_COLUMNS),
        [
            (NAMES[name], f"{count:,}", *middles(each, "seconds", *CPU))
            for (name, count), each in grouped(rows, "transport", "messages").items()
        ],
    )


def _growth(rows: list[Row]) -> Table:
    return Table(
        f"{PAIRS} pairs beside so many users, each with a session, a contact and a waiting message",
        (
            *("users", "database MiB", "messages/s", "in an empty one", "ratio", "from", "to"),
            *("router CPU ratio", "PostgreSQL CPU ratio"),
        ),
        [_grown(users, each) for (users,), each in grouped(rows, "users").items()],
    )


def _grown(users: int, rows: list[Row]) -> tuple[str, ...]:
    full, empty = ([row for row in rows if row["database"] == name] for name in ("full", "empty"))
    ratios = sorted(ratios_of(full, empty, "per_second"))
    return (
        f"{users:,}",
        *middles(full, "full_mib", "per_second"),
        *middles(empty, "per_second"),
        *map(number, (median(ratios), ratios[0], ratios[-1])),
        *(number(median(ratios_of(full, empty, name))) for name in ("router_cpu", "postgres_cpu")),
    )


def ratios_of(rows: list[Row], others: list[Row], name: str) -> list[float]:
    """Return the ratios of a figure, round by round."""
    return [row[name] / other[name] for row, other in zip(rows, others, strict=True)]


def _processes(rows: list[Row]) -> Table:
    return Table(
        f"{PAIRS} pairs on one router, and on two where half of the pairs cross",
        ("routers", "messages/s", *CPU_COLUMNS, "messages / transaction", "received: p50 ms", "p99 ms"),
        [
            (f"{count}", *middles(each, "per_second", *CPU, "per_transaction", *_latency("received")))
            for (count,), each in grouped(rows, "routers").items()
        ],
    )


def _bus(rows: list[Row]) -> Table:
    return Table(
        "Pairs on several routers, most of them at two, by what carries the hints",
        ("routers", "bus", "pairs", "messages/s", *CPU_COLUMNS, "received: p50 ms", "p99 ms"),
        [
            (f"{count}", bus, f"{pairs}", *middles(each, "per_second", *CPU, *_latency("received")))
            for (count, bus, pairs), each in grouped(rows, "routers", "bus", "pairs").items()
        ],
        left=2,
    )


class Floor(NamedTuple):
    """A floor, and what of the router's stands on it."""

    name: str
    does: str
    cpu: str
    """Whose processor time it is."""
    ours: str
    ours_does: str
    ours_cpu: str
    needs: int
    """How many of the floor's one of ours needs."""


FLOORS: Final = (
    Floor("insert", "rows inserted, 50 with a commit", "postgres_cpu", "websocket", "messages", "postgres_cpu", 1),
    Floor("echo", "texts echoed by a bare WebSocket", "router_cpu", "websocket", "messages", "router_cpu", 2),
    Floor("post", "bare ASGI answers to a POST", "router_cpu", "poll", "messages by HTTP", "router_cpu", 3),
    Floor("verify_p256", "P-256 verifications", "generator_cpu", "poll", "messages by HTTP", "router_cpu", 3),
    Floor("verify_p384", "P-384 verifications", "generator_cpu", "login", "logins", "router_cpu", 1),
)


def _floors(rows: list[Row]) -> Table:
    groups = {name: each for (name,), each in grouped(rows, "name").items()}
    return Table(
        "Floors, and the router in the same run",
        (
            "floor",
            "per second",
            "CPU s / 1,000",
            "the router",
            "needs",
            "per second",
            "CPU s / 1,000",
            "times the floor",
        ),
        [_floor(each, groups[each.name], groups[each.ours]) for each in FLOORS],
    )


def _floor(floor: Floor, rows: list[Row], ours: list[Row]) -> tuple[str, ...]:
    times = [our[floor.ours_cpu] / (row[floor.cpu] * floor.needs) for row, our in zip(rows, ours, strict=True)]
    return (
        floor.does,
        *middles(rows, "per_second", floor.cpu),
        floor.ours_does,
        f"{floor.needs} each",
        *middles(ours, "per_second", floor.ours_cpu),
        number(median(times)),
    )


SESSIONS: Final = {
    "prekey": "make and sign a one-time P-384 prekey",
    "kem_prekey": "make and sign a one-time ML-KEM-1024 prekey",
    "initiate": "begin a session",
    "respond": "take up a session",
    "seal": "encrypt a message",
    "open": "decrypt a message of the same turn",
    "turn": "decrypt the first message of a turn",
    "write": "write the state for the disk",
}


def _sessions(rows: list[Row]) -> Table:
    return Table(
        "Sessions: what they cost a client",
        ("action", "CPU: microseconds", "bytes beyond the text, before padding"),
        [
            (SESSIONS[name], *middles(each, "cpu_us"), number(each[0]["bytes"]) if each[0]["bytes"] else NOT_KNOWN)
            for (name,), each in grouped(rows, "name").items()
        ],
    )


def _retention(rows: list[Row]) -> Table:
    tables = ("messages", "traces", "receipts")
    sizes = [f"{each}{of}_mib" for each in tables for of in ("", "_indexes")]
    return Table(
        f"What is left in the tables of {rows[0]['messages']:,} messages of 512 bytes",
        ("after", "seconds", *(f"{each}{what}: MiB" for each in tables for what in ("", ", indexes"))),
        [(row["step"], *middles([row], "seconds", *sizes)) for row in rows],
    )


def _purge(rows: list[Row]) -> Table:
    times = tuple(f"sent_{mark}_ms" for mark in ("p50", "p90", "p99", "p999", "max"))
    sends = dict(sorted(grouped(rows, "sends").items()))
    alone, beside = sends.values()
    ratios = [sorted(ratios_of(beside, alone, name)) for name in times]
    return Table(
        f"Sends by the clock, a quarter of the most that {PAIRS} pairs make: until each is on disk, and answered",
        (
            "",
            "sends/s",
            "rows purged",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "p99.9 ms",
            "worst ms",
            "CPU s / 1,000: PostgreSQL",
        ),
        [
            *((name, *middles(each, "rate", "purged", *times, "postgres_cpu")) for (name,), each in sends.items()),
            ("ratio, round by round", "", "", *(number(median(each)) for each in ratios), ""),
            ("from, to", "", "", *(f"{number(each[0])}, {number(each[-1])}" for each in ratios), ""),
        ],
    )


def ours(figures: Figures) -> Server | None:
    """Return what a run says of this router, as it is known of others; None if it did not measure that."""
    rows = figures["measured"].get("stream", [])
    mine = [row for row in rows if row["transport"] == "websocket" and row["pairs"] == PAIRS]
    if not mine:
        return None
    return Server(
        "**Blindpost**, stored in PostgreSQL",
        middle(mine, "per_second"),
        sum(middle(mine, name) for name in OURS),
        _websocket(figures, "pair", "received_p50_ms"),
        _websocket(figures, "idle", "kib_each"),
        _websocket(figures, "queue", "seconds") if figures["plan"].get("queue") == QUEUE else None,
    )


def _websocket(figures: Figures, measurement: str, name: str) -> float | None:
    rows = [row for row in figures["measured"].get(measurement, []) if row["transport"] == "websocket"]
    return middle(rows, name) if rows else None


def _known(figures: Figures) -> Table:
    mine = ours(figures)
    return Table(
        "Beside known servers, on two cores, 50 pairs",
        (
            *("", "messages/s", "CPU s / 1,000", "messages per CPU second"),
            *("one pair: p50 ms", "KiB per idle client", "5,000 waiting: s"),
        ),
        [
            (each.name, *map(number, (each.per_second, each.cpu, 1000 / each.cpu, *each[3:])))
            for each in ((mine,) if mine else ()) + KNOWN
        ],
    )


TABLES: Final[dict[str, Callable[[list[Row]], Table]]] = {
    "stream": _stream,
    "rate": _rate,
    "pair": _pair,
    "login": _login,
    "idle": _idle,
    "queue": _queue,
    "growth": _growth,
    "processes": _processes,
    "bus": _bus,
    "floors": _floors,
    "sessions": _sessions,
    "retention": _retention,
    "purge": _purge,
}


def tables(figures: Figures) -> dict[str, Table]:
    """Make the tables of all that was measured, by measurement."""
    made = {name: TABLES[name](rows) for name, rows in figures["measured"].items()}
    if ours(figures) is not None:
        made["known"] = _known(figures)
    return made


def where(figures: Figures) -> str:
    """Say in a sentence what was measured on."""
    machine = figures["machine"]
    return (
        f"Measured on {machine['date']}: {machine['processors']} x {machine['processor']},"
        f" {machine['memory_gib']:.0f} GiB, Python {machine['python']}, load {machine['load']:.1f} before it began;"
        f" medians over rounds of {figures['plan']['seconds']:g} s, {figures['plan']['rounds']} of each."
    )


def fill(text: str, figures: Figures) -> str:
    """Put the tables between their marks in a Markdown text: <!-- bench: NAME --> and <!-- /bench -->."""
    parts = {"machine": where(figures)} | {name: table.markdown() for name, table in tables(figures).items()}

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- bench: {name} -->\n{parts[name]}\n<!-- /bench -->" if name in parts else match[0]

    return re.sub(r"<!-- bench: (\w+) -->.*?<!-- /bench -->", filled, text, flags=re.DOTALL)
