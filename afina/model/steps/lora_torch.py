"""A LoRA layer's forward and backward in as few passes over memory as it takes.

The same products as PEFT's layer; what it does beyond them goes away: alpha/r is multiplied into the
narrow h = x A' instead of the wide result, and the adapter's part is added while its product is
written. On two CPU cores, where a wide pass costs as much as the adapter's own arithmetic, a
training step of a 31.8 M model is 5 to 7 % shorter.

Shapes: N tokens, I inputs, O outputs, R rank; weight O x I, a R x I, b O x R.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F

from afina.model.steps.forward_torch import other_forwards


class _LoraLinear(torch.autograd.Function):  # type: ignore[misc]
    """y = x W' + b + s * d A' B', where d is x or what dropout left of it; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        seen_NI = (x if dropped is None else dropped).reshape(-1, x.shape[-1])
        h_NR = (seen_NI @ a.t()).mul_(scale)
        y = F.linear(x, weight, bias)  # and no view of it: some models write into what a layer gives them
        y.view(-1, y.shape[-1]).addmm_(h_NR, b.t())
        ctx.save_for_backward(seen_NI, h_NR, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        seen_NI, h_NR, weight, a, b = ctx.saved_tensors
        g_NO = gradients[0].reshape(-1, gradients[0].shape[-1])
        gh_NR = (g_NO @ b).mul_(ctx.scale)
        of_x = of_dropped = None
        if ctx.needs_input_grad[0]:
            of_x = g_NO @ weight
        if ctx.needs_input_grad[1]:
            of_dropped = (gh_NR @ a).view(ctx.shape)
        elif of_x is not None:
            of_x.addmm_(gh_NR, a)
        return (
            of_x.view(ctx.shape) if of_x is not None else None,
            of_dropped,
            None,
            None,
            gh_NR.t() @ seen_NI,
            g_NO.t() @ h_NR,
            None,
        )


def short_lora(model: Any) -> AbstractContextManager[int]:
    """Give a PEFT model's plain LoRA layers the forward above; gives how many took it.

    Layers that compute anything else keep PEFT's own: a 4-bit base, DoRA, an adapter in another precision
    than its base. A layer whose adapter is merged or switched off goes PEFT's way for as long as it is.
    """
    return other_forwards(plain_layers(model), _forward)


def plain_layers(model: Any) -> list[Any]:
    """PEFT's layers that are a frozen nn.Linear + scale * B(A(dropout(x))), all in one precision, and nothing else."""
    return [layer for layer in model.modules() if _is_plain(layer)]


def answering_forward(layer: Any) -> Callable[..., torch.Tensor]:
    """A plain layer's forward where nothing is trained, in three operations instead of PEFT's nine.

    Over a few rows on a CPU they cost as much as the arithmetic: a token of a 135 M model with 210 adapted layers.
    """
    own, name = layer.forward, layer.active_adapters[0]

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        if arguments or options or layer.disable_adapters or layer.merged or layer.active_adapters != [name]:
            return own(x, *arguments, **options)
        y: torch.Tensor = layer.base_layer(x)
        h_NR = x.reshape(-1, x.shape[-1]) @ a.t()
        y.view(-1, y.shape[-1]).addmm_(h_NR, b.t(), alpha=layer.scaling[name])
        return y

    return forward


def _is_plain(layer: Any) -> bool:
    if "peft" not in sys.modules:  # then no layer is one of its own; importing it takes seconds
        return False
    from peft.tuners.lora.layer import Linear

    if type(layer) is not Linear or type(layer.base_layer) is not torch.nn.Linear:
        return False
    if len(layer.active_adapters) != 1 or layer.active_adapters[0] not in layer.lora_A or layer.lora_variant:
        return False
    a, b = (part[layer.active_adapters[0]] for part in (layer.lora_A, layer.lora_B))
    base = [weight for weight in (layer.base_layer.weight, layer.base_layer.bias) if weight is not None]
    frozen = not any(weight.requires_grad for weight in base)
    same = len({weight.dtype for weight in (*base, a.weight, b.weight)}) == 1
    return frozen and same and a.bias is None and b.bias is None


def _forward(layer: Any) -> Callable[..., torch.Tensor]:
    own, name = layer.forward, layer.active_adapters[0]
    dropout = layer.lora_dropout[name]

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        weight, a, b = layer.base_layer.weight, layer.lora_A[name].weight, layer.lora_B[name].weight
        other = arguments or options or x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type)
        if other or layer.disable_adapters or layer.merged:
            return own(x, *arguments, **options)
        active = layer.training and isinstance(dropout, torch.nn.Dropout) and dropout.p > 0
        result: torch.Tensor = _LoraLinear.apply(
            x, dropout(x) if active else None, weight, layer.base_layer.bias, a, b, layer.scaling[name]
        )
        return result

    return forward
