"""A number that is not known exactly: a point and the interval it may lie in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """``low <= point <= high``, in whatever unit the owner says.

    >>> Interval.around(100.0, 0.9, 1.2)
    Interval(point=100.0, low=90.0, high=120.0)
    >>> Interval(1, 1, 2) + Interval(2, 1, 4)
    Interval(point=3, low=2, high=6)
    """

    point: float
    low: float
    high: float

    @classmethod
    def around(cls, point: float, low: float, high: float) -> Interval:
        """`point`, with the ends as factors of it."""
        return cls(point, point * low, point * high)

    @classmethod
    def total(cls, parts: Iterable[Interval]) -> Interval:
        """The sum. The ends add too: the errors of one plan come from the same causes and do not cancel."""
        total = cls(0.0, 0.0, 0.0)
        for part in parts:
            total += part
        return total

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.point + other.point, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Interval:
        return Interval(self.point * factor, self.low * factor, self.high * factor)

    def as_json(self) -> dict[str, float]:
        """``{"point", "low", "high"}``."""
        return {"point": self.point, "low": self.low, "high": self.high}
