"""A model as its training by MLX begins, and what was trained as torch's libraries write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten

from afina.errors import BaseError, RecipeError
from afina.model.choices import Precision
from afina.model.mlx.adapter_mlx import MLX_ENDS, PEFT_PREFIX, put_on, read_peft, trained_factors
from afina.model.mlx.arrays_mlx import tensor_of
from afina.model.mlx.mlx_model import MlxModel
from afina.model.mlx.open_mlx import open_base, quantized_parts
from afina.model.mlx.window_mlx import check_rows
from afina.model.skeleton_torch import factors_of, skeleton_to_train
from afina.recipe import Recipe


def use_device(kind: str) -> None:
    """Let MLX compute on the CPU, or on the Apple chip's GPU.

    Raises:
        RecipeError: this MLX has no GPU.
    """
    if kind == "mps" and not mx.metal.is_available():
        raise RecipeError("there is no Apple GPU for MLX here", "device: cpu", "device")
    mx.set_default_device(mx.gpu if kind == "mps" else mx.cpu)


def model_to_train(
    folder: Path, recipe: Recipe, precision: Precision, before: Path | None = None
) -> tuple[Any, MlxModel]:
    """A model's skeleton (:mod:`afina.model.skeleton_torch`), and the model with what is trained not frozen.

    Args:
        folder: the base; where every weight is trained, what the training begins with.
        before: an adapter that an earlier training left; None: a fresh one.

    Raises:
        BaseError: mlx-lm does not open the base, or calls its matrices otherwise.
        RecipeError: no layer has the names in ``adapter.targets``, or only mlx's layers cannot be there; rows that are
            longer than mlx-lm reads them rightly.
    """
    skeleton, model = skeleton_to_train(folder, recipe, before), open_base(folder, recipe, precision=precision)
    check_rows(model, recipe)
    if recipe.adapter.kind == "none":
        _check_names(skeleton, model)
        model.network.unfreeze()
        return skeleton, model
    return skeleton, put_on(model, read_peft(before) if before else factors_of(skeleton), trainable=True)


def _check_names(skeleton: Any, model: MlxModel) -> None:
    """
    Raises:
        BaseError: mlx-lm holds the weights under other names or in other shapes, so that what is trained could not be
            written as transformers reads it.
    """
    ours = {name: tuple(each.shape) for name, each in skeleton.named_parameters()}
    theirs = {name: tuple(each.shape) for name, each in tree_flatten(model.network.parameters())}
    if different := sorted(ours.items() ^ theirs.items()):
        raise BaseError(
            f"mlx-lm holds weights of this model under other names or in other shapes ({different[0][0]})",
            "adapter.kind: lora, or backend: torch",
            str(model.folder),
        )


def trained_tensors(model: MlxModel) -> dict[str, torch.Tensor]:
    """What was trained, by the names of the skeleton's parameters."""
    if not model.adapted:
        return {name: tensor_of(array) for name, array in tree_flatten(model.network.trainable_parameters())}
    found = {}
    for each in trained_factors(model):
        parts = {"lora_A": each.a, "lora_B": each.b, "lora_magnitude_vector": each.magnitude}
        for part, values in parts.items():
            if values is not None:
                found[f"{PEFT_PREFIX}{each.name}.{part}.default.weight"] = torch.from_numpy(
                    np.ascontiguousarray(values)
                )
    return found


def packed(model: MlxModel) -> tuple[int, float] | None:
    """In how many bits which share of the base's numbers is held; None where all of it is whole."""
    if not model.quantization:
        return None
    held = dict(quantized_parts(model.network))
    of_base = [(name, each.size) for name, each in tree_flatten(model.network.parameters()) if not _adds(name)]
    numbers = sum(part.weight.size * 32 // part.bits for part in held.values())
    whole = sum(size for name, size in of_base if name.rpartition(".")[0] not in held)
    return int(model.quantization["bits"]), numbers / (numbers + whole)


def _adds(name: str) -> bool:
    return name.rpartition(".")[2] in MLX_ENDS.values()
