"""One training put together from its events, as they come: what is done again after a resume counts once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from afina.record import is_number
from afina.watch.view import COLUMNS, HeldOutPoint, Steps

Event = Mapping[str, Any]


def number_in(event: Event, key: str) -> float:
    """The number under `key`; NaN where there is none.

    >>> number_in({"loss": 2}, "loss"), number_in({"loss": "x"}, "loss")
    (2.0, nan)
    """
    value = event.get(key)
    return float(value) if is_number(value) and abs(value) < 1e30 else math.nan


def whole_in(event: Event, key: str) -> int | None:
    """The whole number under `key`; None where there is none."""
    value = number_in(event, key)
    return int(value) if math.isfinite(value) else None


@dataclass
class TrainingLog:
    """What the log tells of one training so far."""

    name: str
    steps: Steps = field(default_factory=Steps)
    held_out: list[HeldOutPoint] = field(default_factory=list)
    latest: Event = field(default_factory=dict)
    """The last step's event."""
    peak_memory: float = 0.0
    planned: int | None = None
    resumed: list[int] = field(default_factory=list)
    went_back: list[Event] = field(default_factory=list)
    smaller_batches: list[Event] = field(default_factory=list)
    stopped_early: str = ""
    checkpoint: int | None = None
    computing: Event = field(default_factory=dict)

    def add_steps(self, events: Sequence[Event]) -> None:
        """Steps that follow each other in the log, without another event between them."""
        numbers = [number_in(event, "step") for event in events]
        if any(not after > before for before, after in itertools.pairwise(numbers)):
            events = [event for event in events if math.isfinite(number_in(event, "step"))]
            for event in events:  # a log that nobody of us wrote so; the later one counts
                self._add([event], [number_in(event, "step")])
        elif numbers and math.isfinite(numbers[0]):
            self._add(events, numbers)

    def _add(self, events: Sequence[Event], numbers: Sequence[float]) -> None:
        last = self.steps["step"]
        if last and numbers[0] <= last[-1]:
            self.go_back(numbers[0] - 1)
        before = len(self.steps)
        for name in COLUMNS:
            column = self.steps[name]
            try:
                column.extend([event.get(name) for event in events])  # type: ignore[arg-type]  # refuses None and text
            except (TypeError, OverflowError):
                del column[before:]
                column.extend(number_in(event, name) for event in events)
        self.latest = events[-1]
        memory = [value for value in self.steps["memory_bytes"][-len(events) :] if math.isfinite(value)]
        self.peak_memory = max([self.peak_memory, *memory])

    def go_back(self, step: float) -> None:
        """What came after `step` is done again, and does not count."""
        self.steps.cut_after(step)
        while self.held_out and self.held_out[-1].step > step:
            self.held_out.pop()

    def take(self, event: Event) -> None:
        """Any event but a step."""
        kind, step = event.get("event"), whole_in(event, "step")
        if kind == "validation" and step is not None:
            if self.held_out and self.held_out[-1].step >= step:
                self.held_out = [each for each in self.held_out if each.step < step]
            figures = {key: value for key, value in event.items() if is_number(value) and key not in ("step", "time")}
            self.held_out.append(HeldOutPoint(step, number_in(event, "loss"), figures))
        elif kind == "resumed" and step is not None:
            self.go_back(step)
            self.resumed.append(step)
            self.stopped_early = ""
        elif kind == "went_back" and (to := whole_in(event, "to")) is not None:
            self.go_back(to)
            self.went_back.append(event)
        elif kind == "smaller_batches":
            self.smaller_batches.append(event)
        elif kind == "stopped_early":
            self.stopped_early = f"no better held-out loss than that of step {event.get('best_step')}"
        elif kind == "checkpoint":
            self.checkpoint = step
        elif kind == "computing":
            self.computing = event
        elif kind == "train_started_anew":
            self.planned = whole_in(event, "steps")
