"""What a training reads, and in which order: rows, or the windows of one stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from afina.recipe import Train
from afina.tokenizer.encode import Row
from afina.tokenizer.tokens import TokenRows, row_sizes
from afina.train.batches import plan_epoch, plan_steps
from afina.train.stream import Stream

Step = Sequence[Sequence[int]]
"""Micro-batches of one step, as row numbers."""


@dataclass(frozen=True)
class Feed:
    """The rows of a training and the steps of each of its epochs, a function of the rows, the settings and the seed
    alone, so that a resumed run knows them again."""

    rows: Sequence[Row]
    epochs: Sequence[Sequence[Step]]
    tokens: int
    """Of one epoch."""
    lengths: Sequence[int] = ()
    """Places that each row takes, by which ranks share a step; a stream is read by one process."""


def feed_rows(rows: Sequence[Row], settings: Train, seed: int) -> Feed:
    """Rows of like length together, in a new order every epoch."""
    sizes = row_sizes(rows)
    epochs = [
        plan_steps(
            plan_epoch(sizes.places, batch_tokens=settings.batch_tokens, seed=seed, epoch=epoch), settings.accumulate
        )
        for epoch in range(math.ceil(settings.epochs))
    ]
    return Feed(rows, epochs, sum(sizes.tokens), sizes.places)


def feed_stream(rows: Sequence[Row], settings: Train, seed: int) -> Feed:
    """One stream of all documents; the windows of a step follow each other, as those of two steps do."""
    assert isinstance(rows, TokenRows), "a stream is read from a tokens folder"
    stream = Stream(rows, settings, seed)
    epochs = [plan_steps(stream.epoch(epoch), settings.accumulate) for epoch in range(math.ceil(settings.epochs))]
    return Feed(stream, epochs, stream.tokens)
