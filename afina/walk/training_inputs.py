"""All that what a training learns depends on: the inputs of its stage, and the fingerprint of its checkpoints."""

from __future__ import annotations

from typing import Any

from afina.model.choices import CHOSEN
from afina.walk.base import base_files
from afina.walk.chosen_settings import with_choices
from afina.walk.context import Context
from afina.walk.start import start_of
from afina.walk.trainings import Training, trainings_of

NOT_IN_THE_RESULT = {"checkpoint_seconds", "keep_checkpoints", "validate_per_epoch", "tries", "trackers", "parallel"}
NOT_IN_THE_RESULT |= {"checkpoint_activations", *CHOSEN}
"""Settings of the loop that change when something is written or computed, never what is learned; and those that
stand among the inputs as they were chosen."""

NEWER = ("num_layers", "bits", "group_size")
"""Settings of the adapter that earlier versions did not have; null is what those did."""


def training_inputs(context: Context, training: Training) -> dict[str, Any]:
    """The inputs of a training; one that goes on computes as it began.

    Raises:
        RecipeError: the recipe names a way of computing that cannot be had here.
    """
    parts = {"adapter", "chat", "seed", "dataset", "scratch"}
    recipe = context.recipe.model_dump(mode="json", include=parts) | context.recipe.stages
    for name in NEWER:  # a training that began before there was such a setting goes on
        if recipe["adapter"][name] is None:
            del recipe["adapter"][name]
    unused = NOT_IN_THE_RESULT | {"first"}  # of which the outcome counts
    if training.settings.patience:  # when it may end
        unused = unused - {"validate_per_epoch"}
    unused |= training.settings.unused
    recipe["train"] = training.settings.model_dump(mode="json", exclude=unused)
    stages = context.run.stages
    if training != trainings_of(context.recipe)[0]:
        recipe["starts_from"] = stages["first"]["outputs"]
    elif start := start_of(context):
        recipe["start_from"] = start.sha256
    if training.needs_reference and "reference" in stages:
        recipe["reference"] = stages["reference"]["outputs"]
    recipe["on_too_long"] = recipe.pop("dataset")["on_too_long"]  # `dataset` is the hash of what was built
    if context.recipe.train.method == "scratch":
        del recipe["adapter"]
        recipe["scratch"] = context.recipe.scratch.settings
    else:
        del recipe["scratch"]
    own = {"dataset": context.dataset_hash, "tokens": context.tokens_hash, "base": base_files(context), **recipe}
    return with_choices(context, training.name, own)
