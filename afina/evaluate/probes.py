"""Questions with known answers, asked of the model before and after training.

recall          questions that stood in the training data
generalization  the same facts in phrasings never trained: was it learned, or learned by heart?
retention       what the base knew before: was something broken?
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import DataError
from afina.model.generate import Answer, generate
from afina.model.generate_kept import KeptAnswers
from afina.recipe import Probe, Recipe, Source, expand_path
from afina.run import Progress, no_progress
from afina.sources import read_source
from afina.sources.document import Ledger, Message
from afina.tokenizer.chat import Renderer


@dataclass(frozen=True)
class Question:
    """One question of a probe: the turns before the answer, the reference, and where it stands."""

    messages: tuple[Message, ...]
    reference: str
    where: str

    @property
    def prompt(self) -> str:
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class ProbeSet:
    """The questions of one probe of the recipe."""

    name: str
    role: str
    questions: tuple[Question, ...]


def probe_files(recipe: Recipe) -> Iterator[Path]:
    """Every file that the recipe's probes read."""
    for probe in recipe.evaluate.probes:
        for path in expand_path(Path(recipe.root), probe.path):
            yield from sorted(path.rglob("*")) if path.is_dir() else [path]


def read_probes(recipe: Recipe) -> list[ProbeSet]:
    """The recipe's probes.

    Raises:
        DataError: rows that are no questions with an answer.
    """
    return [_read_probe(recipe, probe) for probe in recipe.evaluate.probes]


def _read_probe(recipe: Recipe, probe: Probe) -> ProbeSet:
    questions = []
    for document in read_source(Source(path=probe.path, kind="rows"), 0, Path(recipe.root), Ledger()):
        where = f"{document.path}:{document.line}"
        if not document.messages or not document.messages[-1]["content"].strip():
            raise DataError("a probe's row needs a question and an answer", "give it prompt and completion", where)
        questions.append(Question(document.messages[:-1], document.messages[-1]["content"], where))
    return ProbeSet(probe.name or probe.role, probe.role, tuple(questions))


def ask(
    model: Any,
    renderer: Renderer,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    kept: KeptAnswers | None = None,
    progress: Progress = no_progress,
    say: Callable[[str], None] | None = None,
) -> list[Answer]:
    """The model's greedy answers, in the order of the questions."""
    prompts = [renderer.prompt(question.messages) for question in questions]
    return generate(model, renderer, prompts, max_new_tokens=max_new_tokens, kept=kept, progress=progress, say=say)


def exact_match(answer: str, reference: str) -> bool:
    """Equal once Unicode is composed (NFC) and runs of white space count as one; case matters.

    >>> exact_match(" Faro\\n", "Faro"), exact_match("faro", "Faro")
    (True, False)
    """
    return _plain(answer) == _plain(reference)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def wilson(right: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): honest for small counts and at 0 and 1.

    >>> low, high = wilson(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if of == 0:
        return 0.0, 1.0
    z, share = 1.959963984540054, right / of
    middle = share + z * z / (2 * of)
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    scale = 1 + z * z / of
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
