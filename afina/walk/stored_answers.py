"""Which kept answers belong to a run: those of its base's weights, and those of what it trained."""

from __future__ import annotations

from typing import Any

from afina.model.base import hash_model
from afina.model.generate.stored_answers import ANSWERS_FOLDER, KeptAnswers
from afina.outcome import find_outcome
from afina.run import hash_value
from afina.walk.base import back_end, base_files, base_folder
from afina.walk.context import Context

Kept = tuple[KeptAnswers | None, KeptAnswers]


def answers_of_base(context: Context) -> KeptAnswers | None:
    """Answers from before, beside the runs, of the model before training; none for random weights."""
    if base_folder(context) is None:
        return None
    return KeptAnswers(context.folder.parent / ANSWERS_FOLDER, hash_value(weights_of_base(context)))


def weights_of_base(context: Context) -> dict[str, Any]:
    """What the answers of the base follow from; with another ``adapter``, those of what was trained over it."""
    return {"base": base_files(context), "adapter": None} | bits_of_base(context)


def bits_of_base(context: Context) -> dict[str, Any]:
    """How the base's numbers are held while it is asked; by what else it is computed, each answer's own key says."""
    adapter = context.recipe.adapter
    held: dict[str, Any] = {"four_bit": adapter.kind == "qlora"}
    if held["four_bit"] and back_end(context).name == "mlx":
        held["mlx"] = [adapter.bits, adapter.group_size]
    return held


def kept_answers(context: Context) -> Kept:
    """Answers from before, beside the runs, of the model before and after training."""
    outcome = find_outcome(context.folder, context.recipe)
    folder = context.folder.parent / ANSWERS_FOLDER
    if outcome.kind == "adapter":
        trained = weights_of_base(context) | {"adapter": context.run.stages["train"]["outputs"]}
    else:  # under the key that it has as another run's base
        trained = {"base": hash_model(outcome.folder), "four_bit": False, "adapter": None}
    return answers_of_base(context), KeptAnswers(folder, hash_value(trained))


def describe_kept(kept: Kept) -> str:
    """How many answers came from the disk."""
    before, after = kept
    lines = [f"{after.hits} answers of the trained model kept from before"]
    if before is not None:
        lines.insert(0, f"{before.hits} answers of the base kept from before")
    if after.damaged:
        lines.append(f"{after.damaged} damaged lines passed over")
    return f"{', '.join(lines)} ({after.file})"
