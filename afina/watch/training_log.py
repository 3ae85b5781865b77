"""A run's log put together from its events, as they come: what is done again after a resume counts once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter, lt
from typing import Any

from afina.record import is_number
from afina.watch.view import COLUMNS, HeldOutPoint, Steps

Event = Mapping[str, Any]


def number_in(event: Event, key: str) -> float:
    """The number under `key`; NaN where there is none.

    >>> number_in({"loss": 2}, "loss"), number_in({"loss": "x"}, "loss")
    (2.0, nan)
    """
    value: Any = event.get(key)
    return float(value) if is_number(value) and abs(value) < 1e30 else math.nan


def whole_in(event: Event, key: str) -> int | None:
    """The whole number under `key`; None where there is none."""
    value = number_in(event, key)
    return int(value) if math.isfinite(value) else None


_ROW = itemgetter(*COLUMNS)


def _columns_of(events: Sequence[Event]) -> list[Sequence[Any]]:
    """The values of :data:`COLUMNS`, a sequence each, as they were logged."""
    try:
        return list(zip(*map(_ROW, events), strict=True))  # a million steps are read so in half the time
    except KeyError:
        return [[number_in(event, name) for event in events] for name in COLUMNS]


def _grows(numbers: Sequence[Any]) -> bool:
    """Whether these are numbers, each larger than the one before."""
    try:
        return is_number(numbers[0]) and math.isfinite(numbers[0]) and all(map(lt, numbers, numbers[1:]))
    except TypeError:
        return False


@dataclass
class TrainingLog:
    """What the log tells of one training so far."""

    name: str
    steps: Steps = field(default_factory=Steps)
    held_out: list[HeldOutPoint] = field(default_factory=list)
    latest: Event = field(default_factory=dict)
    """The last step's event."""
    goes_on: bool = False
    """Whether it came after the last event of a stage: by their order, as a clock may have been set."""
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
        columns = _columns_of(events)
        if not _grows(columns[0]):  # a log that nobody of us wrote so; the later one counts
            for event in events:
                if math.isfinite(number_in(event, "step")):
                    self._add([event], _columns_of([event]))
        else:
            self._add(events, columns)

    def _add(self, events: Sequence[Event], columns: Sequence[Sequence[Any]]) -> None:
        before = self.steps["step"]
        if before and columns[0][0] <= before[-1]:
            self.go_back(columns[0][0] - 1)
        kept = len(self.steps)
        for name, values in zip(COLUMNS, columns, strict=True):
            column = self.steps[name]
            try:
                column.extend(values)
            except (TypeError, OverflowError):  # null, text
                del column[kept:]
                column.extend(number_in(event, name) for event in events)
        self.latest, self.goes_on = events[-1], True
        memory = [value for value in self.steps["memory_bytes"][kept:] if math.isfinite(value)]
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


@dataclass
class RunLog:
    """What the events of a run tell so far."""

    trainings: dict[str, TrainingLog] = field(default_factory=dict)
    """By name, ``first`` and ``train``: those that have begun."""
    stage_event: Event = field(default_factory=dict)
    """The last one that says how a stage began or ended."""
    last_event: float | None = None
    """When it last logged something, seconds since 1970."""

    def take(self, events: Sequence[Event]) -> None:
        """New events into the trainings that they belong to."""
        for (kind, name), group in itertools.groupby(events, key=lambda e: (e.get("event"), e.get("stage"))):
            together = list(group)
            if kind == "stage":
                self.stage_event = together[-1]
                for log in self.trainings.values():
                    log.goes_on = False
            elif kind == "retired":
                self.trainings.pop(str(name), None)
            elif name in (None, "first"):
                self._to_training(name or "train", kind, together)
        stamped = (number_in(event, "time") for event in reversed(events))
        self.last_event = next((stamp for stamp in stamped if math.isfinite(stamp)), self.last_event)

    def _to_training(self, name: str, kind: Any, events: Sequence[Event]) -> None:
        log = self.trainings.get(name)
        if name == "first" and kind == "train_started_anew":
            self.trainings.pop("train", None)  # an earlier recipe's: it began where an earlier first training ended
        if log is None or kind == "train_started_anew":
            log = self.trainings[name] = TrainingLog(name, computing=log.computing if log else {})
        if kind == "step":
            log.add_steps(events)
        else:
            for event in events:
                log.take(event)
