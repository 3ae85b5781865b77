"""Which adapters a tempering works on, and how a run takes the one that it made for its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.model.base import IDENTITY_FILE, read_adapter_config
from afina.outcome import find_outcome, outcome_kind
from afina.recipe import read_saved_recipe
from afina.record import read_record
from afina.run import again, hash_folder, hash_value, read_stages
from afina.train.checkpoint import checkpoint_problem
from afina.walk.base import back_end
from afina.walk.context import Context
from afina.walk.walk import TEMPER, TEMPERED, WALK
from afina.whole import remove


def trained_adapter(context: Context) -> Path:
    """The adapter as it was trained; of a run that took a tempered one for its own, the one that it set aside then.

    Raises:
        RecipeError: every weight was trained, the run is asked by MLX, or the adapter that was trained is not there.
    """
    if outcome_kind(context.recipe) == "model":
        raise RecipeError(
            "this run trained every weight: there is no adapter whose strength could be turned",
            "train an adapter (`adapter.kind: lora`), or against forgetting mix in a source with `replay: true`",
            str(context.folder),
        )
    outcome = find_outcome(context.folder, context.recipe)
    if back_end(context).name == "mlx":
        raise RecipeError(
            "strengths are turned by torch, and this run is asked by MLX",
            "temper it where MLX is not installed: its adapter/ is PEFT's own too, and backend: auto takes torch there",
            "backend",
        )
    trained = _as_trained(context.folder, outcome.folder)
    if not trained.is_dir():
        raise RecipeError(
            f"this run holds a tempered adapter, and the one that it was made of is gone ({trained})",
            f"train it once more under another name: {again(context.folder)} name={context.recipe.name}-2",
            str(context.folder),
        )
    made = read_record(trained / IDENTITY_FILE)
    if made is not None and "tempered" in made:
        raise RecipeError(
            f"{trained} is a tempered adapter, and stages.json says nothing of it: a --write was cut off",
            f"have the training write its own again from its last checkpoint: {again(context.folder)}",
            str(context.folder),
        )
    return trained


def _as_trained(run: Path, adapter: Path) -> Path:
    """Where the adapter lies that a run's training left: `adapter`, or where a tempering moved it."""
    file = run / "stages.json"
    tempered = read_stages(file).get("train", {}).get("result", {}).get("tempered") if file.is_file() else None
    return run / str(tempered["trained"]) if tempered else adapter


def other_adapter(given: Path, beside: Path) -> Path:
    """The folder of the adapter that is mixed in.

    Args:
        given: a run, an adapter's folder, or a checkpoint.
        beside: where a checkpoint is written as an adapter.

    Raises:
        RecipeError: it is none of them, or a checkpoint is damaged.
    """
    if (given / "recipe.yaml").is_file():
        outcome = find_outcome(given, read_saved_recipe(given))
        if outcome.kind == "adapter":
            return outcome.folder
    elif (given / "adapter_config.json").is_file():
        return given
    elif (given / "weights.safetensors").is_file():
        from afina.temper.mix_torch import write_checkpoint_as_adapter

        if problem := checkpoint_problem(given):
            raise RecipeError(f"the checkpoint {problem}", "name another checkpoint of the run", str(given))
        # A checkpoint is of what was trained: the configuration of one that was tempered since has another alpha.
        adapter = _as_trained(given.parent.parent, given.parent.parent / "adapter")
        read_adapter_config(adapter)
        write_checkpoint_as_adapter(given, adapter, beside / given.name)
        return beside / given.name
    raise RecipeError(
        f"{given} holds no adapter",
        "name a run that trained one, an adapter's folder, or a checkpoint such as runs/demo/checkpoints/step-00000120",
        "--mix",
    )


def hash_adapter(adapter: Path) -> str:
    """As ``stages.json`` notes it of a training, so that answers of the evaluation are found again."""
    return hash_value([hash_folder(adapter)])


def adopt(context: Context, adapter: Path, trained: Path, note: dict[str, Any]) -> Path:
    """Make an adapter the run's own result, as if its training had left it. What it replaces, and what was made of
    that, is kept in ``replaced/``.

    Args:
        trained: the adapter that training left, where it lies now.
        note: kept with the training's result in ``stages.json``.

    Returns:
        The run's adapter.
    """
    run, result = context.run, outcome_kind(context.recipe)
    names = [stage.name for stage in WALK]
    later = [path for stage in WALK[names.index("train") + 1 :] for path in stage.owned(context.recipe)]
    made_of_it = [path for path in [*later, "export"] if path not in (TEMPER, TEMPERED)]

    def noted(kept: Path) -> dict[str, Any]:
        origin = kept / result if trained == run.folder / result else trained
        return {"tempered": note | {"trained": origin.relative_to(run.folder).as_posix()}}

    beside = run.folder / ".temper"
    remove(beside)  # left by one that was killed
    try:
        shutil.copytree(adapter, beside / result)
        run.replace("train", result, beside / result, made_of_it, noted, by="temper")
    finally:
        remove(beside)
    return run.folder / result
