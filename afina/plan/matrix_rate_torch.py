"""The measurement of :mod:`afina.plan.matrix_rate`: ``python -m afina.plan.matrix_rate_torch`` prints it."""

from __future__ import annotations

import sys
import time

import torch

from afina.plan.record import UNDISTURBED

ROWS, INNER, COLUMNS = 1024, 512, 1408
"""A micro-batch of tokens through a matrix of a small base."""
LONGEST = 3.0
"""Seconds for which a moment is waited for in which nothing else computes."""


def measured_flops(seconds: float = 0.3) -> float:
    """Floating-point operations per second of float32 matrix products on this CPU: the best of those that fit in
    `seconds`, behind one that starts the threads. The result has its place: fetching memory for it is no product.

    Where other programs had a part of the processors meanwhile, which two threads that wait for each other feel twice,
    it is tried again, for :data:`LONGEST` at most.
    """
    a, b, into = torch.ones(ROWS, INNER), torch.ones(INNER, COLUMNS), torch.empty(ROWS, COLUMNS)
    torch.mm(a, b, out=into)
    best, began = 0.0, time.perf_counter()
    while True:
        started, computed = time.perf_counter(), time.process_time()
        while (one := time.perf_counter()) - started < seconds:
            for _ in range(4):
                torch.mm(a, b, out=into)
            best = max(best, 4 * 2 * ROWS * INNER * COLUMNS / (time.perf_counter() - one))
        now = time.perf_counter()
        own = (time.process_time() - computed) / ((now - started) * torch.get_num_threads())
        if own >= UNDISTURBED or now - began >= LONGEST:
            return best


if __name__ == "__main__":
    sys.stdout.write(f"{measured_flops():.0f}\n")
