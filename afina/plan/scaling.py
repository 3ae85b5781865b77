"""Loss against parameters, tokens and compute, fitted to trainings that are there.

    L(N, D) = E + A / N^alpha + B / D^beta        N parameters, D tokens seen, C = 6*N*D FLOPs

The third approach of Hoffmann et al. (arXiv 2203.15556): the sum over the runs of the Huber loss of log L. How sure it
is comes from a parametric bootstrap: the scatter around the curve, with as much doubt about its size as the number of
runs leaves, is laid on the curve again and again, and each time it is fitted anew. The intervals are those of the curve
(95 %), not of a single training, whose seed scatters besides.

Fewer than :data:`FREE_RUNS` runs cannot tell exponents: these are then the two published pairs in turn
(:data:`PUBLISHED`), and only E, A and B are fitted. Three runs would determine these exactly and say nothing of how
sure they are: they are refused. So are runs of two shapes (parameters and tokens) however many there are: a second seed
tells of the scatter, and nothing of the curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afina.errors import DataError, RecipeError
from afina.plan.interval import Interval

FREE_RUNS, FREE_VALUES, FREE_PAIRS = 7, 3, 5
"""So many runs (two to spare), of so many sizes and counts of tokens, in so many different pairs of both, from which on
all five constants are fitted."""
FIXED_RUNS, FIXED_PAIRS = 4, 3
"""So many runs (one to spare) and pairs for the three constants that the published exponents leave."""
HUBER = 1e-3
"""From this difference of log L on, a run weighs by its distance alone: one that went wrong does not bend the curve."""
DRAWS = 200
TOLERANCE = 1e-6
"""Of the fits: they need not be nearer to their minimum than the draws are to each other."""


@dataclass(frozen=True)
class TrainedPoint:
    """A finished training: N parameters, D tokens seen, and its loss on held-out text in whatever unit."""

    name: str
    parameters: float
    tokens: float
    loss: float

    @property
    def flops(self) -> float:
        """6*N*D."""
        return 6.0 * self.parameters * self.tokens


@dataclass(frozen=True)
class ScalingForm:
    """The constants of L(N, D) = E + A / N^alpha + B / D^beta."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D).

        >>> chinchilla = ScalingForm(1.69, 406.4, 410.7, 0.34, 0.28)
        >>> round(chinchilla.loss(70e9, 1.4e12), 3), round(chinchilla.loss(280e9, 300e9), 3)  # Chinchilla and Gopher
        (1.937, 1.993)
        """
        return self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta

    def best_split(self, flops: float) -> tuple[float, float]:
        """The N and D with the least loss among those that take C FLOPs.

        Where the derivative of A/N^alpha + B*(6N/C)^beta is zero: N^(alpha + beta) = alpha*A / (beta*B) * (C/6)^beta.

        >>> n, d = ScalingForm(1.0, 2.0, 2.0, 0.5, 0.5).best_split(600.0)  # alike in N and D
        >>> round(n, 6), round(d, 6)
        (10.0, 10.0)
        """
        both = self.alpha + self.beta
        ratio = self.alpha * self.a / (self.beta * self.b) if self.a and self.b else math.nan
        parameters = ratio ** (1 / both) * (flops / 6) ** (self.beta / both)
        return parameters, flops / 6 / parameters

    @property
    def compute_exponent(self) -> float:
        """gamma of L(C) = E + K / C^gamma, the loss of the best split: alpha*beta / (alpha + beta)."""
        return self.alpha * self.beta / (self.alpha + self.beta)

    @property
    def compute_factor(self) -> float:
        """K of the same."""
        return self.loss(*self.best_split(6.0)) * 6.0**self.compute_exponent - self.e * 6.0**self.compute_exponent


PUBLISHED = {
    "Besiroglu et al., arXiv 2404.10102": ScalingForm(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
    "Hoffmann et al., arXiv 2203.15556": ScalingForm(1.69, 406.4, 410.7, 0.34, 0.28),
}
"""Chinchilla's fit, and before it the one that others made of the same runs. E, A and B belong to that text and its
tokenizer; of another text only the exponents are taken."""


@dataclass(frozen=True)
class ScalingFit:
    """A form fitted to runs, and the forms that the scatter of the runs allows as well."""

    points: tuple[TrainedPoint, ...]
    form: ScalingForm
    draws: tuple[ScalingForm, ...]
    free: bool
    """Whether the exponents were fitted; otherwise they are published ones."""
    scatter: float
    """Standard deviation of log L around the curve."""

    def of(self, value: Callable[[ScalingForm], float]) -> Interval:
        """A value of the curve with its 95 % interval."""
        found = sorted(filter(math.isfinite, map(value, self.draws)))
        point = value(self.form)
        if not found or not math.isfinite(point):
            return Interval(point, math.nan, math.nan)
        low, high = (found[round(share * (len(found) - 1))] for share in (0.025, 0.975))
        return Interval(point, min(low, point), max(high, point))

    @property
    def constants(self) -> dict[str, Interval]:
        """E, A, B, alpha and beta; exponents that were not fitted have no interval but that of the published ones."""
        names = {"E": "e", "A": "a", "B": "b", "alpha": "alpha", "beta": "beta"}
        return {name: self.of(lambda form, key=key: float(getattr(form, key))) for name, key in names.items()}  # type: ignore[misc]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "runs": [asdict(point) | {"flops": point.flops, "fitted": self.fitted(point)} for point in self.points],
            "constants": {name: interval.as_json() for name, interval in self.constants.items()},
            "exponents": "fitted" if self.free else f"published: {', '.join(PUBLISHED)}",
            "compute": {"K": self.form.compute_factor, "gamma": self.of(lambda form: form.compute_exponent).as_json()},
            "scatter": self.scatter,
            "interval": f"95 % of {len(self.draws)} refits (parametric bootstrap)",
        }

    def fitted(self, point: TrainedPoint) -> float:
        """What the curve says of a run."""
        return self.form.loss(point.parameters, point.tokens)


def fit_scaling(points: Sequence[TrainedPoint], *, draws: int | None = None, seed: int = 0) -> ScalingFit:
    """The form that fits the runs, with what their scatter leaves open.

    Args:
        draws: refits of the bootstrap; :data:`DRAWS` where not given.

    Raises:
        DataError: the runs cannot tell: too few, or all of one size or of as many tokens.
        RecipeError: SciPy is missing.
    """
    _check_enough(points)
    try:
        from scipy import optimize
    except ModuleNotFoundError:
        raise RecipeError("fitting needs SciPy, which is not installed", "pip install 'afina[scaling]'") from None
    import numpy as np

    sizes, counts = ({getattr(point, name) for point in points} for name in ("parameters", "tokens"))
    free = (
        len(points) >= FREE_RUNS and min(len(sizes), len(counts)) >= FREE_VALUES and len(_pairs(points)) >= FREE_PAIRS
    )
    curve = _Curve([point.parameters for point in points], [point.tokens for point in points], optimize, np)
    logs = np.log([point.loss for point in points])
    exponents = [(form.alpha, form.beta) for form in PUBLISHED.values()]
    starts = [curve.start(logs, *pair) for pair in (_GRID if free else exponents[:1])]
    starts = sorted(starts, key=lambda start: float(abs(curve.log_loss(start) - logs).sum()))[:3]
    best = min((curve.fit(logs, start, free=free) for start in starts), key=lambda found: found.cost)
    spare = len(points) - (5 if free else 3)
    scatter = math.sqrt(float(((curve.log_loss(best.x) - logs) ** 2).sum()) / spare)
    random = np.random.default_rng(seed)
    forms = []
    for number in range(DRAWS if draws is None else draws):
        noise = scatter * math.sqrt(spare / random.chisquare(spare)) * random.standard_normal(len(points))
        made = curve.log_loss(best.x) + noise
        start = best.x if free else curve.start(made, *exponents[number % len(exponents)])
        forms.append(curve.form(curve.fit(made, start, free=free).x))
    return ScalingFit(tuple(points), curve.form(best.x), tuple(forms), free, scatter)


_GRID = [(alpha, beta) for alpha in (0.15, 0.3, 0.5, 0.8) for beta in (0.15, 0.3, 0.5, 0.8)]
"""Exponents to start from: the sum has several minima."""


def _pairs(points: Sequence[TrainedPoint]) -> set[tuple[float, float]]:
    """The different pairs of N and D: each is one equation for the constants."""
    return {(point.parameters, point.tokens) for point in points}


def _check_enough(points: Sequence[TrainedPoint]) -> None:
    what, fix = "", "train more sizes, each with more than one count of tokens (train.epochs, or fewer sources)"
    if len(points) < FIXED_RUNS:
        what = f"{len(points)} runs cannot tell how loss scales: the form has 3 constants beside published exponents"
        fix = f"name {FIXED_RUNS} runs at least; from {FREE_RUNS} on the exponents are fitted too"
    elif len({point.parameters for point in points}) < 2:
        what = "all runs have as many parameters: nothing tells what more of them would do"
    elif len({point.tokens for point in points}) < 2:
        what = "all runs have seen as many tokens: nothing tells what more of them would do"
    elif (pairs := len(_pairs(points))) < FIXED_PAIRS:
        what = (
            f"the {len(points)} runs have {pairs} pairs of parameters and tokens: nothing tells which of the two counts"
        )
    if what:
        raise DataError(what, fix, "plan scaling")


class _Curve:
    """log L of runs as a function of [log E, log A', log B', alpha, beta], and its least squares.

    A' and B' are the terms at the runs' mean size and tokens, so that they do not move with the exponents.
    """

    def __init__(self, parameters: Sequence[float], tokens: Sequence[float], optimize: Any, np: Any) -> None:
        self.optimize, self.np = optimize, np
        logs = [np.log(np.asarray(values, dtype=float)) for values in (parameters, tokens)]
        self.means = [float(each.mean()) for each in logs]
        self.n, self.d = (each - mean for each, mean in zip(logs, self.means, strict=True))
        self.low = np.array([-16.0, -16.0, -16.0, 0.02, 0.02])
        self.high = np.array([8.0, 8.0, 8.0, 2.0, 2.0])

    def terms(self, x: Any) -> Any:
        """E, A/N^alpha and B/D^beta of each run."""
        one = self.np.ones_like(self.n)
        return self.np.exp(self.np.stack([x[0] * one, x[1] - x[3] * self.n, x[2] - x[4] * self.d]))

    def log_loss(self, x: Any) -> Any:
        """log L of each run."""
        return self.np.log(self.terms(x).sum(0))

    def slopes(self, x: Any) -> Any:
        """Its derivatives, runs x 5: each term's share, times what its exponent multiplies."""
        terms = self.terms(x)
        e, a, b = terms / terms.sum(0)
        return self.np.stack([e, a, b, -a * self.n, -b * self.d], axis=1)

    def start(self, logs: Any, alpha: float, beta: float) -> Any:
        """The best E, A' and B', none below zero, for these exponents and the relative error."""
        np = self.np
        columns = np.stack([np.ones_like(self.n), np.exp(-alpha * self.n), np.exp(-beta * self.d)], axis=1)
        found, _ = self.optimize.nnls(columns / np.exp(logs)[:, None], np.ones_like(logs))
        return np.array([*np.log(np.maximum(found, 1e-6)), alpha, beta])

    def fit(self, logs: Any, start: Any, *, free: bool) -> Any:
        """The minimum nearest to a start, of all five or of the first three."""
        np, moving = self.np, 5 if free else 3
        low, high = self.low[:moving], self.high[:moving]

        def whole(x: Any) -> Any:
            return np.concatenate([x, start[moving:]])

        found = self.optimize.least_squares(
            lambda x: self.log_loss(whole(x)) - logs,
            np.clip(start[:moving], low + 1e-6, high - 1e-6),
            jac=lambda x: self.slopes(whole(x))[:, :moving],
            bounds=(low, high),
            loss="huber",
            f_scale=HUBER,
            ftol=TOLERANCE,
            xtol=TOLERANCE,
        )
        found.x = whole(found.x)
        return found

    def form(self, x: Any) -> ScalingForm:
        """The constants, back from the means."""
        e, a, b = (float(value) for value in self.np.exp(x[:3]))
        alpha, beta = float(x[3]), float(x[4])
        return ScalingForm(e, a * math.exp(alpha * self.means[0]), b * math.exp(beta * self.means[1]), alpha, beta)
