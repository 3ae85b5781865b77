"""What is switched on only while training: noise on the embeddings, activations computed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from afina.errors import RecipeError
from afina.model.loss_torch import causal_lm
from afina.recipe import Train


@contextmanager
def training_mode(model: Any, settings: Train) -> Iterator[None]:
    """The model in training mode, with what the recipe switches on; in evaluation mode afterwards.

    Raises:
        RecipeError: this architecture cannot compute its activations again.
    """
    inner = causal_lm(model)
    hook = None
    if settings.checkpoint_activations:
        if not getattr(inner, "supports_gradient_checkpointing", False):
            raise RecipeError(
                f"{type(inner).__name__} cannot compute its activations again",
                "remove train.checkpoint_activations",
                "train.checkpoint_activations",
            )
        if hasattr(inner, "activation_checkpointing_enable"):
            inner.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        else:  # the name in earlier versions of transformers
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.neftune_alpha:
        hook = inner.get_input_embeddings().register_forward_hook(_noise(settings.neftune_alpha))
    model.train()
    try:
        yield
    finally:
        if hook:
            hook.remove()
        if settings.checkpoint_activations:
            getattr(inner, "activation_checkpointing_disable", inner.gradient_checkpointing_disable)()
        model.eval()


def _noise(alpha: float) -> Any:
    """NEFTune (arXiv 2310.05914): uniform noise of alpha / sqrt(L * D) on embeddings B x L x D."""

    def add(module: torch.nn.Module, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embedded
        size = alpha / (embedded.size(1) * embedded.size(2)) ** 0.5
        return embedded + torch.empty_like(embedded).uniform_(-size, size)

    return add
