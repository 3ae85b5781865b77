"""Every step of the runs as rows of a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from afina.plot.plotted import PlottedRun
from afina.watch.view import COLUMNS, TrainingView


def metrics_csv(runs: Sequence[PlottedRun]) -> str:
    """A row a step that counts: the run, the training (``first`` or ``train``), what was logged of the step, and in the
    columns ``held_out_...`` what was measured after it. What was not logged is empty."""
    trainings = [(run.label, training) for run in runs for training in run.view.trainings]
    figures = sorted({name for _, training in trainings for each in training.held_out for name in each.figures})
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["run", "training", *COLUMNS, *(f"held_out_{name}" for name in figures)])
    for label, training in trainings:
        rows.writerows([label, training.name, *row] for row in _rows(training, figures))
    return out.getvalue()


def _rows(training: TrainingView, figures: Sequence[str]) -> Iterator[list[str]]:
    """The steps of a training, with what was measured after them."""
    measured = {each.step: each.figures for each in training.held_out}
    columns = [training.steps[name] for name in COLUMNS]
    for values in zip(*columns, strict=True):
        step = int(values[0])
        found = measured.pop(step, {})
        yield [*map(_cell, values), *(_cell(found.get(name, math.nan)) for name in figures)]
    for step, found in measured.items():  # a step that the log has lost
        yield [str(step), *[""] * (len(COLUMNS) - 1), *(_cell(found.get(name, math.nan)) for name in figures)]


def _cell(value: float) -> str:
    """A number as it is read again; empty where there is none.

    >>> _cell(12.0), _cell(0.1), _cell(math.nan), _cell(math.inf)
    ('12', '0.1', '', 'inf')
    """
    if math.isnan(value):
        return ""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))
