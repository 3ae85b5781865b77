"""A :class:`ProseQuestion`: one line of a dataset folder's ``prose.jsonl``, a question about prose that can be marked.

The dataset's builder writes them (:mod:`afina.dataset.questions.prose`), the evaluation asks them. None of the prompts
is trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from afina.errors import DataError
from afina.run import parse_json
from afina.text.identity import short_hash

PROSE_FILE = "prose.jsonl"
ProseKind = Literal["cloze", "terms", "change", "definition", "list"]
PROSE_KINDS: tuple[ProseKind, ...] = get_args(ProseKind)
CHOICES = 8
"""The true sentence and its distractors; guessing finds the true one in one of so many."""


@dataclass(frozen=True, slots=True)
class ProseQuestion:
    """A question, and what it takes to mark an answer without a reader.

    - *choice*, where `wrong` is not empty: the true sentence `right` beside seven false ones (:data:`CHOICES` in all),
      which differ from it in `gap` alone.
    - *coverage*, where `terms` is not empty: a good free answer holds these.
    - *versions*, where `outdated` is not empty: the answer holds one of `terms` and none of `outdated`.

    >>> asked = ProseQuestion("change", "a.md > 0.14", "a.md", 3, "What replaced `@old`?", terms=("@new",),
    ...                       outdated=("@old",))
    >>> ProseQuestion.from_json(asked.as_json()) == asked, len(asked.id)
    (True, 16)
    """

    kind: ProseKind
    section: str
    """File and path of headings: questions of one section are no independent ones."""
    path: str
    line: int
    """In the file, counted from 1."""
    prompt: str
    right: str = ""
    """The true sentence; empty where there is none to choose."""
    wrong: tuple[str, ...] = ()
    gap: str = ""
    """What of `right` its distractors have otherwise."""
    terms: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    held_out: bool = False
    """Whether nothing of its section was trained."""

    @property
    def id(self) -> str:
        """Hash of what is asked, of which section, and what is right: the same whether or not it was trained."""
        said = [self.kind, self.section, self.prompt, self.right, *self.wrong, self.gap, *self.terms, ""]
        return short_hash("\0".join([*said, *self.outdated]))

    def as_json(self) -> dict[str, Any]:
        """The row as it stands in the file."""
        return {"id": self.id} | asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> ProseQuestion:
        """The opposite of :meth:`as_json`.

        Raises:
            KeyError, TypeError, ValueError: it is no such row.
        """
        values: dict[str, Any] = {each.name: row[each.name] for each in fields(cls)}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        question = cls(**(values | lists))
        question.check()
        if row["id"] != question.id:
            raise ValueError("its id is not that of its content")
        return question

    def check(self) -> None:
        """
        Raises:
            TypeError: a value is of another kind.
            ValueError: it cannot be marked, or half a character stands in it.
        """
        texts = [self.kind, self.section, self.path, self.prompt, self.right, self.gap]
        texts += [*self.wrong, *self.terms, *self.outdated]
        for kind, values in ((str, texts), (int, [self.line]), (bool, [self.held_out])):
            for value in values:
                if type(value) is not kind:
                    raise TypeError(f"{value!r:.60} where {kind.__name__} belongs")
        "".join(texts).encode()
        if self.kind not in PROSE_KINDS:
            raise ValueError(f"unknown kind {self.kind!r:.60}")
        if not self.prompt.strip() or not (self.wrong or self.terms):
            raise ValueError("it asks nothing, or says nothing of a right answer")
        if self.wrong and (len({self.right, *self.wrong}) != CHOICES or len(self.wrong) != CHOICES - 1):
            raise ValueError(f"{CHOICES} different sentences to choose from are needed")
        if self.wrong and not (self.gap and self.gap in self.right):
            raise ValueError("its gap is no part of the true sentence")


def write_prose(file: Path, questions: Iterable[ProseQuestion]) -> None:
    """Write questions one a line."""
    with file.open("w", encoding="utf-8") as out:
        for question in questions:
            out.write(json.dumps(question.as_json(), ensure_ascii=False) + "\n")


def read_prose(file: Path) -> Iterator[ProseQuestion]:
    """The questions of a ``prose.jsonl``, in order.

    Raises:
        DataError: for a line that is no such question, with its number.
    """
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if line.strip():
            try:
                yield ProseQuestion.from_json(parse_json(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                fix = "build the dataset again: `afina data build`"
                raise DataError(f"not a question: {error!r}", fix, f"{file}:{number}") from error
