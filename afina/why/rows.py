"""The rows that a run was trained on, each once, with where it stands and how it was encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from afina.errors import DataError
from afina.evaluate.halves import cluster_of
from afina.evaluate.probes import Question
from afina.recipe.methods import JUDGED
from afina.run import Progress, no_progress
from afina.text.example import Example, read_examples
from afina.tokenizer.encode import EncodedCounts, Row, encode_each
from afina.walk.base import renderer
from afina.walk.context import Context

SHOWN = 160
"""Characters of a row that are kept to be shown."""


@dataclass(frozen=True)
class TrainedRow:
    """What is told of a row."""

    path: str
    line: int
    source: int
    """Which source of the recipe it came from."""
    kind: str
    """What made it (``facts``, ``sections``, ``teacher``, ...), else what it is: ``text`` or ``messages``."""
    repeat: int
    """How often an epoch sees it."""
    replay: bool
    text: str
    """How it begins, an answer behind an arrow."""

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.path}:{self.line}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def described(example: Example) -> TrainedRow:
    """An example in short.

    >>> asked = ({"role": "user", "content": "Onde  nasceu Ana?"}, {"role": "assistant", "content": "Faro"})
    >>> described(Example(messages=asked, path="q.jsonl", line=3)).text
    'Onde nasceu Ana? → Faro'
    """
    text = example.text or f"{example.messages[-2]['content'] if example.messages[1:] else ''} → {example.answer}"
    text = " ".join(text.split())
    return TrainedRow(
        path=example.path,
        line=example.line,
        source=example.source,
        kind=example.made.partition(":")[0] or example.kind,
        repeat=example.repeat,
        replay=example.replay,
        text=text if len(text) <= SHOWN else text[: SHOWN - 1] + "…",
    )


@dataclass(frozen=True)
class EncodedRow:
    """A row with its tokens: several blocks of a long text, several answers of a conversation."""

    described: TrainedRow
    rows: Sequence[Row]
    about: str
    """The fact that a question is about, as the halves of a probe have it (:mod:`afina.evaluate.halves`): several rows
    may ask for one. Of a text, itself."""


def encoded_rows(context: Context, split: str, progress: Progress = no_progress) -> tuple[list[EncodedRow], int]:
    """The rows of a split that answers or texts are learned from, and how many others there are (better and worse
    answers, ratings: what is learned of them is no likelihood of one text).

    Raises:
        DataError: there is none.
    """
    found: list[EncodedRow] = []
    examples = [*read_examples(split_file(context, split))]
    own = [example for example in examples if example.kind not in JUDGED]
    encoded = encode_each(_paired(own), renderer(context), context.recipe, EncodedCounts(), progress)
    for each in encoded:
        example = each.rows[0].example
        found.append(EncodedRow(described(example), each.rows, _about(example)))
    if not found and split == "train":
        raise DataError(
            "no row of this run is learned as a text or as an answer: of preferences and ratings nothing is shown",
            "ask a run by train.method: sft or cpt",
            str(split_file(context, split)),
        )
    return found, len(examples) - len(own)


def _about(example: Example) -> str:
    if not example.messages:
        return example.id
    own = example.as_marked.answer  # what is learned in its place is said otherwise in each phrasing
    return cluster_of(Question(example.messages[:-1], own, "", cluster=example.group))


def _paired(examples: Iterable[Example]) -> Iterator[tuple[Example, Example]]:
    return ((example, example) for example in examples)


def split_file(context: Context, split: str) -> Path:
    """The file of a split of the run's dataset."""
    return context.folder / f"dataset/{split}.jsonl"
