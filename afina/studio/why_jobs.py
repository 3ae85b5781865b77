"""Answers of the playground that are explained: each ``afina why --json`` in a process of its own, kept for who asks
again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import AfinaError
from afina.studio.jobs import ask
from afina.studio.kept_jobs import KeptJobs
from afina.studio.refusal import StudioRefusal, error_values

KEPT = 32
"""Explanations at a time, over all open pages; the oldest one makes room."""
ROWS = 5
"""Rows of each sign that are shown."""
STANDS_ON = ("recipe.yaml", "adapter/adapter_model.safetensors", "dataset/train.jsonl")
"""Files of a run: where one is another by now, so may be the rows behind an answer."""


@dataclass(frozen=True)
class Explained:
    """Whose answer to what is explained."""

    run: Path
    base: str | None
    """Where it is now, where it is not where the run's recipe names it."""
    question: str
    answer: str

    @property
    def arguments(self) -> list[str]:
        """Of the verb."""
        return [str(self.run), self.question, *([f"base={self.base}"] if self.base else [])]

    @property
    def options(self) -> list[str]:
        """Of the verb."""
        return [f"--answer={self.answer}", f"--top={ROWS}"]

    @property
    def stands_on(self) -> tuple[tuple[int, int], ...]:
        """Of each of :data:`STANDS_ON` when it was written and its bytes; (0, 0) where it is not there."""
        return tuple(map(_written, (self.run / name for name in STANDS_ON)))


def _written(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


class WhyJob:
    """One explanation as it goes on, and what came out."""

    def __init__(self, explained: Explained, turn: asyncio.Lock) -> None:
        """Begin, in an event loop.

        Args:
            turn: held by the one that computes: two would hold two models, and of one run the second would be refused.
        """
        self.explained, self.stands_on, self.said = explained, explained.stands_on, ""
        self._turn, self._began, self._seconds = turn, time.monotonic(), 0.0
        self._waits = True
        self._task = asyncio.get_running_loop().create_task(self._explain())

    @property
    def holds(self) -> bool:
        """Whether it is worth asking for again: it goes on, or it was found, of files that are still the same."""
        if not self._task.done():
            return True
        failed = self._task.cancelled() or self._task.exception() is not None
        return not failed and self.stands_on == self.explained.stands_on

    def as_json(self, name: str) -> dict[str, Any]:
        """How it stands: ``waiting``, ``running``, ``failed`` (with its problems) or ``done`` (with what the verb
        told as ``why``)."""
        running = not self._task.done()
        seconds = time.monotonic() - self._began if running else self._seconds
        told = {"job": name, "said": self.said, "seconds": round(seconds, 1)}
        if running:
            return told | {"state": "waiting" if self._waits else "running"}
        try:
            why = self._task.result()
        except AfinaError as error:
            return told | {"state": "failed"} | error_values(*error.problems)
        return told | {"state": "done", "why": {key: why[key] for key in ("method", "asked", "for", "against", "rows")}}

    async def end(self) -> None:
        """Stop it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _explain(self) -> dict[str, Any]:
        try:
            async with self._turn:
                self._waits = False
                given = self.explained
                return await ask(
                    "why", *given.options, behind=given.arguments, said=self._note, seconds=None, offline=True
                )
        finally:
            self._seconds = time.monotonic() - self._began

    def _note(self, line: str) -> None:
        self.said = line


class WhyJobs(KeptJobs[WhyJob]):
    """All explanations that are kept."""

    def __init__(self) -> None:
        super().__init__(KEPT)
        self._turn = asyncio.Lock()

    async def start(self, explained: Explained) -> str:
        """Explain an answer, or go on with the explanation of the very same; returns its name."""
        for name, job in list(self.kept.items()):
            if job.explained == explained:
                if job.holds:
                    return name
                await self.forget(name)
        return await self.keep(WhyJob(explained, self._turn))

    def gone(self) -> StudioRefusal:
        return StudioRefusal(404, "this explanation is not kept any more", "ask why again")
