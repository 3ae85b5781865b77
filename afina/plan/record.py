"""What finished runs and trial steps teach later plans on the same machine.

Each run adds one line to ``plans.jsonl`` in :func:`afina.plan.tables.home`: what was predicted and what was
measured. A later plan for the same device and kind of job is corrected by their mean ratio, drawn towards 1 as far as
the plan's own uncertainty asks for (normal-normal in the logarithm), and its interval narrows with each of them:

    mean = n * r * a**2 / (n * a**2 + b**2)        a  the plan's own spread, b  a measurement's
    spread**2 = a**2 * b**2 / (n * a**2 + b**2) + b**2
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Correction:
    """What measured runs say about a plan."""

    runs: Sequence[MeasuredRun]

    def of_memory(self, predicted: Interval) -> Interval:
        """The peak, drawn towards what was measured."""
        noise = MEMORY_NOISE / 2 if any(run.trial for run in self.runs) else MEMORY_NOISE
        return corrected(predicted, [run.measured_bytes / run.predicted_bytes for run in self.runs], noise)

    def of_time(self, predicted: Interval) -> Interval:
        """Seconds of training, drawn towards what was measured."""
        noise = TRIAL_NOISE if any(run.trial for run in self.runs) else TIME_NOISE
        return corrected(predicted, [run.measured_seconds / run.predicted_seconds for run in self.runs], noise)

    def as_json(self) -> dict[str, Any]:
        """How many runs, and their median ratios measured / predicted."""
        return {
            "runs": len(self.runs),
            "trial": any(run.trial for run in self.runs),
            "memory_ratio": _mean([run.measured_bytes / run.predicted_bytes for run in self.runs]),
            "time_ratio": _mean([run.measured_seconds / run.predicted_seconds for run in self.runs]),
        }


def corrected(predicted: Interval, ratios: Sequence[float], noise: float) -> Interval:
    """An interval after measurements of measured / predicted.

    >>> corrected(Interval(100.0, 60.0, 150.0), [1.3, 1.3, 1.3], 0.05).point
    129.6
    >>> corrected(Interval(100.0, 60.0, 150.0), [], 0.05)
    Interval(point=100.0, low=60.0, high=150.0)
    """
    usable = [ratio for ratio in ratios if ratio > 0 and math.isfinite(ratio)]
    if not usable or predicted.low <= 0:
        return predicted
    own = math.log(predicted.high / predicted.low) / 2 / NINETY
    count = len(usable)
    mean = sum(map(math.log, usable)) * own**2 / (count * own**2 + noise**2)
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


def recorded(device: str, job: str) -> Correction | None:
    """The newest runs of a device and a kind of job, if there are any. Lines that cannot be read are passed over."""
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
    return Correction(runs[-NEWEST:]) if runs else None


def _mean(ratios: Sequence[float]) -> float:
    return round(math.exp(sum(map(math.log, ratios)) / len(ratios)), 4) if all(ratio > 0 for ratio in ratios) else 0.0
