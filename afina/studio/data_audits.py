"""Audits that the page "data" asked for: each a child process and what it was about, kept while the page is open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.errors import AfinaError
from afina.report.language import in_language
from afina.report.sentences import StoredSentence
from afina.studio.jobs import ask
from afina.studio.kept_jobs import KeptJobs
from afina.studio.refusal import StudioRefusal, error_values
from afina.studio.translate import sentence_values
from afina.temporary import held_folder
from afina.text.formats import FORMATS

PASTED = tuple(
    (each.name, f"pasted{each.endings[0]}")
    for each in sorted(FORMATS, key=lambda each: each.gives != "rows")
    if each.endings and not each.packed and not each.export and each.gives != "code"
)
"""As what a text can be pasted: the format's name, and the name of a file that says so."""
KEPT = 8
"""Audits at a time, over all open pages; the oldest one makes room."""


@dataclass(frozen=True)
class Looked:
    """What is looked at: a file or folder, or the only file of a temporary folder that holds what was pasted."""

    path: Path
    pasted: ExitStack | None = None

    def shown(self, text: str) -> str:
        """The places in a text as they are shown: from the file or folder on, without what lies above it."""
        return text.replace(f"{self._above}/", "")

    def hidden(self, place: str) -> str:
        """A place, from one that is shown."""
        return f"{self._above}/{place}"

    def forget(self) -> None:
        """Remove what was pasted."""
        if self.pasted:
            self.pasted.close()

    @property
    def _above(self) -> Path:
        return self.path if self.pasted else self.path.parent


def pasted(text: str, name: str) -> Looked:
    """A text as a file in a temporary folder that only this user may read.

    Args:
        name: one of :data:`PASTED`; it says how the text is read.

    Raises:
        StudioRefusal: it is another.
    """
    if name not in dict(PASTED).values():
        raise StudioRefusal(400, f"{name[:100]!r} is no name of a pasted text", "pasted.jsonl or pasted.md, say")
    with ExitStack() as kept:
        folder = kept.enter_context(held_folder("studio"))
        (folder / name).write_text(text, encoding="utf-8", newline="")
        # The folder is looked at, not the file: whatever the file is called, it is data and never a recipe.
        return Looked(folder, kept.pop_all())


class AuditJob:
    """One audit: ``afina data audit --json`` as it goes on, and what came out."""

    def __init__(self, looked: Looked, options: Sequence[str]) -> None:
        self.looked, self.said = looked, ""
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """Finding and split -> the rows at its places, once they were asked for."""
        self._began, self._seconds = time.monotonic(), 0.0
        self._task = asyncio.get_running_loop().create_task(self._audit(options))

    def as_json(self, name: str, language: str) -> dict[str, Any]:
        """How it stands; with the audit where it is done, its places as they are shown, and ``told``: what each finding
        means and what to do, in a language where it is known in that."""
        running = not self._task.done()
        seconds = time.monotonic() - self._began if running else self._seconds
        told = {"job": name, "state": "running", "said": self.said, "seconds": round(seconds, 1)}
        if running:
            return told
        try:
            audit = self.result()
        except AfinaError as error:
            problems = [replace(each, where=self.looked.shown(each.where)) for each in error.problems]
            return told | {"state": "failed"} | error_values(*problems)
        with in_language(language):
            findings = [self._told(each) for each in audit["findings"]]
        return told | {"state": "done", "audit": audit | {"findings": findings}}

    def result(self) -> dict[str, Any]:
        """What the verb printed.

        Raises:
            StudioRefusal: 409, it goes on still.
            AfinaError: it failed.
        """
        if not self._task.done():
            raise StudioRefusal(409, "the audit goes on still", "wait for it")
        return self._task.result()

    def places(self, finding: str, split: str) -> list[str]:
        """The places of a finding that name a line, each once.

        Raises:
            StudioRefusal: 404, there is no such finding; and as :meth:`result`.
        """
        for each in self.result()["findings"]:
            if (each["name"], each["split"]) == (finding, split):
                places = [at["where"] for at in each["examples"] if at["where"].rpartition(":")[2].isdecimal()]
                return list(dict.fromkeys(places))
        raise StudioRefusal(404, f"the audit has no finding {finding[:100]!r} of {split[:100]!r}")

    def names(self, place: str) -> bool:
        """Whether it names a place."""
        return any(at["where"] == place for each in self.result()["findings"] for at in each["examples"])

    async def end(self) -> None:
        """Stop it, and forget what was pasted for it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.looked.forget()

    async def _audit(self, options: Sequence[str]) -> dict[str, Any]:
        try:
            return await ask("data audit", *options, str(self.looked.path), said=self._note, seconds=None, offline=True)
        finally:
            self._seconds = time.monotonic() - self._began

    def _note(self, line: str) -> None:
        self.said = line

    def _told(self, finding: dict[str, Any]) -> dict[str, Any]:
        told = {key: sentence_values(StoredSentence(finding[key])) for key in ("what", "fix")}
        return finding | {"examples": [self._shown(at) for at in finding["examples"]], "told": told}

    def _shown(self, at: dict[str, str]) -> dict[str, str]:
        """One place of a finding; its text may name others."""
        return at | {name: self.looked.shown(at[name]) for name in ("where", "text")}


class Audits(KeptJobs[AuditJob]):
    """All audits that are kept."""

    def __init__(self) -> None:
        super().__init__(KEPT)

    async def start(self, looked: Looked, options: Sequence[str], name: str) -> str:
        """Audit a file or folder; returns the audit's name."""
        return await self.keep(AuditJob(looked, options), name)

    def gone(self) -> StudioRefusal:
        return StudioRefusal(404, "this audit is not kept any more", "audit the file or folder again")
