"""Functions, calls and results in the forms that people keep them in, as OpenAI and chat templates have them.

- **Functions**: a list of ``{"type": "function", "function": {...}}`` or of bare ``{"name", "parameters"}``, as such or
  as a text of JSON.
- **Calls**: ``tool_calls``; the older ``function_call``; a turn of its own with the role ``function_call`` (ShareGPT);
  ``<tool_call>{...}</tool_call>`` in the answer (Hermes). The arguments are an object or JSON, once or twice encoded.
- **Results**: turns with the role ``tool``, ``function``, ``observation`` or ``ipython``.

Keys without a value are left out of arguments and functions: Parquet and Arrow give every row all keys of all rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from afina.sources.row_fields import BadRow, RowTally, absent, unpacked
from afina.sources.tables import DECODER
from afina.text.document import Message, Tool, ToolCall, value_chars

_CALL_TEXT = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESULT_TEXT = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)


def read_tools(value: Any, name: str, tally: RowTally) -> tuple[Tool, ...]:
    """The functions that a row's answers may call.

    Raises:
        BadRow: it is no list of functions.
    """
    if absent(value):
        tally.drop(f"column `{name}`", value)
        return ()
    found = unpacked(value, name, RowTally())
    tools = []
    for position, each in enumerate(found if isinstance(found, list) else [found]):
        each = unpacked(each, f"{name}[{position}]", RowTally())
        where = f"`{name}[{position}]`"
        if not isinstance(each, Mapping):
            raise BadRow(f"{where} is no function", 'give {"name", "description", "parameters"}')
        function = each.get("function", each)
        kind = "function" if absent(each.get("type")) or function is each else each["type"]
        if not isinstance(function, Mapping) or kind != "function":
            raise BadRow(f"{where} is of type {kind!r:.40}: only functions are called", "leave it out")
        if not isinstance(function.get("name"), str) or not function["name"].strip():
            fix = 'give {"name", "description", "parameters"}'
            raise BadRow(f"{where} is a function without a name", fix, finding="tool_definition")
        tools.append({"type": "function", "function": _with_parameters(function, where)})
    tally.rewrite("JSON and marks of functions", value, tools)
    return tuple(tools)


def _with_parameters(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A function's definition: without keys that have no value, its parameters under that name as a schema."""
    found = {
        name: without_nulls(value) for name, value in function.items() if not absent(value) or name == "parameters"
    }
    for name in ("input_schema", "inputSchema", "parameters"):
        if name in found:
            schema = found.pop(name)
            found["parameters"] = {} if absent(schema) else unpacked(schema, f"{where}.{name}", RowTally())
    return found


def without_nulls(value: Any) -> Any:
    """Nested values without the keys that are null; the items of lists stay.

    >>> without_nulls({"a": None, "b": [None, {"c": None}]})
    {'b': [None, {}]}
    """
    if isinstance(value, Mapping):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list | tuple) else value


def read_calls(value: Any, where: str, tally: RowTally) -> list[ToolCall]:
    """The calls of one answer.

    Args:
        value: a list of calls or one, as such or as JSON.
        where: it stands, for errors.

    Raises:
        BadRow: it is no call, or its arguments are no JSON object.
    """
    found = unpacked(value, where, RowTally())
    calls = []
    for position, each in enumerate(found if isinstance(found, list) else [found]):
        calls.append(_read_call(each, f"{where}[{position}]" if isinstance(found, list) else where))
    tally.rewrite("ids and marks of calls", value, _said(calls))
    return calls


def _said(calls: Sequence[ToolCall]) -> list[Any]:
    """What of calls is text: their names and arguments."""
    return [call["function"] for call in calls]


def _read_call(value: Any, where: str) -> ToolCall:
    value = unpacked(value, where, RowTally())
    function = value.get("function", value) if isinstance(value, Mapping) else None
    function = unpacked(function, where, RowTally())
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise BadRow(
            f"`{where}` is no call of a function", 'write {"name": ..., "arguments": {...}}', finding="broken_call"
        )
    given = next((function[key] for key in ("arguments", "parameters", "input", "args") if key in function), None)
    call: ToolCall = {"type": "function", "function": {"name": name, "arguments": _arguments(given, where, name)}}
    if isinstance(identity := value.get("id"), str) and identity:
        call["id"] = identity
    return call


def _arguments(value: Any, where: str, function: str) -> dict[str, Any]:
    found = value
    for _ in range(2):  # some export what was encoded already
        if isinstance(found, str) and found.strip():
            try:
                found = DECODER.decode(found)
                json.dumps(found, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                what = f"`{where}` calls {function} with arguments that are no JSON: {error}"
                raise BadRow(what, "write them as an object", finding="broken_call") from None
    if found is None or found in ("", []):
        return {}
    if isinstance(found, list) and all(isinstance(each, tuple) and len(each) == 2 for each in found):
        found = dict(found)  # a map of Parquet
    if not isinstance(found, Mapping):
        what = f"`{where}` calls {function} with arguments that are no object"
        raise BadRow(what, 'name each: {"parameter": value}', finding="broken_call")
    arguments: dict[str, Any] = without_nulls(found)
    return arguments


def calls_alone(value: Any, name: str, tally: RowTally) -> list[ToolCall]:
    """The calls of an answer that is a list of calls and nothing else, as such or as JSON; else none."""
    try:
        found = unpacked(value, name, RowTally())
        given = found if isinstance(found, list) else [found]
        if not all(isinstance(each, Mapping) and each.keys() >= {"name", "arguments"} for each in given):
            return []
        return read_calls(value, name, tally)
    except BadRow:
        return []


def calls_in_text(message: Message, tally: RowTally, where: str) -> Message:
    """An answer whose calls stand in its text (``<tool_call>``), with them as calls; the template writes the tags.

    Raises:
        BadRow: what stands between the tags is no call.
    """
    content = message["content"]
    if message.get("tool_calls") or "<tool_call>" not in content:
        return message
    calls: list[ToolCall] = []
    for text in _CALL_TEXT.findall(content):
        calls += read_calls(_literal(text), f"{where}.<tool_call>", RowTally())
    rest = _CALL_TEXT.sub("", content).strip()
    if not calls or "<tool_call>" in rest:
        raise BadRow(f"`{where}` opens <tool_call> and does not close it", "close it", finding="broken_call")
    tally.rewrite("tags and marks of calls, which the template writes", content, [rest, _said(calls)])
    return {**message, "content": rest, "tool_calls": calls}


def _literal(text: str) -> Any:
    """A call as JSON, or as Python prints it; as it stands where it is neither."""
    import ast

    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text


def results_in_text(content: str, tally: RowTally) -> list[str]:
    """The results in a tool's turn: what stands between ``<tool_response>``, which the template writes; else all of it.

    >>> results_in_text("<tool_response>\\n1\\n</tool_response><tool_response>2</tool_response>", RowTally())
    ['1', '2']
    """
    if not _RESULT_TEXT.search(content) or _RESULT_TEXT.sub("", content).strip():
        return [content]
    found = _RESULT_TEXT.findall(content)
    tally.rewrite("tags of results, which the template writes", content, found)
    return found


def as_result(value: Any, tally: RowTally) -> str:
    """A result that is an object, as JSON."""
    text = json.dumps(value, ensure_ascii=False)
    tally.added["JSON of results"] += value_chars(text) - value_chars(value)
    return text
