"""What a source yields: a :class:`Document`; and the :class:`Ledger` that adds up its characters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NotRequired, TypedDict
from unicodedata import category

Split = Literal["train", "validation", "test"]
"""What a file is for, where its folder tells (:mod:`afina.text.splits`)."""


class FunctionCall(TypedDict):
    """Which function, and with what."""

    name: str
    arguments: dict[str, Any]
    """Values of JSON by parameter."""


class ToolCall(TypedDict):
    """A call that an answer makes, as OpenAI and chat templates have it; the arguments always as an object."""

    type: Literal["function"]
    function: FunctionCall
    id: NotRequired[str]


class Message(TypedDict):
    """One turn of a conversation, with the keys that chat templates read; `learned` alone is afina's own."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    """Empty in an answer that only calls."""
    reasoning_content: NotRequired[str]
    """What an answer thinks before it says something; learned with it."""
    tool_calls: NotRequired[list[ToolCall]]
    """Calls that an answer makes; learned with it."""
    tool_call_id: NotRequired[str]
    """Of a tool's result: the call that it answers."""
    name: NotRequired[str]
    """Of a tool's result: the function that was called."""
    learned: NotRequired[bool]
    """False: this answer is context of later ones, and no target."""


Tool = Mapping[str, Any]
"""A function that may be called: ``{"type": "function", "function": {"name", "description", "parameters"}}``, the
parameters as a JSON schema."""


@dataclass(frozen=True, slots=True)
class Document:
    """One thing read from a source, with where it came from.

    A document is either **text** (prose as Markdown, or code) or **messages** (one row of a
    table, one problem with its solution), or a row that was **unreadable**: its values as `text`, and in `meta` what is
    wrong (`what`, `fix`, and the audit's `finding`). `sha256` is that of the file's bytes (of a dataset of the
    hub: its commit), `line` the first line of this document in the file, counted from 1 (the row of
    a table that has no lines, the page of a PDF).
    """

    path: str
    """POSIX path relative to the recipe's `root`. What lies in a packed file is behind ``!/``: ``a.zip!/b.html``."""
    sha256: str
    line: int = 1
    kind: Literal["markdown", "text", "code", "messages", "unreadable"] = "text"
    title: str = ""
    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    """Functions that the conversation's answers may call; the chat template puts them into the prompt."""
    rejected: str | None = None
    """For a row of preferences: the worse answer, where `messages` end with the better one."""
    label: bool | None = None
    """For a rated row: whether its last answer is a good one."""
    meta: Mapping[str, str] = field(default_factory=dict)
    source: int = 0
    """Position in the recipe's `sources`."""


@dataclass(slots=True)
class FileLedger:
    """What became of one file's characters (visible characters, white space not counted).

    >>> ledger = FileLedger("a.html", "0" * 64, chars_in=10, chars_out=7, dropped={"script": 3})
    >>> ledger.balanced
    True
    """

    path: str
    sha256: str
    chars_in: int = 0
    chars_out: int = 0
    documents: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> visible characters left out for it."""
    added: dict[str, int] = field(default_factory=dict)
    """Reason -> visible characters that the conversion wrote itself (Markdown marks, included files)."""

    def drop(self, reason: str, text: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + visible(text)

    def add(self, reason: str, text: str) -> None:
        self.added[reason] = self.added.get(reason, 0) + visible(text)

    @property
    def balanced(self) -> bool:
        """Whether what came in equals what went out plus what was dropped minus what was added."""
        return self.chars_in + sum(self.added.values()) == self.chars_out + sum(self.dropped.values())


@dataclass(slots=True)
class Ledger:
    """One :class:`FileLedger` per file read, and the files left out with the reason."""

    files: list[FileLedger] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Path -> why the file was not read."""
    splits: dict[str, Split] = field(default_factory=dict)
    """Path -> what the file is for, in folders that hold `train` and others side by side."""


_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Hangul's fillers and the Braille pattern without dots: letters and symbols that are blank."""


def visible(text: str) -> int:
    """Characters that can be seen: white space does not count.

    >>> visible("a b\\n c")
    3
    """
    return len("".join(text.split()))


def shows_nothing(text: str) -> bool:
    """Whether nobody sees anything of a text: white space, control codes, characters without width, fillers.

    >>> shows_nothing(" \\u200b\\u00ad"), shows_nothing("."), shows_nothing("")
    (True, False, True)
    """
    return all(each.isspace() or each in _FILLERS or category(each) in ("Cc", "Cf") for each in text)


def value_chars(value: Any) -> int:
    """Visible characters of all values in `value`; names of keys are not counted.

    >>> value_chars({"a": ["x y", 10]}), value_chars(None)
    (4, 0)
    """
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):  # the walk of value_texts without its generators: every row comes through here
        return sum(map(value_chars, value.values()))
    if isinstance(value, list):
        return sum(map(value_chars, value))
    return sum(visible(text) for text in value_texts(value))


def map_message(message: Message, change: Callable[[str], str]) -> Message:
    """A turn with each of its texts changed: content, thoughts, and every text in the arguments of its calls. All else
    stays as it is.

    >>> map_message({"role": "tool", "content": "a", "name": "tide"}, str.upper)
    {'role': 'tool', 'content': 'A', 'name': 'tide'}
    """
    changed: Message = {**message, "content": change(message["content"])}
    if "reasoning_content" in message:
        changed["reasoning_content"] = change(message["reasoning_content"])
    if "tool_calls" in message:
        changed["tool_calls"] = [
            {
                **call,
                "function": {
                    "name": call["function"]["name"],
                    "arguments": _map_value(call["function"]["arguments"], change),
                },
            }
            for call in message["tool_calls"]
        ]
    return changed


def _map_value(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_value(each, change) for name, each in value.items()}
    return [_map_value(each, change) for each in value] if isinstance(value, list) else value


def map_document(document: Document, change: Callable[[str], str]) -> Document:
    """A conversation with each text of its turns changed, and of the worse answer."""
    messages = tuple(map_message(message, change) for message in document.messages)
    rejected = None if document.rejected is None else change(document.rejected)
    return replace(document, messages=messages, rejected=rejected)


def message_texts(message: Message) -> Iterator[str]:
    """All that a turn says: its thoughts, its content, and the names and values of its calls.

    >>> call = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Faro", "days": 2}}}
    >>> list(message_texts({"role": "assistant", "content": "Wait.", "tool_calls": [call]}))
    ['Wait.', 'tide', 'Faro', '2']
    """
    if reasoning := message.get("reasoning_content"):
        yield reasoning
    if message["content"]:
        yield message["content"]
    for call in message.get("tool_calls", ()):
        yield call["function"]["name"]
        yield from value_texts(call["function"]["arguments"])


def value_texts(value: Any) -> Iterator[str]:
    """Every value in nested ones, as a text; the names of keys are none.

    >>> list(value_texts({"a": ["x", 1, True, None], "b": {}}))
    ['x', '1', 'true']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from value_texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from value_texts(each)
    elif value is not None and not isinstance(value, bytes):  # an image or a sound has no characters
        yield json.dumps(value, default=str)


def conversation_chars(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
    """Visible characters of all that a conversation says, and of the functions that it may call."""
    said = sum(visible(text) for message in messages for text in message_texts(message))
    return said + sum(visible(text) for text in value_texts(list(tools)))
