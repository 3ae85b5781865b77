"""The models of a run: as each training begins, and as it was trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from afina.model.choices import Precision
from afina.model.open_model import OpenModel
from afina.outcome import find_outcome, outcome_kind
from afina.walk.base import base_files, base_folder, identity, renderer
from afina.walk.context import Context
from afina.walk.start import start_of
from afina.walk.trainings import Training, trainings_of


def fresh_model(context: Context, precision: Precision | None = None, device: Any = None) -> tuple[Any, Any]:
    """The model before anything is trained, and its device.

    Args:
        precision: of the base; what suits here where not given.
        device: the recipe's where not given.
    """
    from afina.model.decoder_torch import train_text
    from afina.model.load_torch import attach_adapter, load_base, make_model, pick_device

    recipe, device, folder = context.recipe, device or pick_device(context.recipe.device), base_folder(context)
    if folder is None:
        tokenizer = renderer(context).tokenizer
        return make_model(recipe, len(tokenizer), tokenizer, device), device
    four_bit = recipe.adapter.kind == "qlora"
    model = load_base(folder, recipe, device, four_bit=four_bit, precision=precision)
    if recipe.adapter.kind == "none":
        return train_text(model), device
    return attach_adapter(model, recipe.adapter, recipe.seed), device


def model_to_train(
    context: Context, training: Training, precision: Precision | None = None, device: Any = None
) -> tuple[Any, Any]:
    """The model before the first step of a training, and its device: the first goes on from what `start_from` names,
    the second from what the first left."""
    from afina.model.decoder_torch import train_text
    from afina.model.load_torch import load_base, open_adapter, pick_device

    recipe = context.recipe
    kind, before = outcome_kind(recipe), context.folder / "first" / outcome_kind(recipe)
    if training == trainings_of(recipe)[0]:
        start = start_of(context)
        if start is None:
            return fresh_model(context, precision, device)
        before = start.folder
    device = device or pick_device(recipe.device)
    if kind == "model":
        return train_text(load_base(before, recipe, device, precision=precision)), device
    folder = base_folder(context)
    assert folder is not None
    four_bit = recipe.adapter.kind == "qlora"
    model = load_base(folder, recipe, device, four_bit=four_bit, precision=precision)
    return open_adapter(model, before, trainable=True), device


def open_trained(context: Context) -> tuple[Any, OpenModel]:
    """Open what was trained: (model, a way to switch to the model before training).

    Raises:
        RecipeError: the run does not hold what its recipe trains.
        BaseError: the adapter belongs to another base.
    """
    from afina.model.base import check_adapter_fits, check_same_base
    from afina.model.load_torch import load_base, open_adapter, pick_device

    recipe, outcome = context.recipe, find_outcome(context.folder, context.recipe)
    device, folder = pick_device(recipe.device), base_folder(context)
    if outcome.kind == "adapter":
        assert folder is not None
        check_adapter_fits(outcome.folder, identity(context))
        base = load_base(folder, recipe, device, four_bit=recipe.adapter.kind == "qlora")
        model = open_adapter(base, outcome.folder)
        return model, partial(without_adapter, model)
    check_same_base(base_files(context), context.run.stages.get("train", {}).get("inputs", {}).get("base"), recipe.base)
    return load_base(outcome.folder, recipe, device), partial(_untrained, context)


@contextlib.contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """The same model while its adapter is switched off."""
    with model.disable_adapter():
        yield model


@contextlib.contextmanager
def _untrained(context: Context) -> Iterator[Any]:
    yield fresh_model(context)[0].eval()
