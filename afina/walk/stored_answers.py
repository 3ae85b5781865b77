"""Which kept answers belong to a run: those of its base's weights, and those of what it trained."""

from __future__ import annotations

from afina.model.base import hash_model
from afina.model.generate.stored_answers import ANSWERS_FOLDER, KeptAnswers
from afina.outcome import find_outcome
from afina.run import hash_value
from afina.walk.base import base_files, base_folder
from afina.walk.context import Context

Kept = tuple[KeptAnswers | None, KeptAnswers]


def kept_answers(context: Context) -> Kept:
    """Answers from before, beside the runs, of the model before and after training; none for random weights."""
    outcome = find_outcome(context.folder, context.recipe)
    folder = context.folder.parent / ANSWERS_FOLDER
    base = {"base": base_files(context), "four_bit": context.recipe.adapter.kind == "qlora", "adapter": None}
    if outcome.kind == "adapter":
        trained = base | {"adapter": context.run.stages["train"]["outputs"]}
    else:  # under the key that it has as another run's base
        trained = {"base": hash_model(outcome.folder), "four_bit": False, "adapter": None}
    before = KeptAnswers(folder, hash_value(base)) if base_folder(context) is not None else None
    return before, KeptAnswers(folder, hash_value(trained))


def describe_kept(kept: Kept) -> str:
    """How many answers came from the disk."""
    before, after = kept
    lines = [f"{after.hits} answers of the trained model kept from before"]
    if before is not None:
        lines.insert(0, f"{before.hits} answers of the base kept from before")
    if after.damaged:
        lines.append(f"{after.damaged} damaged lines passed over")
    return f"{', '.join(lines)} ({after.file})"
