"""The metrics of all workers as one page.

Each sample keeps its worker's number as a label, and nothing is added up here. The counters of a worker that was
replaced begin again at zero; in a sum that would look like a reset of all of them, and Prometheus would count what
the others have for a second time. By label it sees the one reset that there was, and sums are its own work.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from blindpost.telemetry import registry

LABEL: Final = "worker"
PATIENCE_S: Final = 5.0

Sample = tuple[str, dict[str, str], float]


class Family(NamedTuple):
    """One metric with its samples, as it travels."""

    name: str
    documentation: str
    kind: str
    samples: list[Sample]


class Told(NamedTuple):
    """What is known of one worker."""

    starts: int
    families: list[Family]
    """None of one that does not answer."""


def families() -> list[Family]:
    """Read all metrics of this process."""
    return [
        Family(each.name, each.documentation, each.type, [(sample[0], sample[1], sample[2]) for sample in each.samples])
        for each in registry.collect()
    ]


class AllWorkers(Collector):
    """Asks all workers, from the thread of a scrape."""

    def __init__(self, ask: Callable[[], Awaitable[Mapping[int, Told]]]) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        """Return each metric of the workers once, and what the supervisor knows of them."""
        told = asyncio.run_coroutine_threadsafe(self._told(), self._loop).result(PATIENCE_S)
        up = GaugeMetricFamily("blindpost_worker_up", "1 for a worker that answers", labels=[LABEL])
        starts = CounterMetricFamily("blindpost_worker_starts", "How often a worker was started", labels=[LABEL])
        for number, each in told.items():
            up.add_metric([str(number)], bool(each.families))
            starts.add_metric([str(number)], each.starts)
        yield from (up, starts)
        yield from merged({number: each.families for number, each in told.items()})

    async def _told(self) -> Mapping[int, Told]:
        return await self._ask()


def merged(of_workers: Mapping[int, Iterable[Family]]) -> Iterable[Metric]:
    """Put the samples of one metric together, each with its worker's number."""
    metrics: dict[str, Metric] = {}
    for number, found in of_workers.items():
        for name, documentation, kind, samples in found:
            metric = metrics.setdefault(name, Metric(name, documentation, kind))
            for sample, labels, value in samples:
                metric.add_sample(sample, labels | {LABEL: str(number)}, value)
    return metrics.values()
