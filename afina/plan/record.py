"""What finished runs and trial steps teach later plans on the same machine.

Each run adds one line to ``plans.jsonl`` in :func:`afina.plan.tables.home`: what was predicted and what was
measured. A later plan for the same device and kind of job is corrected by their mean ratio, drawn towards 1 as far as
the plan's own uncertainty asks for (normal-normal in the logarithm), and its interval narrows with each of them:

    mean = n * r * a**2 / (n * a**2 + b**2)        a  the plan's own spread, b  a measurement's
    spread**2 = a**2 * b**2 / (n * a**2 + b**2) + b**2

A run counts the less the older it is and the less it is alike in size, so that n is a sum of weights: seconds of a
tiny training are mostly what surrounds its arithmetic. Where runs scatter more than like runs do, b is their scatter.
Seconds of a run that other programs slowed down are not counted at all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afina.plan.interval import Interval
from afina.plan.tables import home
from afina.run import parse_json

MEMORY_NOISE, TIME_NOISE = 0.06, 0.15
"""Standard deviation of the logarithm between two like runs."""
TRIAL_NOISE = 0.09
"""The same between three steps and the run that they are taken from."""
NINETY = 1.645
"""An interval that holds nine of ten reaches this many standard deviations to either side."""
NEWEST = 20
"""How many of the newest fitting runs count."""
OLDER = 0.9
"""Weight of a run beside the one after it."""
UNLIKE = math.log(5)
"""A job five times as large or small counts exp(-1/2) = 0.6 of a like one, one of 100 times 0.02."""
UNDISTURBED = 0.9
"""Share of a training's seconds in which its thread was on a processor, at least, where nothing else computed."""


@dataclass(frozen=True)
class MeasuredRun:
    """One run: the peak in bytes and the seconds of training, predicted without any correction, and measured."""

    device: str
    job: str
    predicted_bytes: float
    measured_bytes: float
    predicted_seconds: float
    measured_seconds: float
    name: str = ""
    when: float = 0.0
    trial: bool = False
    """Whether these were trial steps, not a whole training."""
    rate: float = 0.0
    """Floating-point operations per second that the seconds were predicted with; 0: an earlier version's estimate."""
    own_share: float | None = None
    """Share of the seconds in which the training's thread was on a processor; None where it does not compute itself."""

    @property
    def disturbed(self) -> bool:
        """Whether other programs took processors from it."""
        return self.own_share is not None and self.own_share < UNDISTURBED


@dataclass(frozen=True)
class Correction:
    """What measured runs say about a plan.

    Args:
        runs: the oldest first.
        planned_bytes, planned_seconds: what the plan predicts without them; 0: all runs are alike.
        rate: of the device as the plan takes it; 0: as the runs did.
    """

    runs: Sequence[MeasuredRun]
    planned_bytes: float = 0.0
    planned_seconds: float = 0.0
    rate: float = 0.0

    @property
    def timed(self) -> list[MeasuredRun]:
        """The runs whose seconds count."""
        return [run for run in self.runs if not run.disturbed and (run.rate or not self.rate)]

    def seconds_for(self, run: MeasuredRun) -> float:
        """What would be predicted for a run today: a device may have been measured anew since."""
        return run.predicted_seconds * run.rate / self.rate if self.rate and run.rate else run.predicted_seconds

    def of_memory(self, predicted: Interval) -> Interval:
        """The peak, drawn towards what was measured."""
        noise = MEMORY_NOISE / 2 if any(run.trial for run in self.runs) else MEMORY_NOISE
        ratios = [run.measured_bytes / run.predicted_bytes for run in self.runs]
        return corrected(predicted, ratios, noise, self._weights(self.runs, _bytes, self.planned_bytes))

    def of_time(self, predicted: Interval) -> Interval:
        """Seconds of training, drawn towards what was measured."""
        noise = TRIAL_NOISE if any(run.trial for run in self.runs) else TIME_NOISE
        return corrected(predicted, self._time_ratios(), noise, self._time_weights())

    def _time_ratios(self) -> list[float]:
        return [run.measured_seconds / self.seconds_for(run) for run in self.timed]

    def _time_weights(self) -> list[float]:
        return self._weights(self.timed, self.seconds_for, self.planned_seconds)

    def _weights(
        self, runs: Sequence[MeasuredRun], size: Callable[[MeasuredRun], float], planned: float
    ) -> list[float]:
        """Of each run by its age and, where the plan's own size is known, by how alike it is."""
        return [
            OLDER**age * (math.exp(-0.5 * (math.log(size(run) / planned) / UNLIKE) ** 2) if planned > 0 else 1.0)
            for age, run in zip(range(len(runs) - 1, -1, -1), runs, strict=True)
        ]

    def as_json(self) -> dict[str, Any]:
        """How many runs, and their mean ratios measured / predicted, weighed as they are in the plan; null where none
        counts."""
        memory = [run.measured_bytes / run.predicted_bytes for run in self.runs]
        return {
            "runs": len(self.runs),
            "trial": any(run.trial for run in self.runs),
            "memory_ratio": _mean(memory, self._weights(self.runs, _bytes, self.planned_bytes)),
            "timed": len(self.timed),
            "disturbed": sum(run.disturbed for run in self.runs),
            "time_ratio": _mean(self._time_ratios(), self._time_weights()),
        }

    @property
    def in_words(self) -> str:
        """What was measured, what of it counts and what does not."""
        said = self.as_json()
        count = "three trial steps" if said["trial"] else f"{said['runs']} finished run{'s' * (said['runs'] != 1)}"
        text = f"{count} on this device measured {said['memory_ratio']:.2f} of the predicted memory"
        if said["time_ratio"] is not None and said["timed"] == said["runs"]:
            text += f" and {said['time_ratio']:.2f} of the time"
        elif said["time_ratio"] is not None:
            text += f", {said['timed']} of them {said['time_ratio']:.2f} of the time"
        text += "; these figures hold it, newer runs of like size the most"
        if said["disturbed"]:
            text += f"; seconds of {said['disturbed']} do not count: other programs computed beside them"
        if earlier := said["runs"] - said["timed"] - said["disturbed"]:
            text += f"; seconds of {earlier} do not count: they were predicted without a measured rate"
        return text


def _bytes(run: MeasuredRun) -> float:
    return run.predicted_bytes


def corrected(
    predicted: Interval, ratios: Sequence[float], noise: float, weights: Sequence[float] | None = None
) -> Interval:
    """An interval after measurements of measured / predicted.

    Args:
        noise: between two like measurements, in the logarithm; their own scatter where that is more.
        weights: of each; 1 where not given.

    >>> corrected(Interval(100.0, 60.0, 150.0), [1.3, 1.3, 1.3], 0.05).point
    129.6
    >>> corrected(Interval(100.0, 60.0, 150.0), [0.4, 5.0], 0.05).point  # they contradict each other
    103.1
    >>> corrected(Interval(100.0, 60.0, 150.0), [], 0.05)
    Interval(point=100.0, low=60.0, high=150.0)
    """
    weighed = zip(ratios, weights or [1.0] * len(ratios), strict=True)
    usable = [(math.log(ratio), weight) for ratio, weight in weighed if ratio > 0 and math.isfinite(ratio)]
    count = sum(weight for _, weight in usable)
    if not count or predicted.low <= 0:
        return predicted
    own = math.log(predicted.high / predicted.low) / 2 / NINETY
    found = sum(log * weight for log, weight in usable) / count
    noise = max(noise, math.sqrt(sum(weight * (log - found) ** 2 for log, weight in usable) / count))
    mean = found * count * own**2 / (count * own**2 + noise**2)
    spread = math.sqrt(own**2 * noise**2 / (count * own**2 + noise**2) + noise**2)
    point, reach = predicted.point * math.exp(mean), math.exp(min(spread, own) * NINETY)
    return Interval(round(point, 1), point / reach, point * reach)


def add_run(run: MeasuredRun) -> None:
    """Note a finished run; a folder that cannot be written is not worth stopping it for."""
    line = json.dumps({**asdict(run), "when": round(time.time(), 1)})
    try:
        home().mkdir(parents=True, exist_ok=True)
        with (home() / "plans.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError:
        return


def recorded(
    device: str, job: str, *, planned_bytes: float = 0.0, planned_seconds: float = 0.0, rate: float = 0.0
) -> Correction | None:
    """The newest runs of a device and a kind of job, if there are any. Lines that cannot be read are passed over.

    Args:
        planned_bytes, planned_seconds, rate: see :class:`Correction`.
    """
    file = home() / "plans.jsonl"
    if not file.is_file():
        return None
    runs = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = dict(parse_json(line))
            values.setdefault("trial", values.pop("probe", False))  # its name in earlier versions
            run = MeasuredRun(**values)
            usable = run.predicted_bytes > 0 and run.predicted_seconds > 0
            usable = usable and run.measured_bytes > 0 and run.measured_seconds > 0
        except (ValueError, TypeError):
            continue
        if run.device == device and run.job == job and usable:
            runs.append(run)
    return Correction(runs[-NEWEST:], planned_bytes, planned_seconds, rate) if runs else None


def _mean(ratios: Sequence[float], weights: Sequence[float]) -> float | None:
    """The weighed geometric mean."""
    count = sum(weights)
    return (
        round(math.exp(sum(math.log(r) * w for r, w in zip(ratios, weights, strict=True)) / count), 4)
        if count
        else None
    )
