"""What is drawn of a task's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from afina.recipe import Check, Task
from afina.score.columns import ScoredItem


@dataclass(frozen=True)
class TaskSet:
    """The rows of one task that can be drawn, and which each seed draws."""

    task: Task
    items: tuple[ScoredItem, ...]
    """Every row that some seed draws."""
    drawn: dict[int, tuple[int, ...]]
    """Seed -> positions in `items`."""
    metrics: tuple[str, ...]
    rows: int
    """Rows of the file."""
    trained_on: int
    """Rows left out because their prompt stands in the training data."""
    checks: tuple[Sequence[Check], ...] = ()
    """Of a task of code: what each item's code must do."""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know about the sample."""
        notes = []
        if self.trained_on:
            notes.append(f"{self.trained_on} of {self.rows} rows stand in the training data and are left out")
        sizes = {len(drawn) for drawn in self.drawn.values()}
        asked, left = self.task.sample, self.rows - self.trained_on
        if asked and sizes != {asked}:
            notes.append(f"a sample of {asked} was asked for, and there are {left} rows")
        if len(self.drawn) > 1 and sizes == {left}:
            notes.append("every seed draws all rows: there is no standard deviation over seeds")
        return notes
