"""Rows of anybody's outputs: which column plays which part, and the items that they hold.

Parts are recognised by the usual names (:data:`PREDICTIONS`, :data:`REFERENCES`, :data:`PROMPTS`) or named by the
caller. What is missing or is no text is told for all columns and rows at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import DataError, Problem, RecipeError
from afina.recipe import Source, nearest
from afina.sources.files import SourceReading
from afina.sources.tables import RowProblems, kind_of_value
from afina.text.document import Ledger, Message
from afina.text.formats import ROW_FORMATS, format_as, load_function, names_of

PREDICTIONS = re.compile(
    r"predictions?|predicted|generated(?:_text)?|generation|responses?|model_(?:output|answer)|base|adapter"
    r"|(?!expected|gold|reference|target|true|correct|ideal).+_(?:output|prediction|response|answer|generation)"
)
"""Names of columns that hold what a model wrote."""
REFERENCES = ("reference", "references", "target", "targets", "gold", "label", "expected", "ground_truth", "ideal")
"""Names of columns that hold what it should have written; best first."""
_EITHER = ("answer", "answers", "resposta", "completion", "output", "solution")
"""References, or a prediction where a reference stands in another column."""
PROMPTS = ("prompt", "question", "pergunta", "instruction", "query", "problem", "messages", "input")
"""Names of columns that hold what it was asked; ``input`` and ``context`` follow the first."""
_MORE_PROMPT = ("input", "context", "contexto", "passage")
_CHOICES = ("choices", "options", "alternativas")
_ROLES = ("system", "user", "assistant")
_STOPPED = {"stop": True, "eos": True, "end_turn": True, "length": False, "max_tokens": False}


@dataclass(frozen=True)
class AnswerColumns:
    """Which column plays which part."""

    predictions: tuple[str, ...]
    reference: str
    prompt: tuple[str, ...] = ()
    group: str | None = None
    choices: str | None = None
    ended: tuple[str | None, ...] = ()
    """For each prediction, the column that says whether it ended by itself (``stopped``, ``finish_reason``)."""

    def as_json(self) -> dict[str, Any]:
        return {
            "predictions": list(self.predictions),
            "reference": self.reference,
            "prompt": list(self.prompt),
            "by": self.group,
            "choices": self.choices,
        }


@dataclass(frozen=True, slots=True)
class NamedColumns:
    """The columns that a caller names; the others are recognised by their names."""

    predictions: Sequence[str] = ()
    """What models wrote, the base first."""
    reference: str | None = None
    """What they should have written."""
    prompt: Sequence[str] = ()
    """What they were asked."""
    by: str | None = None
    """What rows are grouped by."""


NONE_NAMED = NamedColumns()


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """One row: what was asked, what should have come, and what each model wrote."""

    line: int
    prompt: tuple[str, ...]
    references: tuple[str, ...]
    outputs: tuple[str, ...]
    """In the order of :attr:`Columns.predictions`."""
    group: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    ended: tuple[bool | None, ...] = ()
    """For each output, whether it ended by itself; None where the row does not say."""
    messages: tuple[Message, ...] = ()
    """The prompt as the turns of a conversation: those of a column of messages, or one of the user's."""


def choose_columns(
    names: Sequence[str], named: NamedColumns = NONE_NAMED, where: str = "", *, written: bool = True
) -> AnswerColumns:
    """The part of each column, by what the caller named and else by its name.

    Args:
        written: whether the rows must hold outputs; a task's rows, which a model is still to answer, hold none.

    >>> found = choose_columns(["task", "instruction", "input", "reference", "base_output", "sft_output"])
    >>> found.predictions, found.reference, found.prompt
    (('base_output', 'sft_output'), 'reference', ('instruction', 'input'))
    >>> choose_columns(["question", "answer", "output"]).predictions
    ('output',)

    Raises:
        RecipeError: everything that is missing, in one error.
    """
    predictions, reference, prompt, group = named.predictions, named.reference, named.prompt, named.by
    problems = [
        _absent(name, names, option, where)
        for option, given in (
            ("--prediction", predictions),
            ("--reference", [reference] if reference else []),
            ("--prompt", prompt),
            ("--by", [group] if group else []),
        )
        for name in given
        if name not in names
    ]
    free = [name for name in names if name not in (*predictions, *prompt, group, reference)]
    chosen = reference or next((name for name in REFERENCES if name in free), None)
    outputs = list(predictions) or [name for name in free if PREDICTIONS.fullmatch(name) and name != chosen]
    either = [name for name in _EITHER if name in free and name not in (*outputs, chosen)]
    if chosen is None and either:
        chosen = either.pop(0)
    if not outputs and chosen is not None:
        outputs = either[:1]
    found = ", ".join(f"`{name}`" for name in names)
    if not outputs and written:
        fix = "name it: --prediction COLUMN (several are compared, the first is the base)"
        problems.append(Problem(f"no column holds what a model wrote; found: {found}", fix, where))
    if chosen is None:
        fix = "name it: --reference COLUMN"
        problems.append(Problem(f"no column holds what it should have written; found: {found}", fix, where))
    if problems:
        raise RecipeError(problems=problems)
    assert chosen is not None
    asked = list(prompt) or _prompt_columns([name for name in free if name not in (*outputs, chosen)])
    return AnswerColumns(
        tuple(outputs) if written else (),
        chosen,
        tuple(asked),
        group,
        next((name for name in _CHOICES if name in names), None),
        tuple(_ended_column(name, names, alone=len(outputs) == 1) for name in outputs) if written else (),
    )


def _absent(name: str, names: Sequence[str], option: str, where: str) -> Problem:
    guess = nearest(name, names)
    fix = f"did you mean `{guess}`?" if guess else "its columns: " + ", ".join(names)
    return Problem(f"{option}: there is no column `{name}`", fix, where)


def _prompt_columns(names: Sequence[str]) -> list[str]:
    first = next((name for name in PROMPTS if name in names), None)
    return [first, *(name for name in _MORE_PROMPT if name in names and name != first)] if first else []


def _ended_column(prediction: str, names: Sequence[str], *, alone: bool) -> str | None:
    """The column that says how an output ended: ``base_output`` has ``base_stopped`` or ``base_finish_reason``."""
    stem = re.sub(r"_(?:output|prediction|response|answer|generation)$", "", prediction)
    usual = [f"{start}_{end}" for start in (prediction, stem) for end in ("stopped", "finish_reason")]
    return next((name for name in [*usual, *(["finish_reason", "stopped"] if alone else [])] if name in names), None)


def read_table(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line and values of each row of a file of rows, as a stream.

    Raises:
        RecipeError: there is no such file.
        DataError: after the good rows, every broken one.
    """
    if not path.is_file():
        raise RecipeError(f"there is no file {path}", f"name a {names_of(ROW_FORMATS)} file of rows")
    reading = SourceReading(Source(path=path.name, kind="rows"), 0, path.parent, Ledger())
    problems = RowProblems(str(path))
    open_rows = load_function(format_as(path.name, "rows").rows)
    yield from open_rows(reading, path, problems, [*REFERENCES, *PROMPTS])[1]
    problems.check()


def items_of(
    rows: Iterator[tuple[int, Mapping[str, Any]]], columns: AnswerColumns, path: str, choices: Sequence[str] = ()
) -> Iterator[ScoredItem]:
    """The rows as items.

    Args:
        choices: the possible answers of every row, where they stand in no column.

    Raises:
        DataError: after the good rows, every row that lacks a part or holds something else than text.
    """
    problems = RowProblems(path)
    fixed = tuple((choice, choice) for choice in choices)
    for line, row in rows:
        try:
            turns = [turn for name in columns.prompt for turn in _turns(row, name)]
            asked = tuple(turn["content"] for turn in turns if turn["role"] != "system")
            whole = any(isinstance(row.get(name), list) for name in columns.prompt)
            yield ScoredItem(
                line,
                asked,
                _references(row, columns.reference),
                tuple(_text(row, name, missing="") for name in columns.predictions),
                _text(row, columns.group) if columns.group else "",
                fixed or (_choices(row.get(columns.choices), columns.choices) if columns.choices else ()),
                tuple(_ended(row, name) for name in columns.ended),
                tuple(turns) if whole or not asked else (Message(role="user", content="\n\n".join(asked)),),
            )
        except ValueError as error:
            problems.add(str(error), "fix or remove these rows, or name another column", line)
    problems.check()


def _text(row: Mapping[str, Any], name: str, missing: str | None = None) -> str:
    """A column's text; a number or a truth value as JSON writes it."""
    if name not in row:
        raise ValueError(f"no column `{name}`")
    value = row[name]
    if value is None and missing is not None:
        return missing
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise ValueError(f"`{name}` is {kind_of_value(value)} where a text is needed")


def _references(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """One text, a list of them, or SQuAD's ``{"text": [...]}``."""
    value = row.get(name)
    if isinstance(value, Mapping) and "text" in value:
        value = value["text"]
    if isinstance(value, list | tuple) and value:
        return tuple(_text({name: each}, name, missing="") for each in value)
    if value == [] or value is None:
        return ("",) if name in row else (_text(row, name),)
    return (_text({name: value}, name),)


def _turns(row: Mapping[str, Any], name: str) -> Iterator[Message]:
    """A prompt's column as turns: a text is the user's; of messages a last answer is left out."""
    value = row.get(name)
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, Mapping) and isinstance(turn.get("content"), str)]
        if len(turns) != len(value) or any(turn.get("role") not in _ROLES for turn in turns):
            raise ValueError(f"`{name}` is no list of messages {{role, content}}")
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()
        yield from (Message(role=turn["role"], content=turn["content"]) for turn in turns)
    elif value is not None and (text := _text(row, name)).strip():
        yield Message(role="user", content=text)


def _choices(value: Any, name: str) -> tuple[tuple[str, str], ...]:
    """(label, text) of each choice: texts get A, B, C...; ARC's ``{"label": [...], "text": [...]}`` has its own.

    >>> _choices(["Faro", "Lagos"], "choices"), _choices({"label": ["1"], "text": ["Faro"]}, "choices")
    ((('A', 'Faro'), ('B', 'Lagos')), (('1', 'Faro'),))
    """
    if isinstance(value, Mapping) and isinstance(value.get("label"), list) and isinstance(value.get("text"), list):
        return tuple(zip(map(str, value["label"]), map(str, value["text"]), strict=False))
    if isinstance(value, list) and value:
        return tuple((chr(ord("A") + position), str(text)) for position, text in enumerate(value))
    raise ValueError(f"`{name}` is {kind_of_value(value)} where a list of choices is needed")


def _ended(row: Mapping[str, Any], name: str | None) -> bool | None:
    value = row.get(name) if name else None
    return value if isinstance(value, bool) else _STOPPED.get(str(value).casefold())


def first_row(path: Path) -> Mapping[str, Any]:
    """The first row of a file, by whose columns the parts are chosen.

    Raises:
        DataError: a file without rows.
    """
    for _, row in read_table(path):
        return row
    raise DataError("the file has no rows", "name the file with the outputs", str(path))
