"""The stage ``reference``, for a method that needs it: the model before training judges every row."""

from __future__ import annotations

from typing import Any

from afina.recipe import Recipe
from afina.walk.base import pad_id
from afina.walk.context import Context
from afina.walk.memory import advice_on_memory
from afina.walk.models import model_to_train
from afina.walk.rows import encoded_rows
from afina.walk.training_inputs import training_inputs
from afina.walk.trainings import Training, trainings_of

REFERENCE = "reference.jsonl"


def judged_training(recipe: Recipe) -> Training | None:
    """The training whose rows are judged first; None where no method asks for it."""
    return next((training for training in trainings_of(recipe) if training.needs_reference), None)


def reference_inputs(context: Context) -> dict[str, Any]:
    """What the judgements depend on: those of the training's inputs that change its first model or its rows."""
    inputs = training_inputs(context, _training(context))
    inputs["computed"] = {"precision": inputs["computed"]["precision"]}
    inputs["train"] = {name: inputs["train"][name] for name in ("batch_tokens", "max_length")}
    inputs.pop("reference", None)
    return inputs


def judge_by_reference(context: Context) -> dict[str, Any]:
    """Write ``reference.jsonl``: the log-probabilities of each row."""
    from afina.train.reference_torch import write_reference
    from afina.train.switches_torch import products_in

    training = _training(context)
    precision = training_inputs(context, training)["computed"]["precision"]
    rows = [row for encoded in encoded_rows(context)[training.name] for row in encoded.rows]
    model, device = model_to_train(context, training, precision)
    with advice_on_memory(context), context.open_progress("reference") as progress, products_in(precision, device):
        write_reference(
            model,
            rows,
            context.folder / REFERENCE,
            training.settings,
            pad_id=pad_id(context),
            device=device,
            progress=progress,
        )
    return {"rows": len(rows)}


def _training(context: Context) -> Training:
    training = judged_training(context.recipe)
    assert training is not None, "the stage is done only where a method asks for it"
    return training
