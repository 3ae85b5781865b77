"""Cross-entropy of an output layer and its gradient in one go, some logits at a time.

The gradient at a target's logits is softmax - onehot: it is there as soon as the loss is. So a chunk of logits is
made, turned into its own gradient in place, multiplied back to the hidden states, and forgotten; nothing of the
size of the vocabulary is kept for the backward pass, nor made twice. (Liger does the same on GPUs, arXiv 2410.10989.)

Shapes: N targets, D hidden size, V vocabulary, C targets in a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class _LinearCrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        factor: float,
        cap: float | None,
        chunk: int,
    ) -> torch.Tensor:
        of_hidden, of_weight, of_bias = (
            torch.zeros_like(tensor) if wanted and tensor is not None else None
            for tensor, wanted in zip((hidden_ND, weight_VD, bias_V), ctx.needs_input_grad, strict=False)
        )
        total = torch.zeros((), device=hidden_ND.device)
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            h_CD, t_C1 = hidden_ND[part], targets_N[part, None]
            logits_CV = F.linear(h_CD, weight_VD, bias_V).float()
            if factor != 1.0:  # a pass over the logits for nothing is felt
                logits_CV.mul_(factor)
            slope_CV = None
            if cap:
                logits_CV.div_(cap).tanh_()
                slope_CV = 1 - logits_CV.square()
                logits_CV.mul_(cap)
            # log(sum(exp)) out of the softmax's own exponentials: the largest probability is at least 1 / V
            highest_C, at_target_C = logits_CV.amax(1), logits_CV.gather(1, t_C1).squeeze(1)
            gradient_CV = torch.softmax(logits_CV, 1)
            total += (highest_C - gradient_CV.amax(1).log() - at_target_C).sum()
            if not any(ctx.needs_input_grad[:3]):
                continue
            gradient_CV.scatter_add_(1, t_C1, torch.full_like(t_C1, -1, dtype=gradient_CV.dtype))
            if factor != 1.0:
                gradient_CV.mul_(factor)
            if slope_CV is not None:
                gradient_CV.mul_(slope_CV)
            gradient_CV = gradient_CV.to(weight_VD.dtype)
            if of_hidden is not None:
                of_hidden[part] = gradient_CV @ weight_VD
            if of_weight is not None:
                of_weight.addmm_(gradient_CV.t(), h_CD.to(weight_VD.dtype))
            if of_bias is not None:
                of_bias += gradient_CV.sum(0)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = (None if of is None else of * gradients[0].to(of.dtype) for of in ctx.saved_tensors)
        return (*found, None, None, None, None)


def linear_cross_entropy(
    head: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, factor: float, cap: float | None, chunk: int
) -> torch.Tensor:
    """Sum of the cross-entropy of N targets in nats, from hidden states N x D.

    Args:
        factor: what logits are multiplied by. cap: c of c * tanh(logit / c), afterwards.
        chunk: so many targets have their logits at a time.

    >>> head = torch.nn.Linear(2, 3, bias=False)
    >>> _ = torch.nn.init.zeros_(head.weight)  # all three alike: ln 3 for each target
    >>> round(linear_cross_entropy(head, torch.ones(2, 2), torch.tensor([0, 2]), 1.0, None, 1).item(), 4)
    2.1972
    """
    result: torch.Tensor = _LinearCrossEntropy.apply(hidden, head.weight, head.bias, targets, factor, cap, chunk)
    return result
