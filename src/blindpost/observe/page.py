"""A page of metrics, and what two of them tell: rates and quantiles, reckoned as Prometheus reckons them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite
from typing import Final, Self

from prometheus_client.parser import text_string_to_metric_families

LE: Final = "le"
Key = tuple[str, ...]
"""The values of the labels by which something is told apart."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure."""

    name: str
    labels: Mapping[str, str]
    value: float

    @property
    def series(self) -> tuple[str, frozenset[tuple[str, str]]]:
        return self.name, frozenset(self.labels.items())


@dataclass(frozen=True, slots=True)
class Page:
    """All figures of one moment."""

    at: float
    """Seconds, by a clock that only goes forward."""
    samples: tuple[Sample, ...]

    @classmethod
    def read(cls, text: str, at: float) -> Self:
        """Read what a router exports; raises ValueError for what is no such page."""
        families = text_string_to_metric_families(text)
        return cls(at, tuple(Sample(each.name, each.labels, each.value) for one in families for each in one.samples))

    def level(self, name: str, *by: str) -> dict[Key, float]:
        """Add up what is now, by some labels."""
        return _added(((each, each.value) for each in self.samples if each.name == name), by)

    def rate(self, since: "Page", name: str, *by: str) -> dict[Key, float]:
        """Tell how often a second something was counted since an earlier page, by some labels."""
        took = max(self.at - since.at, 1e-9)
        return {key: value / took for key, value in self.increase(since, name, *by).items()}

    def increase(self, since: "Page", name: str, *by: str) -> dict[Key, float]:
        """Tell how much was counted since an earlier page; a counter that is less than it was began anew."""
        before = {each.series: each.value for each in since.samples if each.name == name}

        def more(each: Sample) -> float:
            earlier = before.get(each.series, 0.0)
            return each.value - earlier if each.value >= earlier else each.value

        return _added(((each, more(each)) for each in self.samples if each.name == name), by)

    def quantile(self, since: "Page", part: float, name: str, *by: str) -> dict[Key, float]:
        """Estimate a quantile from the buckets of a histogram, of what was observed since an earlier page."""
        buckets: dict[Key, dict[float, float]] = defaultdict(dict)
        for (bound, *key), value in self.increase(since, f"{name}_bucket", LE, *by).items():
            buckets[tuple(key)][float(bound)] = value
        return {key: _quantile(part, sorted(each.items())) for key, each in buckets.items() if each.get(inf)}

    def mean(self, since: "Page", name: str, *by: str) -> dict[Key, float]:
        """Tell the mean of what was observed since an earlier page."""
        counts = self.increase(since, f"{name}_count", *by)
        sums = self.increase(since, f"{name}_sum", *by)
        return {key: sums[key] / count for key, count in counts.items() if count}


def _added(values: Iterator[tuple[Sample, float]], by: tuple[str, ...]) -> dict[Key, float]:
    found: dict[Key, float] = defaultdict(float)
    for sample, value in values:
        found[tuple(sample.labels.get(label, "") for label in by)] += value
    return dict(found)


def _quantile(part: float, buckets: list[tuple[float, float]]) -> float:
    """Find it within its bucket, as if all in it were spread evenly; beyond the last bound it is that bound."""
    wanted = part * buckets[-1][1]
    for (low, below), (high, upto) in pairwise([(0.0, 0.0), *buckets]):
        if upto >= wanted and upto > below:
            return low + (high - low) * (wanted - below) / (upto - below) if isfinite(high) else low
    return 0.0
