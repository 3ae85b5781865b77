"""What becomes of each example once all are known: the same ones stay whatever order the files come in.

Nothing here reads a text: :class:`~afina.dataset.build.spool.ExampleColumns` hold hashes, and the
signatures of near duplicates lie on the disk.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from afina.dataset.build.groups import Groups
from afina.dataset.build.intake import Intake
from afina.dataset.build.split import beginnings, held_out, split_keys
from afina.dataset.build.spool import ExampleColumns
from afina.recipe import Recipe
from afina.text.near_duplicates import clusters

if TYPE_CHECKING:
    import numpy as np

TRAIN, VALIDATION, DUPLICATE, NEAR_DUPLICATE, WRONG_CODE, NOT_MIXED = range(6)
"""What becomes of an example; all are for TRAIN until something else is decided."""
REASONS = {
    DUPLICATE: "duplicate",
    NEAR_DUPLICATE: "near_duplicate",
    WRONG_CODE: "wrong_code",
    NOT_MIXED: "replay_share",
}


def find_duplicates(
    columns: ExampleColumns, signatures: np.ndarray | None, recipe: Recipe, intake: Intake
) -> tuple[np.ndarray, np.ndarray]:
    """Exact and near duplicates.

    - Of equal examples the first stays: they hold the same words.
    - Of a cluster of near duplicates the longest stays, one that is not replay before one that is.

    Args:
        signatures: a row for each example; None where near duplicates are kept.
        intake: is told where a policy says "stop" (:meth:`~afina.dataset.build.intake.Intake.refuse`).

    Returns:
        For each example what becomes of it, and for one left out which one stays instead of it.
    """
    import numpy as np

    content = np.frombuffer(columns.content, np.uint64)
    rows = np.arange(len(content))
    fate: Any = np.zeros(len(content), np.uint8)
    _, first, inverse = np.unique(content, return_index=True, return_inverse=True)
    first_of = first[inverse]
    same_as = rows.copy()
    if recipe.dataset.on_duplicate == "drop":
        same_as = first_of.copy()
        fate[same_as != rows] = DUPLICATE
    elif recipe.dataset.on_duplicate == "error":
        _refuse(intake, "duplicate", columns, first_of)
    if signatures is not None:
        stays = _longest_of_cluster(columns, signatures, first_of == rows, recipe)
        if recipe.dataset.near_duplicates.on == "error":
            _refuse(intake, "near_duplicate", columns, stays)
        else:
            near = stays[first_of] != first_of
            same_as[near] = stays[first_of][near]
            fate[near & (fate == TRAIN)] = NEAR_DUPLICATE
    return fate, same_as


def hold_out(columns: ExampleColumns, fate: np.ndarray, recipe: Recipe, groups: Groups | None = None) -> None:
    """Move what is held out to VALIDATION in `fate`: see :func:`~afina.dataset.build.split.held_out`.

    Args:
        groups: for `dataset.split_by` ``file``: which files belong together.

    Raises:
        DataError: when nothing would be left to train on.
    """
    import numpy as np

    (kept,) = np.nonzero(fate == TRAIN)
    source = np.frombuffer(columns.source, np.uint16)[kept]
    names: list[str] | None = None
    own, opening, longer = (
        np.frombuffer(column, np.uint64)[kept] for column in (columns.group, columns.opening, columns.longer_opening)
    )
    begins = beginnings(own, opening, longer)
    if groups is not None and recipe.dataset.split_by == "file":
        keys = groups.keys(columns, kept.tolist(), begins.tolist())
        names = sorted(set(keys))
        number = {name: place for place, name in enumerate(names)}
        group = np.array([number[key] for key in keys], np.uint64)
    else:
        made = ((int(group, 16), columns.group[row]) for row, (_, group) in columns.made.items() if fate[row] == TRAIN)
        (apart,) = np.nonzero(begins != own)
        group = split_keys(own, chain(made, zip(begins[apart].tolist(), own[apart].tolist(), strict=True)))
    fate[kept[held_out(group, source, recipe, names)]] = VALIDATION


def _longest_of_cluster(
    columns: ExampleColumns, signatures: np.ndarray, among: np.ndarray, recipe: Recipe
) -> np.ndarray:
    """For each example the one of its cluster that stays."""
    import numpy as np

    content, chars = np.frombuffer(columns.content, np.uint64), np.frombuffer(columns.chars, np.uint64)
    label = clusters(signatures, content, recipe.dataset.near_duplicates.threshold, among)
    replay = np.array([source.replay for source in recipe.sources])[np.frombuffer(columns.source, np.uint16)]
    order = np.lexsort((content, -chars.astype(np.int64), replay, label))
    labels, place = np.unique(label[order], return_index=True)
    stays = np.arange(len(label))
    stays[labels] = order[place]
    return stays[label]


def _refuse(intake: Intake, policy: str, columns: ExampleColumns, stays: np.ndarray) -> None:
    for row, other in enumerate(stays.tolist()):
        if row != other:
            intake.refuse(policy, columns.where(row), f" (again {columns.where(other)})")
