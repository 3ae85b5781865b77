"""What every stage of a walk is given: the open run, who else computes, and whom to tell. It never changes.

What can be computed from it, such as the tokenizer or the encoded rows, is a function marked with
:func:`once`: the first call computes, the next ones find what the context holds already.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from afina.errors import RecipeError
from afina.recipe import Recipe
from afina.run import Progress, Run, again

if TYPE_CHECKING:
    from afina.train.ranks import Ranks

T = TypeVar("T")
OpenProgress = Callable[[str], contextlib.AbstractContextManager[Progress]]
"""Opens the progress display of a stage."""


@dataclass(frozen=True, eq=False)
class Context:
    """The walk of one run, for as long as the run is open."""

    run: Run
    open_progress: OpenProgress
    ranks: Ranks | None = None
    """The processes that train together; None where this one is alone."""
    confirm: Callable[[str], bool] | None = None
    """Asks a person before a long job; None where there is nobody to ask."""
    verb_shows: bool = False
    """The verb prints what its last stage found; the stage says nothing."""
    base_files: dict[str, str] | None = None
    """Hashes of the base where another process has computed them already."""
    computed: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)
    """What :func:`once` has kept, by function."""

    @property
    def recipe(self) -> Recipe:
        """The run's resolved recipe."""
        return self.run.recipe

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.folder

    @property
    def dataset_hash(self) -> str:
        """Hash of the built dataset.

        Raises:
            RecipeError: the run holds none.
        """
        self.check_dataset()
        return str(self.run.stages["dataset"]["outputs"])

    def check_dataset(self) -> None:
        """
        Raises:
            RecipeError: the run holds no dataset, as where only its result was copied.
        """
        if "dataset" not in self.run.stages or not (self.folder / "dataset").is_dir():
            raise RecipeError(
                f"the run {self.folder} has no dataset (dataset/ with stages.json), which is asked and measured",
                f"copy the whole run, or build it again: {again(self.folder)}; `afina chat`, `serve` "
                "and `export --no-check` need only its result and the base",
                "dataset",
            )

    @property
    def tokens_hash(self) -> str:
        """Hash of the encoded rows."""
        return str(self.run.stages["tokens"]["outputs"])

    def tell(self, text: str) -> None:
        """Say what a stage found, indented below its name."""
        self.run.say("\n".join(f"    {line}" for line in text.splitlines()))


def once(compute: Callable[[Context], T]) -> Callable[[Context], T]:
    """Compute a pure function of a context the first time, and keep the value with that context."""

    @functools.wraps(compute)
    def kept(context: Context) -> T:
        if compute not in context.computed:
            context.computed[compute] = compute(context)
        value: T = context.computed[compute]
        return value

    return kept
