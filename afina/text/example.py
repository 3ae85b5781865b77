"""An :class:`Example`: one row of a dataset folder.

A dataset folder holds ``train.jsonl``, ``validation.jsonl`` (one example a line, see
:meth:`Example.as_json`), ``dropped.jsonl`` (what was left out, with the reason) and
``dataset.json`` (counts, the ledger of characters, hashes of every input file). With
`dataset.hold_out_phrasings` there are ``probes-seen.jsonl`` and ``probes-unseen.jsonl`` too; where documents are
texts, ``prose.jsonl`` (:mod:`afina.text.prose_question`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.errors import DataError
from afina.recipe import Kind
from afina.run import parse_json
from afina.text.document import Message, Tool, conversation_chars, shows_nothing, visible


@dataclass(frozen=True, slots=True)
class Example:
    """A plain text (every token is learned), a conversation (its answers are learned), a preference (that its last
    answer is better than the rejected one is learned), or a rated one (whether its last answer is good is learned)."""

    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    """Functions that its answers may call."""
    rejected: str | None = None
    """The worse last answer."""
    label: bool | None = None
    """Whether the last answer is a good one, where the row says so."""
    path: str = ""
    """File that it came from."""
    line: int = 1
    sha256: str = ""
    """Hash of that file's bytes."""
    heading: str = ""
    """Path of headings above a section: ``Manual > Comments > Doc Comments``."""
    source: int = 0
    repeat: int = 1
    replay: bool = False
    made: str = ""
    """Kind of the template that made it (``facts:birth_date``, ``sections``) or ``teacher``; empty for what stands in a
    source."""
    phrasing: int = 0
    """For a made question: which of the phrasings of its kind it is, from 1."""
    group: str = ""
    """For a made question: the same for all phrasings of one fact."""
    teacher: str = ""
    """Model that wrote it."""
    reference: str = ""
    """Where its answer is one of `dataset.answers`: the row's own, which it stands for and is marked by."""

    @property
    def id(self) -> str:
        """Hash of the content alone: the same words have the same id wherever they stand.

        >>> Example(text="a", line=1).id == Example(text="a", line=2).id
        True
        """
        return content_hash(self.text, self.messages, self.rejected, self.label, self.tools)

    @property
    def kind(self) -> Kind:
        """What it is, for the recipe.

        >>> Example(text="a").kind
        'text'
        """
        if not self.messages:
            return "text"
        return "preference" if self.rejected is not None else "rated" if self.label is not None else "messages"

    @property
    def prompt(self) -> str:
        """All that stands before the last answer, as one string; empty for a text."""
        return "\n".join(message["content"] for message in self.messages[:-1])

    @property
    def answer(self) -> str:
        """The last answer; empty for a text."""
        return self.messages[-1]["content"] if self.messages else ""

    @property
    def as_marked(self) -> Example:
        """The row as it is asked and marked: with its own answer where another is learned in its place.

        >>> turns = ({"role": "user", "content": "Where?"}, {"role": "assistant", "content": "It is in Faro."})
        >>> row = Example(messages=turns, reference="Faro")
        >>> row.answer, row.as_marked.answer, row.as_marked.reference
        ('It is in Faro.', 'Faro', '')
        """
        if not self.reference:
            return self
        own = self.messages[-1].copy()
        own["content"] = self.reference
        return replace(self, messages=(*self.messages[:-1], own), reference="")

    def as_json(self) -> dict[str, Any]:
        """The row as it stands in the file."""
        row: dict[str, Any] = {"id": self.id}
        if self.messages:
            row["messages"] = list(self.messages)
            row |= {} if self.rejected is None else {"rejected": self.rejected}
            row |= {} if self.label is None else {"label": self.label}
            row |= {"reference": self.reference} if self.reference else {}
            row |= {"tools": list(self.tools)} if self.tools else {}
        else:
            row["text"] = self.text
        row["from"] = {"path": self.path, "line": self.line, "sha256": self.sha256}
        if self.heading:
            row["from"]["heading"] = self.heading
        if self.teacher:
            row["from"]["teacher"] = self.teacher
        row["source"] = self.source
        if self.repeat != 1:
            row["repeat"] = self.repeat
        if self.replay:
            row["replay"] = True
        if self.made:
            row["made"] = {"kind": self.made, "phrasing": self.phrasing, "group": self.group}
        return row

    def as_line(self) -> bytes:
        """That row as a line of the file."""
        return (json.dumps(self.as_json(), ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Example:
        """The opposite of :meth:`as_json`.

        Raises:
            KeyError, TypeError, ValueError: it is no such row.
        """
        origin, made = row["from"], row.get("made", {})
        example = cls(
            text=row.get("text", ""),
            messages=tuple(row.get("messages", ())),
            tools=tuple(row.get("tools", ())),
            rejected=row.get("rejected"),
            label=row.get("label"),
            path=origin["path"],
            line=origin["line"],
            sha256=origin["sha256"],
            heading=origin.get("heading", ""),
            source=row["source"],
            repeat=row.get("repeat", 1),
            replay=row.get("replay", False),
            made=made.get("kind", ""),
            phrasing=made.get("phrasing", 0),
            group=made.get("group", ""),
            teacher=origin.get("teacher", ""),
            reference=row.get("reference", ""),
        )
        example.check()
        return example

    def check(self) -> None:
        """
        Raises:
            TypeError: a value is of another kind than an example's.
            ValueError: half a character stands in it.
        """
        texts = [self.text, self.path, self.sha256, self.heading, self.made, self.group, self.teacher, self.reference]
        texts += [] if self.rejected is None else [self.rejected]
        numbers = [self.line, self.source, self.repeat, self.phrasing]
        _check_kinds(texts, numbers, [self.replay] if self.label is None else [self.replay, self.label])
        if self.messages:
            check_turns(self.messages)
        elif self.reference:
            raise TypeError("a reference of no answer")
        if self.tools:
            json.dumps(self.tools, ensure_ascii=False).encode()
        if self.repeat < 1 or self.source < 0:
            raise TypeError(f"repeat {self.repeat}, source {self.source}")


def check_turns(messages: Sequence[Message]) -> None:
    """Refuse what may stand in a row's place for turns, and is none.

    Raises:
        AttributeError, KeyError, TypeError: a turn has no role or content, or a value of another kind than a turn's.
        ValueError: half a character stands in it.
    """
    texts: list[Any] = []
    for turn in messages:
        texts += [turn["role"], turn["content"]]
        texts += [turn[key] for key in ("reasoning_content", "tool_call_id", "name") if key in turn]
        for call in turn.get("tool_calls", ()):
            texts.append(call["function"]["name"])
            if not isinstance(call["function"]["arguments"], dict):
                raise TypeError(f"{call['function']['arguments']!r:.60} where arguments belong")
    _check_kinds(texts, [], [turn["learned"] for turn in messages if "learned" in turn])
    json.dumps(messages, ensure_ascii=False).encode()


def _check_kinds(texts: Sequence[Any], numbers: Sequence[Any], flags: Sequence[Any]) -> None:
    for kind, values in ((str, texts), (int, numbers), (bool, flags)):
        for value in values:
            if type(value) is not kind:
                raise TypeError(f"{value!r:.60} where {kind.__name__} belongs")
    "".join(texts).encode()


_SORTED = json.JSONEncoder(ensure_ascii=False, sort_keys=True)


def content_hash(
    text: str, messages: Sequence[Message], rejected: str | None, label: bool | None, tools: Sequence[Tool]
) -> str:
    """What an :attr:`Example.id` is: a hash of all that it says."""
    said: list[Any] = [text, messages, *([] if rejected is None else [rejected])]
    said += [] if label is None else [label]
    said += [tools] if tools else []
    return hashlib.sha256(_SORTED.encode(said).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ExamplePlace:
    """Where an example stands on the disk, for what refers to it without holding it."""

    file: Path
    offset: int
    """Bytes before its line."""

    def read(self) -> Example:
        """The example.

        Raises:
            DataError: no example begins there.
        """
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            return _parse(opened.readline(), f"{self.file} at byte {self.offset}")


def read_examples(file: Path) -> Iterator[Example]:
    """The examples of one file of a dataset folder, in order.

    Raises:
        DataError: for a line that is not an example, with its number.
    """
    return (example for _, example in read_placed_examples(file))


def read_placed_examples(file: Path) -> Iterator[tuple[ExamplePlace, Example]]:
    """The same, each with its place."""
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield ExamplePlace(file, offset), _parse(line, f"{file}:{number}")
            offset += len(line)


def _parse(line: bytes, where: str) -> Example:
    try:
        return Example.from_json(parse_json(line))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not an example: {error!r}", "build the dataset again: `afina data build`", where) from error


def is_question(example: Example) -> bool:
    """Whether a row is one question and its answer, and no more: what can be asked and answered otherwise."""
    turns = example.messages
    alone = [turn["role"] for turn in turns] == ["user", "assistant"] and turns[-1].keys() <= {"role", "content"}
    return example.kind == "messages" and alone and not example.tools


def has_prompt(messages: Sequence[Message]) -> bool:
    """Whether there is a question, and none of the questions is blank.

    >>> has_prompt([{"role": "user", "content": " "}, {"role": "assistant", "content": "Yes."}])
    False
    """
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return bool(asked) and not any(map(shows_nothing, asked))


def has_answer(messages: Sequence[Message], rejected: str | None = None) -> bool:
    """Whether the conversation ends with an answer, one of its answers is learned, and none is blank, nor the worse one
    beside it. An answer may be a call alone, not a thought alone."""
    if not messages or messages[-1]["role"] != "assistant" or (rejected is not None and shows_nothing(rejected)):
        return False
    answers = [message for message in messages if message["role"] == "assistant"]
    said = not any(shows_nothing(message["content"]) and not message.get("tool_calls") for message in answers)
    return said and any(message.get("learned", True) for message in answers)


def example_chars(example: Example) -> int:
    """Visible characters of an example."""
    return visible(example.text + (example.rejected or "")) + conversation_chars(example.messages, example.tools)
