"""Rows: JSONL, a JSON list, CSV, Parquet or a dataset of the hub; one document per row.

The shapes that are known, each under its usual column names (in any case) or those of the source's `columns`:

| shape | columns |
|---|---|
| conversation | ``messages``, ``conversations`` or ``conversation``: a list of turns, or a text of JSON that is one |
| questions | ``prompt``, ``instruction`` (with ``input`` or ``context``), ``question``, ``pergunta``, ``query`` or |
| | ``input``; and ``completion``, ``output``, ``answer``, ``resposta`` or ``response``: texts, or lists of turns |
| preference | ``chosen``, ``rejected`` (texts, turns, transcripts) and a question as above, or one inside of both |
| plain text | ``text`` |

Beside them: ``system`` (a system turn), ``history`` (earlier turns, learned as any), ``tools`` (functions that answers
may call), ``reasoning`` (what the answer thinks) and ``label``, true or false: whether the last answer is a good one.

The rows of one file may have different shapes. What decides what is learned (:mod:`~afina.sources.row_fields`) is used,
or the row is refused by the field's name; what plays no part is counted as dropped. Every row that cannot be used is
reported at once, or left out where the recipe says `on_unreadable: drop`. The characters of a file are those of its
values: names, quotes and braces are not text. An empty prompt or answer passes: the dataset's rules decide what becomes
of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import DataError
from afina.run import hash_file
from afina.sources.conversions import convert_row
from afina.sources.files import SourceFile, SourceReading, read_text
from afina.sources.preferences import join_preference, scores_of, side_turns, transcript
from afina.sources.row_fields import (
    NOT_LEARNED_FROM,
    UNREADABLE_DROP,
    BadRow,
    RowTally,
    absent,
    field_that_decides,
    names_shown,
    not_learned,
    text_of,
    unpacked,
)
from afina.sources.row_shapes import (
    ANSWERS,
    ASKS,
    CONVERSATIONS,
    PAIRS,
    Choose,
    RowShape,
    no_prompt,
    pairs_in,
    shape_chooser,
)
from afina.sources.tables import Row, RowProblems, json_shape, parse_object, wrapped_rows
from afina.sources.text import read_plain
from afina.sources.tool_calls import calls_alone, read_tools
from afina.sources.turns import read_turns, with_calls
from afina.text.document import (
    Document,
    FileLedger,
    Message,
    Tool,
    conversation_chars,
    value_chars,
    value_texts,
    visible,
)
from afina.text.formats import format_as, load_function

_LABELS = "labels, kept as true or false"
_AGAIN = "said again in another column"
_NO_INPUT = ("<noinput>", "<no input>")
"""What stands in `input` of rows as Self-Instruct and Alpaca were made, where there is none."""
LARGE_SHARE = 0.20
"""Share of a file's characters from which on a column that is left out is worth a warning."""


def read_rows(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The documents of a table, in order; `line` is the row's first line in the file (Parquet: its number).

    Raises:
        DataError: after the good rows, with every broken one; at once where there is no row.
    """
    problems = RowProblems(file.path, drop_rows=reading.drop_unreadable)
    before = _stamp(file.full)
    open_rows = load_function(format_as(file.path, "rows").rows)
    entry, rows = open_rows(reading, file.full, problems, _names_wanted(reading))
    yield from row_documents(rows, reading, entry, problems)
    if _stamp(file.full) != before and hash_file(file.full) != entry.sha256:
        raise DataError(
            "changed while it was read: its hash is not that of the rows that were taken",
            "start again when nothing writes into it any more, or name a copy",
            file.path,
        )


def _stamp(full: Path) -> tuple[int, int] | None:
    """What changes when a file is written; None where it cannot be asked: whoever opens it says why."""
    try:
        found = full.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def read_json(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The documents of a ``.json`` file: its rows, or the one document of prose that a single object may be.

    Raises:
        DataError: as :func:`read_rows`; and for an object that is no row where rows were asked for, or that wraps rows.
    """
    opened = read_text(reading, file.full)
    if json_shape(opened.text) != "object" or _holds_rows(opened.text, reading, file.path):
        reading.ledger.files.pop()  # rows enter their own line
        yield from read_rows(file, reading)
    elif reading.source.kind == "rows":
        raise DataError("one JSON object, not rows", "save a list of objects, or use `kind: text`", f"{file.path}:1")
    elif deeper := _rows_below(parse_object(opened.text), reading):
        raise DataError(
            f"questions and answers stand deep inside one object, in `{deeper}`: as one text, its braces and names "
            "would be learned with them",
            "write one object a line that holds a question, its answer and what both are about (docs/rows.md); or, if "
            "that is what is to be learned, say `kind: text`",
            f"{file.path}:1",
        )
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
    reader = _RowReader(reading, entry, problems)
    try:
        for line, row in rows:
            yield from reader.broken()
            count += 1
            if document := reader.read(row, line):
                yield document
        count += len(problems.broken)
        yield from reader.broken()
    except DataError as error:  # the file broke off: what was found before it is told as well
        problems.others += error.problems
    problems.check()
    if not count:
        raise DataError("the file has no rows", "put rows into it, or exclude it", entry.path)


def large_columns(chars_in: float, dropped: Mapping[str, float]) -> dict[str, float]:
    """The columns of a file that were left out though their names say nothing of why, and that hold much of its text:
    name -> share.

    >>> large_columns(10, {"column `essay`": 5, "column `id`": 5})
    {'essay': 0.5}
    """
    left = {reason[8:-1]: n for reason, n in dropped.items() if reason.startswith("column `") and reason.endswith("`")}
    return {
        name: count / chars_in
        for name, count in left.items()
        if count > LARGE_SHARE * chars_in and name.lower() not in NOT_LEARNED_FROM
    }


@dataclass(slots=True)
class _Read:
    """What a row says."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    rejected: str | None = None
    tools: tuple[Tool, ...] = ()
    label: bool | None = None


class _RowReader:
    """Reads the rows of one file."""

    def __init__(self, reading: SourceReading, entry: FileLedger, problems: RowProblems) -> None:
        self.reading, self.entry, self.problems = reading, entry, problems
        self.leave_out = frozenset(reading.source.leave_out)
        self.choose: Choose = shape_chooser(reading.source, reading.position)

    def broken(self) -> Iterator[Document]:
        """The rows that were none, for `dropped.jsonl`."""
        for line, what, text in self.problems.broken:
            yield self._unreadable(text, line, {"what": what, "fix": "fix or remove the row", "finding": "unreadable"})
        self.problems.broken.clear()

    def read(self, row: Mapping[str, Any], line: int) -> Document | None:
        """The row's document; None where its problem is noted."""
        tally = RowTally()
        try:
            read = self._read(row, tally)
        except BadRow as error:
            if self.problems.drop_rows:
                about = {"what": error.what, "fix": error.fix, "finding": error.finding}
                return self._unreadable("\n".join(value_texts(row)), line, about)
            self.problems.add(error.what, error.fix, line)
            return None
        self._enter(tally)
        self.entry.chars_in += value_chars(row)
        said = visible(read.text + (read.rejected or "")) + conversation_chars(read.messages, read.tools)
        self.entry.chars_out += said
        self.entry.documents += 1
        return Document(
            self.entry.path,
            self.entry.sha256,
            line=line,
            kind="messages" if read.messages else "text",
            text=read.text,
            messages=read.messages,
            tools=read.tools,
            rejected=read.rejected,
            label=read.label,
            meta=({} if read.rejected is None else scores_of(row)) | _fact_of(row) | _lines_of(read.text, line),
            source=self.reading.position,
        )

    def _unreadable(self, text: str, line: int, about: dict[str, str]) -> Document:
        self.entry.chars_in += visible(text)
        self.entry.chars_out += visible(text)
        self.entry.documents += 1
        entry = self.entry
        source = self.reading.position
        return Document(entry.path, entry.sha256, line, "unreadable", text=text, meta=about, source=source)

    def _enter(self, tally: RowTally) -> None:
        for reasons, own in ((self.entry.dropped, tally.dropped), (self.entry.added, tally.added)):
            for reason, count in own.items():
                if count:
                    reasons[reason] = reasons.get(reason, 0) + count

    def _read(self, row: Mapping[str, Any], tally: RowTally) -> _Read:
        if self.leave_out:
            for name in self.leave_out & row.keys():
                tally.drop(f"column `{name}`, by `leave_out`", row[name])
            row = {name: value for name, value in row.items() if name not in self.leave_out}
        shape = self.choose(row)
        given = {part: row[name] for part, name in shape.parts.items() if name in row}
        columns = _Columns(row, shape, given, tally, self.leave_out)
        read = columns.read()
        read.label = columns.label(named="label" in self.reading.source.columns)
        if read.label is not None and read.messages[-1].get("learned") is False:
            raise BadRow(
                "a rated answer is marked as not to learn", "take out one of the marks", finding="unlearned_field"
            )
        _check_again(row, shape, read, tally, self.leave_out)
        for name, value in row.items():
            if name not in shape.played:
                _leave_out(name, value, shape, tally)
        return read


def _fact_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What the row's question is about, where it says so: a probe's phrasings of one fact count once."""
    fact = row.get("fact")
    return {"fact": str(fact)} if isinstance(fact, str | int) and str(fact).strip() else {}


def _lines_of(text: str, line: int) -> dict[str, str]:
    """That a row's text stands on one line of the file, however many it has itself."""
    return {"lines": json.dumps({"1": line})} if "\n" in text else {}


def _leave_out(name: str, value: Any, shape: RowShape, tally: RowTally) -> None:
    """Count a column that plays no part, or refuse the row where it should play one."""
    lower = name.strip().lower()
    meant = shape.named and (
        lower in ("input", "context", "chosen", "rejected", "rejected_response", "label", "kto_tag")
    )
    if not meant and (bad := field_that_decides(name, value, shape.kind)):
        raise bad
    tally.drop(f"column `{name}`", value)


def _check_again(
    row: Mapping[str, Any], shape: RowShape, read: _Read, tally: RowTally, leave_out: frozenset[str]
) -> None:
    """Columns that look like a second shape have to say what the first one says.

    Raises:
        BadRow: they say something else.
    """
    contents = [message["content"] for message in read.messages] + [read.rejected or ""]
    other = []
    for name in shape.again:
        value = row[name]
        if absent(value):
            same = True
        elif name.strip().lower() in CONVERSATIONS:
            same = _same_turns(value, name, read.messages, leave_out)
            if not same:
                raise _several(row, ["/".join(shape.parts.values()), name])
        else:
            same = isinstance(value, str) and any(value.strip() in content for content in contents)
        if not same:
            other.append(name)
        tally.drop(f"column `{name}`", value)
    lower = {name.strip().lower() for name in other}
    if shape.kind == "answer" and other:
        if lower & {"input"} and len(lower) == 1 and (bad := field_that_decides(other[0], row[other[0]], shape.kind)):
            raise bad
        pairs = pairs_in(row)
        raise _several(row, pairs if len(pairs) > 1 else [f"`{name}`" for name in (*shape.parts.values(), *other)])
    if any({ask, answer} <= lower for ask, answer in PAIRS):
        raise _several(row, [*shape.parts.values(), *pairs_in(other)])


def _same_turns(value: Any, name: str, messages: Sequence[Message], leave_out: frozenset[str]) -> bool:
    try:
        turns, _ = read_turns(value, name, RowTally(), leave_out)
    except BadRow:
        return False
    said = [(message["role"], message["content"].strip()) for message in messages]
    again = [(message["role"], message["content"].strip()) for message in turns]
    return again in (said, said[:-1], said[1:], said[1:-1])


def _several(row: Mapping[str, Any], shapes: Sequence[str]) -> BadRow:
    what = f"the columns {names_shown(row)} fit several shapes: {'; '.join(shapes)}"
    return BadRow(what, "say which with `columns` on the source")


class _Columns:
    """The columns of one row that play a part, while they are read."""

    def __init__(
        self,
        row: Mapping[str, Any],
        shape: RowShape,
        given: Mapping[str, Any],
        tally: RowTally,
        leave_out: frozenset[str],
    ) -> None:
        self.row = row
        self.shape, self.given, self.tally, self.leave_out = shape, given, tally, leave_out

    def read(self) -> _Read:
        """All of them but the label."""
        kind = self.shape.kind
        if kind == "text":
            for part in ("system", "history", "tools"):
                self._only_absent(part)
            return _Read(text=text_of(self.given["text"], self.shape.parts["text"]))
        tools = self._tools()
        first = (*self._system(), *self._history())
        if kind == "preference":
            messages, rejected = self._preference(first)
            return _Read(messages, rejected=rejected, tools=tools)
        if kind == "conversation":
            turns, brought = read_turns(
                self.given["messages"], self.shape.parts["messages"], self.tally, self.leave_out
            )
            if brought and tools:
                raise BadRow("functions stand in the row and in its system turn", "name them once, in `tools`")
            tools = tools or brought
        else:
            turns = (*self._asked(context=True), *self._answer())
        messages = self._after(first, turns)
        if tools:
            messages = with_calls(messages, self._name("messages", "answer"), self.tally)
        if messages[-1]["role"] != "assistant":
            name = self._name("messages", "answer")
            raise BadRow(
                f"`{name}` ends with the {messages[-1]['role']}: there is no answer to learn",
                f"end every conversation with an assistant message; {UNREADABLE_DROP}",
            )
        return _Read(self._with_thoughts(messages), tools=tools)

    def label(self, *, named: bool) -> bool | None:
        """Whether the answer is a good one, where the row says it. In a column called `label` without further word only
        true and false say that; in `kto_tag`, or where the recipe names the column, 1 and 0 do as well.

        Raises:
            BadRow: it says something else.
        """
        if "label" not in self.given:
            return None
        name, value = self.shape.parts["label"], self.given["label"]
        self.tally.drop(_LABELS if not absent(value) else f"column `{name}`", value)
        if absent(value) and not named:
            return None
        said = str(value).strip().lower() if isinstance(value, str | bool | int) else ""
        known = {"true": True, "false": False}
        known |= {"1": True, "0": False} if named or name.lower() == "kto_tag" else {}
        if said in known:
            return known[said]
        what = f"is {value!r:.40} where true or false is needed" if named else "says something else than true or false"
        if named:
            raise BadRow(f"`{name}` {what}", "fix or remove the row")
        fix = f"if 1 and 0 say whether an answer is a good one: `columns: {{label: {name}}}` on the source"
        raise not_learned(name, what, fix)

    def _name(self, *parts: str) -> str:
        return next(self.shape.parts[part] for part in parts if part in self.shape.parts)

    def _only_absent(self, part: str) -> None:
        if part in self.given:
            name, value = self.shape.parts[part], self.given[part]
            if bad := field_that_decides(name, value, self.shape.kind):
                raise bad
            self.tally.drop(f"column `{name}`", value)

    def _value(self, part: str) -> Any:
        """A part's value; None (and counted) where it says nothing."""
        if part not in self.given:
            return None
        value = self.given[part]
        if absent(value):
            self.tally.drop(f"column `{self.shape.parts[part]}`", value)
            return None
        return value

    def _tools(self) -> tuple[Tool, ...]:
        value = self._value("tools")
        return () if value is None else read_tools(value, self.shape.parts["tools"], self.tally)

    def _system(self) -> tuple[Message, ...]:
        value = self._value("system")
        name = self.shape.parts.get("system", "")
        if isinstance(value, Mapping):
            turns, _ = read_turns({**value, "role": "system"}, name, RowTally(), self.leave_out)
            self.tally.rewrite("marks of the system text", value, [turn["content"] for turn in turns])
            return turns
        return () if value is None else ({"role": "system", "content": text_of(value, name)},)

    def _history(self) -> tuple[Message, ...]:
        """Earlier turns: pairs of a question and its answer, or turns."""
        value = self._value("history")
        if value is None:
            return ()
        name = self.shape.parts["history"]
        found = unpacked(value, name, self.tally)
        if isinstance(found, list) and all(isinstance(each, Mapping) for each in found):
            return read_turns(found, name, self.tally, self.leave_out)[0]
        messages: list[Message] = []
        for position, pair in enumerate(found if isinstance(found, list) else [found]):
            where = f"{name}[{position}]"
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise BadRow(f"`{where}` is no pair of question and answer", "give [[question, answer], ...]")
            messages.append({"role": "user", "content": text_of(pair[0], f"{where}[0]")})
            messages.append({"role": "assistant", "content": text_of(pair[1], f"{where}[1]")})
        return tuple(messages)

    def _after(self, first: tuple[Message, ...], turns: tuple[Message, ...]) -> tuple[Message, ...]:
        """A conversation behind the system text and the history that stand beside it."""
        if first and turns[0]["role"] == "system":
            if first[0]["role"] == "system" and first[0]["content"].strip() == turns[0]["content"].strip():
                self.tally.drop(_AGAIN, turns[0]["content"])
                return (*first, *turns[1:])
            name = self._name("system", "history")
            raise not_learned(name, "stands beside a conversation with a system turn of its own", "keep one of them")
        return (*first, *turns)

    def _asked(self, *, context: bool) -> tuple[Message, ...]:
        """The question: a text with what stands beside it, or turns.

        Args:
            context: answers in it are no targets.
        """
        name, value = self.shape.parts["asked"], self.given["asked"]
        beside = self._value("input")
        if isinstance(beside, str) and beside.strip().lower() in _NO_INPUT:
            self.tally.drop("marks that a question has no input", beside)
            beside = None
        if _is_turns(value):
            if beside is not None:
                raise not_learned(self.shape.parts["input"], "stands beside a question that is a list of turns")
            turns, _ = read_turns(value, name, self.tally, self.leave_out)
            return tuple(_as_context(turn) for turn in turns) if context else turns
        text = text_of(value, name)
        if beside is not None:
            text = f"{text}\n\n{text_of(beside, self.shape.parts['input'])}"
        elif not context and (turns := transcript(text, self.tally) or ()):
            return turns
        return ({"role": "user", "content": text},)

    def _answer(self) -> tuple[Message, ...]:
        name, value = self.shape.parts["answer"], self.given["answer"]
        if "tools" in self.given and (calls := calls_alone(value, name, self.tally)):
            return ({"role": "assistant", "content": "", "tool_calls": calls},)
        if _is_turns(value):
            return read_turns(value, name, self.tally, self.leave_out)[0]
        return ({"role": "assistant", "content": text_of(value, name)},)

    def _preference(self, first: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
        parts, given, tally = self.shape.parts, self.given, self.tally
        asked: tuple[Message, ...] = ()
        asked_name = ""
        if "asked" in parts:
            asked, asked_name = self._asked(context=False), parts["asked"]
        elif "messages" in parts:
            asked_name = parts["messages"]
            asked, _ = read_turns(given["messages"], asked_name, tally, self.leave_out)
        better_side = given.get("chosen")
        if not asked and isinstance(better_side, str) and transcript(better_side, RowTally()) is None:
            raise no_prompt(self.row)
        sides = {
            parts[part]: side_turns(given[part], parts[part], tally, self.leave_out, alone=not asked)
            for part in ("chosen", "rejected")
            if part in parts
        }
        if "chosen" not in parts:  # the better answer is the conversation's own
            if asked[-1]["role"] != "assistant":
                raise BadRow(f"`{asked_name}` ends with the {asked[-1]['role']}", "end it with the better answer")
            sides, asked = {asked_name: asked[-1:]} | sides, asked[:-1]
        better = sides[parts["chosen"]] if "chosen" in parts else ()
        if asked and len(better) > 1 and asked == better and "messages" in parts:
            tally.dropped["said again in a preference"] += conversation_chars(asked)
            asked = ()
        if asked and asked[-1]["role"] not in ("user", "tool"):
            raise BadRow(f"`{asked_name}` ends with the {asked[-1]['role']}", "end the prompt with a question")
        return join_preference(asked, first, sides, asked_name, tally)

    def _with_thoughts(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The answer with what a column of its own says that it thinks."""
        value = self._value("thoughts")
        if value is None:
            return messages
        name = self.shape.parts["thoughts"]
        answers = [message for message in messages if message["role"] == "assistant"]
        if len(answers) > 1 or "reasoning_content" in messages[-1]:
            raise not_learned(name, "stands beside several answers, or one that thinks already")
        return (*messages[:-1], {**messages[-1], "reasoning_content": text_of(value, name)})


def _as_context(turn: Message) -> Message:
    return {**turn, "learned": False} if turn["role"] == "assistant" else turn


def _is_turns(value: Any) -> bool:
    """Whether a value is a turn or a list of turns."""
    turns = [value] if isinstance(value, Mapping) else value
    return (
        isinstance(turns, list)
        and bool(turns)
        and all(isinstance(turn, Mapping) and turn.keys() & {"role", "from"} for turn in turns)
    )


def _rows_below(value: Any, reading: SourceReading, levels: int = 8) -> str | None:
    """Where rows with an answer stand in an object, below more lists than one, as SQuAD has them: the path to them."""
    if isinstance(value, Mapping) and levels:
        for name, inside in value.items():
            if found := _rows_below(inside, reading, levels - 1):
                return f"{name}{'' if found.startswith('[') else '.'}{found}"
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        if _is_row(value[0], reading, "conversation", "answer", "preference"):
            return "[]"
        if found := _rows_below(value[0], reading, levels):
            return f"[].{found}"
    return None


def _is_row(value: Mapping[str, Any], reading: SourceReading, *kinds: str) -> bool:
    """Whether a single object is a row by itself; of one of some kinds, where they are given."""
    try:
        shape = shape_chooser(reading.source, reading.position)(value)
    except BadRow:
        return False
    return not kinds or shape.kind in kinds


def _names_wanted(reading: SourceReading) -> set[str]:
    """Names of columns that mean something."""
    return {*CONVERSATIONS, *ASKS, *ANSWERS, "text", "chosen", "rejected", *reading.source.columns.values()}


def _holds_rows(text: str, reading: SourceReading, path: str) -> bool:
    """Whether a single object is a row, or is written around rows.

    Raises:
        DataError: there are several lists of rows in it.
    """
    whole = parse_object(text)
    wrapped = wrapped_rows(whole, path, _names_wanted(reading))
    row = next(wrapped.rows)[1] if wrapped else whole
    return convert_row(row) is not None or _is_row(row, reading)
