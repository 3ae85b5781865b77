"""How sure a share and a difference of shares are."""

from __future__ import annotations

import math
from collections.abc import Sequence

_Z = 1.959963984540054
"""Two-sided 95 %."""


def wilson(right: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): honest for small counts and at 0 and 1.

    >>> low, high = wilson(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if of == 0:
        return 0.0, 1.0
    share = right / of
    middle = share + _Z * _Z / (2 * of)
    spread = _Z * math.sqrt(share * (1 - share) / of + _Z * _Z / (4 * of * of))
    scale = 1 + _Z * _Z / of
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def gain_interval(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float]:
    """95 % interval of the share after minus the share before, of the same questions.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10: the Wilson intervals of both shares, put together with the correlation of the pairs.

    >>> low, high = gain_interval([False] * 20, [True] * 19 + [False])
    >>> round(low, 2), round(high, 2)
    (0.7, 0.99)
    """
    n = len(after)
    if n == 0:
        return -1.0, 1.0
    pairs = list(zip(before, after, strict=True))
    both, gained, lost = pairs.count((True, True)), pairs.count((False, True)), pairs.count((True, False))
    neither = n - both - gained - lost
    one, two = (both + gained) / n, (both + lost) / n
    (low_1, high_1), (low_2, high_2) = wilson(both + gained, n), wilson(both + lost, n)
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    product = both * neither - gained * lost
    phi = (max(product - n / 2, 0.0) if product > 0 else product) / math.sqrt(margins) if margins else 0.0

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))

    gain = one - two
    return max(-1.0, gain - reach(one - low_1, high_2 - two)), min(1.0, gain + reach(high_1 - one, two - low_2))


def more_than_chance(before: Sequence[bool], after: Sequence[bool]) -> bool:
    """Whether what turned true outnumbers what turned false beyond chance (sign test, two-sided p < 0.05).

    Fewer than six pairs that turned can never be sure.
    """
    pairs = list(zip(before, after, strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    return gained > lost and sign_test(lost, gained + lost) < 0.05


FEWEST_TURNED = 6
"""So many of the same questions that turned, all one way, are the fewest that are beyond chance (2 / 2**6 < 0.05)."""


def smallest_loss(knew: int) -> float:
    """The smallest share of what was right before whose loss can be told from chance, where nothing is gained.

    >>> smallest_loss(120), smallest_loss(18) > 0.33, smallest_loss(5)
    (0.05, True, 1.0)
    """
    return min(1.0, FEWEST_TURNED / knew) if knew else 1.0


def beyond_luck(right: Sequence[bool], by_luck: Sequence[float]) -> bool:
    """Whether more is right than if each question were hit with its own chance (normal, 2.58 deviations).

    Stricter than the rest, for questions about one subject are not independent.

    >>> beyond_luck([True] * 10, [0.1] * 10), beyond_luck([True] * 10, [1.0] * 10), beyond_luck([True], [0.0])
    (True, False, True)
    """
    spread = math.sqrt(sum(chance * (1 - chance) for chance in by_luck))
    return sum(right) - sum(by_luck) > 2.58 * spread


def sign_test(fewer: int, of: int) -> float:
    """Two-sided p of at most `fewer` of `of` fair coins.

    >>> sign_test(0, 6)
    0.03125
    """
    return float(min(1.0, 2 * sum(math.comb(of, k) for k in range(fewer + 1)) / 2**of)) if of else 1.0
