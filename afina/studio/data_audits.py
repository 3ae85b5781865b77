"""Audits that the page "data" asked for: each a child process and what it was about, kept while the page is open."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from afina.errors import Problem
from afina.studio.refusal import StudioRefusal, error_values
from afina.studio.verb_child import VerbChild
from afina.text.formats import FORMATS

PASTED = tuple(
    (each.name, f"pasted{each.endings[0]}")
    for each in sorted(FORMATS, key=lambda each: each.gives != "rows")
    if not each.packed and each.gives != "code"
)
"""As what a text can be pasted: the format's name, and the name of a file that says so."""
KEPT = 8
"""Audits at a time, over all open pages; the oldest one makes room."""


@dataclass(frozen=True)
class Looked:
    """What is looked at: a file or folder, or the only file of a temporary folder that holds what was pasted."""

    path: Path
    pasted: TemporaryDirectory[str] | None = None

    def shown(self, text: str) -> str:
        """The places in a text as they are shown: from the file or folder on, without what lies above it."""
        return text.replace(f"{self._above}/", "")

    def hidden(self, place: str) -> str:
        """A place, from one that is shown."""
        return f"{self._above}/{place}"

    def forget(self) -> None:
        """Remove what was pasted."""
        if self.pasted:
            self.pasted.cleanup()

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
    folder = TemporaryDirectory(prefix="afina-studio-")
    (Path(folder.name) / name).write_text(text, encoding="utf-8", newline="")
    # The folder is looked at, not the file: whatever the file is called, it is data and never a recipe.
    return Looked(Path(folder.name), folder)


@dataclass
class AuditJob:
    """One audit."""

    looked: Looked
    child: VerbChild
    rows: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    """Finding and split -> the rows at its places, once they were asked for."""

    def as_json(self, name: str) -> dict[str, Any]:
        """How it stands; with the audit where it is done."""
        told: dict[str, Any] = {"job": name, "state": self.child.state, "said": self.child.said}
        told["seconds"] = round(self.child.seconds, 1)
        if told["state"] == "failed":
            told |= error_values(*self._problems())
        if told["state"] == "done":
            told["audit"] = self.audit()
        return told

    def audit(self) -> dict[str, Any]:
        """``afina data audit --json``, its places as they are shown.

        Raises:
            AfinaError: it failed or was cancelled.
        """
        audit: dict[str, Any] = self.child.value()
        findings = [each | {"examples": [self._shown(at) for at in each["examples"]]} for each in audit["findings"]]
        return audit | {"findings": findings}

    def places(self, finding: str, split: str) -> list[str]:
        """The places of a finding that name a line, each once.

        Raises:
            StudioRefusal: there is no such finding.
        """
        for each in self.child.value()["findings"]:
            if (each["name"], each["split"]) == (finding, split):
                places = [at["where"] for at in each["examples"] if at["where"].rpartition(":")[2].isdecimal()]
                return list(dict.fromkeys(places))
        raise StudioRefusal(404, f"the audit has no finding {finding[:100]!r} of {split[:100]!r}")

    def all_places(self) -> set[str]:
        """Every place that the audit names."""
        return {at["where"] for each in self.child.value()["findings"] for at in each["examples"]}

    def end(self) -> None:
        """Stop it, and forget what was pasted for it."""
        self.child.cancel()
        self.looked.forget()

    def _shown(self, at: dict[str, str]) -> dict[str, str]:
        """One place of a finding; its text may name others."""
        return at | {name: self.looked.shown(at[name]) for name in ("where", "text")}

    def _problems(self) -> list[Problem]:
        return [replace(each, where=self.looked.shown(each.where)) for each in self.child.problems]


class Audits:
    """All that are kept, by a name that nobody can guess; and every other child that reads data meanwhile."""

    def __init__(self) -> None:
        self._jobs: dict[str, AuditJob] = {}
        self._children: set[VerbChild] = set()
        self._lock = threading.Lock()

    def start(self, looked: Looked, options: list[str]) -> str:
        """Audit a file or folder; returns the audit's name."""
        name = secrets.token_urlsafe(12)
        job = AuditJob(looked, VerbChild(["data", "audit", str(looked.path), *options]))
        with self._lock:
            self._jobs[name] = job
            old = [self._jobs.pop(each) for each in list(self._jobs)[:-KEPT]]
        for each in old:
            each.end()
        return name

    def job(self, name: str) -> AuditJob:
        """
        Raises:
            StudioRefusal: it is not kept any more.
        """
        with self._lock:
            found = self._jobs.get(name)
        if found is None:
            raise StudioRefusal(404, "this audit is not kept any more", "audit the file or folder again")
        return found

    def forget(self, name: str) -> None:
        """Stop an audit and forget it; nothing where it is gone."""
        with self._lock:
            job = self._jobs.pop(name, None)
        if job:
            job.end()

    def ask(self, words: list[str]) -> Any:
        """What a verb prints; waits for it.

        Raises:
            AfinaError: what the verb raised.
        """
        with self._child(words) as child:
            return child.value()

    def close(self) -> None:
        """Stop everything and forget everything."""
        with self._lock:
            jobs, children = list(self._jobs.values()), list(self._children)
            self._jobs.clear()
        for child in children:
            child.cancel()
        for job in jobs:
            job.end()

    @contextmanager
    def _child(self, words: list[str]) -> Iterator[VerbChild]:
        child = VerbChild(words)
        with self._lock:
            self._children.add(child)
        try:
            yield child
        finally:
            with self._lock:
                self._children.discard(child)
