"""What computes a training: torch, or MLX on Apple chips. As facts, without either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from afina.recipe.methods import in_words, methods_that

if TYPE_CHECKING:
    from afina.recipe.parts import Recipe

BackEndName = Literal["torch", "mlx"]


def beyond_mlx(recipe: Recipe) -> Iterator[str]:
    """Each setting of a recipe that backend mlx does not have, with what it has instead."""
    train, adapter = recipe.train, recipe.adapter
    for stage in (train, *([train.of_first()] if train.first else [])):
        if not stage.facts.by_mlx:
            yield f"train.method {stage.method} (it has {in_words(methods_that(by_mlx=True), 'and')})"
    if train.optimizer not in ("auto", "adamw"):
        yield f"train.optimizer {train.optimizer} (it has adamw)"
    if train.neftune_alpha is not None:
        yield "train.neftune_alpha"
    if train.kernels == "liger":
        yield "train.kernels liger"
    if train.compile == "on":
        yield "train.compile on"
    if adapter.variant in ("pissa", "loftq"):
        yield f"adapter.variant {adapter.variant} (it has lora, rslora and dora)"
    if adapter.modules_to_save:
        yield "adapter.modules_to_save"
    if recipe.device == "cuda":
        yield "device cuda (it has Apple chips and CPUs)"


def beyond_torch(recipe: Recipe) -> Iterator[str]:
    """Each setting of a recipe that backend torch does not have."""
    if recipe.adapter.bits == 8:
        yield "adapter.bits 8 (its qlora is NF4, of 4 bits)"
    if recipe.adapter.group_size is not None:
        yield f"adapter.group_size {recipe.adapter.group_size} (NF4 has blocks of 64)"
