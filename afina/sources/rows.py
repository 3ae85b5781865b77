"""Rows: JSONL, a JSON list, CSV, Parquet or a dataset of the hub; one document per row.

The shapes that are known, each under its usual column names or those of the source's `columns`:

| shape | columns |
|---|---|
| conversation | ``messages`` (role, content) or ``conversations`` (from, value) |
| question and answer | ``prompt``/``completion``, ``question``/``answer``, ``pergunta``/``resposta`` |
| instruction | ``instruction``, ``input`` (may be missing or empty), ``output`` |
| preference | ``chosen``, ``rejected`` (texts or messages) and ``prompt`` (text or messages) |
| plain text | ``text`` |

A conversation or a question with its answer may have a ``label``, true or false: whether the last answer is a good one.

A preference may say its prompt in ``prompt``, or in both conversations, which then differ in their last answer
alone; what it says more than once is counted as dropped. Every broken line of a file is reported at once. A column that
plays no part is counted as dropped. The characters of a file are those of its values: names, quotes and braces are not
text. An empty prompt or answer passes: the dataset's rules decide what becomes of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast

from afina.errors import DataError
from afina.sources.conversions import convert_row
from afina.sources.files import SourceFile, SourceReading, read_text
from afina.sources.tables import DECODER, Row, RowProblems, json_shape, kind_of_value, wrapped_rows
from afina.sources.text import read_plain
from afina.text.document import Document, FileLedger, Message, visible
from afina.text.formats import format_as, load_function

SHAPES: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt/completion": ("prompt", "completion"),
    "instruction/input/output": ("instruction", "output"),
    "question/answer": ("question", "answer"),
    "pergunta/resposta": ("pergunta", "resposta"),
    "prompt/chosen/rejected": ("prompt", "chosen", "rejected"),
    "chosen/rejected": ("chosen", "rejected"),
    "text": ("text",),
}
"""Shape -> the columns that it needs."""

Role = Literal["system", "user", "assistant"]
_ROLES = ("system", "user", "assistant")
_SETTABLE = {"prompt", "completion", "instruction", "output", "messages", "text", "chosen", "rejected", "label"}
"""Parts that a source's `columns` may name."""
_ASKS = ("question", "query", "pergunta", "prompt", "instruction", "user", "problem", "input", "title")
_ANSWERS = ("answer", "response", "resposta", "output", "completion", "reference", "solution", "assistant", "target")
_SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}


class _BadRow(ValueError):
    """A row that cannot be used: what, and what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def read_rows(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The documents of a table, in order; `line` is the row's first line in the file (Parquet: its number).

    Raises:
        DataError: after the good rows, with every broken one; at once where there is no row.
    """
    problems = RowProblems(file.path)
    open_rows = load_function(format_as(file.path, "rows").rows)
    entry, rows = open_rows(reading, file.full, problems, _names_wanted(reading))
    yield from row_documents(rows, reading, entry, problems)


def read_json(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The documents of a ``.json`` file: its rows, or the one document of prose that a single object may be.

    Raises:
        DataError: as :func:`read_rows`; and for an object that is no row where rows were asked for, or that wraps rows.
    """
    opened = read_text(reading, file.full)
    if json_shape(opened.text) != "object" or _one_row(opened.text, reading, file.path):
        reading.ledger.files.pop()  # rows enter their own line
        yield from read_rows(file, reading)
    elif reading.source.kind == "rows":
        raise DataError("one JSON object, not rows", "save a list of objects, or use `kind: text`", f"{file.path}:1")
    else:
        yield from read_plain(opened, reading)


def row_documents(
    rows: Iterator[Row], reading: SourceReading, entry: FileLedger, problems: RowProblems
) -> Iterator[Document]:
    """One document per row; what each column is, is decided by its name.

    Raises:
        DataError: after the good rows, with every broken one; and where there is no row.
    """
    count = 0
    choose = _chooser(reading)
    try:
        for line, row in rows:
            count += 1
            try:
                document = _document(row, line, reading, entry, choose)
            except _UnknownColumns as error:
                problems.group(error.what, error.fix, line)
            except _BadRow as error:
                problems.add(error.what, error.fix, line)
            else:
                yield document
    except DataError as error:  # the file broke off: what was found before it is told as well
        problems.first += error.problems
    problems.check()
    if not count:
        raise DataError("the file has no rows", "put rows into it, or exclude it", entry.path)


def _document(
    row: Mapping[str, Any], line: int, reading: SourceReading, entry: FileLedger, choose: _Choose
) -> Document:
    shape, columns = choose(row)
    needed = [columns[name] for name in SHAPES[shape]]
    optional = columns["input"] if shape == "instruction/input/output" else None
    dropped: dict[str, int] = {}
    messages: tuple[Message, ...]
    rejected: str | None = None
    if shape == "text":
        messages, text = (), _text(row, needed[0])
    elif shape in ("messages", "conversations"):
        messages, text = _messages(row, needed[0], dropped), ""
    elif shape.endswith("chosen/rejected"):
        messages, rejected = _preference(row, columns, dropped)
        text = ""
    else:
        prompt, answer = _text(row, needed[0]), _text(row, needed[1])
        given = _text(row, optional) if optional and row.get(optional) is not None else ""
        user = f"{prompt}\n\n{given}" if given.strip() else prompt
        messages, text = (Message(role="user", content=user), Message(role="assistant", content=answer)), ""
    label = None if shape == "text" or rejected is not None else _label(row, columns.get("label"), reading)
    for name, value in row.items():
        if label is not None and name == columns["label"]:
            dropped[_LABELS] = dropped.get(_LABELS, 0) + _weight(value)
        elif name not in needed and name != optional:
            reason = f"column `{name}`"
            dropped[reason] = dropped.get(reason, 0) + _weight(value)
    for reason, count in dropped.items():
        entry.dropped[reason] = entry.dropped.get(reason, 0) + count
    entry.chars_in += _weight(row)
    entry.chars_out += visible(text + (rejected or "")) + sum(visible(message["content"]) for message in messages)
    entry.documents += 1
    return Document(
        entry.path,
        entry.sha256,
        line=line,
        kind="messages" if messages else "text",
        text=text,
        messages=messages,
        rejected=rejected,
        label=label,
        source=reading.position,
    )


def _preference(
    row: Mapping[str, Any], columns: Mapping[str, str], dropped: dict[str, int]
) -> tuple[tuple[Message, ...], str]:
    """A conversation that ends with the better answer, and the worse answer to the same."""
    prompt = _turns_or_text(row, columns["prompt"], "user", dropped) if columns["prompt"] in row else ()
    if prompt and prompt[-1]["role"] != "user":
        raise _BadRow(f"`{columns['prompt']}` ends with the {prompt[-1]['role']}", "end the prompt with a question")
    said = sum(visible(message["content"]) for message in prompt)
    sides = []
    for name in (columns["chosen"], columns["rejected"]):
        turns = _turns_or_text(row, name, "assistant", dropped)
        said += sum(visible(message["content"]) for message in turns)
        if turns[-1]["role"] != "assistant":
            raise _BadRow(f"`{name}` ends with the {turns[-1]['role']}", "end it with an assistant message")
        if len(turns) == 1:
            turns = (*prompt, *turns)
        elif prompt and turns[-1 - len(prompt) : -1] != prompt:
            raise _BadRow(f"`{name}` is a conversation that does not ask `{columns['prompt']}`", "make them agree")
        sides.append(turns)
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1]:
        raise _BadRow(
            f"`{columns['chosen']}` and `{columns['rejected']}` differ before their last answers",
            "give pairs that differ in the last answer alone",
        )
    again = said - sum(visible(message["content"]) for message in (*chosen, rejected[-1]))
    if again:
        dropped["said again in a preference"] = dropped.get("said again in a preference", 0) + again
    return chosen, rejected[-1]["content"]


_LABELS = "labels, kept as true or false"
_TRUE_OR_FALSE = {"true": True, "false": False}


def _label(row: Mapping[str, Any], column: str | None, reading: SourceReading) -> bool | None:
    """Whether the answer is a good one, where the row says it. In a column called `label` without further word only
    true and false say that; where the recipe names the column, 1 and 0 do as well, and anything else is an error."""
    if column is None or column not in row:
        return None
    value, named = row[column], "label" in reading.source.columns
    text = str(value).strip().lower() if isinstance(value, str | bool | int) else ""
    known = _TRUE_OR_FALSE | ({"1": True, "0": False} if named else {})
    if text in known:
        return known[text]
    if named:
        raise _BadRow(f"`{column}` is {kind_of_value(value)} where true or false is needed", "fix or remove the row")
    return None


def _weight(value: Any) -> int:
    """Visible characters of all values in `value`; names of keys are not counted."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return sum(map(_weight, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_weight, value))
    if value is None or isinstance(value, bytes):  # an image or a sound has no characters
        return 0
    return visible(json.dumps(value, default=str))


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if isinstance(value, str):
        return value
    raise _BadRow(f"`{column}` is {kind_of_value(value)} where a text is needed", "make it a text, or remove the row")


def _turns_or_text(row: Mapping[str, Any], column: str, role: Role, dropped: dict[str, int]) -> tuple[Message, ...]:
    """A column's messages; a text is one message of this role."""
    if isinstance(row[column], str):
        return (Message(role=role, content=row[column]),)
    return _turns(row, column, dropped)


def _messages(row: Mapping[str, Any], column: str, dropped: dict[str, int]) -> tuple[Message, ...]:
    """A conversation: the last turn is the assistant's."""
    messages = _turns(row, column, dropped)
    if messages[-1]["role"] != "assistant":
        raise _BadRow(
            f"`{column}` ends with the {messages[-1]['role']}: there is no answer to learn",
            "end every conversation with an assistant message",
        )
    return messages


def _turns(row: Mapping[str, Any], column: str, dropped: dict[str, int]) -> tuple[Message, ...]:
    """The turns of a conversation, their roles checked."""
    turns = row[column]
    if not isinstance(turns, list) or not turns:
        found = "an empty list" if turns == [] else kind_of_value(turns)
        raise _BadRow(f"`{column}` is {found} where a list of messages is needed", "give it [{role, content}, ...]")
    messages: list[Message] = []
    for position, turn in enumerate(turns):
        where = f"`{column}[{position}]`"
        if not isinstance(turn, Mapping):
            raise _BadRow(f"{where} is {kind_of_value(turn)} where an object is needed", "make it {role, content}")
        names = ("role", "content") if "role" in turn or "content" in turn else ("from", "value")
        missing = [name for name in names if name not in turn]
        if missing:
            found = ", ".join(map(str, turn))
            raise _BadRow(f"{where} has no `{missing[0]}`; it has: {found}", "make it {role, content} or {from, value}")
        role = _SHAREGPT.get(turn[names[0]]) if names[0] == "from" and isinstance(turn["from"], str) else turn[names[0]]
        if role not in _ROLES:
            raise _BadRow(
                f"{where} has the role {turn[names[0]]!r}", "only system, user and assistant are known: convert the row"
            )
        if turn.get("tool_calls"):
            raise _BadRow(f"{where} calls tools", "tool calls are not trained: convert or remove the row")
        content = turn[names[1]]
        if not isinstance(content, str):
            raise _BadRow(
                f"{where} has {kind_of_value(content)} as `{names[1]}` where a text is needed", "make it a text"
            )
        for name, value in turn.items():
            if name != names[1]:
                reason = "role names" if name == names[0] else f"message key `{name}`"
                dropped[reason] = dropped.get(reason, 0) + _weight(value)
        messages.append(Message(role=cast(Role, role), content=content))
    return tuple(messages)


class _UnknownColumns(_BadRow):
    pass


_Choose = Callable[[Mapping[str, Any]], tuple[str, dict[str, str]]]
"""Row -> its shape, and which column plays each of the shape's parts."""


def _chooser(reading: SourceReading) -> _Choose:
    """Decide a row's shape by its columns; the answer is kept per set of columns."""
    renamed: dict[str, str] = {str(part): name for part, name in reading.source.columns.items()}
    columns = {part: part for needed in SHAPES.values() for part in needed} | {"input": "input"} | renamed
    if not renamed:  # where columns are named, those alone are read
        columns["label"] = "label"
    given = set(renamed) - {"label"}
    shapes = {
        shape: needed
        for shape, needed in SHAPES.items()
        if given <= {*needed, *(["input"] if shape == "instruction/input/output" else [])}
    }
    if not shapes:
        raise DataError(
            f"`columns` names {', '.join(sorted(given))}, which belong to different shapes",
            "name the columns of one shape: " + "; ".join(SHAPES),
            f"sources.{reading.position}.columns",
        )
    known: dict[frozenset[str], str] = {}

    def choose(row: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        names = frozenset(row)
        if names not in known:
            fitting = [shape for shape, needed in shapes.items() if all(columns[part] in names for part in needed)]
            if preferences := [shape for shape in fitting if shape.endswith("chosen/rejected")]:
                fitting = preferences[:1]  # rows of preferences often hold the better answer as `messages` once more
                if fitting == ["chosen/rejected"] and isinstance(row[columns["chosen"]], str):
                    raise _no_prompt(row)
            if len(fitting) > 1 and "text" in fitting:
                fitting.remove("text")  # usually the same row once more, rendered; counted as dropped
            if len(fitting) != 1 or not all(columns[part] in names for part in renamed.keys() - {"input"}):
                raise _unknown(row, fitting, shapes, columns, set(renamed))
            known[names] = fitting[0]
        return known[names], columns

    return choose


def _no_prompt(row: Mapping[str, Any]) -> _UnknownColumns:
    spare = [name for name, value in row.items() if isinstance(value, str | list)]
    found = ", ".join(f"`{name}`" for name in row)
    return _UnknownColumns(
        f"a better and a worse answer to no prompt; found: {found}",
        f"name the prompt: `columns: {{prompt: {_likely('prompt', spare, 1)}}}` on the source",
    )


def _unknown(
    row: Mapping[str, Any],
    fitting: list[str],
    shapes: Mapping[str, tuple[str, ...]],
    columns: Mapping[str, str],
    given: set[str],
) -> _UnknownColumns:
    found = ", ".join(f"`{name}`" for name in row) or "none"
    if len(fitting) > 1:
        return _UnknownColumns(
            f"the columns {found} fit several shapes: {'; '.join(fitting)}", "say which with `columns` on the source"
        )
    absent = sorted(columns[part] for part in given if columns[part] not in row)
    if absent:
        named = ", ".join(f"`{name}`" for name in absent)
        return _UnknownColumns(f"no column {named}, which `columns` names; found: {found}", "fix `columns`")
    settable = {shape: needed for shape, needed in shapes.items() if set(needed) <= _SETTABLE} or shapes
    nearest = max(settable, key=lambda shape: sum(columns[part] in row for part in settable[shape]))
    if not any(columns[part] in row for part in shapes[nearest]):
        nearest = "prompt/completion"
    taken = {columns[part] for part in SHAPES[nearest]} | {"input"}
    spare = [name for name, value in row.items() if name not in taken and isinstance(value, str)]
    missing = [part for part in SHAPES[nearest] if columns[part] not in row]
    proposal = ", ".join(f"{part}: {_likely(part, spare, len(missing))}" for part in missing)
    return _UnknownColumns(
        f"unknown columns: {found}; known: {'; '.join(SHAPES)}", f"name them: `columns: {{{proposal}}}` on the source"
    )


def _likely(part: str, spare: list[str], missing: int) -> str:
    """Which of the spare columns may play a part; `...` where nothing tells.

    >>> _likely("output", ["task", "reference"], 1), _likely("prompt", ["frage", "antwort"], 2)
    ('reference', 'frage')
    """
    asks = part in ("prompt", "instruction", "question", "pergunta", "messages", "conversations")
    for name in spare:
        if name.lower() in (_ASKS if asks else _ANSWERS):
            return name
    if len(spare) == missing:
        return spare[0 if asks or missing == 1 else -1]
    return "..."


def _one_row(text: str, reading: SourceReading, path: str) -> bool:
    """Whether a single object is a row by itself, or is written around rows."""
    whole = DECODER.decode(text)
    wrapped = wrapped_rows(whole, path, _names_wanted(reading))
    row = next(wrapped.rows)[1] if wrapped else whole
    if convert_row(row):
        return True
    try:
        _chooser(reading)(row)
    except _BadRow:
        return False
    return True


def _names_wanted(reading: SourceReading) -> set[str]:
    """Names of columns that mean something."""
    return {*(part for needed in SHAPES.values() for part in needed), *reading.source.columns.values()}
