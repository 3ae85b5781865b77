"""Linear layers over few rows on a CPU: the product the other way round.

A step of decoding multiplies a handful of rows with every weight of the model, and should cost what reading the
weights costs. With MKL x W' costs twice that, and (W x')' does not. Measured on two cores with AVX2 (MKL 2024.2), 90
weights of 1536 x 576 that no cache holds, milliseconds: 1 row 47 and 53, 2 rows 98 and 37, 6 rows 101 and 54, 16 rows
102 and 62, 64 rows 189 and 114; of a thousand rows neither is ahead. Elsewhere it may be otherwise, so it is measured
before it is used.

The two differ in the last bits, as products of different numbers of rows do anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

LEAST_BYTES = 64 << 20
"""Of the weights: what a processor's cache holds is not waited for."""
MOST_ROWS = 128
LEAST_GAIN = 1.2
"""Below, it stays as it is: a gain that small may be chance."""


def linears_of(model: Any) -> list[Any]:
    """The layers that :func:`forward_of` serves: plain ones in float32 on a CPU, where it pays; none otherwise."""
    found = [module for module in model.modules() if _is_plain(module)]
    if sum(layer.weight.nbytes for layer in found) < LEAST_BYTES or not pays():
        return []
    return found


def _is_plain(module: Any) -> bool:
    if type(module) is not torch.nn.Linear or "forward" in module.__dict__:  # somebody has given it another one
        return False
    return bool(module.weight.dtype == torch.float32 and module.weight.device.type == "cpu")


def forward_of(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear layer's forward for use without gradients.

    >>> layer = torch.nn.Linear(3, 2)
    >>> x = torch.randn(4, 1, 3)
    >>> torch.allclose(forward_of(layer)(x), layer(x), atol=1e-6)
    True
    """

    def forward(x: torch.Tensor) -> torch.Tensor:
        rows_NI = x.reshape(-1, x.shape[-1])
        if not 2 <= len(rows_NI) <= MOST_ROWS:
            return F.linear(x, layer.weight, layer.bias)
        y_NO = (layer.weight @ rows_NI.t()).t().contiguous()
        if layer.bias is not None:
            y_NO += layer.bias
        return y_NO.view(*x.shape[:-1], -1)

    return forward


@cache
def pays() -> bool:
    """Whether (W x')' is faster here than x W' by :data:`LEAST_GAIN`: measured once a process, some 0.1 s."""
    weights, x = torch.ones(32, 1024, 768), torch.ones(8, 768)
    plain = _fastest(lambda: [F.linear(x, weight) for weight in weights])
    turned = _fastest(lambda: [(weight @ x.t()).t().contiguous() for weight in weights])
    return plain > LEAST_GAIN * turned


def _fastest(work: Callable[[], object], rounds: int = 3) -> float:
    """Seconds of the fastest round; the first one does not count."""
    seconds = []
    for _ in range(rounds + 1):
        before = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - before)
    return min(seconds[1:])
