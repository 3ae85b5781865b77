"""The metrics of a task as they stand in ``scores.json``: over seeds and over rows, both models, their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afina.score.paired import mean_and_sd
from afina.score.score import Tally

MODELS = ("base", "adapter")


def metric_values(tally: Tally, drawn: Mapping[int, Sequence[int]]) -> list[dict[str, Any]]:
    """For each metric ``before``, ``after`` and ``difference``.

    Args:
        tally: of both :data:`MODELS`.
        drawn: seed -> positions of the rows that it draws.
    """
    by_seed = {seed: tally.values(positions) for seed, positions in drawn.items()}
    metrics, differ = [], len(set(map(tuple, drawn.values()))) > 1
    for score in tally.scores():
        values = {name: [found[name][score.name] for found in by_seed.values()] for name in MODELS}
        gains = [after - before for before, after in zip(*values.values(), strict=True)]
        metrics.append(
            {
                "name": score.name,
                **{
                    side: _over_seeds(values[name], differ=differ)
                    | {"low": score.values[name].low, "high": score.values[name].high}
                    for side, name in zip(("before", "after"), MODELS, strict=True)
                },
                "difference": _over_seeds(gains, differ=differ)
                | {"low": score.differences["adapter"].low, "high": score.differences["adapter"].high},
            }
        )
    return metrics


def _over_seeds(values: Sequence[float], *, differ: bool) -> dict[str, Any]:
    """Mean and standard deviation; none of the latter where every seed draws the same rows, and it would be 0."""
    mean, sd = mean_and_sd(values)
    return {"mean": mean, "sd": sd if differ else None, "by_seed": list(values)}
