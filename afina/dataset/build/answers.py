"""Answers that are learned in the place of the rows' own: the file of `dataset.answers`.

Where a row asks a line's `prompt` and answers its `reference`, the line's `completion` is learned. Everything else of
the row stays: its place, its repeats, its side of the split. The example keeps the answer that was its own
(:attr:`~afina.text.example.Example.reference`), by which the question is asked and marked, so that the same questions
measure the same with and without the file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from afina.dataset.build.canaries import CANARY
from afina.errors import DataError, Problem
from afina.recipe import Recipe
from afina.run import parse_json
from afina.text.example import Example, example_chars, is_question, read_examples
from afina.text.identity import normal

KEYS = ("prompt", "completion", "reference")
Answers = dict[tuple[str, str], str]
"""A question and the answer of its row, white space aside -> what is learned instead."""


def answers_file(recipe: Recipe) -> Path | None:
    """The file of `dataset.answers`."""
    return Path(recipe.root) / recipe.dataset.answers if recipe.dataset.answers else None


def read_answers_file(file: Path) -> Answers:
    """The answers of a file.

    Raises:
        DataError: it is not there, it holds none, or lines are none: all of them at once.
    """
    if not file.is_file():
        raise DataError("there is no such file", "name one, or remove `dataset.answers`", str(file))
    found: Answers = {}
    problems = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            prompt, completion, reference = (_text(row[key]) for key in KEYS)
        except (ValueError, KeyError, TypeError) as error:
            fix = "write a JSON object with the texts prompt, completion and reference"
            problems.append(Problem(f"no answer: {error!r}", fix, f"{file}:{number}"))
            continue
        if found.setdefault((normal(prompt), normal(reference)), completion) != completion:
            problems.append(Problem("another line answers the same row otherwise", "leave one", f"{file}:{number}"))
    if problems:
        raise DataError(problems=problems)
    if not found:
        raise DataError("holds no answer", "write one a line, or remove `dataset.answers`", str(file))
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r:.60} where a text belongs")
    value.encode()  # half a character is refused
    return value


def key_of(example: Example) -> tuple[str, str] | None:
    """By which an example's answer is found in :data:`Answers`; None for what is no question with its answer, or is
    there to be replayed, or a canary, whose words are the measure."""
    if example.replay or example.made == CANARY or not is_question(example):
        return None
    return normal(example.prompt), normal(example.answer)


def put_answers(train: Path, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Write the recipe's answers into the training examples, and count them in the dataset's summary: ``answers`` has
    the `rows` of the file, the `examples` that learn one, the rows that are `unused`, and the visible `characters` that
    the examples have more for it (fewer: below 0).

    Raises:
        DataError: the file's, or none of its rows is asked by a training example.
    """
    file = answers_file(recipe)
    if file is None:
        return
    answers, used, examples, added = read_answers_file(file), set[tuple[str, str]](), 0, 0
    beside = train.with_name("train-answers.jsonl")
    with beside.open("wb") as out:
        for example in read_examples(train):
            key, written = key_of(example), example
            if key in answers:
                written = with_answer(example, answers[key])
                used.add(key)
                examples += 1
                added += example_chars(written) - example_chars(example)
            out.write(written.as_line())
    beside.replace(train)
    if not used:
        raise DataError(
            f"none of its {len(answers)} rows is asked and answered by a training example",
            "check whether it was written for these sources, or remove `dataset.answers`",
            str(file),
        )
    summary["train"]["characters"] += added
    unused = len(answers) - len(used)
    summary["answers"] = {"rows": len(answers), "examples": examples, "unused": unused, "characters": added}


def with_answer(example: Example, text: str) -> Example:
    """The example with an answer that is learned in the place of its own."""
    learned = example.messages[-1].copy()
    learned["content"] = text
    return replace(example, messages=(*example.messages[:-1], learned), reference=example.answer)
