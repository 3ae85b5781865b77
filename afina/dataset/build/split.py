"""Hold examples out by a hash of their content: files added or moved never move an example across.

Where files stand side by side as `train`, `valid` and `test`, what they are called decides instead
(:mod:`afina.text.splits`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from afina.errors import DataError
from afina.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

FEWEST_FOR_VALIDATION = 20
"""From this many examples on, a share above 0 holds out at least one."""
FORMULA_CONVERSATIONS, FORMULA_SHARE = 20, 0.05
"""A first question that more conversations than both of these begin with ("Hello!") says nothing about them."""


def beginnings(group: np.ndarray, opening: np.ndarray, longer: np.ndarray) -> np.ndarray:
    """For each example the key of the beginning that it must not share with the other side of a split.

    That is its first question: of one conversation that was cut into rows of one, two and three exchanges all begin
    so. Where the first question is a formula, it is the beginning through the second.

    Args:
        group: of each example, :func:`~afina.text.identity.group_key` as a number.
        opening: the first of its :func:`~afina.text.identity.opening_keys`.
        longer: the second.

    >>> import numpy as np
    >>> one, two = np.array([5, 8, 9], np.uint64), np.array([5, 5, 9], np.uint64)
    >>> beginnings(one, two, one).tolist()
    [5, 5, 9]
    """
    import numpy as np

    pairs = np.unique(np.stack([opening, group], axis=1), axis=0)
    shared, times = np.unique(pairs[:, 0], return_counts=True)
    formulas = shared[times > max(FORMULA_CONVERSATIONS, FORMULA_SHARE * len(pairs))]
    if not len(formulas):
        return opening
    return np.where(np.isin(opening, formulas), longer, opening)


def split_keys(group: np.ndarray, joined: Iterable[tuple[int, int]]) -> np.ndarray:
    """For each example what it is held out with: equal questions, conversations that begin alike, and all phrasings of
    one made question.

    Where a phrasing of one question is a phrasing of another too, both go together.

    Args:
        group: of each example, :func:`~afina.text.identity.group_key` as a number.
        joined: pairs of keys that belong together: the made question's group, or a beginning, and the example's own.

    >>> import numpy as np
    >>> split_keys(np.array([11, 12, 13, 14], np.uint64), [(1, 11), (1, 12), (2, 12), (2, 13)]).tolist()
    [1, 1, 1, 14]
    """
    import numpy as np

    above: dict[int, int] = {}

    def top(key: int) -> int:
        path = []
        while key in above:
            path.append(key)
            key = above[key]
        for passed in path:
            above[passed] = key
        return key

    for one, other in joined:
        low, high = sorted((top(one), top(other)))
        if low != high:
            above[high] = low
    if not above:
        return group
    return np.array([top(key) for key in group.tolist()], np.uint64)


def held_out(
    group: np.ndarray,
    source: np.ndarray,
    recipe: Recipe,
    names: Sequence[str] | None = None,
    fixed: np.ndarray | None = None,
) -> np.ndarray:
    """For each example whether it is held out.

    Examples of one group (see :func:`split_keys`, or with `dataset.split_by` ``file``
    :class:`~afina.dataset.build.groups.Groups`) fall on the same side.
    A group is held out when its point, ``hash(seed, group)`` between 0 and 1, lies below the
    share of its source; below the smallest share where it comes from several sources.

    Args:
        group: of each example, as :func:`split_keys` gives it; or its position in `names`.
        source: of each example, its position in the recipe's `sources`.
        names: of the groups, where they are no hashes.
        fixed: of each example, whether it is for training whatever its hash; None: none is.

    Raises:
        DataError: when nothing would be left to train on.
    """
    import numpy as np

    wanted = np.array([_share(own.validation, recipe) for own in recipe.sources])
    groups, inverse = np.unique(group, return_inverse=True)
    share = np.ones(len(groups))
    np.minimum.at(share, inverse, wanted[source] if fixed is None else np.where(fixed, 0.0, wanted[source]))
    points = np.array([point(recipe.seed, names[key] if names else f"{key:016x}") for key in groups.tolist()])
    out = points < share
    allowed = share > 0
    if not out.any() and allowed.any() and len(groups) > 1 and len(group) >= FEWEST_FOR_VALIDATION:
        out[np.where(allowed, points, 2.0).argmin()] = True
    if out.all():
        raise DataError(
            f"nothing is left to train on: {len(group)} examples, all of them held out"
            if len(group)
            else "nothing is left to train on: the sources gave no example",
            "give more data, or a smaller `dataset.validation` (or the source's own `validation`)"
            if len(group)
            else "check `sources` and what was dropped",
            "sources",
        )
    return out[inverse]


def _share(own: float | None, recipe: Recipe) -> float:
    return recipe.dataset.validation if own is None else own


def point(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the key.

    >>> point(0, "a") == point(0, "a") != point(1, "a")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64
