"""The walk that a verb works on: of a recipe, or of a run's folder that is there; a lock keeps others out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from afina.cli.output import say
from afina.errors import RecipeError

if TYPE_CHECKING:
    from afina.recipe import Recipe
    from afina.train.ranks import Ranks
    from afina.walk.context import Context

Confirm = Callable[[str], bool]
"""Asks the person at the terminal."""


def load(file: Path, overrides: list[str] | None) -> Recipe:
    """The recipe in a file, with the command line's overrides."""
    from afina.recipe import load_recipe

    return load_recipe(file, overrides or [])


@contextlib.contextmanager
def walk_of(file: Path, overrides: list[str] | None, runs: Path, confirm: Confirm | None = None) -> Iterator[Context]:
    """The context of a recipe's walk, its run open in ``runs/<name>``."""
    recipe = load(file, overrides)
    with opened(recipe, runs / recipe.name, confirm=confirm) as walk:
        yield walk


@contextlib.contextmanager
def training_walk(file: Path, overrides: list[str] | None, runs: Path, confirm: Confirm | None) -> Iterator[Context]:
    """The same where it may be one of several processes (torchrun): all but the first only train, and end here."""
    if _processes() == 1:  # a process by itself loads no torch before it needs it
        with walk_of(file, overrides, runs, confirm) as walk:
            yield walk
        return
    from afina.train.ranks import joined
    from afina.walk.follower_rank import follow

    with joined(say) as ranks:
        recipe = load(file, overrides)
        if not ranks.first:
            follow(recipe, runs / recipe.name, ranks)
            raise SystemExit(0)
        with opened(recipe, runs / recipe.name, ranks, confirm) as walk:
            yield walk


def _processes() -> int:
    """How many processes train together, as torchrun says it.

    Raises:
        RecipeError: something else has left no number there.
    """
    said = os.environ.get("WORLD_SIZE", "").strip()
    if not said:
        os.environ.pop("WORLD_SIZE", None)  # the libraries below take what is there for a number
        return 1
    if not said.isdecimal() or int(said) < 1:
        raise RecipeError(
            f"WORLD_SIZE is {said!r}, which is not a number of processes", "unset WORLD_SIZE, or start with torchrun"
        )
    return int(said)


@contextlib.contextmanager
def reopened(folder: Path, overrides: list[str] | None = None, *, writes: bool = True) -> Iterator[Context]:
    """The context of a run that is there, by the recipe saved in it; its documents may be gone.

    Args:
        overrides: where the base is now, of a run that was moved.
        writes: whether the verb writes into the run; one that does not works on a folder that cannot be written.
    """
    from afina.recipe import read_saved_recipe

    with opened(read_saved_recipe(folder, overrides or ()), folder, writes=writes) as walk:
        yield walk


@contextlib.contextmanager
def opened(
    recipe: Recipe, folder: Path, ranks: Ranks | None = None, confirm: Confirm | None = None, *, writes: bool = True
) -> Iterator[Context]:
    """The context of a run in `folder`, made where it is not there; its lock is held until the end."""
    from afina.progress import StageProgress
    from afina.run import Run
    from afina.walk.context import Context

    with Run.open(folder, recipe, say, writes=writes) as opened:
        yield Context(opened, StageProgress, ranks, confirm)


def with_anyway(overrides: list[str] | None, anyway: bool) -> list[str]:
    """The overrides, with what ``--anyway`` stands for."""
    return [*(overrides or []), *(["budget.anyway=true"] if anyway else [])]
