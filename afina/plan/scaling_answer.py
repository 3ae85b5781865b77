"""What a model of another size would reach by a fitted curve, and what it would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from afina.plan.interval import Interval
from afina.plan.scaling import FREE_PAIRS, FREE_RUNS, FREE_VALUES, PUBLISHED, ScalingFit, ScalingForm
from afina.plan.scratch import ScratchBudget
from afina.units import show_count

TELLS = 1.5
"""Where the interval's ends are further apart than by this factor, the runs cannot tell what would be reached."""
NEAR = 10.0
"""A model this many times as large as the largest run, or trained as many times as long, is foretold and not measured:
the curves that were published are themselves fitted over two to three orders of magnitude."""


@dataclass(frozen=True)
class ScalingAnswer:
    """A fit, and a model that is asked about.

    Args:
        unit: of the losses. kind: of the models, in a word.
        notes: what the runs are not, in sentences.
    """

    fit: ScalingFit
    unit: str
    kind: str
    budget: ScratchBudget
    notes: Sequence[str] = ()

    @property
    def reached(self) -> Interval:
        """Loss of the model that is asked about, by the curve."""
        return self.fit.of(lambda form: form.loss(self.budget.parameters, self.budget.tokens))

    @property
    def tells(self) -> bool:
        """Whether the runs leave an answer that is one."""
        return self.reached.high <= TELLS * self.reached.low

    @property
    def beyond(self) -> tuple[float, float]:
        """How many times the largest run's parameters and the longest one's tokens are asked about."""
        points = self.fit.points
        largest, longest = max(point.parameters for point in points), max(point.tokens for point in points)
        return self.budget.parameters / largest, self.budget.tokens / longest

    @property
    def all_notes(self) -> list[str]:
        """What the runs are not, and how far beyond them is asked."""
        furthest = max(self.beyond)
        if furthest <= NEAR:
            return list(self.notes)
        return [
            f"extrapolated to {furthest:.3g} times what was measured: the interval holds how the runs scatter, and not "
            "whether loss still follows the curve there",
            *self.notes,
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        parameters, tokens = self.fit.form.best_split(self.budget.flops)
        beyond = dict(zip(("parameters", "tokens"), self.beyond, strict=True))
        return {
            "unit": self.unit,
            "kind": self.kind,
            **self.fit.as_json(),
            "asked": self.budget.as_json(),
            "reached": {**self.reached.as_json(), "tells": self.tells, "times_the_largest_run": beyond},
            "best_split": {
                "parameters": parameters,
                "tokens": tokens,
                "loss": self.fit.of(self._best_loss).as_json(),
            },
            "notes": self.all_notes,
        }

    def _best_loss(self, form: ScalingForm) -> float:
        return form.loss(*form.best_split(self.budget.flops))

    def describe(self) -> str:
        """The runs as a table, the curve, and the answer."""
        fit, asked, (larger, longer) = self.fit, self.budget, self.beyond
        rows = [f"{len(fit.points)} runs ({self.kind}), loss in {self.unit}", ""]
        width = max(3, *(len(point.name) for point in fit.points))
        rows.append(f"{'run':<{width}}{'parameters':>12}{'tokens':>10}{'6*N*D':>10}{'loss':>9}{'curve':>9}")
        for point in sorted(fit.points, key=lambda each: each.flops):
            counts = f"{show_count(point.parameters):>12}{show_count(point.tokens):>10}{point.flops:>10.2g}"
            rows.append(f"{point.name:<{width}}{counts}{point.loss:>9.4f}{fit.fitted(point):>9.4f}")
        lines = [
            ("curve", f"L = E + A/N^alpha + B/D^beta, Huber loss of log L; the runs scatter by {fit.scatter:.2%}"),
            ("", ", ".join(f"{name} {in_words(value)}" for name, value in fit.constants.items())),
            ("", _about_exponents(fit)),
            ("compute", f"of the best split L = E + {fit.form.compute_factor:.3g}/C^{fit.form.compute_exponent:.3f}"),
            ("asked", f"{show_count(asked.parameters)} parameters, {show_count(asked.tokens)} tokens"),
            ("reach", self._reach()),
            ("", f"{larger:.3g} times the largest run's parameters, {longer:.3g} times the longest one's tokens"),
            ("split", self._split()),
            *(("note", note) for note in self.all_notes),
        ]
        table = "\n".join(f"{name:<8}{text}" for name, text in lines)
        return "\n".join([*rows, "", table, "", asked.describe()])

    def _reach(self) -> str:
        found = in_words(self.reached)
        if self.tells:
            return f"{found} {self.unit}, 95 % of {len(self.fit.draws)} refits; a single run's seed scatters besides"
        return f"cannot be told from these runs: {found} {self.unit}"

    def _split(self) -> str:
        parameters, tokens = self.fit.form.best_split(self.budget.flops)
        best = in_words(self.fit.of(self._best_loss))
        return (
            f"of as many FLOPs the curve's best: {show_count(parameters)} parameters, {show_count(tokens)} tokens "
            f"({tokens / parameters:.3g} for each), {best}"
        )


def in_words(value: Interval) -> str:
    """
    >>> in_words(Interval(2.5951, 2.4914, 2.7002)), in_words(Interval(418.8, 267.9, 645.1))
    ('2.595 (2.491 to 2.7)', '418.8 (267.9 to 645.1)')
    """
    return f"{value.point:.4g} ({value.low:.4g} to {value.high:.4g})"


def _about_exponents(fit: ScalingFit) -> str:
    if fit.free:
        return f"in brackets 95 % of {len(fit.draws)} refits to the curve with the runs' scatter laid on it"
    papers = " and ".join(PUBLISHED)
    return (
        f"exponents are published ones, not these runs' ({papers}, in turn): they can be fitted from {FREE_RUNS} runs "
        f"on, of {FREE_VALUES} sizes and {FREE_VALUES} counts of tokens in {FREE_PAIRS} pairs at least"
    )
