"""Open a base with mlx-lm: in full precision, quantized while it is read, or as MLX has quantized it already."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import MODEL_REMAPPING, load_model, quantize_model

from afina.errors import BaseError, RecipeError
from afina.model.base_damage import read_config
from afina.model.choices import Precision
from afina.model.mlx.mlx_model import MlxModel, flat_rope
from afina.recipe import Adapter, Recipe

GROUP_SIZE = 64
"""Numbers that share a scale and an offset where the recipe does not say; mlx-lm's own."""


def why_unknown(config: Mapping[str, Any]) -> str:
    """Why mlx-lm does not open such a model; empty where it does. Nothing but the configuration is read for it."""
    kind, release = str(config.get("model_type")), version("mlx-lm")
    name = f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}"
    if find_spec(name) is None:
        return f"mlx-lm {release} does not know {kind} models"
    turns, read = config.get("rope_parameters"), signature(import_module(name).ModelArgs).parameters
    if isinstance(turns, Mapping) and "rope_type" not in turns and "rope_parameters" not in read:
        return f"mlx-lm {release} does not read how layers of this {kind} model turn positions ({', '.join(turns)})"
    return ""


def open_base(folder: Path, recipe: Recipe, *, precision: Precision = "fp32") -> MlxModel:
    """A causal language model with every weight frozen, in evaluation mode.

    Args:
        folder: checked by :func:`afina.model.base.find_base`.
        recipe: with ``adapter.kind: qlora`` a base that is whole is quantized while it is read.
        precision: of the weights that are not quantized, and of the scales of those that are.

    Raises:
        BaseError: mlx-lm does not know it, or a weight is missing or not finite.
        RecipeError: the recipe asks for other bits than a quantized base has, or its groups fit no matrix.
    """
    config = read_config(folder)
    if unknown := why_unknown(config):
        raise BaseError(unknown, "backend: torch, or a newer mlx-lm", str(folder))
    try:
        network, config = load_model(
            folder, lazy=True, model_config=flat_rope(config), trust_remote_code=recipe.trust_remote_code
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:  # as its classes meet a value
        raise BaseError(f"cannot be opened by mlx-lm: {_first_line(error)}", "see config.json", str(folder)) from error
    network.set_dtype({"fp32": mx.float32, "bf16": mx.bfloat16, "fp16": mx.float16}[precision])
    if recipe.adapter.kind == "qlora":
        if config.get("quantization"):
            _check_bits(recipe.adapter, config["quantization"], folder)
        else:
            network, config = _quantized(network, config, recipe.adapter)
    # One after the other: of a base that is quantized while it is read, no more than a matrix is held whole at a time.
    for name, weight in tree_flatten(network.parameters()):
        mx.eval(weight)
        if mx.issubdtype(weight.dtype, mx.floating) and not mx.isfinite(weight).all().item():
            raise BaseError(f"weight {name} holds values that are not finite", "this copy is damaged", str(folder))
    network.freeze()
    return MlxModel(network, config, folder).eval()


def _quantized(network: Any, config: dict[str, Any], adapter: Adapter) -> tuple[Any, dict[str, Any]]:
    """By mlx-lm's own conversion. It leaves matrices whose rows do not divide into groups as they are."""
    bits, group = adapter.bits or 4, adapter.group_size or GROUP_SIZE
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its bits per weight
        network, config = quantize_model(network, config, group, bits)
    if not any(True for _ in quantized_parts(network)):
        raise RecipeError(
            f"no matrix of this base has rows that divide into groups of {group}",
            "a smaller adapter.group_size, or adapter.kind: lora",
            "adapter.group_size",
        )
    return network, config


def quantized_parts(network: Any) -> Iterator[tuple[str, Any]]:
    """The layers that are held in few bits, by name."""
    for name, part in network.named_modules():
        if "scales" in part:
            yield name, part


def _check_bits(adapter: Adapter, held: Mapping[str, Any], folder: Path) -> None:
    """
    Raises:
        RecipeError: the recipe names other bits or groups than the base's.
    """
    for key, wanted in (("bits", adapter.bits), ("group_size", adapter.group_size)):
        if wanted is not None and wanted != held.get(key):
            raise RecipeError(
                f"adapter.{key} is {wanted}, and {folder} is quantized already with {key} {held.get(key)}",
                f"leave adapter.{key} out, or name the unquantized model",
                f"adapter.{key}",
            )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
