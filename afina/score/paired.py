"""Means with intervals, and the difference of two systems that answered the same items.

Resampling the items with replacement (bootstrap, Efron 1979) gives the interval; both systems see the same resampled
items (paired), so that an item that is hard for both does not count as noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 1000
Interval = tuple[float, float]


@dataclass(frozen=True)
class ScoreEstimate:
    """A score with its 95 % interval over `n` items."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


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
    """The first score, with the middle 95 % of the others, which came of the resampled items."""
    low, high = percentiles(scores[1:])
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
