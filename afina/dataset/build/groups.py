"""What is held out together when `dataset.split_by` is ``file``: a file, and all files about the same subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from afina.dataset.questions.fact import Fact
from afina.dataset.questions.facts import subject_of
from afina.dataset.questions.labels import fold
from afina.text.document import Document
from afina.text.formats import file_of

if TYPE_CHECKING:
    from afina.dataset.build.spool import ExampleColumns


@dataclass
class Groups:
    """Files joined by what they have in common.

    Two files belong together when their titles name the same subject (before a colon, accents and
    case aside), when they give the same full name, or the same day and place of birth: one person
    may stand under two names.

    >>> groups = Groups()
    >>> groups.join("file a", "subject ana"); groups.join("file b", "subject ana")
    >>> groups.of("file a") == groups.of("file b") != groups.of("file c")
    True
    """

    _above: dict[str, str] = field(default_factory=dict)

    def join(self, one: str, other: str) -> None:
        """Put two names into one group, for good; the smaller name stands for it, whatever the order."""
        first, second = sorted((self.of(one), self.of(other)))
        if first != second:
            self._above[second] = first

    def of(self, name: str) -> str:
        """The name that stands for the group of `name`."""
        path = []
        while (above := self._above.get(name, name)) != name:
            path.append(name)
            name = above
        for passed in path:
            self._above[passed] = name
        return name

    def add(self, document: Document, facts: Sequence[Fact]) -> None:
        """Note a document and what it says about whom."""
        file = f"file {file_of(document.path)}"
        subjects = {fact.subject for fact in facts} or {subject_of(document)[0]}
        names = {
            f"subject {fold(subject)}" for subject in subjects if subject and document.kind not in ("code", "messages")
        }
        for fact in facts:
            if fact.kind in ("full_name", "name"):
                names |= {f"subject {fold(item)}" for item in fact.items if " " in item}
        born = next((fact.date for fact in facts if fact.kind == "birth_date" and fact.date and fact.date[2]), None)
        place = next((fact.items[0] for fact in facts if fact.kind == "birth_place"), "")
        if born and place:
            names.add(f"born {born} {fold(place.split(',')[0])}")
        for name in sorted(names):
            self.join(file, name)

    def keys(self, columns: ExampleColumns, rows: Sequence[int], begins: Sequence[int]) -> list[str]:
        """The group of each of these rows: that of its file. One question in two files joins them as well, and one
        beginning (see :func:`~afina.dataset.build.split.beginnings`)."""
        files = [f"file {file_of(columns.paths[columns.path[row]])}" for row in rows]
        for file, row, begin in zip(files, rows, begins, strict=True):
            if columns.conversation[row]:
                self.join(file, f"prompt {columns.group[row]:016x}")
                self.join(file, f"prompt {begin:016x}")
        return [self.of(file) for file in files]
