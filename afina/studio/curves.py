"""The curves of a run as a page draws them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from afina.record import is_number
from afina.report.charts import Point, smooth, thin
from afina.studio.long_log import LongLog
from afina.watch.view import COLUMNS, RunView, TrainingView

SERIES = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes")
MEAN_STEPS = 21
"""Steps whose mean is drawn beside the single ones."""


def curve_values(view: RunView, log: LongLog, points: int) -> dict[str, Any]:
    """What a page draws of the training that goes on, or came last.

    Args:
        points: of each curve, at most about so many; of each stretch its lowest and its highest stay.
    """
    training = view.training
    steps = training.steps if training else dict.fromkeys(COLUMNS, ())
    drawn = {name: _finite(steps["step"], steps[name]) for name in SERIES}
    held = [(each.step, each.loss) for each in training.held_out if math.isfinite(each.loss)] if training else []
    series = {name: _columns(thin(found, points)) for name, found in drawn.items()}
    return {
        "training": training.name if training else None,
        "trainings": [each.name for each in view.trainings],
        "planned_steps": training.planned_steps if training else None,
        "series": series
        | {"loss_mean": _columns(means(drawn["loss"], points)), "heldout": _columns(thin(held, points))},
        "marks": _marks(training) if training else [],
        "steps": training.step if training else 0,
        "not_finite": len(steps["loss"]) - len(drawn["loss"]),
        "offset": log.offset,
        "lines": log.lines,
        "sampled": log.sampled,
        "unreadable": log.unreadable,
    }


def means(points: Sequence[Point], limit: int) -> list[Point]:
    """Of few points the mean of :data:`MEAN_STEPS` around each; of more that of each stretch.

    >>> means([(1, 1.0), (2, 3.0)], 10), means([(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0)], 2)
    ([(1, 2.0), (2, 2.0)], [(2, 2.0), (4, 6.0)])
    """
    if len(points) <= limit:
        values = [value for _, value in points]
        return [(step, mean) for (step, _), mean in zip(points, smooth(values, MEAN_STEPS // 2), strict=True)]
    size = math.ceil(len(points) / limit)
    parts = (points[start : start + size] for start in range(0, len(points), size))
    return [(part[-1][0], statistics.fmean(value for _, value in part)) for part in parts]


def _finite(steps: Sequence[float], values: Sequence[float]) -> list[Point]:
    return [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]


def _columns(points: Sequence[Point]) -> list[list[float]]:
    """Steps and values, each a list, as charts take them."""
    return [[step for step, _ in points], [value for _, value in points]]


def _marks(training: TrainingView) -> list[list[Any]]:
    """Steps at which something happened, and its word."""
    found: list[list[Any]] = [[step, "resumed"] for step in training.resumed]
    for events, key, word in (
        (training.went_back, "to", "went back"),
        (training.smaller_batches, "step", "smaller batches"),
    ):
        found += [[event[key], word] for event in events if is_number(event.get(key))]
    return sorted(found, key=lambda mark: float(mark[0]))
