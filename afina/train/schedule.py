"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from afina.recipe import Train


def learning_rate(step: int, steps: int, train: Train) -> float:
    """Rate at `step` (from 0) of `steps`: a linear climb, then linear, cosine or constant.

    >>> train = Train(learning_rate=1.0, warmup=0.5, final_rate=0.0, schedule="linear")
    >>> [learning_rate(step, 4, train) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    climb = math.ceil(steps * train.warmup)
    if step < climb:
        return train.learning_rate * (step + 1) / climb
    if train.schedule == "constant":
        return train.learning_rate
    done = (step - climb) / max(1, steps - climb)
    share = 1.0 - done if train.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return train.learning_rate * (train.final_rate + (1.0 - train.final_rate) * share)
