"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from afina.recipe import Train


def learning_rate(step: int, steps: int, train: Train) -> float:
    """Rate at `step` (from 0) of `steps`: a linear climb, then linear, cosine, constant, or constant and then linear.

    >>> train = Train(learning_rate=1.0, warmup=0.5, final_rate=0.0, schedule="linear")
    >>> [learning_rate(step, 4, train) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    >>> stable = Train(learning_rate=1.0, warmup=0.25, decay=0.5, final_rate=0.0, schedule="wsd")
    >>> [learning_rate(step, 8, stable) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    climb = math.ceil(steps * train.warmup)
    if step < climb:
        return train.learning_rate * (step + 1) / climb
    if train.schedule == "constant":
        return train.learning_rate
    begin = max(climb, steps - math.ceil(steps * train.decay)) if train.schedule == "wsd" else climb
    done = max(0, step - begin) / max(1, steps - begin)
    share = 0.5 * (1.0 + math.cos(math.pi * done)) if train.schedule == "cosine" else 1.0 - done
    return train.learning_rate * (train.final_rate + (1.0 - train.final_rate) * share)
