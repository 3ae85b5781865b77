"""The models of a run: as each training begins, and as it was trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from afina.model.choices import Precision
from afina.model.open_model import OpenModel, without_adapter
from afina.outcome import find_outcome, outcome_kind
from afina.walk.base import back_end, base_files, base_folder, identity, renderer
from afina.walk.chosen_settings import choose_here
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
    kind, before = outcome_kind(recipe), begins_with(context, training)
    if before is None:
        return fresh_model(context, precision, device)
    device = device or pick_device(recipe.device)
    if kind == "model":
        return train_text(load_base(before, recipe, device, precision=precision)), device
    folder = base_folder(context)
    assert folder is not None
    four_bit = recipe.adapter.kind == "qlora"
    model = load_base(folder, recipe, device, four_bit=four_bit, precision=precision)
    return open_adapter(model, before, trainable=True), device


def begins_with(context: Context, training: Training) -> Path | None:
    """The folder of what a training goes on from: of the first what `start_from` names, of the second what the first
    left; None where it begins with the base alone."""
    if training == trainings_of(context.recipe)[0]:
        start = start_of(context)
        return start.folder if start else None
    return context.folder / "first" / outcome_kind(context.recipe)


def open_trained(context: Context) -> tuple[Any, OpenModel]:
    """Open what was trained: (model, a way to switch to the model before training), by the run's back end.

    Raises:
        RecipeError: the run does not hold what its recipe trains.
        BaseError: the adapter belongs to another base.
    """
    from afina.model.base import check_adapter_fits, check_same_base

    recipe, outcome = context.recipe, find_outcome(context.folder, context.recipe)
    if outcome.kind == "adapter":
        check_adapter_fits(outcome.folder, identity(context))
        model = _with_adapter(context, outcome.folder)
        return model, partial(without_adapter, model)
    check_same_base(base_files(context), context.run.stages.get("train", {}).get("inputs", {}).get("base"), recipe.base)
    return _opened(context, outcome.folder), partial(_untrained, context)


def open_untrained(context: Context) -> Any:
    """The base alone, in evaluation mode, by the run's back end."""
    folder = base_folder(context)
    assert folder is not None, "a model from scratch has no base"
    return _opened(context, folder)


def _opened(context: Context, folder: Path) -> Any:
    """A model's folder, opened by the run's back end to be asked: quantized where the recipe's adapter stands on few
    bits."""
    recipe = context.recipe
    if back_end(context).name == "mlx":
        from afina.model.mlx.open_mlx import open_base

        return open_base(folder, recipe, precision=choose_here(context).precision)
    from afina.model.load_torch import load_base, pick_device

    return load_base(folder, recipe, pick_device(recipe.device), four_bit=recipe.adapter.kind == "qlora").eval()


def _with_adapter(context: Context, adapter: Path) -> Any:
    model = open_untrained(context)
    if back_end(context).name == "mlx":
        from afina.model.mlx.adapter_mlx import open_adapter as open_by_mlx

        return open_by_mlx(model, adapter)
    from afina.model.load_torch import open_adapter

    return open_adapter(model, adapter)


@contextlib.contextmanager
def _untrained(context: Context) -> Iterator[Any]:
    yield fresh_model(context)[0].eval() if context.recipe.base is None else open_untrained(context)
