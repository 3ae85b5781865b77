"""Files of rows as their formats have them: JSONL, JSON, CSV, TSV, Parquet, Arrow; with the line of each row.

Each ``open_NAME`` is the `rows` of a format: it opens a file's line in the ledger and gives its rows as a stream. What
is wrong with single rows goes to `problems`; `wanted` are names of columns that may occur.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from afina.errors import DataError, Problem
from afina.sources.conversions import UnusableRow, convert_row, left_out_of
from afina.sources.files import SourceReading, open_lines, open_packed, read_text
from afina.sources.json_mistakes import ONE_A_LINE, mistake, spans_lines, trailing_comma
from afina.text.document import FileLedger, value_texts, visible
from afina.text.formats import format_as

Row = tuple[int, Mapping[str, Any]]
"""Line (from 1) and values of one row."""
OpenedRows = tuple[FileLedger, Iterator[Row]]

_SHOWN = 20
_BATCH = 1000
_DELIMITERS = ",;\t|"
LONGEST_CELL = 2**31 - 1
"""In characters: a cell may hold a whole chapter; Python's own limit is 128 KiB."""
_ARROW_FILE = b"ARROW1"
_EXCEL_SAYS = re.compile(r"\"?sep=(.)\"?\s*", re.I)
_QUOTED_LATE = re.compile(r'\s+".*"\s*', re.S)
_OF_ONE_ROW = re.compile(r"\[\d+\]|(?<=the number )\S+|line \d+ column \d+ \(char \d+\)")
"""What differs in the messages of rows that are wrong in one way: which turn it is, which number, where in the row."""
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")


@dataclass(slots=True)
class _Alike:
    """Rows that one thing is wrong with."""

    what: str
    fix: str
    line: int
    """Of the first of them."""
    example: str
    rows: int = 1

    def problem(self, path: str) -> Problem:
        many = f" ({self.rows} rows, first line {self.line})" if self.rows > 1 else ""
        return Problem(f"{self.what}{many}{self.example and f': {self.example}'}", self.fix, f"{path}:{self.line}")


@dataclass(slots=True)
class RowProblems:
    """What is wrong with rows of a file. Of rows that are wrong in one way the first is told, and how many there are: a
    mistake in what wrote a file is in each of its rows."""

    path: str
    others: list[Problem] = field(default_factory=list)
    """What is wrong with the file itself."""
    alike: dict[tuple[str, str], _Alike] = field(default_factory=dict)
    drop_rows: bool = False
    """Single rows that are no rows go to `broken`, and are no problem."""
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    """Line, what is wrong, and the text of each."""

    def add(self, what: str, fix: str, line: int, row: str | None = None, *, example: str = "") -> None:
        """Note what is wrong.

        Args:
            what: the same for all rows that are wrong in this way, but for what :data:`_OF_ONE_ROW` finds in it.
            row: the text of a single row, where what follows it can still be read.
            example: how it stands in this row.
        """
        if row is not None and self.drop_rows:
            self.broken.append((line, f"{what}: {example}" if example else what, row))
        elif known := self.alike.get(kind := (_OF_ONE_ROW.sub("", what), fix)):
            known.rows += 1
        else:
            self.alike[kind] = _Alike(what, fix, line, example)

    def check(self) -> None:
        """
        Raises:
            DataError: something was noted.
        """
        told = [each.problem(self.path) for each in self.alike.values()]
        if more := sum(each.rows for each in [*self.alike.values()][_SHOWN:]):
            told[_SHOWN:] = [Problem(f"and {more} more rows that are wrong in other ways", "fix the file", self.path)]
        if told or self.others:
            raise DataError(problems=[*told, *self.others])


def open_jsonl(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:
    """One JSON object a line; or one list of them under this name, which is read as that."""
    entry, lines = open_lines(reading, full)
    above: list[str] = []
    for line in lines:
        above.append(line)
        if sum(1 for each in above if each.strip()) == 2:  # one alone may be an object around rows
            break
    said = [line for line in above if line.strip()]
    first = said[0] if said else ""
    is_list = _LIST_OF_OBJECTS.match(first) or first.strip() == "["
    if is_list or (len(said) == 1 and json_shape(first) == "object" and _wraps(first, problems.path, wanted)):
        reading.ledger.files.pop()
        return open_json(reading, full, problems, wanted)
    return entry, converted(jsonl_rows(chain(above, lines), problems), entry, problems)


def _wraps(text: str, path: str, wanted: Collection[str]) -> bool:
    return wrapped_rows(parse_object(text), path, wanted) is not None


def open_json(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:
    """A list of objects, an object around one, one object, or JSONL under another name."""
    opened = read_text(reading, full)
    shape = json_shape(opened.text)
    if shape == "jsonl":
        reading.ledger.files.pop()
        entry, lines = open_lines(reading, full)
        return entry, converted(jsonl_rows(lines, problems), entry, problems)
    if shape == "list":
        return opened.entry, converted(list_rows(opened.text, problems), opened.entry, problems)
    try:
        whole = _checked(DECODER.decode(opened.text), opened.text)
    except (ValueError, RecursionError) as error:
        problems.add(str(error), "fix or remove the row", 1, opened.text, example=_snippet(opened.text, 0))
        return opened.entry, iter(())
    rows: Iterator[Row] = iter([(1, whole)])
    if wrapped := wrapped_rows(whole, problems.path, wanted):
        for name, value in wrapped.beside.items():
            drop_values(opened.entry, f"beside the rows: `{name}`", value)
        rows = wrapped.rows
    return opened.entry, converted(rows, opened.entry, problems)


def open_csv(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:
    """A table with a line of names."""
    entry, lines = open_lines(reading, full)
    return entry, csv_rows(lines, problems, wanted)


def open_tsv(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:
    """A table with a line of names, and tabs between its cells.

    Quotes are marks around a cell where the whole file reads so, as spreadsheets write it; else they are text.
    """
    entry, lines = open_lines(reading, full)
    quoted = _is_quoted(lines, "\t")
    reading.ledger.files.pop()
    entry, lines = open_lines(reading, full)
    return entry, csv_rows(lines, problems, wanted, "\t", quoted=quoted)


def _is_quoted(lines: Iterator[str], delimiter: str) -> bool:
    """Whether every row has as many cells as the first where quotes are marks."""
    csv.field_size_limit(LONGEST_CELL)
    try:
        rows = (row for row in csv.reader(lines, delimiter=delimiter, strict=True) if row)
        header = next(rows, [])
        return all(len(row) == len(header) for row in rows)
    except csv.Error:
        return False


def open_arrow(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:  # noqa: ARG001
    """A table of columns as `datasets` and pandas save it, by pyarrow."""
    return open_packed(reading, full), column_rows(full, problems.path, "Arrow")


def open_parquet(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:  # noqa: ARG001
    """A table of columns, by pyarrow."""
    return open_packed(reading, full), column_rows(full, problems.path, "Parquet")


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
    except (ValueError, RecursionError):
        whole_line = False
    if whole_line and rest.strip():
        return "jsonl"
    try:
        return "object" if isinstance(json.loads(start), dict) else "jsonl"
    except (ValueError, RecursionError):
        return "jsonl"


def parse_object(text: str) -> Any:
    """A text of the shape ``object``, to see what it is. A key that stands twice is a problem of rows, not of prose: it
    is told where rows are read.

    >>> parse_object('{"a": 1, "a": 2}')
    {'a': 2}
    """
    return json.loads(text)


@dataclass(frozen=True, slots=True)
class WrappedRows:
    """Rows that stand in one object, and what stands beside them."""

    rows: Iterator[Row]
    beside: Mapping[str, Any]


def wrapped_rows(whole: Any, path: str, wanted: Collection[str] = ()) -> WrappedRows | None:
    """The rows of an object around one list of objects, or around columns; None where it is neither.

    >>> found = wrapped_rows({"version": 1, "data": [{"a": 1}]}, "a.json")
    >>> list(found.rows), found.beside
    ([(1, {'a': 1})], {'version': 1})
    >>> list(wrapped_rows({"a": {"0": "x", "1": "y"}, "b": {"0": 1, "1": 2}}, "a.json").rows)
    [(1, {'a': 'x', 'b': 1}), (2, {'a': 'y', 'b': 2})]
    >>> wrapped_rows({"prompt": "a", "documents": [{"title": "b"}]}, "a.json", ["prompt"])

    The rows are numbered, as they have no lines of their own.

    Args:
        wanted: names of columns that may occur: an object with one of them is a row itself, whatever lists it holds.

    Raises:
        DataError: there are several lists of objects.
    """
    if not isinstance(whole, Mapping) or not whole:
        return None
    if rows := _from_columns(whole):
        return rows
    lists = {name: value for name, value in whole.items() if _all_are(value, Mapping)}
    exported = len(lists) == 1 and all(convert_row(rows[0]) for rows in lists.values())
    if not exported and (whole.keys() & set(wanted) or convert_row(whole)):
        return None
    if not lists:
        return _one_deeper(whole, path, wanted)
    if len(lists) > 1:
        named = ", ".join(f"`{name}`" for name in lists)
        raise DataError(f"several lists of rows in one object: {named}", "save each as a file of its own", f"{path}:1")
    ((name, items),) = lists.items()
    return WrappedRows(enumerate(items, 1), {key: value for key, value in whole.items() if key != name})


def _one_deeper(whole: Mapping[str, Any], path: str, wanted: Collection[str]) -> WrappedRows | None:
    """The rows of the one object that stands in another; or the objects of one kind that stand under their ids.

    >>> list(_one_deeper({"d": {"rows": [{"a": 1}]}}, "a.json", []).rows)
    [(1, {'a': 1})]
    >>> list(_one_deeper({"x7": {"prompt": 1}, "x8": {"prompt": 2}}, "a.json", ["prompt"]).rows)
    [(1, {'prompt': 1}), (2, {'prompt': 2})]
    """
    objects = {name: value for name, value in whole.items() if isinstance(value, Mapping)}
    if len(objects) > 1 and len(objects) == len(whole):
        names = next(iter(objects.values())).keys()
        if names & set(wanted) and all(value.keys() == names for value in objects.values()):
            return WrappedRows(enumerate(objects.values(), 1), {})
    if len(objects) != 1:
        return None
    ((name, value),) = objects.items()
    inner = wrapped_rows(value, path, wanted)
    if inner is None:
        return None
    return WrappedRows(inner.rows, {key: each for key, each in whole.items() if key != name} | dict(inner.beside))


def _from_columns(whole: Mapping[str, Any]) -> WrappedRows | None:
    """The rows of a table that is written by columns: as pandas does it, or `datasets`."""
    columns, data = whole.get("columns") or (), whole.get("data") or ()
    if _all_are(columns, str) and _all_are(data, list):
        beside = {key: value for key, value in whole.items() if key not in ("columns", "data")}
        return WrappedRows(enumerate((dict(zip(columns, row, strict=False)) for row in data), 1), beside)
    values = list(whole.values())
    if all(isinstance(value, dict) and value and value.keys() == values[0].keys() for value in values):
        if all(key.isdigit() for key in values[0]):
            return WrappedRows(enumerate(({name: whole[name][key] for name in whole} for key in values[0]), 1), {})
        return None
    as_lists = len(whole) > 1 and all(isinstance(value, list) and len(value) == len(values[0]) for value in values)
    if as_lists and values[0] and not any(_all_are(value, Mapping) for value in values):
        rows = (dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True))
        return WrappedRows(enumerate(rows, 1), {})
    return None


def _all_are(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, kind) for each in value)


def converted(rows: Iterable[Row], entry: FileLedger, problems: RowProblems) -> Iterator[Row]:
    """The rows, those of other programs converted; what is left out of them is counted in `entry`."""
    for line, row in rows:
        try:
            found = convert_row(row)
        except UnusableRow as error:
            problems.add(error.what, error.fix, line, "\n".join(value_texts(row)))
            continue
        if found is None:
            yield line, row
            continue
        for reason, count in left_out_of(row, found).items():
            count_dropped(entry, reason, count)
        if found.row is not None:
            yield line, found.row


def count_dropped(entry: FileLedger, reason: str, count: int) -> None:
    """Count visible characters that came in and are no rows."""
    if count:
        entry.chars_in += count
        entry.dropped[reason] = entry.dropped.get(reason, 0) + count


def drop_values(entry: FileLedger, reason: str, value: Any) -> None:
    """Count values that came in and are no rows."""
    count_dropped(entry, reason, sum(visible(text) for text in value_texts(value)))


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
            what, fix = mistake(line, error)
            problems.add(what, fix, number, line, example=_snippet(line, error.pos))
        except (ValueError, RecursionError) as error:
            problems.add(str(error), "fix or remove the line", number, line, example=_snippet(line, 0))
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
            shown = _snippet(text, error.pos)
            problems.add(f"not JSON: {said}", "fix the list; what follows was not read", error.lineno, example=shown)
            return
        except (ValueError, RecursionError) as error:
            shown = _snippet(text, position)
            problems.add(str(error), "fix the list; what follows was not read", line, example=shown)
            return
        try:
            yield line, _checked(value, text[position:end])
        except ValueError as error:
            item, shown = text[position:end], _snippet(text, position)
            problems.add(str(error), "fix or remove the item", line, item, example=shown)
        position, first = ends, False
        if text[position : position + 1] == "]":
            break
    if text[position + 1 :].strip():
        at = _after(text, position + 1, "")
        problems.add("text after the list", "remove it", text.count("\n", 0, at) + 1, example=_snippet(text, at + 1))


def _after(text: str, position: int, mark: str) -> int:
    """The place of the next character that is not white space, past `mark`."""
    for wanted in (mark, ""):
        while position < len(text) and text[position] in " \t\n":
            position += 1
        if not text.startswith(wanted, position):
            raise json.JSONDecodeError(f"Expecting {wanted!r}", text, position)
        position += len(wanted)
    return position


def csv_rows(
    lines: Iterator[str],
    problems: RowProblems,
    wanted: Collection[str],
    delimiters: str = _DELIMITERS,
    *,
    quoted: bool = True,
) -> Iterator[Row]:
    """Rows of a CSV file; the delimiter is the one that gives most columns, or what Excel's ``sep=;`` says.

    Args:
        quoted: quotes are marks around a cell; else they are text.
    """
    quoting: Literal[0, 3] = 0 if quoted else 3  # QUOTE_MINIMAL, QUOTE_NONE
    header = next(lines, "")
    above = 0
    if said := _EXCEL_SAYS.fullmatch(header):
        delimiters, header, above = said[1], next(lines, ""), 1
    splits = {mark: next(csv.reader([header], delimiter=mark, quoting=quoting), []) for mark in delimiters}
    delimiter = max(splits, key=lambda mark: (len(set(wanted) & set(splits[mark])), len(splits[mark])))
    names = _told_apart(splits[delimiter])
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        problems.add(f"the columns {', '.join(twice)} stand twice", "give each column a name of its own", 1)
        return
    csv.field_size_limit(LONGEST_CELL)
    first = next(lines, "")
    spaced = quoted and delimiter != "\t" and any(_spaced(line, delimiter) for line in (header, first))
    if spaced:
        names = _told_apart(next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), []))
    raw: list[str] = []

    def noted() -> Iterator[str]:
        for line in chain([first] if first else [], lines):
            raw.append(line)
            yield line

    reader = csv.reader(noted(), delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=spaced)
    start = 2 + above
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(f"not CSV: {error}", "fix the quotes; what follows was not read", start)
            return
        if values:
            late = [each for each in values if _QUOTED_LATE.fullmatch(each)] if quoted and not spaced else []
            if late and any(delimiter + each in "".join(raw) for each in late):  # it stands so in the file
                what, shown = "a quote behind a space is text, and would be learned", _snippet(late[0], 0)
                fix = f"take out the spaces behind {delimiter!r}"
                problems.add(what, fix, start, delimiter.join(values), example=shown)
            elif len(values) == len(names):
                yield start, dict(zip(names, values, strict=True))
            else:
                _other_width(values, len(names), delimiter, start, problems)
        raw.clear()
        start = reader.line_num + 2 + above


def _other_width(values: list[str], width: int, delimiter: str, line: int, problems: RowProblems) -> None:
    """Note a row that has more or fewer cells than the header."""
    what, row = f"{len(values)} cells where the header has {width}", delimiter.join(values)
    if len(values) > width and not "".join(values[width:]).strip():
        problems.add(
            f"{what}, and nothing behind its last",
            f"write {delimiter!r} behind the header too, or take it from the ends of rows; quote cells that hold it",
            line,
            row,
        )
    else:
        problems.add(what, f"quote cells that hold {delimiter!r} or line ends", line, row)


def _told_apart(names: list[str]) -> list[str]:
    """The names of columns; those without one by their place, where there are several. Spreadsheets write the empty
    columns beside a table.

    >>> _told_apart(["prompt", "", " "]), _told_apart(["prompt", ""])
    (['prompt', '(column 2)', '(column 3)'], ['prompt', ''])
    """
    if sum(not name.strip() for name in names) < 2:
        return names
    return [name if name.strip() else f"(column {place})" for place, name in enumerate(names, 1)]


def _spaced(line: str, delimiter: str) -> bool:
    """Whether a line of a table has a space between a delimiter and the quote of the next cell, as people write lists.

    >>> _spaced('prompt, "completion"', ","), _spaced('"a, b",c', ","), _spaced("a, b", ",")
    (True, False, False)
    """
    cells = next(csv.reader([line], delimiter=delimiter), [])
    return any(_QUOTED_LATE.match(each) and delimiter + each in line for each in cells[1:])


def column_rows(full: Path, path: str, kind: Literal["Parquet", "Arrow"]) -> Iterator[Row]:
    """Rows of a file of columns, numbered from 1; a batch of them is in memory at a time.

    Raises:
        DataError: where pyarrow is missing, or the file is damaged.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        fix = f"pip install 'afina[{format_as(f'a.{kind.lower()}', 'rows').extra}]', or convert the file to JSONL"
        raise DataError(f"reading {kind} needs pyarrow", fix, path) from None
    number = 0
    try:
        for batch in _parquet_batches(full) if kind == "Parquet" else _arrow_batches(full):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        what = f"not {kind}, or damaged after row {number}: {str(error).splitlines()[0][:160]}"
        raise DataError(what, "fetch or write the file again", path) from error


def _parquet_batches(full: Path) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(full) as table:
        yield from table.iter_batches(batch_size=_BATCH)


def _arrow_batches(full: Path) -> Iterator[Any]:
    """Of a file with an index of its batches, or of a stream without one, as `datasets` saves it."""
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(full)) as mapped:
        start = mapped.read(len(_ARROW_FILE))
        mapped.seek(0)
        if start == _ARROW_FILE:
            indexed = pyarrow.ipc.open_file(mapped)
            batches = (indexed.get_batch(place) for place in range(indexed.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(mapped))
        for batch in batches:
            yield from (batch[first : first + _BATCH] for first in range(0, batch.num_rows, _BATCH))


def _snippet(text: str, position: int) -> str:
    """The text around a place, on one line.

    >>> _snippet('{"a": nope}', 6)
    '`{"a": nope}`'
    """
    start = max(text.rfind("\n", 0, position) + 1, position - 30)
    piece = text[start : position + 30].split("\n")[0].strip()
    return f"`{piece}`"
