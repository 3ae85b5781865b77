"""How sure a prediction is: the interval around it, and how measured cases fared against such intervals.

``calibration.json`` is written by ``benchmarks/plan_accuracy.py --calibrate`` from published cases. For each kind of
prediction it holds one row for every program on a kind of device, one for every kind of device, and one for all. The
width of a row comes from errors on sources that were left out of everything that was fitted, and so does its count of
cases that lay inside. A program that was never measured gets the row of the kind of device, a kind of device that was
never measured the row of all, which is the widest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from afina.plan.interval import Interval

Predicted = Literal["training peak", "training peak, settings guessed", "training time", "serving peak"]
"""What is predicted; each kind has intervals of its own."""
CERTAIN = 0.8
"""Share of the weights, the adapter and the moments that no error is looked for in. Of 0, 0.5, 0.8 and 0.9 this one
gives the narrowest intervals that hold nine of ten cases."""
TABLE = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Sureness:
    """A row of the table, as it applies to one prediction.

    Args:
        program, device: what the row is of: empty for every program, every kind of device.
        cases, sources: how many measurements it has, from how many publications.
        inside: of them, how many lay in the interval that the other publications give.
        factor: the interval reaches from point / factor to point * factor, beyond :data:`CERTAIN` of what is certain.
        own_tests: whether the cases are trainings that this project's tests measure, not publications.
    """

    program: str
    device: str
    cases: int
    sources: int
    inside: int
    factor: float
    own_tests: bool = False

    def around(self, point: float, least: float = 0.0) -> Interval:
        """The interval: of what is certain, as the weights are, most is taken as it is; and it is not lower than that.

        >>> Sureness("", "cuda", 10, 2, 9, 1.25).around(100.0)
        Interval(point=100.0, low=80.0, high=125.0)
        >>> Sureness("", "cuda", 10, 2, 9, 1.5).around(130.0, least=50.0)  # 40 + 90 / 1.5, 40 + 90 * 1.5
        Interval(point=130.0, low=100.0, high=175.0)
        >>> Sureness("", "cuda", 10, 2, 9, 1.5).around(100.0, least=95.0)
        Interval(point=100.0, low=95.0, high=112.0)
        """
        if self.own_tests:  # they compare the whole peak
            least = 0.0
        certain = CERTAIN * min(point, least)
        low = certain + (point - certain) / self.factor
        return Interval(point, max(low, min(point, least)), certain + (point - certain) * self.factor)

    @property
    def in_words(self) -> str:
        """How sure it is, as a plan says it.

        >>> Sureness("mlx-lm", "mps", 10, 2, 9, 1.25).in_words.split(" on ")[0]
        '9 of 10 measured cases of mlx-lm'
        >>> Sureness("", "cuda", 10, 1, 9, 1.25).in_words.split(";")[0]
        'never measured: a guess from other programs on this kind of device'
        """
        inside = f"{self.inside} of {self.cases}"
        if self.own_tests:
            return f"{inside} trainings fell inside such an interval, in afina's own tests on one machine"
        sources = f"from {self.sources} source{'s' * (self.sources != 1)}, each left out in turn"
        fell = f"fell inside such an interval, {sources}"
        if self.program:
            return f"{inside} measured cases of {self.program} on this kind of device {fell}"
        where = "other programs on this kind of device" if self.device else "other kinds of device, and wider for it"
        return f"never measured: a guess from {where}; {inside} cases {fell}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the words."""
        return {**asdict(self), "in_words": self.in_words}


@cache
def shipped() -> dict[str, Any]:
    """The table as it is shipped."""
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def sureness(predicted: Predicted, device: str, program: str) -> Sureness:
    """How sure a prediction is for a program on a kind of device, from the narrowest row that there is."""
    rows = {(row["device"], row["program"]): row for row in shipped()["groups"][predicted]}
    for key in ((device, program), (device, ""), ("", "")):
        if key in rows:
            return Sureness(**rows[key])
    raise AssertionError(f"calibration.json has no row of all for {predicted!r}")
