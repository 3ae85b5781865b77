"""Rows that a round adds: facts that did not stick, asked in further words of the templates that there are.

Nothing of a probe is ever copied. A phrasing that asks what a probe asks, in whatever case and punctuation, is passed
over; :func:`check_rows` then reads what was written and refuses it where such words stand in it all the same. The words
of questions that steer are kept out like those that judge: else these would be trained for, and tell nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

from afina.dataset.build.answers import answers_file
from afina.dataset.questions.phrasings import TEMPLATES, phrase
from afina.errors import DataError, Problem
from afina.improve.facts import FactState, plain_text
from afina.recipe import METHODS, Recipe
from afina.record import read_rows
from afina.text.example import Example, is_question, read_examples
from afina.whole import write_whole

PHRASINGS = 2
"""Further phrasings of a fact that a round adds."""
OF_SECTIONS = {"sections": "section", "changes": "change", "programs": "program"}
NO_TEMPLATE, NO_WORDS = "no template asks for it", "no words are left that no probe asks and no row has"


@dataclass(frozen=True)
class Instance:
    """A template that a question is an instance of."""

    kind: str
    subject: str
    label: str


@dataclass
class AddedRows:
    """Rows of further phrasings."""

    rows: list[dict[str, str]] = field(default_factory=list)
    facts: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Why a fact got none -> facts."""

    def write(self, file: Path) -> None:
        """Write them one a line, as a source of a recipe reads them."""
        write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))


@cache
def _patterns(language: str) -> tuple[tuple[str, int, re.Pattern[str]], ...]:
    """Every template as a pattern that finds its subject and label."""
    found = []
    for kind, phrasings in TEMPLATES[language].items():
        for number, template in enumerate(phrasings):
            parts = re.split(r"(\{subject\}|\{label\})", template)
            named: set[str] = set()
            pattern = ""
            for part in parts:
                name = part.strip("{}")
                if part not in ("{subject}", "{label}"):
                    pattern += re.escape(part)
                elif name in named:
                    pattern += f"(?P={name})"
                else:
                    named.add(name)
                    pattern += f"(?P<{name}>.+)"
            if "subject" in named:
                found.append((kind, number, re.compile(pattern)))
    return tuple(found)


def instance_of(question: str, language: str, kind: str = "") -> Instance | None:
    """The template that a question is asked by; None where it is none, or could be several.

    Args:
        kind: of the template that made it; without one, every template without a label is tried, and the subject has to
            begin as a name does.

    >>> instance_of("Onde nasceu Bento Faro?", "pt-PT")
    Instance(kind='birth_place', subject='Bento Faro', label='')
    >>> instance_of("Como se faz pão?", "pt-PT"), instance_of("Onde nasceu a tua irmã?", "pt-PT")
    (None, None)
    """
    found = set()
    for each, number, pattern in _patterns(language):
        match = pattern.fullmatch(question) if not kind or each == kind else None
        if match is None:
            continue
        parts = match.groupdict()
        subject, label = parts["subject"], parts.get("label") or ""
        by_name = bool(kind) or (not label and (subject[0].isupper() or subject[0].isdigit()))
        if by_name and phrase(language, each, number, subject, label) == question:
            found.add(Instance(each, subject, label))
    return found.pop() if len(found) == 1 else None


def other_phrasings(
    recipe: Recipe, examples: Iterable[Example], wanted: Callable[[Example], bool], asked: frozenset[str]
) -> AddedRows:
    """Further phrasings of the facts that rows ask for.

    Args:
        examples: what was trained.
        wanted: which of them are to be asked otherwise too.
        asked: every question of the probes, by :func:`~afina.improve.facts.plain_text`.

    Returns:
        At most :data:`PHRASINGS` rows a fact. None is asked in the words that the recipe holds out
        (`dataset.hold_out_phrasings`), in those of a probe, or in those of a row that is there.
    """
    language, added = recipe.dataset.language, AddedRows()
    known, facts = set[str](), dict[tuple[Instance, str], Example]()
    for example in examples:
        if not is_question(example) or example.replay:
            continue
        known.add(plain_text(example.messages[0]["content"]))
        if not wanted(example):
            continue
        made = example.made.removeprefix("facts:")
        found = instance_of(example.messages[0]["content"], language, OF_SECTIONS.get(made, made))
        if found is None:
            added.left_out[NO_TEMPLATE] += 1
        else:
            facts.setdefault((found, example.answer), example)
    first = recipe.dataset.questions.phrasings
    held_out = range(first, first + recipe.dataset.hold_out_phrasings)
    for (one, answer), _ in facts.items():
        prompts = [
            phrase(language, one.kind, number, one.subject, one.label)
            for number in range(len(TEMPLATES[language][one.kind]))
            if number not in held_out
        ]
        new = [prompt for prompt in prompts if plain_text(prompt) not in known and not holds_question(prompt, asked)]
        if not new:
            added.left_out[NO_WORDS] += 1
            continue
        added.facts += 1
        added.rows += [{"prompt": prompt, "completion": answer} for prompt in new[:PHRASINGS]]
    return added


def takes_rows(recipe: Recipe) -> bool:
    """Whether the recipe's training learns rows of a question and an answer."""
    return not METHODS[recipe.train.method].judged and recipe.train.method != "scratch"


def of_facts(states: Sequence[FactState]) -> Callable[[Example], str]:
    """Which fact that steers a row tells or asks for: by the group of a made question, by the words of a question that
    was asked, or because its answer is the fact's and the names of the question stand in it. Empty for none."""
    groups = {each.fact for each in states}
    prompts = {plain_text(answer.prompt): each.fact for each in states for answer in each.answers}
    named = [(each.fact, *_names_and_answer(each)) for each in states]

    def fact_of(example: Example) -> str:
        if example.group in groups:
            return example.group
        if example.messages and (fact := prompts.get(plain_text(example.messages[-2]["content"]))):
            return fact
        answer = plain_text(example.answer if example.messages else example.text)
        told = f" {plain_text(example.text or example.prompt)} {answer} "
        for fact, names, right in named:
            stands = answer == right if example.messages else f" {right} " in told
            if names and stands and all(f" {name} " in told for name in names):
                return fact
        return ""

    return fact_of


def _names_and_answer(state: FactState) -> tuple[list[str], str]:
    """The words of a fact's questions that stand in all of them and begin as names do, and its answer."""
    of_each = [
        {plain_text(word) for word in re.findall(r"\w+", answer.prompt)[1:] if word[0].isupper() or word[0].isdigit()}
        for answer in state.answers
    ]
    return sorted(set.intersection(*of_each)), plain_text(state.answers[0].reference)


def added_files(recipe: Recipe, folder: Path) -> list[Path]:
    """The files of rows below `folder` that the recipe's sources and its `dataset.answers` name."""
    named = [Path(recipe.root) / source.path for source in recipe.sources]
    named += [file] if (file := answers_file(recipe)) else []
    return [file for file in named if file.resolve().is_relative_to(folder.resolve())]


def check_rows(files: Iterable[Path], asked: frozenset[str], answers: Path | None = None) -> None:
    """Refuse rows that hold the words of a probe's question; they are read again from where training reads them.

    Args:
        answers: the file of answers that are learned in the place of others: their questions only say of which, and
            are trained in any case.

    Raises:
        DataError: with every such row. Or a file is not there, or not what was written.
    """
    problems = []
    for file in files:
        rows = read_rows(file)
        if rows is None:
            problems.append(Problem("rows of an earlier round are gone", _again(file), str(file)))
        for number, row in enumerate(rows or (), start=1):
            learned = ("completion",) if file == answers else ("prompt", "completion")
            for text in map(row.required_text, learned):
                if holds_question(text, asked):
                    what = "a row holds the words of a question that steers or judges, which would then measure itself"
                    problems.append(Problem(what, _again(file), f"{file}:{number}"))
    if problems:
        raise DataError(problems=problems)


def _again(file: Path) -> str:
    return f"remove {file.parent} and start the same command again: the rows are made anew"


def holds_question(text: str, asked: frozenset[str]) -> bool:
    """Whether a text is a question of a probe, or holds one in whole words. Looked up by as many words as questions
    have: many rows are held against many questions."""
    words = plain_text(text).split()
    return any(
        " ".join(words[start : start + count]) in asked
        for count in _lengths(asked)
        for start in range(len(words) - count + 1)
    )


@lru_cache(maxsize=4)
def _lengths(asked: frozenset[str]) -> tuple[int, ...]:
    """How many words the questions have."""
    return tuple(sorted({len(each.split()) for each in asked} - {0}))


def trained_examples(folder: Path) -> Iterator[Example]:
    """What a run trained, each row with the answer that it is marked by."""
    return (example.as_marked for example in read_examples(folder / "dataset/train.jsonl"))
