"""Merge an adapter into its base in the base's own precision, and write a model that any program opens.

W' = W + s B A, computed by PEFT, which also parts a shared embedding where an adapter has trained one side of it.
A model trained whole is taken as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from afina.errors import BaseError
from afina.export.origin import Origin
from afina.export.template import baked_tokenizer
from afina.model.choices import Precision
from afina.model.kept_torch import keep_rest, restore_rest
from afina.model.load_torch import DTYPES, load_base, open_adapter
from afina.model.stops import set_stops


def open_unmerged(origin: Origin, device: torch.device, precision: Precision | None = None) -> Any:
    """The trained model as evaluation had it, but never on 4 bits: what an export has to answer like. A base that is in
    4 bits already has the values that they stand for."""
    model = load_base(origin.base, origin.recipe, device, precision=precision, dequantized=True)
    return open_adapter(model, origin.adapter) if origin.adapter else model


def merge(origin: Origin, precision: Precision | None = None) -> Any:
    """The trained model with the adapter inside its weights, on the CPU.

    Args:
        precision: of the result; the base's own where not given. The sum is taken in the base's own.

    Raises:
        BaseError: the kind of adapter cannot be merged, or a merged weight is NaN.
    """
    model = open_unmerged(origin, torch.device("cpu"), origin.precision)
    if origin.adapter:
        if not hasattr(model, "merge_and_unload"):
            raise BaseError("this kind of adapter cannot be merged", "use --to adapter", str(origin.adapter))
        check_apart(model)
        try:
            model = model.merge_and_unload(safe_merge=True)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # variants of LoRA that PEFT does not merge say so in many ways
            raise BaseError(f"cannot be merged: {error}", "train again", str(origin.adapter)) from error
    if precision not in (None, origin.precision):
        model = model.to(DTYPES[precision])
        _check_finite(model, precision)
    set_stops(model, origin.renderer.stop_ids(), origin.tokenizer)
    model.config.bos_token_id = origin.tokenizer.bos_token_id
    return model


def check_apart(model: Any) -> None:
    """Refuse to merge into one matrix what was trained over several of its places, as over Zamba2's shared blocks: each
    place has an update of its own, and the matrix would get the sum of all.

    Raises:
        BaseError: with the matrices.
    """
    from peft.tuners.lora import LoraLayer

    places: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = getattr(module.get_base_layer(), "weight", None) if isinstance(module, LoraLayer) else None
        if isinstance(weight, torch.Tensor):
            places.setdefault(weight.data_ptr(), []).append(name)
    shared = [names for names in places.values() if len(names) > 1]
    if shared:
        raise BaseError(
            f"{len(shared)} matrices of the base stand in several layers, each with an update of its own (first "
            f"{' and '.join(shared[0][:2])}): merged, all layers would get the sum of them",
            "use --to adapter",
        )


def save_merged(model: Any, origin: Origin, folder: Path) -> None:
    """Weights as safetensors, with what of the base was not opened; config, generation config with every stop token,
    tokenizer with the template in use."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    if model.dtype == DTYPES[origin.precision]:
        restore_rest(model, origin.base)
    model.save_pretrained(folder)
    keep_rest(model, origin.base, folder)
    save_tokenizer(origin, folder)


def save_tokenizer(origin: Origin, folder: Path) -> None:
    """The tokenizer, its template with the recipe's chat settings inside."""
    baked_tokenizer(origin.renderer).save_pretrained(folder)


def _check_finite(model: Any, precision: str | None) -> None:
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise BaseError(f"weight {name} does not fit {precision}", "use bf16 or f32", "--quantize")
