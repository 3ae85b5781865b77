"""Documents and examples without files, through the same intake, columns and split as a build."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from afina.dataset.choose import TRAIN, VALIDATION, hold_out
from afina.dataset.example import Example
from afina.dataset.groups import Groups
from afina.dataset.intake import Intake
from afina.dataset.notes import Notes
from afina.dataset.spool import Columns
from afina.errors import DataError
from afina.recipe import Recipe
from afina.sources.document import Document


def take(recipe: Recipe, documents: Iterable[Document]) -> Intake:
    """Every document, in memory; what the policies refuse is raised."""
    intake = Intake(recipe, notes=Notes(recipe) if Notes.wanted(recipe) else None)
    for document in documents:
        intake.take(document)
    if intake.problems():
        raise DataError(problems=intake.problems())
    return intake


def columns_of(examples: Iterable[Example]) -> Columns:
    columns = Columns()
    for example in examples:
        columns.add(example, 0)
    return columns


def all_for_train(examples: Sequence[Example]) -> Any:
    return np.full(len(examples), TRAIN, np.uint8)


def split(
    examples: Sequence[Example], recipe: Recipe, groups: Groups | None = None
) -> tuple[list[Example], list[Example]]:
    """``(train, validation)``."""
    fate = all_for_train(examples)
    hold_out(columns_of(examples), fate, recipe, groups or Groups())
    sides = fate.tolist()
    train = [example for example, side in zip(examples, sides, strict=True) if side == TRAIN]
    return train, [example for example, side in zip(examples, sides, strict=True) if side == VALIDATION]
