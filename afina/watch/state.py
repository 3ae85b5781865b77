"""In which state a run is, by the signs that its folder gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import Problem
from afina.record import Record
from afina.run import again
from afina.watch.lock import UNNAMED, command_of
from afina.watch.view import State

_TRAININGS = ("first", "train")


@dataclass(frozen=True)
class Signs:
    """What tells the state of a run."""

    holder: int | None
    """The process that holds the run's lock; None where nobody does."""
    finished: Record | None
    """``finished.json``, the last file that a run writes."""
    stages: Sequence[str]
    """The stages that are done, by ``stages.json``."""
    last: Mapping[str, Any]
    """The last event ``stage`` of ``metrics.jsonl``; runs of older versions have none."""
    trained_at: int | None
    """The last step of the last training; None where none has begun."""
    problems: tuple[Problem, ...] = ()
    """Files of the run that are damaged."""

    @property
    def stage(self) -> str | None:
        """The stage that began or ended last."""
        name = self.last.get("name")
        if isinstance(name, str):
            return name
        return "train" if self.trained_at is not None and "train" not in self.stages else None

    @property
    def under_way(self) -> bool:
        """Whether a stage has begun and did not say that it ended."""
        if self.last:
            return self.last.get("state") == "began"
        return self.trained_at is not None and "train" not in self.stages


@dataclass(frozen=True)
class FoundState:
    """The state of a run, and why it is that."""

    state: State
    reason: str
    """In a sentence."""
    stage: str | None
    said: tuple[Problem, ...] = ()
    """How the run said that it ended."""
    error: str | None = None


def find_state(signs: Signs) -> FoundState:
    """The state of a run by its signs.

    >>> nothing = Signs(None, None, (), {}, None)
    >>> find_state(nothing).reason
    'no training has begun'
    >>> found = find_state(Signs(None, None, (), {"name": "train", "state": "began"}, 245))
    >>> found.state, found.reason
    ('killed', 'it ended without a word in the stage train, after step 245')
    """
    stage, at = signs.stage, f", after step {signs.trained_at}" if signs.trained_at is not None else ""
    where = f" in the stage {stage}{at if stage in _TRAININGS else ''}" if stage else at
    if signs.problems:
        count = len(signs.problems)
        return FoundState(
            "damaged", f"{count} of its files cannot be read" if count > 1 else "a file is damaged", stage
        )
    if signs.holder is not None and (signs.under_way or not signs.finished):
        return FoundState("running", f"{_named(signs.holder)} works in it", stage)
    if signs.finished:
        used = f"; {_named(signs.holder)} has it open" if signs.holder is not None else ""
        return FoundState("finished", f"everything is done{used}", stage)
    if signs.last.get("state") == "stopped":
        said, error = tuple(_problems_in(signs.last)), str(signs.last.get("error"))
        return FoundState("stopped", f"it stopped{where}: {said[0].what if said else error}", stage, said, error)
    if signs.under_way:
        return FoundState("killed", f"it ended without a word{where}", stage)
    if "train" in signs.stages:
        return FoundState("trained", f"it is trained{at}, and what comes after is not done", stage)
    if signs.trained_at is not None:
        return FoundState("killed", f"it ended without a word{at}", stage)
    return FoundState("not trained", "no training has begun", stage)


def next_step(state: State, folder: Path) -> str:
    """What to do about a run in this state: a command, or nothing."""
    if state in ("killed", "stopped", "trained", "not trained"):
        return f"to go on: {again(folder)}"
    return ""


def _named(process: int) -> str:
    if process == UNNAMED:
        return "another process"
    command = command_of(process)
    return f"process {process}" + (f" ({command})" if command else "")


def _problems_in(event: Mapping[str, Any]) -> list[Problem]:
    """The problems that a stage logged when it stopped."""
    rows = event.get("problems")
    found = []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, Mapping) and all(isinstance(row.get(key), str) for key in ("what", "fix", "where")):
            found.append(Problem(row["what"], row["fix"], row["where"]))
    return found
