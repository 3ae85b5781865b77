"""Questions with known answers, asked of the model before and after training.

recall          questions that stood in the training data
generalization  the same facts in phrasings never trained: was it learned, or memorized?
retention       what the base knew before: was something broken?
unknown         facts that it was never told: what it says of them is made up
claims          questions that can be answered with "I know": does it only say so?
versions        questions with one answer for the new and another for the old version of something
choice          the true sentence against seven others, by likelihood; ``control``: of sections held out
coverage        free answers, of which the key terms are looked for

Those that the recipe does not name are made of the dataset, see :mod:`afina.evaluate.derive`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from afina.errors import DataError
from afina.evaluate.choice import Choice
from afina.evaluate.grade import Graded, grade
from afina.model.generate.generate_torch import Answer, generate
from afina.model.generate.stored_answers import KeptAnswers
from afina.recipe import Probe, Recipe, Source, expand_path
from afina.record import Record
from afina.run import Progress, hash_value, no_progress, parse_json
from afina.sources import read_source
from afina.text.document import Ledger, Message, Tool
from afina.text.example import Example, check_turns
from afina.tokenizer.chat import Renderer
from afina.tokenizer.template import ROLES, NotRendered


@dataclass(frozen=True)
class Question:
    """One question of a probe: the turns before the answer, the reference, and where it stands."""

    messages: tuple[Message, ...]
    reference: str
    where: str
    new: tuple[str, ...] = ()
    """For a version probe: what only the new version's answer holds; any of them will do."""
    old: tuple[str, ...] = ()
    """What only the old version's answer holds."""
    tools: tuple[Tool, ...] = ()
    """Functions that may be called."""
    cluster: str = ""
    """The fact or section that it is about, where others may be about the same; intervals count it once."""
    terms: tuple[str, ...] = ()
    """For coverage: what a good answer holds."""
    of_any_length: bool = False
    """Whether the reference says nothing about how long an answer is."""

    @property
    def prompt(self) -> str:
        return self.messages[-1]["content"]

    def grade(self, answer: str, *, any_case: bool = False) -> Graded:
        """What an answer to it is.

        Args:
            any_case: whether capitals count for nothing, as where a tokenizer has none.
        """
        return grade(answer, self.reference, new=self.new, old=self.old, any_case=any_case)


@dataclass(frozen=True)
class ProbeSet:
    """The questions of one probe."""

    name: str
    role: str
    questions: tuple[Question, ...] = ()
    choices: tuple[Choice, ...] = ()
    """Asked by likelihood instead of for an answer."""


SAMPLES = ProbeSet("", "samples")
"""Held-out conversations whose answers are shown and looked at for flaws, and counted by no probe."""


def question_row(probe: ProbeSet, question: Question) -> dict[str, Any]:
    """All that a question is, as plain values, less where it stands: the same wherever it is asked."""
    return {
        "probe": probe.name,
        "role": probe.role,
        "messages": list(question.messages),
        "tools": list(question.tools),
        "reference": question.reference,
        "new": list(question.new),
        "old": list(question.old),
        "cluster": question.cluster,
        "terms": list(question.terms),
        "of_any_length": question.of_any_length,
    }


def stored_turns(row: Record) -> tuple[Message, ...]:
    """The turns before an answer, of a stored row (:func:`question_row`, or
    :func:`~afina.evaluate.evaluate.answer_row`, which of one turn alone writes only its prompt).

    Raises:
        AfinaError: they are no turns that a chat template can be given.
    """
    given = row.records("messages")
    for turn in given:
        if turn.required_text("role") not in ROLES:
            raise turn.wrong("role", f"one of {', '.join(sorted(ROLES))}", turn["role"])
    turns = tuple(cast(Message, dict(turn.values)) for turn in given)
    try:
        check_turns(turns)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise row.wrong("messages", "turns with role and content", row.values["messages"]) from error
    return turns or (Message(role="user", content=row.required_text("prompt")),)


def question_id(probe: ProbeSet, question: Question) -> str:
    """What an answer is known by: a hash of its question."""
    return hash_value(question_row(probe, question))[:16]


def probe_files(recipe: Recipe) -> Iterator[Path]:
    """Every file that the recipe's probes read."""
    for probe in recipe.evaluate.probes:
        yield from _files(recipe, probe)


def _files(recipe: Recipe, probe: Probe) -> Iterator[Path]:
    for path in expand_path(Path(recipe.root), probe.path):
        yield from sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def read_probes(recipe: Recipe) -> list[ProbeSet]:
    """The recipe's probes.

    Raises:
        DataError: rows that are no questions with an answer.
    """
    return [
        _read_versions(recipe, probe) if probe.role == "versions" else _read_probe(recipe, probe)
        for probe in recipe.evaluate.probes
    ]


def _read_probe(recipe: Recipe, probe: Probe) -> ProbeSet:
    questions = []
    for document in read_source(Source(path=probe.path, kind="rows"), 0, Path(recipe.root), Ledger()):
        where = f"{document.path}:{document.line}"
        if not document.messages or not document.messages[-1]["content"].strip():
            raise DataError("a probe's row needs a question and an answer", "give it prompt and completion", where)
        reference = document.messages[-1]["content"]
        fact = document.meta.get("fact", "")
        questions.append(Question(document.messages[:-1], reference, where, tools=document.tools, cluster=fact))
    return ProbeSet(probe.name or probe.role, probe.role, tuple(questions))


def _read_versions(recipe: Recipe, probe: Probe) -> ProbeSet:
    """Rows ``{"prompt": ..., "answer": [...], "outdated": [...]}``: strings that only one version's answer holds; with
    ``fact`` where several rows ask for one change."""
    questions: list[Question] = []
    for file in _files(recipe, probe):
        for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
            if line.strip():
                questions.append(_version_question(line, f"{file}:{number}"))
    return ProbeSet(probe.name or probe.role, probe.role, tuple(questions))


def _version_question(line: bytes, where: str) -> Question:
    fix = 'a row is {"prompt": "...", "answer": ["new name"], "outdated": ["old name"]}'
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"not JSON: {error}", fix, where) from error
    if not isinstance(row, dict) or row.keys() - {"fact"} != {"prompt", "answer", "outdated"}:
        raise DataError("a version probe's row needs prompt, answer and outdated, and nothing else", fix, where)
    prompt, new, old = row["prompt"], row["answer"], row["outdated"]
    for strings in (new, old, [prompt]):
        if not isinstance(strings, list) or not strings or not all(isinstance(s, str) and s.strip() for s in strings):
            raise DataError("prompt is a text; answer and outdated are lists of texts, none of them empty", fix, where)
    if both := set(new) & set(old):
        raise DataError(f"{sorted(both)[0]!r} is both the new and the old answer", fix, where)
    fact = str(row.get("fact", ""))
    return Question(({"role": "user", "content": prompt},), new[0], where, tuple(new), tuple(old), cluster=fact)


def question_of(example: Example, renderer: Renderer) -> Question:
    """What a conversation's last answer is asked by; a call's reference is as the template writes it."""
    reference, where = example.answer, f"{example.path}:{example.line}"
    if example.messages[-1].get("tool_calls"):
        reference = renderer.answer_text(example.messages, example.tools)
    return Question(example.messages[:-1], reference, where, tools=example.tools, cluster=example.group)


def samples_of(examples: Iterable[Example], renderer: Renderer, most: int) -> list[Question]:
    """The questions of :data:`SAMPLES`: the first conversations that the template takes."""
    conversations = (each for each in examples if each.messages and askable(each, renderer))
    return [question_of(each, renderer) for each in islice(conversations, most)]


def askable(example: Example, renderer: Renderer) -> bool:
    """Whether the chat template takes the conversation: one that it refuses may stand in the dataset
    (`dataset.on_not_rendered: drop`)."""
    try:
        renderer.prompt_text(example.messages[:-1], example.tools)
    except NotRendered:
        return False
    return True


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
    prompts = [renderer.prompt(question.messages, question.tools) for question in questions]
    return generate(model, renderer, prompts, max_new_tokens=max_new_tokens, kept=kept, progress=progress, say=say)
