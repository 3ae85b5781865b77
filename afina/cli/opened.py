"""The walk that a verb works on: of a recipe, or of a run's folder that is there; a lock keeps others out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from afina.cli.output import say

if TYPE_CHECKING:
    from afina.recipe import Recipe
    from afina.train.ranks import Ranks
    from afina.walk import Walk


def load(file: Path, overrides: list[str] | None) -> Recipe:
    """The recipe in a file, with the command line's overrides."""
    from afina.recipe import load_recipe

    return load_recipe(file, overrides or [])


@contextlib.contextmanager
def walk_of(file: Path, overrides: list[str] | None, runs: Path) -> Iterator[Walk]:
    """The walk of a recipe, its run open in ``runs/<name>``."""
    recipe = load(file, overrides)
    with opened(recipe, runs / recipe.name) as walk:
        yield walk


@contextlib.contextmanager
def training_walk(file: Path, overrides: list[str] | None, runs: Path) -> Iterator[Walk]:
    """The same where it may be one of several processes (torchrun): all but the first only train, and end here."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # a process by itself loads no torch before it needs it
        with walk_of(file, overrides, runs) as walk:
            yield walk
        return
    from afina.train.ranks import joined
    from afina.walk.follow import follow

    with joined(say) as ranks:
        recipe = load(file, overrides)
        if not ranks.first:
            follow(recipe, runs / recipe.name, ranks)
            raise SystemExit(0)
        with opened(recipe, runs / recipe.name, ranks) as walk:
            yield walk


@contextlib.contextmanager
def reopened(folder: Path) -> Iterator[Walk]:
    """The walk of a run that is there, by the recipe saved in it."""
    from afina.errors import RecipeError

    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"{folder} is no run: it holds no recipe.yaml", "name a folder such as runs/demo")
    with opened(load(folder / "recipe.yaml", None), folder) as walk:
        yield walk


@contextlib.contextmanager
def opened(recipe: Recipe, folder: Path, ranks: Ranks | None = None) -> Iterator[Walk]:
    """The walk of a run in `folder`, made where it is not there; its lock is held until the end."""
    from afina.progress import StageProgress
    from afina.run import Run
    from afina.walk import Walk

    with Run.open(folder, recipe, say) as opened:
        yield Walk(opened, StageProgress, ranks)


def with_anyway(overrides: list[str] | None, anyway: bool) -> list[str]:
    """The overrides, with what ``--anyway`` stands for."""
    return [*(overrides or []), *(["budget.anyway=true"] if anyway else [])]
