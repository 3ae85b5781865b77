"""The measurement of :mod:`afina.plan.matrix_rate`: ``python -m afina.plan.matrix_rate_torch`` prints it."""

from __future__ import annotations

import sys
import time

import torch

ROWS, INNER, COLUMNS = 1024, 512, 1408
"""A micro-batch of tokens through a matrix of a small base."""


def measured_flops(seconds: float = 0.3) -> float:
    """Floating-point operations per second of float32 matrix products on this CPU: the best of those that fit in
    `seconds`, behind one that starts the threads. The result has its place: fetching memory for it is no product."""
    a, b, into = torch.ones(ROWS, INNER), torch.ones(INNER, COLUMNS), torch.empty(ROWS, COLUMNS)
    torch.mm(a, b, out=into)
    best, began = 0.0, time.perf_counter()
    while (started := time.perf_counter()) - began < seconds:
        for _ in range(4):
            torch.mm(a, b, out=into)
        best = max(best, 4 * 2 * ROWS * INNER * COLUMNS / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    sys.stdout.write(f"{measured_flops():.0f}\n")
