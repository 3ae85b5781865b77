"""A run read from its folder alone, while it goes on or afterwards. No lock is taken and nothing is written."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from afina.errors import AfinaError, Problem, RecipeError
from afina.recipe.yaml_text import parse_yaml
from afina.record import Record, read_record
from afina.run import parse_json, read_stages
from afina.watch.follow import MetricsFollower
from afina.watch.judge import WINDOW, judge
from afina.watch.lock import lock_holder
from afina.watch.state import Signs, find_state
from afina.watch.training_log import RunLog, TrainingLog, number_in, whole_in
from afina.watch.view import RunView, SampleView, TrainingView

_SIGNS_OF_A_RUN = ("recipe.yaml", "metrics.jsonl", "stages.json", "finished.json")
_TAIL = 2**16
"""Bytes of the end of a file of samples that are looked at."""
_TRAININGS = ("first", "train")


class RunReader:
    """Follows a run: each :meth:`look` reads what is new and tells how the run stands.

    Args:
        folder: the run's.
        clock: seconds since 1970, as events are stamped with.
        metrics: follows its log; by default every line of it.

    Raises:
        RecipeError: there is no run in `folder`.
    """

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, metrics: MetricsFollower | None = None
    ) -> None:
        if not is_run(folder):
            what = "there is no run here" if folder.is_dir() else "there is no such folder"
            raise RecipeError(what, f"name a folder that `afina run` made{_beside(folder)}", str(folder))
        self.folder, self.clock = folder, clock
        self._metrics = metrics or MetricsFollower(folder / "metrics.jsonl")
        self._files = _KeptFiles()
        self._log = RunLog()

    def look(self) -> RunView:
        """How the run stands now. What a file does not tell because it is damaged is among the view's ``problems``."""
        # First of all: what a process does between two glances then shows as "running", never as "killed".
        holder = lock_holder(self.folder / ".lock")
        if not self.folder.is_dir():
            raise RecipeError("the run is not there any more", "it was moved or removed", str(self.folder))
        if self._metrics.replaced():
            self._log = RunLog()
        for events in self._metrics.new_events():
            self._log.take(events)
        problems: list[Problem] = []
        files = self._files.read(self.folder, problems)
        signs = Signs(
            holder=holder,
            finished=files.finished,
            stages=files.stages,
            last=self._log.stage_event,
            trained_at=self._reached(),
            problems=tuple(problems),
        )
        found = find_state(signs)
        trainings = tuple(
            self._view(log, files, running=found.state == "running" and found.stage in (name, None))
            for name in _TRAININGS
            if (log := self._log.trainings.get(name))
        )
        view = RunView(
            folder=self.folder,
            name=files.name or self.folder.resolve().name,
            state=found.state,
            reason=found.reason,
            stage=found.stage,
            trainings=trainings,
            last_event=self._log.last_event,
            currency=files.currency,
            sample=files.sample,
            verdict=files.verdict,
            stages=files.stages,
            usable_bytes=files.usable_bytes,
            error=found.error,
            problems=(*problems, *found.said),
            recipe=files.recipe,
        )
        return judge(view, now=self.clock(), unreadable=self._metrics.unreadable)

    def _reached(self) -> int | None:
        """The last step of the training that came last; None where none has begun."""
        logs = [self._log.trainings[name] for name in _TRAININGS if name in self._log.trainings]
        return whole_in(logs[-1].latest, "step") or 0 if logs else None

    def _view(self, log: TrainingLog, files: _FileFacts, *, running: bool) -> TrainingView:
        """A training's figures."""
        steps, latest = log.steps, log.latest
        speeds = [speed for speed in steps["tokens_per_second"][-WINDOW:] if math.isfinite(speed)]
        losses = steps["loss"][-WINDOW:]
        done = log.name in files.stages or files.finished is not None
        logged, at = number_in(latest, "eta_seconds"), number_in(latest, "time")
        # A clock that was set back, or another machine's, adds nothing to what is left. Of a process that has just gone
        # on and made no step yet, what the one before it thought counts no more.
        left = logged - max(self.clock() - at, 0.0)
        eta = max(left, 0.0) if running and not done and log.goes_on else math.nan
        return TrainingView(
            log.name,
            steps,
            tuple(log.held_out),
            step=int(steps["step"][-1]) if len(steps) else 0,
            planned_steps=log.planned,
            epoch=whole_in(latest, "epoch"),
            done=done,
            loss=_known(sum(losses) / len(losses)) if losses else None,
            learning_rate=_known(number_in(latest, "learning_rate")),
            tokens_per_second=statistics.median(speeds) if speeds else None,
            memory_bytes=_known(number_in(latest, "memory_bytes")),
            peak_memory_bytes=log.peak_memory or None,
            tokens=sum(count for count in steps["tokens"] if count == count),
            eta_seconds=_known(eta),
            money=_known(number_in(latest, "money")),
            resumed=tuple(log.resumed),
            went_back=tuple(log.went_back),
            smaller_batches=tuple(log.smaller_batches),
            stopped_early=log.stopped_early,
            checkpoint=log.checkpoint,
            device=_text(log.computing.get("device")),
            precision=_text(log.computing.get("precision")),
        )


def is_run(folder: Path) -> bool:
    """Whether a folder holds what a run writes."""
    return any((folder / name).exists() for name in _SIGNS_OF_A_RUN)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _beside(folder: Path) -> str:
    """Which runs lie where this one was looked for, as the end of a sentence."""
    try:
        near = sorted(each.parent.name for each in folder.parent.glob("*/recipe.yaml"))
    except OSError:
        near = []
    shown = ", ".join(str(folder.parent / name) for name in near[:5])
    return f": {shown}" + (" ..." if len(near) > 5 else "") if near else ", such as runs/<name>"


@dataclass(frozen=True)
class _FileFacts:
    """What the run's other files tell."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    finished: Record | None = None
    usable_bytes: float | None = None
    verdict: str | None = None
    sample: SampleView | None = None

    @property
    def name(self) -> str | None:
        return _text(self.recipe.get("name"))

    @property
    def currency(self) -> str:
        budget = self.recipe.get("budget")
        return (_text(budget.get("currency")) if isinstance(budget, Mapping) else None) or "US$"


class _KeptFiles:
    """The run's small files, each read again only where it has changed."""

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[Any, Any]] = {}

    def read(self, folder: Path, problems: list[Problem]) -> _FileFacts:
        """What they tell now; of a damaged one, what is wrong is added to `problems`."""

        def kept(name: str, reader: Callable[[Path], Any], absent: Any = None) -> Any:
            try:
                found = self._of(folder / name, reader)
            except AfinaError as error:
                problems.extend(error.problems)
                return absent
            return absent if found is None else found

        finished = kept("finished.json", read_record)
        scores = kept("scores.json", read_record)
        plan = kept("plan.json", read_record)
        try:
            usable = plan.record("memory").number("usable") if plan else None
            verdict = finished.text("verdict") if finished else None
            verdict = verdict or (scores.record("verdict").text("text") if scores else None)
        except AfinaError as error:
            problems.extend(error.problems)
            usable, verdict = None, None
        return _FileFacts(
            recipe=kept("recipe.yaml", _read_recipe, {}),
            stages=tuple(kept("stages.json", read_stages, {})),
            finished=finished,
            usable_bytes=usable,
            verdict=verdict,
            sample=kept("samples.jsonl", last_sample) or kept("continuations.jsonl", last_sample),
        )

    def _of(self, path: Path, reader: Callable[[Path], Any]) -> Any:
        try:
            found = path.stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if path not in self._kept or self._kept[path][0] != mark:
                self._kept[path] = mark, reader(path)
        except FileNotFoundError:  # not there, or moved away between the two
            self._kept.pop(path, None)
            return None
        return self._kept[path][1]


def _read_recipe(path: Path) -> Mapping[str, Any]:
    """The resolved recipe as plain values. Not `load_recipe`: the paths in it need not exist on this machine."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, YAMLError) as error:
        raise AfinaError(f"damaged: {error}", "start the run again: it is written anew", str(path)) from error
    if not isinstance(content, dict):
        raise AfinaError(f"should hold a mapping and holds a {type(content).__name__}", "", str(path))
    return content


def last_sample(path: Path) -> SampleView | None:
    """The last whole line of a file of samples."""
    with path.open("rb") as opened:
        opened.seek(max(0, path.stat().st_size - _TAIL))
        lines = opened.read().split(b"\n")
    for line in reversed(lines):
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("prompt"), str):
            written = next((row[key] for key in ("adapter", "output", "text") if isinstance(row.get(key), str)), None)
            if written is not None:
                return SampleView(row["prompt"], written, _text(row.get("base")) or "", path.name)
    return None
