"""What a training has spent and is spending: time and money."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from afina.recipe import Budget


@dataclass
class Meter:
    """Counts against the budget.

    Args:
        earlier_seconds: spent by the stages before training.
        loop_seconds: spent by this loop before it was interrupted.
    """

    budget: Budget
    earlier_seconds: float = 0.0
    loop_seconds: float = 0.0
    started: float = field(default_factory=lambda: time.monotonic())

    @property
    def wall_seconds(self) -> float:
        """Spent by this loop, before and after interruptions."""
        return self.loop_seconds + time.monotonic() - self.started

    @property
    def money(self) -> float:
        """Spent by the run so far: hours * price per hour."""
        return (self.earlier_seconds + self.wall_seconds) / 3600 * self.budget.price_per_hour

    def eta_seconds(self, done: int, remaining: int) -> float | None:
        """Time to the last step, at the pace of the `done` steps since the loop was started."""
        return (time.monotonic() - self.started) / done * remaining if done else None

    def over_budget(self) -> str | None:
        """Which limit has been reached, in words; None while none has.

        >>> Meter(Budget(hours=1), earlier_seconds=3700).over_budget()
        'budget.hours (1) is used up'
        >>> Meter(Budget(hours=2), earlier_seconds=3700).over_budget() is None
        True
        """
        seconds, budget = self.earlier_seconds + self.wall_seconds, self.budget
        if budget.hours is not None and seconds >= budget.hours * 3600:
            return f"budget.hours ({budget.hours:g}) is used up"
        if budget.money is not None and self.money >= budget.money > 0:
            return f"budget.money ({budget.money:g} {budget.currency}) is used up"
        return None
