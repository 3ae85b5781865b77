"""Means with intervals, and the difference of two systems that answered the same items.

Resampling the items with replacement (bootstrap, Efron 1979) gives the interval; both systems see the same resampled
items (paired), so that an item that is hard for both does not count as noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 1000
Interval = tuple[float, float]


@dataclass(frozen=True)
class ScoreEstimate:
    """A score with its 95 % interval over `n` items. Of one item there is none: however often it is drawn again it is
    itself, and how items scatter is not known."""

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def ends(self) -> Interval | None:
        """The interval."""
        return known_ends(self.low, self.high, self.n)

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def known_ends(low: float | None, high: float | None, n: float | None) -> Interval | None:
    """An interval as it is stored, over `n` items (None: nothing tells); None where there is none. Earlier versions
    stored the value of a single item as both its ends.

    >>> known_ends(0.1, 0.3, 9), known_ends(0.2, 0.2, 1), known_ends(None, None, 1)
    ((0.1, 0.3), None, None)
    """
    return None if low is None or high is None or (n is not None and n < 2) else (low, high)


def show_ends(ends: Interval | None, form: str) -> str:
    """An interval for a terminal, or that one row has none.

    >>> show_ends((-0.5, 0.25), "+.3f"), show_ends(None, "+.3f")
    ('[-0.500, +0.250]', '(one row: no interval)')
    """
    return "(one row: no interval)" if ends is None else f"[{ends[0]:{form}}, {ends[1]:{form}}]"


def with_stored_ends(mine: Mapping[str, Any], stored: Mapping[str, Any], key: str = "value") -> dict[str, Any]:
    """Figures computed again, with the ends that earlier versions stored where one item has no interval.

    Args:
        key: under which the value stands.

    >>> with_stored_ends({"value": 2.0, "low": None, "high": None}, {"value": 2.0, "low": 2.0, "high": 2.0})
    {'value': 2.0, 'low': 2.0, 'high': 2.0}
    >>> with_stored_ends({"value": 2.0, "low": None, "high": None}, {"value": 2.0, "low": 1.0, "high": 3.0})["low"]
    """
    once = mine["low"] is None and stored.get("low") is not None and stored["low"] == stored.get("high")
    return {**mine, "low": mine[key], "high": mine[key]} if once else dict(mine)


def resampled_sums(columns: Sequence[Sequence[float]], resamples: int = RESAMPLES, seed: int = 0) -> Any:
    """Sums of each column over `resamples` bootstrap samples of the rows.

    Args:
        columns: rows x columns, the plain values of each item.

    Returns:
        A numpy array, (1 + resamples) x columns; the first row holds the sums over the items themselves.
    """
    import numpy

    values = numpy.asarray(columns, dtype=numpy.float64)
    n = len(values)
    generator = numpy.random.default_rng(seed)
    sums = numpy.empty((1 + resamples, values.shape[1]))
    sums[0] = values.sum(axis=0)
    for number in range(1, 1 + resamples):
        times = numpy.bincount(generator.integers(0, n, n), minlength=n)
        sums[number] = times @ values
    return sums


def estimate(scores: Sequence[float], n: int) -> ScoreEstimate:
    """The first score, with the middle 95 % of the others, which came of the resampled items; of one item, alone.

    >>> estimate([0.5, 0.5, 0.5], 1)
    ScoreEstimate(value=0.5, low=None, high=None, n=1)
    """
    low, high = percentiles(scores[1:]) if n > 1 else (None, None)
    return ScoreEstimate(float(scores[0]), low, high, n)


def percentiles(values: Sequence[float]) -> Interval:
    """Percentiles 2.5 and 97.5.

    >>> percentiles(range(1001))
    (25.0, 975.0)
    """
    import numpy

    low, high = numpy.percentile(numpy.asarray(values, dtype=numpy.float64), [2.5, 97.5])
    return float(low), float(high)


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> ScoreEstimate:
    """Mean of second - first over items that both have, with its 95 % interval.

    >>> found = paired_difference([0, 0, 1, 1] * 50, [1, 0, 1, 1] * 50)
    >>> found.value, found.n, 0.18 < found.low < 0.25 < found.high < 0.32
    (0.25, 200, True)
    >>> paired_difference([0], [1]).ends
    """
    n = len(first)
    sums = resampled_sums([[b - a] for a, b in zip(first, second, strict=True)], seed=seed)
    return estimate(sums[:, 0] / n, n)


def ratio_difference(
    first: Sequence[float], second: Sequence[float], weights: Sequence[float], seed: int = 0
) -> ScoreEstimate:
    """Difference of two weighted means (sums over the weights' sum), as of losses over tokens.

    >>> ratio_difference([2.0, 6.0], [1.0, 3.0], [1, 3]).value
    -1.0
    """
    sums = resampled_sums(list(zip(first, second, weights, strict=True)), seed=seed)
    return estimate((sums[:, 1] - sums[:, 0]) / sums[:, 2], len(weights))


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the latter where there is one value only.

    >>> mean_and_sd([1.0, 2.0, 3.0]), mean_and_sd([0.5])
    ((2.0, 1.0), (0.5, None))
    """
    return math.fsum(values) / len(values), statistics.stdev(values) if len(values) > 1 else None
