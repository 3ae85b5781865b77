"""What :class:`~afina.watch.reader.RunReader` tells of a run: plain values, in bytes, seconds and tokens."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from afina.errors import Problem
from afina.report.charts import thin

State = Literal["running", "finished", "trained", "stopped", "killed", "not trained", "damaged"]
"""running: its lock is held. finished: everything is done. trained: the training is done and what follows has not
begun. stopped: it ended before its end and said why (an error, a signal). killed: it ended without a word. not trained:
no training has begun. damaged: a file that the state depends on cannot be read."""

WarningKind = Literal[
    "overfitting",
    "not_falling",
    "rising",
    "still_falling",
    "went_back",
    "smaller_batches",
    "memory_nearly_full",
    "slower",
    "silent",
    "no_validation",
    "unreadable_lines",
]
WARNING_KINDS: tuple[WarningKind, ...] = get_args(WarningKind)
"""overfitting: held-out loss rises while training loss falls. not_falling: the loss of the latest steps is no lower
than that of the first. rising: it is far above what it had reached. still_falling: a training that is done had its
lowest held-out loss at its end. went_back: a loss, gradient or weight was NaN or infinite. smaller_batches:
micro-batches were halved, they did not fit. memory_nearly_full: of what the plan says is usable. slower: tokens/s are
half of what they were. silent: it runs, and has logged nothing for much longer than it did before. no_validation: no
held-out loss is measured, so that overfitting cannot be seen. unreadable_lines: of metrics.jsonl."""


@dataclass(frozen=True)
class RunWarning:
    """Something about a training that a person should know, and the figures behind it."""

    kind: WarningKind
    what: str
    """In a sentence, with its figures."""
    training: str = "train"
    """Which of two trainings: ``first`` or ``train``."""
    step: int | None = None
    """Where it began or happened."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The numbers that the sentence names, for who decides by them."""


COLUMNS = ("step", "time", "loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes", "tokens")
"""What is kept of every step that counts; ``nan`` where it was not logged."""


@dataclass
class Steps:
    """The steps of one training that count, a column a figure; it grows while the run is followed."""

    columns: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in COLUMNS})

    def __len__(self) -> int:
        return len(self.columns["step"])

    def __getitem__(self, name: str) -> array[float]:
        return self.columns[name]

    def cut_after(self, step: float) -> None:
        """Forget the steps after `step`: they are done again."""
        numbers, left = self.columns["step"], len(self)
        while left and numbers[left - 1] > step:
            left -= 1
        for column in self.columns.values():
            del column[left:]


@dataclass(frozen=True)
class HeldOutPoint:
    """A measurement of the held-out rows."""

    step: int
    loss: float
    """Nats per target token; of preferences, per pair."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """All that was measured: also ``bits_per_byte``, ``preference_accuracy`` ..."""


@dataclass(frozen=True)
class TrainingView:
    """One training of a run, as far as it has come. None is what is not known."""

    name: str
    """``first`` or ``train``."""
    steps: Steps
    held_out: Sequence[HeldOutPoint] = ()
    step: int = 0
    """The last one that counts."""
    planned_steps: int | None = None
    epoch: int | None = None
    """Counted from 0."""
    done: bool = False
    loss: float | None = None
    """Mean of the latest steps (:data:`~afina.watch.judge.WINDOW`)."""
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    """Median of the latest steps."""
    memory_bytes: float | None = None
    peak_memory_bytes: float | None = None
    """Of all steps, those too that were done again."""
    tokens: float = 0.0
    """Of the steps that count."""
    eta_seconds: float | None = None
    """To the last step of this training; None where it does not run."""
    money: float | None = None
    """Of the run so far."""
    resumed: Sequence[int] = ()
    """The steps from which it went on."""
    went_back: Sequence[Mapping[str, Any]] = ()
    """The events: ``step``, ``to``, ``reason``, ``rate_factor``."""
    smaller_batches: Sequence[Mapping[str, Any]] = ()
    """The events: ``step``, ``splits`` (how often micro-batches are halved), ``reason``."""
    stopped_early: str = ""
    checkpoint: int | None = None
    """Step of the newest one."""
    device: str | None = None
    precision: str | None = None

    @property
    def best(self) -> HeldOutPoint | None:
        """The lowest held-out loss."""
        finite = [each for each in self.held_out if math.isfinite(each.loss)]
        return min(finite, key=lambda each: each.loss, default=None)


@dataclass(frozen=True)
class SampleView:
    """The last thing that the model was seen to write."""

    prompt: str
    written: str
    base: str = ""
    """What the untrained base wrote; empty where that was not asked."""
    file: str = "samples.jsonl"


@dataclass(frozen=True)
class RunView:
    """A run as it stands now."""

    folder: Path
    name: str
    state: State
    reason: str
    """Why that is its state: a sentence."""
    stage: str | None = None
    """The stage of the walk that it is in, or was in last."""
    trainings: tuple[TrainingView, ...] = ()
    """Those that have begun, in their order."""
    warnings: tuple[RunWarning, ...] = ()
    """The gravest first."""
    last_event: float | None = None
    """When it last logged something, seconds since 1970."""
    currency: str = "US$"
    sample: SampleView | None = None
    verdict: str | None = None
    stages: tuple[str, ...] = ()
    """The stages that are done, in the order in which they were."""
    usable_bytes: float | None = None
    """Memory of the device that the plan counts with."""
    error: str | None = None
    """Of a run that stopped: the class of the error, such as ``TrainingDiverged``, ``DoesNotFit``, ``Stopped``."""
    problems: tuple[Problem, ...] = ()
    """Files that cannot be read, or how the run said that it ended."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The resolved recipe as plain values; empty where it is not there."""

    @property
    def training(self) -> TrainingView | None:
        """The one that goes on, or came last."""
        return self.trainings[-1] if self.trainings else None

    def as_json(self, points: int = 500) -> dict[str, Any]:
        """Plain values; the curves thinned to about so many points, and what is no finite number is null."""
        return {
            "run": str(self.folder),
            "name": self.name,
            "state": self.state,
            "reason": self.reason,
            "stage": self.stage,
            "trainings": [_training_json(each, points) for each in self.trainings],
            "warnings": [asdict(each) for each in self.warnings],
            "last_event": self.last_event,
            "currency": self.currency,
            "sample": asdict(self.sample) if self.sample else None,
            "verdict": self.verdict,
            "stages": list(self.stages),
            "usable_bytes": self.usable_bytes,
            "error": self.error,
            "problems": [asdict(each) for each in self.problems],
        }


def _training_json(training: TrainingView, points: int) -> dict[str, Any]:
    losses = training.steps["loss"]
    kept = sorted({*(n for n, _ in thin([*enumerate(losses)], points)), *range(len(losses))[-1:]})
    values = {key: value for key, value in vars(training).items() if key not in ("steps", "held_out")}
    values |= {key: [*value] for key, value in values.items() if isinstance(value, list | tuple)}
    best = training.best
    return {key: without_nan(value) for key, value in values.items()} | {
        "best": asdict(best) if best else None,
        "held_out": [without_nan(asdict(each)) for each in training.held_out],
        "curve": {name: [without_nan(column[n]) for n in kept] for name, column in training.steps.columns.items()},
    }


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what is not finite is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    return [without_nan(each) for each in value] if isinstance(value, list | tuple) else value
