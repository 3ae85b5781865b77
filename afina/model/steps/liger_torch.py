"""Liger's fused kernels in the place of a model's own, and its cross-entropy that never holds all logits.

arXiv 2410.10989. They run on GPUs; ``tests/test_liger.py`` compares them with transformers' own through Triton's
interpreter.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from afina.errors import RecipeError
from afina.model.choices import LIGER_TYPES

ROWS = 512
"""Targets whose logits are made at a time: fewer leave a GPU waiting for the head's weights."""


def use_liger(inner: Any) -> str:
    """Change a transformers model in place: norms, rotations and gated activations, and the loss of its targets.

    The model's own loss stays what it is, so that :func:`afina.model.loss_torch.check_loss` has something to compare
    with. Rotations change for every model of the same kind in this process.

    Returns:
        What stays torch's own and why; empty where nothing does.

    Raises:
        RecipeError: Liger has no kernels for this kind of model, or is older than the model's code.
    """
    from transformers.integrations.liger import apply_liger_kernel

    kind = inner.config.model_type
    if kind not in LIGER_TYPES:
        raise RecipeError(f"liger kernels are not tried for {kind}", "train.kernels: torch", "train.kernels")
    try:
        apply_liger_kernel(inner, {"fused_linear_cross_entropy": False, "cross_entropy": False})
    except (AttributeError, ImportError, TypeError) as error:
        raise RecipeError(
            f"this liger-kernel does not fit this transformers: {error}",
            "pip install -U liger-kernel, or train.kernels: torch",
            "train.kernels",
        ) from error
    if type(inner.get_output_embeddings()) is not torch.nn.Linear:
        return "the output layer is adapted or in 4 bits: its loss is torch's"
    inner.fused_loss = fused_loss
    return ""


def fused_loss(head: Any, hidden: torch.Tensor, targets: torch.Tensor, factor: float, cap: float | None) -> Any:
    """Sum of the cross-entropy of N targets in nats, from hidden states N x D, some :data:`ROWS` logits at a time.

    Args:
        head: the output layer, a plain linear one.
        factor: what logits are multiplied by. cap: what they are softly bounded by afterwards.
    """
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    vocab, size = head.weight.shape
    hidden = (hidden * factor if factor != 1.0 else hidden).to(head.weight.dtype)
    return liger_fused_linear_cross_entropy(
        hidden,
        head.weight,
        targets,
        bias=head.bias,
        reduction="sum",
        softcap=cap,
        chunk_mem_const=math.ceil(vocab * ROWS / (size * max(len(targets), 1))),
    )
