"""A walk in several processes: the first one goes through every stage, the others wait and train with it.

They share the run's folder. Only the first one writes into it, prints, builds the dataset and measures.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import AfinaError, BaseError, DataError
from afina.recipe import Recipe
from afina.run import Run, hash_file, no_progress, read_stages
from afina.tokenizer.tokens import INDEX
from afina.walk.base import base_files
from afina.walk.context import Context
from afina.walk.rows import TOKENS
from afina.walk.run_training import run_training
from afina.walk.training_inputs import training_inputs
from afina.walk.trainings import trainings_of

if TYPE_CHECKING:
    from afina.train.ranks import Ranks

VISIBLE_SECONDS = 120.0
"""How long a file may take to be seen from another machine (NFS caches for up to a minute)."""


def follow(recipe: Recipe, folder: Path, ranks: Ranks) -> None:
    """What every rank but the first does: wait, see that it has the same data and base, and train; for each stage
    of training.

    Raises:
        AfinaError: the run's folder is not the one that rank 0 writes.
        DataError, BaseError: the dataset or the base is another one on this machine.
    """
    while news := ranks.await_start():
        _await_file(folder / "stages.json", news["stages"])
        witness = Witness(folder, recipe, lambda _: None, read_stages(folder / "stages.json"))
        context = Context(witness, lambda _: contextlib.nullcontext(no_progress), ranks)
        if ranks.local == 0:  # once on each machine
            for name in ("dataset", TOKENS):
                if witness.outputs_hash([name]) != witness.stages[name]["outputs"]:
                    raise DataError(f"{name}/ is not what rank 0 has", "share the run's folder", str(folder / name))
            if base_files(context) != news["base"]:
                raise BaseError("is not rank 0's base", "copy the same folder to each machine", str(recipe.base))
        _await_file(folder / TOKENS / INDEX, witness.stages[TOKENS]["result"]["index"])
        context = replace(context, base_files=news["base"])
        training = next(each for each in trainings_of(recipe) if each.name == news["training"])
        run_training(context, training, training_inputs(context, training))
    ranks.leave()


class Witness(Run):
    """A run's folder as the other ranks have it: read, never written."""

    def log(self, event: str, **values: object) -> None:
        """Nothing: the first rank does."""

    def stage(self, name: str, *_: Any, **__: Any) -> dict[str, Any]:
        """The result of a stage that the first rank has done."""
        return dict(self.stages[name]["result"])


def _await_file(file: Path, sha256: str) -> None:
    """Wait until a file that another machine has written is seen here as well."""
    until = time.monotonic() + VISIBLE_SECONDS
    while not file.exists() or hash_file(file) != sha256:
        if time.monotonic() > until:
            raise AfinaError(
                "this is not what rank 0 has written",
                "all machines need the same run's folder: --runs on a shared disk",
                str(file),
            )
        time.sleep(0.5)
