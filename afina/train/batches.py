"""Which rows go together: sorted by length within a shuffled window, bounded by padded tokens.

The order is a function of (lengths, seed, epoch) alone, so that a resumed run knows it again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

WINDOW_BATCHES = 64
"""Rows are sorted by length within windows of about this many batches."""


def plan_epoch(lengths: Sequence[int], *, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as lists of row numbers; every row stands in exactly one.

    A batch holds at most `batch_tokens` padded tokens (rows x longest row); a single longer row is
    a batch of its own.

    >>> batches = plan_epoch([5, 3, 9, 4], batch_tokens=10, seed=0, epoch=0)
    >>> sorted(row for batch in batches for row in batch)
    [0, 1, 2, 3]
    >>> all(len(batch) * max([5, 3, 9, 4][row] for row in batch) <= 10 for batch in batches)
    True
    """
    pick = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    pick.shuffle(order)
    mean = max(1.0, sum(lengths) / max(1, len(lengths)))
    window = max(1, round(WINDOW_BATCHES * batch_tokens / mean))
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        batch: list[int] = []
        for row in sorted(order[start : start + window], key=lambda row: lengths[row]):
            if batch and (len(batch) + 1) * lengths[row] > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(row)
        batches.append(batch)
    pick.shuffle(batches)
    return batches


def plan_steps(batches: Sequence[Sequence[int]], accumulate: int) -> list[list[Sequence[int]]]:
    """Micro-batches grouped into optimizer steps; the last step may hold fewer.

    >>> plan_steps([[0], [1], [2]], 2)
    [[[0], [1]], [[2]]]
    """
    return [list(batches[start : start + accumulate]) for start in range(0, len(batches), accumulate)]
