"""The list of runs, from their folders alone: of each only what its line shows, and again only where it has changed.

A list of many runs is answered after :data:`SECONDS` of whole readings, those that changed last first. What was only
glanced at says so (``checked``), and the next lists go on with it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from afina.errors import Problem
from afina.report.compare import plain
from afina.studio.facts import SIGNS, Marks, RunFacts, marks_of, read_facts
from afina.studio.pages import render
from afina.studio.security import is_text, run_folder
from afina.studio.settings import StudioSettings
from afina.watch.lock import lock_holder
from afina.watch.state import FoundState, Signs, find_state

ListedState = Literal["new", "running", "finished", "failed", "stopped", "dead", "damaged"]
"""new: no training has begun. running: a process works in it. finished: everything is done, whatever the verdict.
failed: it ended by an error. stopped: by a person or a signal, or after its training. dead: without a word.
damaged: a file cannot be read."""
SECONDS = 0.2
"""Of whole readings for one list."""
_OF_FILES = ("step", "planned_steps", "verdict", "base", "method", "started", "seconds", "cost", "modified", "checked")
_INTERRUPTED = ("Stopped", "KeyboardInterrupt")
_EXITS_BY_VERDICT = (None, 0, 5)


@dataclass(frozen=True)
class RunLine:
    """What the list shows of a run; None is what is not known (yet)."""

    name: str
    state: ListedState
    reason: str
    """Why that is its state: a sentence."""
    stage: str | None = None
    step: int | None = None
    planned_steps: int | None = None
    verdict: Mapping[str, Any] | None = None
    """See :func:`~afina.studio.facts.verdict_values`."""
    base: str | None = None
    method: str | None = None
    started: float | None = None
    """Unix seconds."""
    seconds: float | None = None
    """That its stages took."""
    cost: Mapping[str, Any] | None = None
    """``hours``, ``price_per_hour``, ``money``, ``currency``."""
    modified: float | None = None
    warnings: int | None = None
    """Of its data and its plan; those of its training take its whole log."""
    problem: str | None = None
    checked: bool = True
    """Whether every small file was read, so that a damaged one would show."""

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(asdict(self))
        return values


class RunIndex:
    """The runs of a folder, and what was read of each.

    Args:
        seconds: of whole readings for one list.
        clock: that they are measured by.
    """

    def __init__(
        self, settings: StudioSettings, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings, self.seconds, self.clock = settings, seconds, clock
        self._kept: dict[str, tuple[Marks, RunFacts]] = {}
        self._left = 0.0
        self._one_at_a_time = threading.Lock()

    def lines(self) -> list[RunLine]:
        """Every run, the one that changed last first."""
        with self._one_at_a_time:
            self._left = self.seconds
            found = sorted(self._present(), key=lambda each: (-each[2], each[0]))
            self._kept = {name: self._kept[name] for name, _, _ in found if name in self._kept}
            return [
                self._line(name, self._facts(name, marks, whole=self._left > 0)) if is_text(name) else _no_name(name)
                for name, marks, _ in found
            ]

    def line(self, name: str) -> RunLine:
        """One run, read whole."""
        return self._line(name, self.facts(name))

    def facts(self, name: str) -> RunFacts:
        """What the files of one run tell, read whole."""
        folder = run_folder(self.settings, name)
        with self._one_at_a_time:
            return self._facts(name, marks_of(folder), whole=True)

    def _present(self) -> Iterator[tuple[str, Marks, int]]:
        """Name, marks of its files, and when it changed last, of each run."""
        try:
            entries = list(os.scandir(self.settings.runs))
        except FileNotFoundError:
            return
        for entry in entries:
            marks = marks_of(Path(entry.path)) if entry.is_dir() else {}
            if any(name in marks for name in SIGNS):
                yield entry.name, marks, max(mark[0] for mark in marks.values())

    def _facts(self, name: str, marks: Marks, *, whole: bool) -> RunFacts:
        kept, facts = self._kept.get(name, ({}, RunFacts()))
        if kept != marks or (whole and not facts.checked):
            folder, began = self.settings.runs / name, self.clock()
            facts = read_facts(self.settings, folder, marks, whole=whole, before=(kept, facts))
            self._left -= self.clock() - began if whole else 0.0
            self._kept[name] = marks, facts
        return facts

    def _line(self, name: str, facts: RunFacts) -> RunLine:
        signs = Signs(
            holder=lock_holder(self.settings.runs / name / ".lock"),
            finished=facts.finished,
            stages=facts.stages,
            last=facts.stage_event,
            trained_at=facts.step,
            problems=facts.problems,
        )
        found = find_state(signs)
        state = _listed(found, facts)
        return RunLine(
            name,
            state,
            found.reason,
            found.stage,
            warnings=len(facts.cautions) if facts.checked else None,
            problem=_problem(state, found, facts),
            **{key: getattr(facts, key) for key in _OF_FILES},
        )


def _no_name(name: str) -> RunLine:
    """A run whose folder no page can name. It hides no other."""
    shown = os.fsencode(name).decode("utf-8", errors="replace")
    why = "the name of its folder is no UTF-8: rename the folder"
    return RunLine(shown, "damaged", why, problem=why)


def _listed(found: FoundState, facts: RunFacts) -> ListedState:
    """The state that the list shows: by whose will a run ended counts there, and not how far it came."""
    if found.state == "finished":
        code = facts.finished.number("exit_code") if facts.finished else None
        return "finished" if code in _EXITS_BY_VERDICT else "failed"
    if found.state == "stopped":
        return "stopped" if found.error in _INTERRUPTED else "failed"
    if found.state == "not trained":
        return "failed" if facts.said else "new"
    others: dict[str, ListedState] = {"trained": "stopped", "killed": "dead", "running": "running"}
    return others.get(found.state, "damaged")


def _problem(state: ListedState, found: FoundState, facts: RunFacts) -> str | None:
    if state == "failed":
        return str(facts.said) if facts.said and found.state == "not trained" else found.reason
    return _told(facts.problems) if state == "damaged" else None


def _told(problems: tuple[Problem, ...]) -> str:
    """The first damaged file, and how many more there are."""
    first, more = problems[0], len(problems) - 1
    return f"{Path(first.where).name}: {first.what}" + (f" (and {more} more)" if more else "")


def routes(settings: StudioSettings, index: RunIndex) -> APIRouter:
    """The page and its list."""
    made = APIRouter()

    @made.get("/")
    def page() -> Response:
        """The page of all runs."""
        return render("runs.html", settings, here="/")

    @made.get("/api/runs")
    def runs() -> Response:
        """Every run, a line each."""
        lines = index.lines()
        unchecked = sum(not line.checked for line in lines)
        listed = [line.as_json() for line in lines]
        return JSONResponse({"runs": listed, "folder": str(settings.runs), "unchecked": unchecked})

    return made
