"""What people write where JSON belongs, told by its name."""

from __future__ import annotations

import ast
import json
import re

_PYTHON = re.compile(r"[{\[,:]\s*(?:'|None\b|True\b|False\b)")
_COMMA_LAST = re.compile(r",\s*[}\]]")
ONE_A_LINE = "write one object per line, e.g. by `jq -c . FILE`; or name the file .json if it is one list"
"""What to do with an object that goes over several lines."""


def mistake(line: str, error: json.JSONDecodeError) -> tuple[str, str]:
    """What is wrong with a line of a JSONL file, and what to do.

    >>> def named(line):
    ...     try:
    ...         return json.loads(line)
    ...     except json.JSONDecodeError as error:
    ...         return mistake(line, error)[0]
    >>> named('{"a": 1},'), named("{'a': None}")
    ('a comma behind the object', 'a Python dictionary, not JSON: single quotes, None, True')
    """
    if error.msg == "Extra data" and line[error.pos :].strip() == ",":
        return "a comma behind the object", "each line is one object, with nothing behind it: remove the commas"
    if error.msg == "Extra data" and line[error.pos :].lstrip().startswith("{"):
        return "several objects on one line", ONE_A_LINE
    if (last := _COMMA_LAST.search(line, max(0, error.pos - 8))) and last.start() <= error.pos:
        return "a comma behind the last key or item", "remove it: JSON has none there"
    if looks_like_python(line):
        what = "a Python dictionary, not JSON: single quotes, None, True"
        return what, "write each row by `json.dumps(row, ensure_ascii=False)`"
    return f"not JSON: {error.msg}", "fix or remove the line"


def spans_lines(line: str, error: json.JSONDecodeError) -> bool:
    """Whether a first line only begins an object or a list, which goes on below: it breaks off outside of a text.

    >>> def spans(line):
    ...     try:
    ...         return json.loads(line)
    ...     except json.JSONDecodeError as error:
    ...         return spans_lines(line, error)
    >>> spans("{\\n"), spans('[{"a": 1},\\n'), spans('{"a": "b\\n'), spans('{"a": 1}, x')
    (True, True, False, False)
    """
    in_text = error.msg.startswith(("Invalid control character", "Unterminated string"))
    return line.lstrip().startswith(("{", "[")) and error.pos >= len(line.rstrip()) and not in_text


def trailing_comma(text: str, error: json.JSONDecodeError) -> bool:
    """Whether a list ends with a comma, behind which another item was expected."""
    return text[error.pos : error.pos + 1] == "]" and text[: error.pos].rstrip().endswith(",")


def looks_like_python(text: str) -> bool:
    """Whether a text that is no JSON is a list or dictionary as Python prints it.

    >>> looks_like_python("{'a': None}"), looks_like_python("{'a': nope}")
    (True, False)
    """
    if not _PYTHON.search(text):
        return False
    try:
        return isinstance(ast.literal_eval(text.strip()), dict | list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
