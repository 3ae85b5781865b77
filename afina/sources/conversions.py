"""Rows that other programs keep conversations in, made into rows of `messages`: exports of chats, requests of batches.

A conversion goes by the keys that only such a row has. What it leaves out (other branches, hidden messages, calls of
tools, titles, ids) is counted in the file's line of the ledger under a reason of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.text.document import value_texts, visible

_REST = "ids, times, settings and what is said twice"
_BRANCHES = "other branches of a conversation"
_HIDDEN = "hidden messages"
_TOOLS = "calls and results of tools"
_MEDIA = "names of pictures and files"
_OPEN_END = "a last question without an answer"
_TITLES = "titles of conversations"

LeftOut = dict[str, int]
"""Reason -> visible characters."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What a row of another program became."""

    row: dict[str, Any] | None
    """None where it holds no answer."""
    left_out: LeftOut


class UnusableRow(ValueError):
    """A row of a known kind that cannot become one of messages: what, and what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def convert_row(row: Mapping[str, Any]) -> Converted | None:
    """A row of a known other kind as one of messages; None where it is of none.

    >>> convert_row({"uuid": "1", "chat_messages": [{"sender": "human", "text": "Hi"},
    ...     {"sender": "assistant", "text": "Ho"}]}).row
    {'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Ho'}]}
    >>> convert_row({"prompt": "a", "completion": "b"})

    Raises:
        UnusableRow: it holds an answer whose question stands elsewhere.
    """
    for applies, convert in _CONVERSIONS:
        if applies(row):
            return convert(row)
    return None


def left_out_of(row: Mapping[str, Any], found: Converted) -> LeftOut:
    """All characters of a row that its conversion does not hold, by reason."""
    left_out = dict(found.left_out)
    if found.row is None:
        return left_out | {"conversations without an answer": _chars(row) - sum(left_out.values())}
    turns = [{key: value for key, value in turn.items() if key != "role"} for turn in found.row["messages"]]
    kept = _chars(turns) + _chars(found.row.get("tools"))
    return left_out | {_REST: _chars(row) - kept - sum(left_out.values())}


def _chars(value: Any) -> int:
    return sum(visible(text) for text in value_texts(value))


def _ended(turns: Sequence[dict[str, Any]], left_out: LeftOut) -> Converted:
    """A conversation of these turns: neighbours of one role are one turn, and the last one is an answer."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if messages and messages[-1]["role"] == turn["role"]:
            for key in ("content", "reasoning_content"):
                said = [each[key] for each in (messages[-1], turn) if each.get(key)]
                messages[-1] |= {key: "\n\n".join(said)} if said else {}
        else:
            messages.append(dict(turn))
    while messages and messages[-1]["role"] != "assistant":
        _count(left_out, _OPEN_END, messages.pop()["content"])
    answered = any(turn["role"] == "user" for turn in messages)
    if not answered:
        return Converted(None, left_out)
    return Converted({"messages": messages}, left_out)


def _count(left_out: LeftOut, reason: str, value: Any) -> None:
    if count := _chars(value):
        left_out[reason] = left_out.get(reason, 0) + count


# ---- ChatGPT: a tree of messages


def _is_tree(row: Mapping[str, Any]) -> bool:
    mapping = row.get("mapping")
    return isinstance(mapping, dict) and all(isinstance(node, dict) and "parent" in node for node in mapping.values())


def _from_tree(row: Mapping[str, Any]) -> Converted:
    """The branch that was shown last, from its root to `current_node`."""
    mapping: dict[str, dict[str, Any]] = row["mapping"]
    left_out: LeftOut = {}
    _count(left_out, _TITLES, row.get("title"))
    path: list[str] = []
    name = row.get("current_node") or _newest_leaf(mapping)
    while isinstance(name, str) and name in mapping and name not in path:
        path.append(name)
        name = mapping[name]["parent"]
    turns: list[dict[str, Any]] = []
    for name in reversed(path):
        turns += _turn_of_node(mapping[name].get("message") or {}, left_out)
    for name in mapping.keys() - set(path):
        _count(left_out, _BRANCHES, _said_in(mapping[name].get("message") or {}))
    return _ended(turns, left_out)


def _newest_leaf(mapping: Mapping[str, Mapping[str, Any]]) -> str | None:
    leaves = [name for name, node in mapping.items() if not node.get("children")]
    return max(leaves, key=lambda name: (mapping[name].get("message") or {}).get("create_time") or 0, default=None)


def _said_in(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content") or {}
    if not isinstance(content, dict):
        return []
    parts = content.get("parts")
    found = parts if isinstance(parts, list) else [content.get("text"), content.get("result")]
    said = [part if isinstance(part, str) else part.get("text") for part in found if isinstance(part, str | dict)]
    return [each for each in said if isinstance(each, str) and each.strip()]


def _turn_of_node(message: Mapping[str, Any], left_out: LeftOut) -> Iterator[dict[str, Any]]:
    role = (message.get("author") or {}).get("role")
    given, said = message.get("content"), _said_in(message)
    content: dict[str, Any] = given if isinstance(given, dict) else {}
    hidden = (message.get("metadata") or {}).get("is_visually_hidden_from_conversation")
    if hidden or content.get("content_type") in ("user_editable_context", "thoughts", "reasoning_recap"):
        _count(left_out, _HIDDEN, {key: value for key, value in content.items() if key != "content_type"})
    elif role == "tool" or message.get("recipient", "all") not in ("all", None):
        _count(left_out, _TOOLS, said)
    elif said and role in ("system", "user", "assistant"):
        _count(left_out, _MEDIA, [part for part in content.get("parts") or () if isinstance(part, dict)])
        for part in content.get("parts") or ():  # a text beside a picture was counted with it
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                left_out[_MEDIA] -= visible(part["text"])
        yield {"role": role, "content": "\n".join(said)}


# ---- Claude: a list of messages, or a tree by the ids of parents


def _is_claude(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("chat_messages"), list)


def _from_claude(row: Mapping[str, Any]) -> Converted:
    left_out: LeftOut = {}
    _count(left_out, _TITLES, row.get("name"))
    messages = [each for each in row["chat_messages"] if isinstance(each, dict)]
    shown = _last_branch(messages)
    turns: list[dict[str, Any]] = []
    for message in shown:
        role = {"human": "user", "assistant": "assistant"}.get(str(message.get("sender")))
        turn = _claude_turn(message, left_out)
        if role and (turn["content"].strip() or turn.get("reasoning_content")):
            turns.append({"role": role, **turn})
    for message in messages:
        if not any(message is each for each in shown):
            _count(left_out, _BRANCHES, _claude_turn(message, {}))
    return _ended(turns, left_out)


def _last_branch(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_id = {each.get("uuid"): each for each in messages}
    if len(by_id) < len(messages) or not all("parent_message_uuid" in each for each in messages) or not messages:
        return messages
    path = [messages[-1]]
    while (above := by_id.get(path[-1]["parent_message_uuid"])) and len(path) <= len(messages):
        path.append(above)
    return path[::-1]


def _claude_turn(message: Mapping[str, Any], left_out: LeftOut) -> dict[str, Any]:
    blocks = [block for block in message.get("content") or () if isinstance(block, dict)]
    said = [block["text"] for block in blocks if block.get("type") == "text" and isinstance(block.get("text"), str)]
    thought = [block["thinking"] for block in blocks if isinstance(block.get("thinking"), str)]
    _count(left_out, _TOOLS, [block for block in blocks if str(block.get("type")).startswith("tool_")])
    if not said and isinstance(message.get("text"), str):
        said = [message["text"]]
    given = [each.get("extracted_content") for each in message.get("attachments") or () if isinstance(each, dict)]
    texts = [text for text in [*given, *said] if isinstance(text, str) and text.strip()]
    return {"content": "\n\n".join(texts)} | ({"reasoning_content": "\n\n".join(thought)} if thought else {})


# ---- Open WebUI: the messages inside `chat`


def _is_webui(row: Mapping[str, Any]) -> bool:
    chat = row.get("chat")
    return isinstance(chat, dict) and isinstance(chat.get("messages"), list)


def _from_webui(row: Mapping[str, Any]) -> Converted:
    left_out: LeftOut = {}
    _count(left_out, _TITLES, row.get("title"))
    turns = [
        {"role": turn.get("role"), "content": turn.get("content")}
        for turn in row["chat"]["messages"]
        if isinstance(turn, dict) and isinstance(turn.get("content"), str)
    ]
    return _ended([turn for turn in turns if turn["role"] in ("system", "user", "assistant")], left_out)


# ---- batches and logs: a request, its answer, or both


def _asked(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for name in ("body", "params", "request"):
        body = row.get(name)
        if isinstance(body, dict) and isinstance(body.get("messages"), list):
            return body
    return None


def _answered(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The message of a response: OpenAI's `choices`, Anthropic's `message`."""
    response = row.get("response", row.get("result"))
    body = response.get("body", response.get("message", response)) if isinstance(response, dict) else None
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message = choices[0].get("message")
        return message if isinstance(message, dict) else None
    return body if body.get("role") == "assistant" else None


def _is_batch(row: Mapping[str, Any]) -> bool:
    return _asked(row) is not None or ("custom_id" in row and ("response" in row or "result" in row))


def _from_batch(row: Mapping[str, Any]) -> Converted:
    body, answer = _asked(row), _answered(row)
    if body is None:
        raise UnusableRow(
            "an answer of a batch, without the question that it answers",
            "join it with the batch's input by `custom_id`, as rows of `messages`",
        )
    messages = [*body["messages"], *([answer] if answer else [])]
    if isinstance(body.get("system"), str):
        messages = [{"role": "system", "content": body["system"]}, *messages]
    row = {"messages": messages} | ({"tools": body["tools"]} if body.get("tools") else {})
    return Converted(row, {})


_CONVERSIONS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Converted]], ...] = (
    (_is_tree, _from_tree),
    (_is_claude, _from_claude),
    (_is_webui, _from_webui),
    (_is_batch, _from_batch),
)
