"""Muon: momentum whose singular values are all brought near 1, for the hidden matrices of a model.

A gradient's few large singular values leave AdamW's steps nearly of low rank; Muon gives each direction the same say
(Jordan et al., https://kellerjordan.github.io/posts/muon; Liu et al., arXiv 2502.16982). Embeddings, head, norms and
biases are no maps between hidden states, and keep AdamW.

torch.optim.Muon computes the same in bf16 whatever the device. A CPU without bf16 units takes 1.3 s for one matrix of
320 x 1280 there, and 0.05 s in fp32: hence this one, which asks the device.
"""

from __future__ import annotations

from typing import Any

import torch

from afina.model.footprint import ORTHOGONAL_ITERATIONS
from afina.model.loss_torch import causal_lm

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial a*x + b*x^3 + c*x^5, which five times brings each singular value in (0, 1] to about 0.7 to 1.2."""
MATCHED_RMS = 0.2
"""What AdamW's steps are in the mean, as a share of the learning rate: Muon's are scaled to it (arXiv 2502.16982)."""


def hidden_matrices(model: Any) -> list[torch.Tensor]:
    """The matrices among the trained parameters, but for tables of embeddings and the head. Experts that stand in one
    tensor are none."""
    head = causal_lm(model).get_output_embeddings()
    outside = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    outside += [] if head is None else list(head.modules())
    others = {id(weight) for module in outside for weight in module.parameters(recurse=False)}
    return [each for each in model.parameters() if each.requires_grad and each.dim() == 2 and id(each) not in others]


class MuonAndAdamW(torch.optim.AdamW):  # type: ignore[misc]
    """AdamW, but groups with ``muon: True`` take Muon's steps. Their state is one tensor, `momentum_buffer`."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; the gradients of Muon's groups are gone afterwards."""
        assert closure is None, "the loss is computed by the loop"
        for group in self.param_groups:
            if group.get("muon"):
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._muon_step(weight, group["lr"], group["weight_decay"])
                        weight.grad = None  # AdamW passes over what has none
        return super().step()

    def _muon_step(self, weight: torch.Tensor, rate: float, decay: float) -> None:
        """One matrix: Nesterov momentum, made orthogonal, and the weight decay apart from it."""
        state, gradient = self.state[weight], weight.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        update = orthogonal(gradient.lerp(momentum, MOMENTUM))
        weight.mul_(1 - rate * decay)
        weight.add_(update, alpha=-rate * MATCHED_RMS * max(weight.shape) ** 0.5)


def orthogonal(matrix_AB: torch.Tensor) -> torch.Tensor:
    """U V^T of a matrix U S V^T, nearly: its singular values are about 1, by Newton-Schulz iterations.

    >>> values = torch.linalg.svdvals(orthogonal(torch.diag(torch.tensor([4.0, 1.0, 0.1]))))
    >>> bool((values > 0.6).all() and (values < 1.3).all())
    True
    """
    a, b, c = COEFFICIENTS
    x = matrix_AB if matrix_AB.device.type == "cpu" else matrix_AB.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x  # the short side makes the smaller products
    x = x / x.norm().clamp(min=1e-7)  # at least as large as the largest singular value
    for _ in range(ORTHOGONAL_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix_AB.dtype)
