"""Which questions a run's models are asked: the same before training, when they are committed to, and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afina.recipe import Recipe
from afina.walk.base import renderer
from afina.walk.context import Context

if TYPE_CHECKING:
    from afina.evaluate.probes import ProbeSet


def probes_asked(context: Context, recipe: Recipe) -> tuple[list[ProbeSet], list[str]]:
    """The recipe's probes and those made of the dataset, in their order; and what a reader has to know of them.

    Args:
        recipe: the context's, or as much of it as there are still files of.

    Raises:
        DataError: rows that are no questions with an answer.
    """
    from afina.evaluate.derive import derive_probes
    from afina.evaluate.probes import read_probes

    derived = derive_probes(context.recipe, context.folder / "dataset", renderer(context))
    return [*read_probes(recipe), *derived.probes], derived.notes
