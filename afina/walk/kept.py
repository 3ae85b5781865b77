"""Which kept answers belong to a run: those of its base's weights, and those of what it trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afina.run import hash_value

if TYPE_CHECKING:
    from afina.model.generate.stored_answers import KeptAnswers
    from afina.walk.walk import Walk

Kept = tuple["KeptAnswers | None", "KeptAnswers"]


def kept_answers(walk: Walk) -> Kept:
    """Answers from before, beside the runs, of the model before and after training; none for random weights."""
    from afina.model.base import hash_model
    from afina.model.generate.stored_answers import ANSWERS_FOLDER, KeptAnswers

    folder = walk.folder.parent / ANSWERS_FOLDER
    base = {"base": walk.base_files, "four_bit": walk.recipe.adapter.kind == "qlora", "adapter": None}
    if walk.outcome == "adapter":
        trained = base | {"adapter": walk.run.stages["train"]["outputs"]}
    else:  # under the key that it has as another run's base
        trained = {"base": hash_model(walk.folder / walk.outcome), "four_bit": False, "adapter": None}
    before = KeptAnswers(folder, hash_value(base)) if walk.base_folder is not None else None
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
