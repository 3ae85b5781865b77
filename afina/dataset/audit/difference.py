"""What changed between two datasets: rows added, removed, changed, and moved across the split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from afina.dataset.audit.read_files import AuditReading, find_splits, read_files
from afina.errors import DataError, Problem, RecipeError
from afina.run import Progress, no_progress
from afina.text.example import Example, read_examples
from afina.text.identity import content_key, group_key

PLACES = 5
SPLITS = ("train", "validation", "test")


@dataclass(slots=True)
class Kind:
    """Rows that differ in one way, and the first places."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def note(self, place: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.places) < PLACES:
            self.places.append(place)


@dataclass(frozen=True, slots=True)
class Difference:
    """How B differs from A. Rows that say the same are the same, wherever they stand (:mod:`afina.text.identity`)."""

    rows: tuple[int, int]
    same: int = 0
    added: Kind = field(default_factory=Kind)
    removed: Kind = field(default_factory=Kind)
    changed: Kind = field(default_factory=Kind)
    """The same question with another answer; of a text, its section of the same file under the same headings."""
    moved: Kind = field(default_factory=Kind)
    """The same row on the other side of the split."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    def describe(self) -> str:
        """In words."""
        lines = [f"{self.rows[0]} rows before, {self.rows[1]} now; {self.same} are the same and where they were"]
        for name in ("added", "removed", "changed", "moved"):
            kind: Kind = getattr(self, name)
            lines.append(f"{name:<9}{kind.count:>8}")
            lines += [f"         {place}" for place in kind.places]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Row:
    split: str
    where: str
    subject: int
    """What it is about: the same for two rows of which one is the other, changed."""


def difference(before: Path, after: Path, progress: Progress = no_progress) -> Difference:
    """Compare two dataset folders, or any files or folders that can be read.

    Raises:
        RecipeError: there is no such file or folder.
        DataError: a row or a file cannot be read.
    """
    one, two = (_rows(path, progress) for path in (before, after))
    found = Difference((sum(map(len, one.values())), sum(map(len, two.values()))))
    same, gone, new = 0, [], []
    for key in one.keys() | two.keys():
        old, now = one.get(key, []), two.get(key, [])
        paired = min(len(old), len(now))
        stayed = sum(min(_in(old, split), _in(now, split)) for split in SPLITS)
        same += stayed
        for left, right in list(zip(old, now, strict=False))[: paired - stayed]:
            found.moved.note(f"{left.where} ({left.split}) -> {right.where} ({right.split})")
        gone += old[paired:]
        new += now[paired:]
    by_subject: dict[int, list[_Row]] = {}
    for row in sorted(new, key=_order):
        by_subject.setdefault(row.subject, []).append(row)
    for row in sorted(gone, key=_order):
        if others := by_subject.get(row.subject):
            found.changed.note(f"{row.where} -> {others.pop(0).where}")
        else:
            found.removed.note(row.where)
    for row in sorted((row for rows in by_subject.values() for row in rows), key=_order):
        found.added.note(row.where)
    return Difference(found.rows, same, found.added, found.removed, found.changed, found.moved)


def _in(rows: list[_Row], split: str) -> int:
    return sum(row.split == split for row in rows)


def _order(row: _Row) -> tuple[str, int]:
    path, _, line = row.where.rpartition(":")
    return path, int(line)


def _rows(path: Path, progress: Progress) -> dict[int, list[_Row]]:
    """All rows of one side by what they say."""
    rows: dict[int, list[_Row]] = {}
    for split, example in read_placed_rows(path, progress):
        row = _Row(split, f"{example.path}:{example.line}", _subject(example))
        rows.setdefault(int(content_key(example), 16), []).append(row)
    return rows


def _subject(example: Example) -> int:
    """Of a conversation its question; of a text where it stands."""
    if example.messages:
        return int(group_key(example), 16)
    name = f"{Path(example.path).name} {example.heading or example.line}"
    return int(group_key(Example(text=name)), 16)


def read_placed_rows(path: Path, progress: Progress = no_progress) -> Iterator[tuple[str, Example]]:
    """The rows of a dataset folder, a run, or any file or folder, each with its side of the split.

    Raises:
        RecipeError: there is no such file or folder.
        DataError: a row or a file cannot be read.
    """
    if not path.exists():
        raise RecipeError(problems=[Problem("there is no such file or folder", "check the path", str(path))])
    folder = path / "dataset" if (path / "dataset" / "train.jsonl").exists() else path
    if (folder / "train.jsonl").exists() and (folder / "dataset.json").exists():
        for split in SPLITS:
            if (folder / f"{split}.jsonl").exists():
                yield from ((split, example) for example in read_examples(folder / f"{split}.jsonl"))
        return
    reading, splits = AuditReading(), find_splits([path])
    yield from ((splits.get(example.path, "train"), example) for example in read_files(path, reading, progress))
    if reading.problems:
        raise DataError(problems=reading.problems)
