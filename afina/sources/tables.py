"""Files of rows as their formats have them: JSONL, a JSON list, CSV, Parquet; with the line of each row.

Each ``open_NAME`` is the `rows` of a format: it opens a file's line in the ledger and gives its rows as a stream. What
is wrong with single rows goes to `problems`; `wanted` are names of columns that may occur.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.errors import DataError, Problem
from afina.sources.files import SourceReading, open_lines, open_packed, read_text
from afina.sources.json_mistakes import ONE_A_LINE, mistake, spans_lines, trailing_comma
from afina.text.document import FileLedger
from afina.text.formats import format_as

Row = tuple[int, Mapping[str, Any]]
"""Line (from 1) and values of one row."""
OpenedRows = tuple[FileLedger, Iterator[Row]]

_SHOWN = 20
_BATCH = 1000
_DELIMITERS = ",;\t"


@dataclass(slots=True)
class RowProblems:
    """The first problems of a file, and how many there are; alike ones are one problem."""

    path: str
    first: list[Problem] = field(default_factory=list)
    more: int = 0
    grouped: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    drop_rows: bool = False
    """Single rows that are no rows go to `broken`, and are no problem."""
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    """Line, what is wrong, and the text of each."""

    def add(self, what: str, fix: str, line: int, row: str | None = None, *, alike: bool = False) -> None:
        """Note what is wrong.

        Args:
            row: the text of a single row, where what follows it can still be read.
            alike: it is told once with the same of other rows.
        """
        if row is not None and self.drop_rows:
            self.broken.append((line, what, row))
        elif alike:
            self.group(what, fix, line)
        elif len(self.first) < _SHOWN:
            self.first.append(Problem(what, fix, f"{self.path}:{line}"))
        else:
            self.more += 1

    def group(self, what: str, fix: str, line: int) -> None:
        self.grouped.setdefault((what, fix), []).append(line)

    def check(self) -> None:
        alike = [
            Problem(what + _how_many(lines), fix, f"{self.path}:{lines[0]}")
            for (what, fix), lines in self.grouped.items()
        ]
        rest = [Problem(f"and {self.more} more rows like these", "fix the file", self.path)] if self.more else []
        if self.first or alike:
            raise DataError(problems=[*alike, *self.first, *rest])


def _how_many(lines: list[int]) -> str:
    return f" ({len(lines)} rows, first line {lines[0]})" if len(lines) > 1 else ""


def open_jsonl(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:  # noqa: ARG001
    """One JSON object a line."""
    entry, lines = open_lines(reading, full)
    return entry, jsonl_rows(lines, problems)


def open_json(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:
    """A list of objects, one object, or JSONL under another name."""
    opened = read_text(reading, full)
    shape = json_shape(opened.text)
    if shape == "jsonl":
        reading.ledger.files.pop()
        return open_jsonl(reading, full, problems, wanted)
    rows = list_rows(opened.text, problems) if shape == "list" else iter([(1, json.loads(opened.text))])
    return opened.entry, rows


def open_csv(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:
    """A table with a line of names."""
    entry, lines = open_lines(reading, full)
    return entry, csv_rows(lines, problems, wanted)


def open_parquet(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:  # noqa: ARG001
    """A table of columns, by pyarrow."""
    return open_packed(reading, full), parquet_rows(full, problems.path)


def json_shape(text: str) -> str:
    """What a ``.json`` file holds: ``list``, ``object``, or lines of objects (``jsonl``).

    >>> json_shape('[{}]'), json_shape('{"a":\\n1}'), json_shape('{"a": 1}\\n{"a": 2}')
    ('list', 'object', 'jsonl')
    """
    start = text.lstrip()
    if start.startswith("["):
        return "list"
    first, _, rest = start.partition("\n")
    try:
        whole_line = isinstance(json.loads(first), dict)
    except ValueError:
        whole_line = False
    if whole_line and rest.strip():
        return "jsonl"
    try:
        return "object" if isinstance(json.loads(start), dict) else "jsonl"
    except (ValueError, RecursionError):
        return "jsonl"


def kind_of_value(value: Any) -> str:
    """What a value is, in words.

    >>> kind_of_value(None), kind_of_value(3), kind_of_value(b"x")
    ('null', 'the number 3', 'a bytes')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _no_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_no_double_keys)


def _checked(value: Any, source: str) -> Mapping[str, Any]:
    """A row must be an object, and each of its characters whole."""
    if not isinstance(value, Mapping):
        raise ValueError(f"a row is an object {{...}}, this is {kind_of_value(value)}")
    if "\\u" in source:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a character (a lone surrogate such as \\ud83d)") from None
    return value


def jsonl_rows(lines: Iterator[str], problems: RowProblems) -> Iterator[Row]:
    """Rows of a JSONL file; blank ones count as lines."""
    read = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _checked(DECODER.decode(line), line)
        except json.JSONDecodeError as error:
            if not read and spans_lines(line, error):
                problems.add("an object over several lines, where each line has to be one", ONE_A_LINE, number)
                return
            what, fix, alike = mistake(line, error)
            problems.add(what if alike else f"{what}: {_snippet(line, error.pos)}", fix, number, line, alike=alike)
        except (ValueError, RecursionError) as error:
            problems.add(f"{error}: {_snippet(line, 0)}", "fix or remove the line", number, line)
        else:
            yield number, row
        read += 1


def list_rows(text: str, problems: RowProblems) -> Iterator[Row]:
    """The items of a JSON list, with the line that each starts on."""
    position, line, counted = text.index("[") + 1, 1, 0
    first = True
    while True:
        try:
            position = _after(text, position, "" if first else ",")
            line += text.count("\n", counted, position)
            counted = position
            if text[position : position + 1] == "]" and first:
                break
            value, end = DECODER.raw_decode(text, position)
            ends = _after(text, end, "")
        except json.JSONDecodeError as error:
            said = "a comma behind the last item" if trailing_comma(text, error) else error.msg
            what = f"not JSON: {said}: {_snippet(text, error.pos)}"
            problems.add(what, "fix the list; what follows was not read", error.lineno)
            return
        except (ValueError, RecursionError) as error:
            problems.add(f"{error}: {_snippet(text, position)}", "fix the list; what follows was not read", line)
            return
        try:
            yield line, _checked(value, text[position:end])
        except ValueError as error:
            item = text[position:end]
            problems.add(f"{error}: {_snippet(text, position)}", "fix or remove the item", line, item)
        position, first = ends, False
        if text[position : position + 1] == "]":
            break
    if text[position + 1 :].strip():
        at = _after(text, position + 1, "")
        problems.add(f"text after the list: {_snippet(text, at + 1)}", "remove it", text.count("\n", 0, at) + 1)


def _after(text: str, position: int, mark: str) -> int:
    """The place of the next character that is not white space, past `mark`."""
    for wanted in (mark, ""):
        while position < len(text) and text[position] in " \t\n":
            position += 1
        if not text.startswith(wanted, position):
            raise json.JSONDecodeError(f"Expecting {wanted!r}", text, position)
        position += len(wanted)
    return position


def csv_rows(lines: Iterator[str], problems: RowProblems, wanted: Collection[str]) -> Iterator[Row]:
    """Rows of a CSV file; the delimiter is the one of ``,`` ``;`` and tab that gives most columns."""
    header = next(lines, "")
    splits = {mark: next(csv.reader([header], delimiter=mark), []) for mark in _DELIMITERS}
    delimiter = max(splits, key=lambda mark: (len(set(wanted) & set(splits[mark])), len(splits[mark])))
    names = splits[delimiter]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        problems.add(f"the columns {', '.join(twice)} stand twice", "give each column a name of its own", 1)
        return
    csv.field_size_limit(2**31 - 1)  # a cell may hold a whole chapter; Python's own limit is 128 KiB
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 2
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(f"not CSV: {error}", "fix the quotes; what follows was not read", start)
            return
        if values:
            if len(values) == len(names):
                yield start, dict(zip(names, values, strict=True))
            else:
                what = f"{len(values)} cells where the header has {len(names)}"
                row = delimiter.join(values)
                problems.add(what, f"quote cells that hold {delimiter!r} or line ends", start, row)
        start = reader.line_num + 2


def parquet_rows(full: Path, path: str) -> Iterator[Row]:
    """Rows of a Parquet file, numbered from 1; one batch of them is in memory at a time.

    Raises:
        DataError: where pyarrow is missing, or the file is damaged.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        fix = f"pip install 'afina[{format_as('a.parquet', 'rows').extra}]', or convert the file to JSONL"
        raise DataError("reading Parquet needs pyarrow", fix, path) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(full) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        what = f"not Parquet, or damaged after row {number}: {str(error).splitlines()[0][:160]}"
        raise DataError(what, "fetch or write the file again", path) from error


def _snippet(text: str, position: int) -> str:
    """The text around a place, on one line.

    >>> _snippet('{"a": nope}', 6)
    '`{"a": nope}`'
    """
    start = max(text.rfind("\n", 0, position) + 1, position - 30)
    piece = text[start : position + 30].split("\n")[0].strip()
    return f"`{piece}`"
