"""Probes that nobody had to write: questions taken from the dataset of the run, for the roles the recipe leaves open.

Only questions with a short answer are taken, for a long one is never given back word for word; what the documents say
at length is asked by the dataset's questions about prose (:mod:`afina.evaluate.prose`). Those of each probe are chosen
by the hash of their content, so that the same dataset asks the same questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from afina.dataset.build.canaries import CANARY
from afina.evaluate.choice import choice_of
from afina.evaluate.choice_ranks import longest_row
from afina.evaluate.probes import ProbeSet, Question, askable, question_of
from afina.evaluate.prose import UNSEEN_FILE, choose_prose
from afina.evaluate.scores import FACTS
from afina.recipe import Recipe, Role
from afina.record import read_rows
from afina.text.claims import claims_to_know
from afina.text.document import Message
from afina.text.example import Example, read_examples
from afina.text.prose_question import PROSE_FILE, ProseQuestion
from afina.tokenizer.chat import Renderer
from afina.tokenizer.template import NotRendered

SEEN_FILE = "probes-seen.jsonl"
SHORT_WORDS = 12
"""An answer of more words is not asked for."""
GENERAL = "general questions (afina's own)"
TITLES: dict[Role, str] = {
    "recall": "questions trained",
    "generalization": "phrasings held out",
    "unknown": "facts held out",
    "claims": "claims to know, trained",
    "retention": "replay held out",
    "versions": "what replaced what",
}
CHOICE, CONTROL = "true sentence among eight", "the same, sections held out"
COVERAGE = "key terms in free answers"


@dataclass
class Derived:
    """The probes, and what a reader has to know about them."""

    probes: list[ProbeSet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def derive_probes(recipe: Recipe, dataset: Path, renderer: Renderer) -> Derived:
    """Probes for the roles of :attr:`~afina.recipe.Recipe.roles_from_dataset`.

    recall          ``probes-seen.jsonl`` where it is there, else a sample of the questions trained
    generalization  ``probes-unseen.jsonl``
    unknown         held-out questions, where whole files or subjects were held out (`dataset.split_by: file`)
    claims          trained questions whose answer says no more than that it knows
    retention       the replay's held-out part, else :data:`GENERAL`
    versions        what replaced what, of ``prose.jsonl``
    choice, control, coverage  the other questions of ``prose.jsonl``

    Args:
        dataset: the dataset folder.
        renderer: of the model that is asked; without a chat template no question can be put to it.
    """
    derived, roles, most = Derived(), recipe.roles_from_dataset, recipe.evaluate.questions
    prose = recipe.asks_prose and (dataset / PROSE_FILE).is_file()
    if not roles and not prose:
        return derived
    if not renderer.tokenizer.chat_template:
        derived.notes.append("no question was asked: the base has no chat template, and the recipe sets none")
        return derived
    samples = {role: _Sample(most, renderer) for role in roles}
    for role, file in (("recall", dataset / SEEN_FILE), ("generalization", dataset / UNSEEN_FILE)):
        if role in samples and file.is_file():
            samples[role].add(_rows(file))
    from_train = "recall" in samples and not samples["recall"].kept
    for example in _asked(dataset / "train.jsonl"):
        role = "claims" if claims_to_know(example.answer) else "recall"
        if role in samples and not example.replay and (role == "claims" or from_train):
            samples[role].add([example])
    for example in _asked(dataset / "validation.jsonl"):
        role = "retention" if example.replay else "unknown"
        if role in samples:
            samples[role].add([example])
    for role in roles:
        if questions := samples[role].questions:
            derived.probes.append(ProbeSet(TITLES[role], role, tuple(questions)))
        elif role == "retention":
            derived.probes.append(ProbeSet(GENERAL, role, general_questions(recipe.dataset.language)))
            skills = " and questions about skills" if recipe.most_skills else ""
            derived.notes.append(
                f"forgetting was tested with {GENERAL}{skills} only: mix in `replay` (its held-out part is asked), or "
                "name questions that the base knows in `evaluate.probes` (role retention)"
            )
        if long := samples[role].long:
            derived.notes.append(
                f"{TITLES[role]}: {long} questions with answers of more than {SHORT_WORDS} words were not asked: "
                "a long answer is never given back word for word"
            )
    if prose:
        _add_prose(derived, recipe, dataset, renderer)
    derived.notes += _not_measured(recipe, derived)
    return derived


def _add_prose(derived: Derived, recipe: Recipe, dataset: Path, renderer: Renderer) -> None:
    """The questions about prose, each marked in the way that it is made for."""
    asked = choose_prose(dataset, recipe.evaluate.questions)
    too_long = 0
    for name, role, questions in ((CHOICE, "choice", asked.choice), (CONTROL, "control", asked.control)):
        choices = [choice_of(each) for each in questions if _renders(each, renderer)]
        fitting = tuple(each for each in choices if longest_row(renderer, each) <= recipe.train.max_length)
        too_long += len(choices) - len(fitting)
        if fitting:
            derived.probes.append(ProbeSet(name, role, choices=fitting))
    if too_long:
        derived.notes.append(
            f"{CHOICE}: {too_long} questions were not asked: with a sentence they have more tokens than "
            f"`train.max_length` ({recipe.train.max_length})"
        )
    if free := tuple(_free(each) for each in asked.free if _renders(each, renderer)):
        derived.probes.append(ProbeSet(COVERAGE, "coverage", free))
    changes = tuple(_change(each) for each in asked.changes if _renders(each, renderer))
    if changes and "versions" not in {probe.role for probe in recipe.evaluate.probes}:
        derived.probes.append(ProbeSet(TITLES["versions"], "versions", changes))


def _renders(question: ProseQuestion, renderer: Renderer) -> bool:
    try:
        renderer.prompt_text([{"role": "user", "content": question.prompt}])
    except NotRendered:
        return False
    return True


def _free(question: ProseQuestion) -> Question:
    reference = question.right or "; ".join(question.terms)
    return replace(_prose_question(question, reference), terms=question.terms)


def _change(question: ProseQuestion) -> Question:
    return replace(_prose_question(question, question.terms[0]), new=question.terms, old=question.outdated)


def _prose_question(question: ProseQuestion, reference: str) -> Question:
    return Question(
        ({"role": "user", "content": question.prompt},),
        reference,
        f"{question.path}:{question.line}",
        cluster=question.section,
        of_any_length=True,
    )


def _not_measured(recipe: Recipe, derived: Derived) -> Iterator[str]:
    asked = {probe.role for probe in recipe.evaluate.probes} | {probe.role for probe in derived.probes}
    if "recall" in asked and not asked & {*FACTS, "choice", "coverage"}:
        yield (
            "only questions that were trained were asked, so this cannot tell learned from memorized: set "
            "`dataset.hold_out_phrasings`, or name questions in other words in `evaluate.probes` (role generalization)"
        )
    if "unknown" not in asked:
        yield (
            "what it makes up was not measured: hold whole files out (`dataset.split_by: file`), or name questions "
            "about what it was never told (role unknown)"
        )


def general_questions(language: str) -> tuple[Question, ...]:
    """Afina's own questions that almost every instruct model answers, in the language of the texts.

    >>> general_questions("pt-PT")[0].reference, len(general_questions("en"))
    ('Lisboa', 24)
    """
    content = json.loads(files("afina.evaluate").joinpath("general.json").read_text(encoding="utf-8"))
    return tuple(
        Question(({"role": "user", "content": prompt},), answer, f"general.json:{number}")
        for number, (prompt, answer) in enumerate(content[language[:2]], start=1)
    )


class _Sample:
    """At most so many different questions with a short answer, those of the smallest hash; the long ones counted."""

    def __init__(self, most: int, renderer: Renderer) -> None:
        self.most, self.renderer, self.long = most, renderer, 0
        self.kept: dict[str, Example] = {}

    def add(self, examples: Iterable[Example]) -> None:
        for example in examples:
            if len(example.answer.split()) > SHORT_WORDS:
                self.long += 1
                continue
            self.kept[example.id] = example
            if len(self.kept) > 10 * self.most:
                self.kept = self._chosen()

    def _chosen(self) -> dict[str, Example]:
        return dict(sorted(self.kept.items())[: self.most])

    @property
    def questions(self) -> tuple[Question, ...]:
        asked = [each for each in self._chosen().values() if askable(each, self.renderer)]
        return tuple(question_of(each, self.renderer) for each in asked)


def _asked(file: Path) -> Iterator[Example]:
    """The conversations of a file; one that learns another answer in the place of its own is asked for its own."""
    found = (example for example in read_examples(file) if example.kind == "messages" and example.made != CANARY)
    return (example.as_marked for example in found)


def _rows(file: Path) -> Iterator[Example]:
    """The rows of a probe file that the dataset's builder wrote."""
    for number, row in enumerate(read_rows(file) or [], start=1):
        turns: tuple[Message, ...] = (
            {"role": "user", "content": row.required_text("prompt")},
            {"role": "assistant", "content": row.required_text("completion")},
        )
        yield Example(messages=turns, path=file.name, line=number, group=row.text("fact") or "")
