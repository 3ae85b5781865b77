"""The curves of a run as a page draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from afina.record import is_number
from afina.report.charts import Point, thin
from afina.studio.long_log import LongLog
from afina.watch.view import COLUMNS, RunView, TrainingView

SERIES = {
    "loss": "loss",
    "rate": "learning_rate",
    "gradient": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    "memory": "memory_bytes",
}
"""Names of the curves, and of what is logged of each step."""


def curve_values(view: RunView, log: LongLog, points: int) -> dict[str, Any]:
    """What a page draws of the training that goes on, or came last.

    Args:
        points: of each curve, at most about so many; of each stretch its lowest and its highest stay.
    """
    training = view.training
    steps = training.steps if training else dict.fromkeys(COLUMNS, ())
    drawn = {name: _finite(steps["step"], steps[column]) for name, column in SERIES.items()}
    held = [(each.step, each.loss) for each in training.held_out if math.isfinite(each.loss)] if training else []
    series = {name: _columns(thin(found, points)) for name, found in drawn.items()}
    return {
        "training": training.name if training else None,
        "trainings": [each.name for each in view.trainings],
        "planned": training.planned_steps if training else None,
        "series": series | {"heldout": _columns(thin(held, points))},
        "resumed": list(training.resumed) if training else [],
        "went_back": [{"to": each["to"], "reason": str(each.get("reason", ""))} for each in _back(training)],
        "not_finite": len(steps["loss"]) - len(drawn["loss"]),
        "offset": log.offset,
        "lines": log.lines,
        "sampled": log.sampled,
        "unreadable": log.unreadable,
    }


def _finite(steps: Sequence[float], values: Sequence[float]) -> list[Point]:
    return [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]


def _columns(points: Sequence[Point]) -> list[list[float]]:
    """Steps and values, each a list, as charts take them."""
    return [[step for step, _ in points], [value for _, value in points]]


def _back(training: TrainingView | None) -> list[Mapping[str, Any]]:
    return [each for each in training.went_back if is_number(each.get("to"))] if training else []
