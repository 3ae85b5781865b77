"""What becomes of each example once all are known: the same ones stay whatever order the files come in.

Nothing here reads a text: :class:`~afina.dataset.build.spool.ExampleColumns` hold hashes, and the
signatures of near duplicates lie on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from afina.dataset.build.groups import Groups
from afina.dataset.build.intake import Intake
from afina.dataset.build.split import beginnings, held_out, split_keys
from afina.dataset.build.spool import ExampleColumns
from afina.recipe import Recipe
from afina.text.document import Split
from afina.text.formats import file_of
from afina.text.near_duplicates import clusters

if TYPE_CHECKING:
    import numpy as np

TRAIN, VALIDATION, DUPLICATE, NEAR_DUPLICATE, WRONG_CODE, NOT_MIXED, TEST = range(7)
"""What becomes of an example; all are for TRAIN until something else is decided."""
UNTOLD = 255
REASONS = {
    DUPLICATE: "duplicate",
    NEAR_DUPLICATE: "near_duplicate",
    WRONG_CODE: "wrong_code",
    NOT_MIXED: "replay_share",
}


def find_duplicates(
    columns: ExampleColumns,
    signatures: np.ndarray | None,
    recipe: Recipe,
    intake: Intake,
    splits: Mapping[str, Split] = MappingProxyType({}),
) -> tuple[np.ndarray, np.ndarray]:
    """Exact and near duplicates.

    - Of equal examples the first stays: they hold the same words. Where names of files tell splits, one that is held
      out or for a test stays before one for training, so that what is measured stays whole.
    - Of a cluster of near duplicates the longest stays, by the same order of splits, and one that is not replay
      before one that is.

    Args:
        splits: file -> what it is for, where names tell.
        signatures: a row for each example; None where near duplicates are kept.
        intake: is told where a policy says "stop" (:meth:`~afina.dataset.build.intake.Intake.refuse`).

    Returns:
        For each example what becomes of it, and for one left out which one stays instead of it.
    """
    import numpy as np

    content = np.frombuffer(columns.content, np.uint64)
    rows = np.arange(len(content))
    fate: Any = np.zeros(len(content), np.uint8)
    told = splits_of(columns, splits)
    measured = np.select([told == VALIDATION, told == TEST], [0, 1], 2)
    order = np.lexsort((rows, measured))  # what is measured first, else as it was read
    _, first, inverse = np.unique(content[order], return_index=True, return_inverse=True)
    first_of = np.empty_like(rows)
    first_of[order] = order[first[inverse]]
    same_as = rows.copy()
    if recipe.dataset.on_duplicate == "drop":
        same_as = first_of.copy()
        fate[same_as != rows] = DUPLICATE
    elif recipe.dataset.on_duplicate == "error":
        _refuse(intake, "duplicate", columns, first_of)
    if signatures is not None:
        stays = _longest_of_cluster(columns, signatures, first_of == rows, recipe, measured)
        if recipe.dataset.near_duplicates.on == "error":
            _refuse(intake, "near_duplicate", columns, stays)
        else:
            near = stays[first_of] != first_of
            same_as[near] = stays[first_of][near]
            fate[near & (fate == TRAIN)] = NEAR_DUPLICATE
    return fate, same_as


def splits_of(columns: ExampleColumns, splits: Mapping[str, Split]) -> np.ndarray:
    """Of each example, what its file is for: TRAIN, VALIDATION, TEST, or UNTOLD where its name tells nothing."""
    import numpy as np

    codes = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    of_path = np.array(
        [codes[splits[name]] if (name := file_of(path)) in splits else UNTOLD for path in columns.paths], np.uint8
    )
    return of_path[np.frombuffer(columns.path, np.uint32)]


def hold_out(
    columns: ExampleColumns,
    fate: np.ndarray,
    recipe: Recipe,
    groups: Groups | None = None,
    splits: Mapping[str, Split] = MappingProxyType({}),
) -> None:
    """Move what is held out to VALIDATION in `fate`, and what is for a test to TEST.

    What a file's name tells goes before :func:`~afina.dataset.build.split.held_out`.

    Args:
        groups: for `dataset.split_by` ``file``: which files belong together.
        splits: file -> what it is for, where names tell.

    Raises:
        DataError: when nothing would be left to train on.
    """
    import numpy as np

    told = splits_of(columns, splits)
    for split in (VALIDATION, TEST):
        fate[(fate == TRAIN) & (told == split)] = split
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
    fate[kept[held_out(group, source, recipe, names, fixed=told[kept] == TRAIN)]] = VALIDATION


def _longest_of_cluster(
    columns: ExampleColumns, signatures: np.ndarray, among: np.ndarray, recipe: Recipe, measured: np.ndarray
) -> np.ndarray:
    """For each example the one of its cluster that stays."""
    import numpy as np

    content, chars = np.frombuffer(columns.content, np.uint64), np.frombuffer(columns.chars, np.uint64)
    label = clusters(signatures, content, recipe.dataset.near_duplicates.threshold, among)
    replay = np.array([source.replay for source in recipe.sources])[np.frombuffer(columns.source, np.uint16)]
    order = np.lexsort((content, -chars.astype(np.int64), replay, measured, label))
    labels, place = np.unique(label[order], return_index=True)
    stays = np.arange(len(label))
    stays[labels] = order[place]
    return stays[label]


def _refuse(intake: Intake, policy: str, columns: ExampleColumns, stays: np.ndarray) -> None:
    for row, other in enumerate(stays.tolist()):
        if row != other:
            intake.refuse(policy, columns.where(row), f" (again {columns.where(other)})")
