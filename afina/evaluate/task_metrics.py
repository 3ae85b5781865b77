"""The metrics of a task as they stand in ``scores.json``: over seeds and over rows, both models, their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afina.record import Record
from afina.score.columns import ScoredItem
from afina.score.metrics import METRICS
from afina.score.paired import mean_and_sd
from afina.score.score import Tally

MODELS = ("base", "adapter")


def told_by_rows(metrics: Sequence[str], rows: Sequence[Record]) -> tuple[str, ...]:
    """The metrics that a task's stored rows tell: all of text, and accuracy where every row holds its choices, which
    those of an earlier afina do not."""
    with_choices = all("among" in row for row in rows)
    return tuple(name for name in metrics if name in METRICS and (name != "accuracy" or with_choices))


def references_of(row: Record) -> tuple[str, ...]:
    """The references of a stored row.

    Raises:
        AfinaError: it holds none.
    """
    if not isinstance(given := row.values.get("reference"), list):
        return (row.required_text("reference"),)
    if not given:
        raise row.wrong("reference", "a text, or several", given)
    return tuple(row.texts("reference"))


def choices_of(row: Record) -> tuple[tuple[str, str], ...]:
    """Label and text of each choice of a stored row; nothing where it has none.

    Raises:
        AfinaError: they are no pairs of texts.
    """
    given: Any = row.values.get("among", [])
    pairs = given if isinstance(given, list) else [given]
    if not all(isinstance(each, list) and len(each) == 2 and all(isinstance(part, str) for part in each)
               for each in pairs):  # fmt: skip
        raise row.wrong("among", "pairs of a label and a text", given)
    return tuple((label, text) for label, text in pairs)


def tally_of(rows: Sequence[Record], metrics: Sequence[str], language: str) -> Tally:
    """The numbers of a task's stored answers (:data:`~afina.evaluate.tasks.PREDICTIONS_FILE`), counted again.

    Args:
        metrics: some of :func:`told_by_rows`.

    Raises:
        AfinaError: a row holds no answers or no reference.
    """
    tally = Tally(MODELS, tuple(metrics))
    for row in rows:
        texts = [row.required_text(name) for name in MODELS]
        item = ScoredItem(0, (), references_of(row), tuple(texts), choices=choices_of(row))
        tally.add(texts, item, language)
    return tally


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
