"""The last layer is computed only where the loss looks at it.

Keys and values are needed at every position, since later ones see them. What follows the last layer's attention is
needed only before a target, and so are the queries: nothing reads the rest. On a chat, where about half of
the tokens are questions, this is half of one layer, forward and backward: with 8 layers 7 % of a step on two CPU
cores, with 32 layers a quarter of that. Loss and gradient stay the same up to the rounding of sums.

Shapes: B rows, L padded length, N positions before a target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch

from afina.model.decoder_torch import text_decoder
from afina.model.steps.forward_torch import other_forwards

WORTH = 0.9
"""Where more of the positions than this are looked at, picking them out costs as much as it saves."""


def layers(inner: Any) -> torch.nn.ModuleList | tuple[()]:
    """The repeated blocks of the text model, first to last; empty where it has none."""
    stacks = [part for part in text_decoder(inner).modules() if isinstance(part, torch.nn.ModuleList)]
    return max(stacks, key=lambda stack: sum(weight.numel() for weight in stack.parameters()), default=())


@contextmanager
def last_layer_at(inner: Any, positions_N: torch.Tensor | None, positions: int) -> Iterator[int]:
    """Within, hidden states are right at `positions_N` and undefined elsewhere; gives how many modules are shortened.

    Args:
        positions_N: flat positions in B x L; None for all.
        positions: B x L.

    None is shortened where layers are compiled, or compute their activations again without :func:`again_there`, nor
    where the last layer has other parts than those known here, as a mixture of experts has. Whether it is exact for a
    model is for the caller to know (:attr:`afina.model.anatomy_torch.Anatomy.last_layer`).
    """
    parts = [] if positions_N is None or positions_N.numel() > WORTH * positions else _pointwise(inner)
    outside, inner.looked_at = getattr(inner, "looked_at", None), (positions_N, positions)
    try:
        with other_forwards(parts, lambda part: _at(part.forward, positions_N)) as count:
            yield count
    finally:
        inner.looked_at = outside


@contextmanager
def again_there(inner: Any) -> Iterator[Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]]:
    """While a model computes activations again in the backward pass: gives the ``context_fn`` for torch's checkpoint,
    by which it does so at the positions of the forward pass."""
    inner.again_there = True
    try:
        yield lambda: (nullcontext(), last_layer_at(inner, *(inner.looked_at or (None, 0))))
    finally:
        del inner.again_there


def _pointwise(inner: Any) -> list[Any]:
    """Modules of the last layer that turn each position into one result, and whose result only that position needs."""
    blocks = layers(inner)
    again = getattr(inner, "is_activation_checkpointing", None)
    again = getattr(inner, "is_gradient_checkpointing", False) if again is None else again  # its name before
    again = again and not hasattr(inner, "again_there")
    if not blocks or again or blocks[-1]._compiled_call_impl is not None:
        return []
    mlp, attention = getattr(blocks[-1], "mlp", None), getattr(blocks[-1], "self_attn", None)
    if mlp is None or not _one_by_one(mlp):
        return []
    return [part for part in (mlp, getattr(attention, "q_proj", None), getattr(attention, "o_proj", None)) if part]


def _one_by_one(mlp: Any) -> bool:
    """Whether this may turn each position into one result by itself: it takes nothing else, and has no experts, whose
    router may look at all positions. That it does so is tried (:mod:`afina.model.anatomy_torch`)."""
    takes = signature(mlp.forward).parameters.values()
    needed = [each for each in takes if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    experts = any(isinstance(part, torch.nn.ModuleList) for part in mlp.modules())
    experts = experts or any(weight.dim() > 2 for weight in mlp.parameters())
    return len(needed) == 1 and not experts


def _at(own: Callable[[torch.Tensor], torch.Tensor], positions_N: torch.Tensor | None) -> Callable[..., torch.Tensor]:
    """`own` at those positions of B x L x any; zeros elsewhere."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        result = own(x.flatten(0, -2).index_select(0, positions_N))
        whole = result.new_zeros(x.shape[:-1].numel(), result.shape[-1])
        return whole.index_copy(0, positions_N, result).view(*x.shape[:-1], -1)

    return forward
