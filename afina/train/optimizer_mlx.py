"""AdamW by MLX, with the same formula as torch's: the moments are corrected for their beginning, which is off by
default in MLX and in mlx-lm."""

from __future__ import annotations

from typing import Any

from mlx.optimizers import AdamW, MultiOptimizer

from afina.recipe import Train


def make_optimizer(settings: Train, *, lora_plus_ratio: float = 1.0) -> MultiOptimizer:
    """AdamW over what is trained; its rates are set by :func:`set_rate`.

    Args:
        lora_plus_ratio: with another one than 1 the B matrices of an adapter have a rate of their own (LoRA+).
    """

    def adamw(ratio: float) -> Any:
        made = AdamW(0.0, betas=[0.9, 0.999], eps=1e-8, weight_decay=settings.weight_decay, bias_correction=True)
        made.ratio = ratio
        return made

    if lora_plus_ratio == 1.0:
        return MultiOptimizer([adamw(1.0)])
    return MultiOptimizer([adamw(lora_plus_ratio), adamw(1.0)], [lambda name, _: name.endswith("lora_b")])


def set_rate(optimizer: MultiOptimizer, rate: float) -> None:
    """Give every part of the optimizer `rate` times its ratio."""
    for part in optimizer.optimizers:
        part.learning_rate = rate * part.ratio
