"""How sure a share and a difference of shares are.

Nine phrasings of one fact are no nine independent questions: a model that knows the fact answers all of them. Wherever
questions are about the same thing, what is counted is the thing (the *cluster*: a fact, a section, a file).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

ONE_END = 0.025
"""Chance that what is measured lies beyond one end of a 95 % interval."""
_Z = 1.959963984540054
"""Two-sided 95 %."""

Clusters = Sequence[str]
"""For each question the name of what it is about; empty where no two are about the same."""


def wilson(right: float, of: float) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): honest for small counts and at 0 and 1.

    >>> low, high = wilson(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if of == 0:
        return 0.0, 1.0
    share = right / of
    middle = share + _Z * _Z / (2 * of)
    spread = _Z * math.sqrt(max(0.0, share * (1 - share)) / of + _Z * _Z / (4 * of * of))
    scale = 1 + _Z * _Z / of
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def exact_interval(count: float, of: float) -> tuple[float, float]:
    """95 % interval of a share that is held against a limit (Clopper and Pearson 1934): no limit that is kept is called
    missed more often than one time in forty.

    Wilson's lower end is too high for that where few are asked. At a true share of 5 % chance alone brings 3 of 18 in 6
    of 100 samples, and Wilson's interval of these begins above it:

    >>> [round(end, 3) for end in (*exact_interval(3, 18), *wilson(3, 18))]
    [0.036, 0.414, 0.058, 0.392]
    >>> [round(end, 3) for end in (*exact_interval(0, 20), *exact_interval(20, 20))]
    [0.0, 0.168, 0.832, 1.0]

    Args:
        count, of: whole, or as many as they are worth (:func:`effective_number`), which is rounded to the wider side.
    """
    if of == 0:
        return 0.0, 1.0
    near = 1e-9  # of a sum of floats
    return (
        _share_with_chance(math.floor(count + near), math.ceil(of - near)),
        1.0 - _share_with_chance(math.floor(of - count + near), math.ceil(of - near)),
    )


def _share_with_chance(fewest: int, of: int) -> float:
    """The share at which at least `fewest` of `of` are so in one of forty samples; 0 for none."""
    low, high = 0.0, 1.0
    if fewest <= 0:
        return low
    for _ in range(40):  # until no figure that is shown changes
        middle = (low + high) / 2
        low, high = (low, middle) if chance_of(fewest, of, middle) > ONE_END else (middle, high)
    return low


def share_interval(flags: Sequence[bool], clusters: Clusters = ()) -> tuple[float, float]:
    """95 % interval of the share of true ones: Wilson's, for as many questions as these are worth.

    Three facts in nine phrasings each say little more than three questions:

    >>> names = [name for name in "abc" for _ in range(9)]
    >>> [round(end, 2) for end in share_interval([True] * 27)]
    [0.88, 1.0]
    >>> [round(end, 2) for end in share_interval([True] * 27, names)]
    [0.44, 1.0]
    """
    of = effective_number([float(flag) for flag in flags], clusters)
    return wilson(sum(flags) / max(1, len(flags)) * of, of)


def difference_interval(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float]:
    """95 % interval of the second share less the first, of two things that were not asked the same.

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.

    Args:
        first, second: the share, and the ends of its interval.

    His first example, 56 of 70 against 48 of 80:

    >>> low, high = difference_interval((48 / 80, *wilson(48, 80)), (56 / 70, *wilson(56, 70)))
    >>> round(low, 4), round(high, 4)
    (0.0524, 0.3339)
    """
    (one, low_1, high_1), (two, low_2, high_2) = first, second
    return two - one - math.hypot(two - low_2, high_1 - one), two - one + math.hypot(high_2 - two, one - low_1)


def ratio_interval(sums: Sequence[float], weights: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of a ratio of sums, as of bits over bytes, over the things that each gave a part of both; by how
    much they scatter around it (Cochran 1977, 6.3) with Student's quantile. None for fewer than two.

    >>> low, high = ratio_interval([1.0, 3.0, 2.0], [1, 1, 1])
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    count, total = len(sums), math.fsum(weights)
    if count < 2 or not total:
        return None
    ratio = math.fsum(sums) / total
    scatter = math.fsum((each - ratio * weight) ** 2 for each, weight in zip(sums, weights, strict=True))
    half = student(count - 1) * math.sqrt(count / (count - 1) * scatter) / total
    return ratio - half, ratio + half


def gain_interval(before: Sequence[bool], after: Sequence[bool], clusters: Clusters = ()) -> tuple[float, float]:
    """95 % interval of the share after minus the share before, of the same questions.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10: the Wilson intervals of both shares, put together with the correlation of the pairs; of as many
    pairs as these are worth.

    >>> low, high = gain_interval([False] * 20, [True] * 19 + [False])
    >>> round(low, 2), round(high, 2)
    (0.7, 0.99)
    """
    if not after:
        return -1.0, 1.0
    pairs = list(zip(before, after, strict=True))
    n = effective_number([two - one for one, two in pairs], clusters)
    worth = n / len(pairs)
    both, gained, lost = (worth * pairs.count(pair) for pair in ((True, True), (False, True), (True, False)))
    neither = max(0.0, n - both - gained - lost)
    one, two = (both + gained) / n, (both + lost) / n
    (low_1, high_1), (low_2, high_2) = wilson(both + gained, n), wilson(both + lost, n)
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    product = both * neither - gained * lost
    phi = (max(product - n / 2, 0.0) if product > 0 else product) / math.sqrt(margins) if margins else 0.0

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))

    gain = one - two
    return max(-1.0, gain - reach(one - low_1, high_2 - two)), min(1.0, gain + reach(high_1 - one, two - low_2))


def effective_number(values: Sequence[float], clusters: Clusters = ()) -> float:
    """Of how many independent values the mean is as sure as it is of these.

    Their number, divided by how much wider the mean scatters over clusters than it would over independent values, and
    with Student's quantile for as few clusters as there are (Korn and Graubard 1998; compared with others by Dean and
    Pagano 2015). Where all values are the same nothing tells how alike clusters are: each counts once.

    >>> effective_number([1, 0, 1, 0]), effective_number([1, 1, 1, 1], "aabb")
    (4.0, 2.0)
    >>> round(effective_number([1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0], "aaabbbcccddd"), 1)  # 3.0 by the scatter alone
    1.1
    """
    n, sums = len(values), cluster_sums(values, clusters)
    mean = math.fsum(values) / max(1, n)
    return _worth(n, sums, math.fsum((value - mean) ** 2 for value in values) / max(1, n))


def _worth(n: int, sums: Sequence[tuple[float, int]], of_one: float) -> float:
    """Of how many independent values the mean of `n` is as sure.

    Args:
        sums: of each cluster the sum of its values and their number.
        of_one: variance of a value.
    """
    if len(sums) == n:
        return float(n)
    mean, k = math.fsum(total for total, _ in sums) / n, len(sums)
    if of_one == 0 or k == 1:
        return float(k)
    of_mean = k / (k - 1) * math.fsum((total - mean * count) ** 2 for total, count in sums) / n**2
    fewer = (_Z / student(k - 1)) ** 2
    return min(float(n), of_one / of_mean * fewer) if of_mean > 0 else float(n)


def share_of_clusters(sums: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """:func:`share_interval` of many true and false ones, of which each cluster's counts are known: so many of so many.

    >>> flags, names = [True] * 3 + [False] * 6 + [True] + [False] * 17, "a" * 9 + "b" * 9 + "c" * 9
    >>> [round(end, 6) for end in share_interval(flags, names)]
    [0.013116, 0.694723]
    >>> [round(end, 6) for end in share_of_clusters([(3, 9), (1, 9), (0, 9)])]
    [0.013116, 0.694723]
    """
    n = sum(of for _, of in sums)
    share = sum(count for count, _ in sums) / max(1, n)
    of = _worth(n, sums, share * (1 - share))
    return wilson(share * of, of)


def cluster_sums(values: Sequence[float], clusters: Clusters = ()) -> list[tuple[float, int]]:
    """Of each cluster the sum of its values and their number, in the order of their first ones.

    >>> cluster_sums([1, 0, -1], ["a", "b", "a"]), cluster_sums([1, 0])
    ([(0, 2), (0, 1)], [(1, 1), (0, 1)])
    """
    if not clusters:
        return [(value, 1) for value in values]
    found: dict[str, tuple[float, int]] = {}
    for value, name in zip(values, clusters, strict=True):
        total, count = found.get(name, (0, 0))
        found[name] = total + value, count + 1
    return list(found.values())


def student(freedom: int) -> float:
    """Two-sided 95 % of Student's distribution (Abramowitz and Stegun 26.7.5, which needs three degrees of freedom).

    >>> [round(student(n), 2) for n in (1, 3, 19, 1000)]
    [12.71, 3.18, 2.09, 1.96]
    """
    if freedom < 3:
        return (12.7062, 4.3027)[freedom - 1]
    z, terms = _Z, [_Z]
    terms.append((z**3 + z) / 4)
    terms.append((5 * z**5 + 16 * z**3 + 3 * z) / 96)
    terms.append((3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    terms.append((79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160)
    return sum(term / freedom**power for power, term in enumerate(terms))


def more_than_chance(before: Sequence[bool], after: Sequence[bool], clusters: Clusters = ()) -> bool:
    """Whether what turned true outnumbers what turned false beyond chance (sign test, two-sided p < 0.05).

    Of several questions about one thing, what counts is whether more of them turned true or more turned false.
    Fewer than :data:`FEWEST_TURNED` things that turned can never be sure.
    """
    gained, lost = turned(before, after, clusters)
    return gained > lost and sign_test(lost, gained + lost) < 0.05


def turned(before: Sequence[bool], after: Sequence[bool], clusters: Clusters = ()) -> tuple[int, int]:
    """Of how many things more turned true than false, and of how many more false than true.

    >>> turned([False, False, True, True], [True, False, False, True], "aabb")
    (1, 1)
    """
    changes = [two - one for one, two in zip(before, after, strict=True)]
    net = [total for total, _ in cluster_sums(changes, clusters)]
    return sum(total > 0 for total in net), sum(total < 0 for total in net)


FEWEST_TURNED = 6
"""So many of the same questions that turned, all one way, are the fewest that are beyond chance (2 / 2**6 < 0.05)."""


def smallest_loss(knew: int) -> float:
    """The smallest share of what was right before whose loss can be told from chance, where nothing is gained.

    >>> smallest_loss(120), smallest_loss(18) > 0.33, smallest_loss(5)
    (0.05, True, 1.0)
    """
    return min(1.0, FEWEST_TURNED / knew) if knew else 1.0


def beyond_luck(right: Sequence[bool], by_luck: Sequence[float], clusters: Clusters = ()) -> bool:
    """Whether more is right than if each question were hit with its own chance (normal, 2.58 deviations).

    Questions of a cluster are taken to be hit all together or not at all, which is the widest that luck can scatter.

    >>> beyond_luck([True] * 10, [0.1] * 10), beyond_luck([True] * 10, [1.0] * 10), beyond_luck([True], [0.0])
    (True, False, True)
    >>> beyond_luck([True] * 10, [0.1] * 10, ["the same"] * 10), beyond_luck([True] * 10, [0.2] * 10, ["a"] * 10)
    (True, False)
    """
    scatter = [math.sqrt(chance * (1 - chance)) for chance in by_luck]
    spread = math.sqrt(sum(total * total for total, _ in cluster_sums(scatter, clusters)))
    return sum(right) - sum(by_luck) > 2.58 * spread


def sign_test(fewer: int, of: int) -> float:
    """Two-sided p of at most `fewer` of `of` fair coins.

    >>> sign_test(0, 6)
    0.03125
    """
    return float(min(1.0, 2 * sum(math.comb(of, k) for k in range(fewer + 1)) / 2**of)) if of else 1.0


def least_gain(clusters: int) -> float | None:
    """The smallest share of so many facts or sections that has to turn right, and none wrong, to be beyond chance; None
    where there are too few.

    >>> least_gain(60), least_gain(5)
    (0.1, None)
    """
    return FEWEST_TURNED / clusters if clusters >= FEWEST_TURNED else None


def chance_of(fewest: int, of: int, share: float) -> float:
    """How likely at least `fewest` of `of` are, each of which is so with probability `share`.

    >>> [round(chance, 3) for chance in (chance_of(2, 2, 0.5), chance_of(0, 9, 0.1), chance_of(8, 200, 0.02))]
    [0.25, 1.0, 0.049]
    """
    if fewest <= 0 or share >= 1.0:
        return 1.0
    if share <= 0.0:
        return 0.0
    log_share, log_not = math.log(share), math.log1p(-share)
    below = math.fsum(
        math.exp(
            math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * log_share + (of - k) * log_not
        )
        for k in range(min(fewest, of + 1))
    )
    return max(0.0, 1.0 - below)
