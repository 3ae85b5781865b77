"""The one place that chooses what computes a training: torch, or MLX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.outcome import outcome_kind
from afina.recipe import Train
from afina.walk.base import base_folder, pad_id
from afina.walk.context import Context
from afina.walk.distributed import model_of_rank, put_together
from afina.walk.models import begins_with, model_to_train
from afina.walk.trainings import Training

if TYPE_CHECKING:
    from afina.model.choices import Choices
    from afina.train.backend import Backend
    from afina.train.backend_mlx import MlxBackend


@dataclass(frozen=True)
class ToTrain:
    """A model as its training begins."""

    model: Any
    """Transformers' or PEFT's: says what is trained, and writes it. Where torch computes it is the one trained."""
    device: Any
    backend: Backend
    weights: Callable[[], Any]
    """What was trained, whole, by the names of `model`'s parameters; None where `model` holds it. Every rank calls
    it."""
    write_beside: Callable[[Path], object] = lambda _: None
    """Writes further forms of what was trained into its folder."""
    packed: tuple[int, float] | None = None
    """In how many bits which share of the base's numbers is held, where `model` does not hold them."""


def open_to_train(context: Context, training: Training, choices: Choices) -> ToTrain:
    """The model of a training, with the back end that was chosen for it."""
    return (_by_mlx if choices.backend == "mlx" else _by_torch)(context, training, choices)


def _by_torch(context: Context, training: Training, choices: Choices) -> ToTrain:
    from afina.train.backend_torch import TorchBackend
    from afina.train.stream_torch import StreamBackend

    recipe = context.recipe
    opened = model_of_rank if context.ranks else model_to_train
    model, device = opened(context, training, choices.precision)
    backend = (StreamBackend if recipe.reads_stream else TorchBackend)(
        model,
        choices.settings(training.settings),
        pad_id=pad_id(context),
        device=device,
        say=context.run.say,
        lora_plus_ratio=_lora_plus_ratio(context),
        ranks=context.ranks,
    )
    return ToTrain(model, device, backend, partial(put_together, model, context.ranks))


def _by_mlx(context: Context, training: Training, choices: Choices) -> ToTrain:
    from afina.model.mlx.adapter_mlx import trained_factors, write_mlx_lm
    from afina.model.mlx.to_train_mlx import packed, trained_tensors

    whole = outcome_kind(context.recipe) == "model"
    skeleton, device, backend = opened_by_mlx(context, training.settings, choices, begins_with(context, training))
    model = backend.model

    def write_beside(result: Path) -> None:
        if not whole:
            write_mlx_lm(trained_factors(model), result / "mlx-lm", layers=len(model.network.layers))

    return ToTrain(skeleton, device, backend, partial(trained_tensors, model), write_beside, packed(model))


def opened_by_mlx(
    context: Context, settings: Train, choices: Choices, before: Path | None = None
) -> tuple[Any, Any, MlxBackend]:
    """The skeleton of a model, its device, and the back end that trains it.

    Args:
        before: what an earlier training left, to go on from; None: the base alone.
    """
    from afina.model.load_torch import pick_device
    from afina.model.mlx.to_train_mlx import model_to_train as model_by_mlx
    from afina.model.mlx.to_train_mlx import use_device
    from afina.train.backend_mlx import MlxBackend
    from afina.train.flops_torch import flops_per_token

    device, base = pick_device(context.recipe.device), base_folder(context)
    use_device(device.type)
    whole = outcome_kind(context.recipe) == "model"
    folder = before if whole and before else base
    assert folder is not None, "backend mlx trains over a base"
    skeleton, model = model_by_mlx(folder, context.recipe, choices.precision, None if whole else before)
    backend = MlxBackend(
        model,
        choices.settings(settings),
        pad_id=pad_id(context),
        say=context.run.say,
        flops=flops_per_token(skeleton),
        lora_plus_ratio=_lora_plus_ratio(context),
    )
    return skeleton, device, backend


def _lora_plus_ratio(context: Context) -> float:
    return 1.0 if outcome_kind(context.recipe) == "model" else context.recipe.adapter.lora_plus_ratio
