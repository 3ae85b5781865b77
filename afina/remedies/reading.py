"""What a rule is given and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from afina.evaluate.scores import Scores, Verdict
from afina.recipe import METHODS, First, Recipe, Train
from afina.record import Record
from afina.watch.view import RunView, RunWarning, TrainingView, WarningKind

BUDGET = "budget"
"""Where the error of a spent budget says that it is."""


@dataclass(frozen=True)
class Remedy:
    """Something that a run shows, and settings that help against it.

    Args:
        seen: in a sentence, with its figures and steps.
        why: what the change does; where there are no settings, what to do instead.
        settings: dotted keys of the recipe and their new values.
        kind: name of its rule.
        training: which of two trainings shows it, ``first`` or ``train``.
        after: the kind of an earlier remedy that sets one of the same keys otherwise: that one is tried first.
    """

    seen: str
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    training: str = "train"
    after: str = ""


@dataclass(frozen=True)
class RunReading:
    """One training of a run, and all else that a rule may look at."""

    view: RunView
    training: TrainingView
    recipe: Recipe
    scores: Scores | None = None
    plan: Record | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Why examples have no rows -> their tokens."""

    @property
    def settings(self) -> Train:
        """The recipe's settings of this training."""
        return self.recipe.train.of_first() if self.of_first else self.recipe.train

    @property
    def of_first(self) -> bool:
        return self.training.name == "first"

    @property
    def verdict(self) -> Verdict | None:
        """Of what this training left; None where that was not judged."""
        return self.scores.verdict if self.scores and not self.of_first else None

    @property
    def passed(self) -> bool:
        """Whether the verdict is good. It weighs more than a curve: held-out rows may be those of a replay alone."""
        return self.verdict is not None and self.verdict.passed

    @property
    def usual_rate(self) -> float:
        """The learning rate that its method usually begins with."""
        return METHODS[self.settings.method].usual_rate

    def key(self, name: str) -> str:
        """The recipe's key of a setting of this training.

        `train.first` has some of them; the others are shared by both trainings.
        """
        return f"train.first.{name}" if self.of_first and name in First.model_fields else f"train.{name}"

    def warning(self, kind: WarningKind) -> RunWarning | None:
        """What whoever watches the run was told of this training."""
        found = (each for each in self.view.warnings if (each.kind, each.training) == (kind, self.training.name))
        return next(found, None)

    def ended_by(self, error: str) -> bool:
        """Whether this training ended by an error of this class."""
        return self.view.error == error and self.view.stage == self.training.name

    @property
    def budget_spent(self) -> bool:
        """Whether it ended because the budget was used up."""
        return self.ended_by("DoesNotFit") and any(problem.where == BUDGET for problem in self.view.problems)

    @property
    def memory_ran_out(self) -> bool:
        """Whether it ended because even a single row does not fit the memory."""
        return self.ended_by("OutOfMemory")

    @property
    def seconds(self) -> float:
        """What its steps took, and those to come will."""
        counts, speeds = self.training.steps["tokens"], self.training.steps["tokens_per_second"]
        spent = math.fsum(count / speed for count, speed in zip(counts, speeds, strict=True) if speed > 0)
        return spent + (self.training.eta_seconds or 0.0)

    @property
    def memory_used(self) -> float | None:
        """The share of the usable memory that was used at most, or as it was planned; None where it is not known."""
        planned = self.plan.record("memory") if self.plan else None
        usable = planned.number("usable") if planned else None
        peak = self.training.peak_memory_bytes or (planned.number("point") if planned else None)
        return peak / usable if peak and usable else None
