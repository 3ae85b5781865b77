"""A base as torch names it, without memory for its weights: for a back end that computes with another framework.

PEFT itself then says which matrices an adapter stands on, draws its first values (the same as in a training by torch,
with the same seed), and writes what was trained in its own format. transformers does so for a model trained whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from afina.errors import RecipeError
from afina.model.base_damage import read_config
from afina.model.decoder_torch import train_text
from afina.model.factors import Factors
from afina.model.load_torch import attach_adapter, open_adapter, open_by
from afina.model.shape_walk_torch import build
from afina.recipe import Recipe


def make_skeleton(folder: Path, recipe: Recipe) -> Any:
    """A frozen causal language model, each of whose weights is one zero, seen as many times as it has numbers."""
    config = read_config(folder)
    own_code = folder if recipe.trust_remote_code and "auto_map" in config else None
    model = build({key: value for key, value in config.items() if key != "quantization"}, own_code)
    for part in model.modules():
        for name, weight in part.named_parameters(recurse=False):
            part.register_parameter(name, _without_memory(weight))
    model.tie_weights()
    model.name_or_path = str(folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = open_by(GenerationConfig, folder)
    return model


def _without_memory(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros((), dtype=weight.dtype).expand(weight.shape), requires_grad=False)


def skeleton_to_train(folder: Path, recipe: Recipe, before: Path | None = None) -> Any:
    """A skeleton with what a training changes: an adapter, fresh or as an earlier training left it in `before`, or
    every weight of its text model."""
    skeleton = make_skeleton(folder, recipe)
    if recipe.adapter.kind == "none":
        return train_text(skeleton)
    if before is not None:
        return open_adapter(skeleton, before, trainable=True)
    return attach_adapter(skeleton, recipe.adapter, recipe.seed)


def factors_of(skeleton: Any) -> Iterator[Factors]:
    """The factors of every adapted matrix, in PEFT's order; of DoRA without the magnitudes, which follow from weights.

    Raises:
        RecipeError: the adapter stands on what is no matrix by itself (a stack of experts).
    """
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    for name, part in skeleton.get_base_model().named_modules():
        if not isinstance(part, LoraLayer) or not len(part.lora_A):
            continue
        if isinstance(part, ParamWrapper):
            raise RecipeError(
                f"{name}.{part.parameter_name} is a stack of experts, which backend mlx does not adapt",
                "name the matrices of attention in adapter.targets, e.g. [q_proj, v_proj], or backend: torch",
                "adapter.targets",
            )
        yield Factors(
            name,
            part.lora_A["default"].weight.detach().numpy(),
            part.lora_B["default"].weight.detach().numpy(),
            float(part.scaling["default"]),
            float(getattr(part.lora_dropout["default"], "p", 0.0)),
            bool(part.use_dora.get("default", False)),
        )
