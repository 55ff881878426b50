"""Whether two sets of times differ: Welch's t, over all of them and without the slow ones (as dudect does)."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

T_MAX: Final = 4.5
"""Beyond it two sets differ, but for one chance in a hundred thousand."""
CROPS: Final = (1.0, 0.9, 0.5)
"""Percentiles: slow answers are slow for reasons of the machine's, and hide a small difference in the others."""
NEIGHBOURS: Final = 64
"""Of each set: a moment in which the machine's load stays about the same."""


class Welch(NamedTuple):
    """The first set against the second."""

    difference: float
    """Of the means, in the unit of the times."""
    error: float
    """Its standard error."""

    @property
    def t(self) -> float:
        return self.difference / self.error


class Comparison(NamedTuple):
    """Two sets of times: all, those below the 90th percentile of both together, the faster half, and their ranks."""

    whole: Welch
    cropped: Welch
    fast: Welch
    ranks: Welch
    """Of each time among its neighbours of both sets, 0 to 1: what the machine does meanwhile does not count."""

    @property
    def differs(self) -> bool:
        return any(abs(each.t) >= T_MAX for each in self)


def compare(one: Sequence[float], two: Sequence[float]) -> Comparison:
    """Compare two sets, each in the order of measuring, in all four ways."""
    both = sorted([*one, *two])
    bounds = (both[int(crop * len(both)) - 1] for crop in CROPS)
    whole, cropped, fast = (welch(_below(one, bound), _below(two, bound)) for bound in bounds)
    return Comparison(whole, cropped, fast, welch(*_ranks(one, two)))


def _ranks(one: Sequence[float], two: Sequence[float]) -> tuple[list[float], list[float]]:
    ranks: tuple[list[float], list[float]] = ([], [])
    for at in range(0, len(one), NEIGHBOURS):
        near = [(time, which) for which, times in enumerate((one, two)) for time in times[at : at + NEIGHBOURS]]
        for rank, (_, which) in enumerate(sorted(near)):
            ranks[which].append(rank / len(near))
    return ranks


def _below(times: Sequence[float], bound: float) -> list[float]:
    return [each for each in times if each <= bound]


def welch(one: Sequence[float], two: Sequence[float]) -> Welch:
    """Return the difference of the means and its standard error; the variances may differ."""
    (mean, square), (other_mean, other_square) = _mean_and_error(one), _mean_and_error(two)
    return Welch(mean - other_mean, math.sqrt(square + other_square))


def _mean_and_error(times: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(times) / len(times)
    return mean, math.fsum((each - mean) ** 2 for each in times) / (len(times) - 1) / len(times)
