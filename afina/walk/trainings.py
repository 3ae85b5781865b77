"""Which trainings a recipe asks for: one, or with ``train.first`` two, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from afina.recipe import Recipe, Train


@dataclass(frozen=True)
class Training:
    """One of them: ``train``, or with ``train.first`` in the recipe also ``first`` before it."""

    name: str
    settings: Train

    @property
    def folder(self) -> str:
        """Where it writes, below the run's folder."""
        return "first/" if self.name == "first" else ""

    @property
    def rows(self) -> Literal["first", "second"]:
        """Which examples it learns, as :meth:`~afina.recipe.Recipe.stage_of` calls them."""
        return "first" if self.name == "first" else "second"

    @property
    def needs_reference(self) -> bool:
        """Whether the model as it was before has to judge every row."""
        return self.settings.facts.needs_reference


def trainings_of(recipe: Recipe) -> list[Training]:
    """The trainings, in their order.

    >>> from afina.recipe import Source
    >>> recipe = Recipe(name="x", base="b", sources=[Source(path="a")], train={"first": {}})
    >>> [training.name for training in trainings_of(recipe)]
    ['first', 'train']
    """
    train = recipe.train
    return [*([Training("first", train.of_first())] if train.first else []), Training("train", train)]
