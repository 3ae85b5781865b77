"""Conversations: lists of turns under any of the usual names, read into :class:`~afina.text.document.Message`.

A turn is ``{role, content}``, ``{from, value}``, or a question with its answer (``{human, assistant}``). What it says
may be a text or parts; parts of text are put one behind the other with nothing between, as chat templates and the
server do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from afina.sources.row_fields import (
    CALLS,
    LEARNED_FLAGS,
    SYSTEM,
    THOUGHTS,
    TOOLS,
    UNREADABLE_DROP,
    BadRow,
    RowTally,
    absent,
    field_that_decides,
    flag,
    not_learned,
    text_of,
    unpacked,
)
from afina.sources.tables import kind_of_value
from afina.sources.tool_calls import as_result, calls_in_text, read_calls, read_tools, results_in_text
from afina.text.document import Message, Tool

Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "ai": "assistant", "chatbot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
}  # fmt: skip
"""What people call a role -> its name here. `function_call` and `tool_call` are answers that call."""
_CALLING = ("function_call", "tool_call", "tool_calls")
_ASKS = ("human", "user", "input", "prompt", "question", "query", "instruction")
_SAYS = ("assistant", "gpt", "output", "response", "answer", "completion", "bot", "model")
_PARTS_OF_TEXT = (None, "text", "input_text", "output_text")
_PARTS_OF_THOUGHT = ("thinking", "reasoning")
_TURN_FIX = "make it {role, content} or {from, value}"


def read_turns(
    value: Any, name: str, tally: RowTally, leave_out: frozenset[str] = frozenset()
) -> tuple[tuple[Message, ...], tuple[Tool, ...]]:
    """The turns of a conversation, and the functions that one of its turns brings along.

    Args:
        value: a list of turns, one turn, or a text of JSON that is one.
        name: of its column.
        leave_out: keys that the recipe leaves out.

    Raises:
        BadRow: it is no conversation, or one of its turns cannot be learned as it says.
    """
    found = unpacked(value, name, tally)
    turns = _by_turn(found) if isinstance(found, Mapping) else found
    if not isinstance(turns, list | tuple) or not turns:
        said = "an empty list" if turns in ([], ()) else kind_of_value(found)
        raise BadRow(f"`{name}` is {said} where a list of messages is needed", "give it [{role, content}, ...]")
    messages: list[Message] = []
    tools: tuple[Tool, ...] = ()
    for position, turn in enumerate(turns):
        where = f"{name}[{position}]"
        if not isinstance(turn, Mapping):
            raise BadRow(f"`{where}` is {kind_of_value(turn)} where an object is needed", "make it {role, content}")
        turn = {key: each for key, each in turn.items() if not _left_out(key, each, leave_out, tally)}
        if pair := _pair(turn):
            messages += _read_pair(turn, pair, where, tally, first=not messages)
            continue
        own, brought = _Turn(turn, where, tally).read()
        if brought and tools:
            raise BadRow(f"`{where}` brings functions once more", "name them once, in the row's `tools`")
        tools = tools or brought
        messages += own
    if not messages:
        raise BadRow(f"`{name}` says nothing but a blank system text", "give it a question and its answer")
    if tools or any(message["role"] == "tool" for message in messages) or "<tools>" in messages[0]["content"]:
        messages = _with_calls_of_texts(messages, name, tally)
    return tuple(messages), tools


def _by_turn(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """One turn; or those of a table by columns, as `datasets` keeps a sequence of objects.

    >>> _by_turn({"role": ["user", "assistant"], "content": ["Why?", "So."]})[1]
    {'role': 'assistant', 'content': 'So.'}
    """
    columns = {key: value for key, value in found.items() if not absent(value)}
    lengths = {len(value) if isinstance(value, list) else -1 for value in columns.values()}
    if len(lengths) != 1 or -1 in lengths or not columns.keys() & {"role", "from"}:
        return [found]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def with_calls(messages: tuple[Message, ...], name: str, tally: RowTally) -> tuple[Message, ...]:
    """Answers whose calls stand in their text, with them as calls: for rows that name functions."""
    return tuple(_with_calls_of_texts(list(messages), name, tally))


def _with_calls_of_texts(messages: list[Message], name: str, tally: RowTally) -> list[Message]:
    return [
        calls_in_text(message, tally, f"{name}[{position}]") if message["role"] == "assistant" else message
        for position, message in enumerate(messages)
    ]


def _left_out(key: str, value: Any, leave_out: frozenset[str], tally: RowTally) -> bool:
    if key not in leave_out:
        return False
    tally.drop(f"message key `{key}`, by `leave_out`", value)
    return True


def _pair(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    """Which keys are question and answer of a turn that is both."""
    if "role" in turn or "from" in turn or "content" in turn:
        return None
    asks, says = [key for key in turn if key in _ASKS], [key for key in turn if key in _SAYS]
    return (asks[0], says[0]) if len(asks) == len(says) == 1 else None


def _read_pair(
    turn: Mapping[str, Any], pair: tuple[str, str], where: str, tally: RowTally, *, first: bool
) -> list[Message]:
    messages: list[Message] = []
    answer: Message = {"role": "assistant", "content": text_of(turn[pair[1]], f"{where}.{pair[1]}")}
    for key, value in turn.items():
        if key in pair or absent(value):
            continue
        if key in SYSTEM and first:
            messages.append({"role": "system", "content": text_of(value, f"{where}.{key}")})
        elif key in LEARNED_FLAGS:
            tally.drop("marks of what is learned", value)
            if flag(key, value) is False:
                answer["learned"] = False
        elif bad := field_that_decides(key, value):
            raise bad
        else:
            tally.drop(f"message key `{key}`", value)
    asked = turn[pair[0]]
    if not absent(asked):
        messages.append({"role": "user", "content": text_of(asked, f"{where}.{pair[0]}")})
    return [*messages, answer]


class _Turn:
    """One turn while it is read."""

    def __init__(self, turn: Mapping[str, Any], where: str, tally: RowTally) -> None:
        self.turn, self.where, self.tally = turn, where, tally
        by_role = "role" in turn or "content" in turn
        said = "parts" if "parts" in turn and "content" not in turn else "content"
        self.names = ("role", said) if by_role else ("from", "value")
        self.thoughts: list[str] = []
        self.calls: list[Any] = []
        self.results: list[Message] = []
        self.tools: tuple[Tool, ...] = ()
        self.learned: bool | None = None

    def read(self) -> tuple[list[Message], tuple[Tool, ...]]:
        """The messages that it is: one, or as many as it holds results."""
        role, calling = self._role()
        for key, value in self.turn.items():
            if key not in self.names:
                self._key(key, value, role)
        content = self._content(role, calling)
        message: Message = {"role": role, "content": content}
        if self.thoughts:
            message["reasoning_content"] = "\n\n".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        if role == "tool":
            message |= self._of_result()  # type: ignore[typeddict-item]
            return [cast(Message, {**message, "content": text}) for text in results_in_text(content, self.tally)], ()
        if role == "system" and not content.strip():  # the same as a column of system texts that is blank
            return [], self.tools
        if role == "assistant" and self.learned is False:
            message["learned"] = False
        own = [] if self.results and not content.strip() else [message]
        return [*self.results, *own], self.tools

    def _role(self) -> tuple[Role, bool]:
        name = self.names[0]
        if name not in self.turn:
            raise BadRow(f"`{self.where}` has no `{name}`; it has: {', '.join(map(str, self.turn))}", _TURN_FIX)
        given = self.turn[name]
        said = given.strip().lower() if isinstance(given, str) else None
        self.tally.drop("role names", given)
        if said in _CALLING:
            return "assistant", True
        role = ROLES.get(said) if said else None
        if role is None:
            fix = f"write system, user, assistant or tool; {UNREADABLE_DROP}"
            raise BadRow(f"`{self.where}` has the role {given!r:.40}", fix)
        return role, False

    def _key(self, key: str, value: Any, role: Role) -> None:
        lower = key.lower()
        if absent(value):
            self.tally.drop(f"message key `{key}`", value)
        elif lower in LEARNED_FLAGS:
            self.tally.drop("marks of what is learned", value)
            learned = flag(key, value)
            if learned and role != "assistant":
                raise not_learned(key, f"asks to learn a turn of the {role}: answers alone are learned")
            if learned is not None and self.learned not in (None, learned):
                raise not_learned(key, "says something else than another key of the same turn")
            self.learned = learned if self.learned is None else self.learned
        elif lower in THOUGHTS:
            self._think(key, value, role)
        elif lower in CALLS:
            if role != "assistant":
                raise not_learned(key, f"stands in a turn of the {role}: answers alone call")
            self.calls += read_calls(value, f"{self.where}.{key}", self.tally)
        elif lower in TOOLS and role == "system":
            self.tools = read_tools(value, f"{self.where}.{key}", self.tally)
        elif lower in ("name", "tool_call_id") and role == "tool" and isinstance(value, str):
            self.tally.drop("names and ids of results", value)
        elif bad := field_that_decides(key, value):
            raise bad
        else:
            self.tally.drop(f"message key `{key}`", value)

    def _think(self, key: str, value: Any, role: Role) -> None:
        if role != "assistant":
            raise not_learned(key, f"stands in a turn of the {role}: answers alone think")
        thought = text_of(value, f"{self.where}.{key}")
        if self.thoughts and thought.strip() == self.thoughts[0].strip():
            self.tally.drop("the same thought under two names", thought)
        elif self.thoughts:
            raise not_learned(key, "holds another thought than a second key of the same turn")
        else:
            self.thoughts.append(thought)

    def _of_result(self) -> dict[str, str]:
        return {key: self.turn[key] for key in ("tool_call_id", "name") if isinstance(self.turn.get(key), str)}

    def _content(self, role: Role, calling: bool) -> str:
        name = self.names[1]
        value = self.turn.get(name)
        where = f"{self.where}.{name}"
        if calling:
            self.calls += read_calls(value, where, self.tally)
            return ""
        if value is None and (self.calls or self.thoughts):
            return ""
        if name not in self.turn:
            raise BadRow(f"`{self.where}` has no `{name}`; it has: {', '.join(map(str, self.turn))}", _TURN_FIX)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and all(isinstance(part, Mapping) and "type" in part for part in value):
            return self._parts(value, role)
        if role == "tool" and isinstance(value, Mapping | list | int | float):
            return as_result(value, self.tally)
        if isinstance(value, list) and value and all(isinstance(part, Mapping) and "text" in part for part in value):
            return self._parts(value, role)
        what = f"`{self.where}` has {kind_of_value(value)} as `{name}` where a text is needed"
        raise BadRow(what, f"make it a text; {UNREADABLE_DROP}")

    def _result(self, part: Mapping[str, Any]) -> None:
        """A result that stands as a part in the user's turn, as Anthropic has it."""
        where = f"{self.where}.{self.names[1]}"
        given = part.get("content")
        turn = {"role": "tool", "content": "" if given is None else given, "tool_call_id": part.get("tool_use_id")}
        results, _ = _Turn(turn, where, RowTally()).read()
        self.results += results
        said = [result["content"] for result in results]
        self.tally.rewrite("names and ids of results", {**part, "type": None}, said)

    def _parts(self, parts: list[Mapping[str, Any]], role: Role) -> str:
        """The text of a list of parts, nothing between them."""
        said = []
        for part in parts:
            kind = part.get("type")
            self.tally.drop("types of parts", kind)
            if kind in _PARTS_OF_TEXT:
                said.append(text_of(part.get("text"), f"{self.where}.{self.names[1]}.text"))
                used = "text"
            elif kind == "tool_use" and role == "assistant":
                call = {key: value for key, value in part.items() if key != "type"}
                self.calls += read_calls(call, f"{self.where}.{self.names[1]}", self.tally)
                continue
            elif kind == "tool_result" and role == "user":
                self._result(part)
                continue
            elif kind in _PARTS_OF_THOUGHT:
                used = next((key for key in ("thinking", "reasoning", "text") if key in part), "thinking")
                self._think(used, part.get(used), role)
            else:
                what = f"a message has a part of type {kind!r:.40}, and only text is learned"
                raise BadRow(what, UNREADABLE_DROP, finding="unlearned_field")
            for key, value in part.items():
                if key in ("type", used):
                    continue
                if bad := field_that_decides(key, value):
                    raise bad
                self.tally.drop(f"key `{key}` of parts", value)
        return "".join(said)
