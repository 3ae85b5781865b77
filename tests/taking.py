"""Documents and examples without files, through the same intake, columns and split as a build."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from afina.dataset.build.choose import TRAIN, VALIDATION, hold_out
from afina.dataset.build.document_notes import Notes
from afina.dataset.build.groups import Groups
from afina.dataset.build.intake import Intake
from afina.dataset.build.spool import ExampleColumns
from afina.errors import DataError
from afina.recipe import Recipe
from afina.text.document import Document
from afina.text.example import Example


def take(recipe: Recipe, documents: Iterable[Document]) -> Intake:
    """Every document, in memory; what the policies refuse is raised."""
    intake = Intake(recipe, notes=Notes(recipe) if Notes.wanted(recipe) else None)
    for document in documents:
        intake.take(document)
    if intake.problems():
        raise DataError(problems=intake.problems())
    return intake


def columns_of(examples: Iterable[Example]) -> ExampleColumns:
    columns = ExampleColumns()
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
