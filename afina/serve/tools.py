"""Tools: how a call is asked for, and calls read back from an answer.

Calls are read as Hermes and Qwen write them, wherever they stand in an answer::

    <tool_call>
    {"name": "weather", "arguments": {"place": "Faro"}}
    </tool_call>

and as the template writes them otherwise (Llama 3.1, Mistral, GLM-4, DeepSeek, gpt-oss), at its beginning. A call can
only be demanded in Hermes' form.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from afina.errors import RecipeError
from afina.model.generate.grammar import lark_grammar, spaced
from afina.model.generate.text_stream import held_back
from afina.serve.messages import NamedTool, Tool
from afina.tokenizer.abilities import CLOSE, OPEN, PROBE_ID, Abilities, WrittenCall, read_call

MOST_CALLS = 16
"""Of an answer that must call, where it may call several times."""


def check_template(template: Abilities, *, offered: bool, replayed: bool, must_call: bool) -> None:
    """Refuse what the template would leave out.

    Raises:
        RecipeError: tools are offered, used before, or must be called, and the template has no place for that.
    """
    if offered and not template.offers:
        raise RecipeError("the chat template of this model has no place for tools", "leave them out", "tools")
    if replayed and not template.replays:
        raise RecipeError(
            "the chat template of this model has no place for calls of tools and their results",
            "put them into the text of a message",
            "messages",
        )
    if must_call and not template.hermes:
        raise RecipeError(
            f"this model's template does not write calls between {OPEN} and {CLOSE}, so none can be demanded",
            "tool_choice: auto",
            "tool_choice",
        )


def call_grammar(tools: Sequence[Tool], chosen: NamedTool | None, tokenizer: Any, *, several: bool) -> str:
    """The form of an answer that calls: one of the tools, or the one that was chosen.

    Raises:
        RecipeError: the chosen one is none of them.
    """
    offered = [tool for tool in tools if chosen is None or tool.function.name == chosen.function.name]
    if not offered:
        there = ", ".join(tool.function.name for tool in tools)
        raise RecipeError("tool_choice names none of the tools", f"there are: {there or 'none'}", "tool_choice")
    special = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
    opens, closes = (each if each in special else json.dumps(each) for each in (OPEN, CLOSE))
    more = f' ("\\n" call){{0,{MOST_CALLS - 1}}}' if several else ""
    rules = [f"start: call{more}", f'call: {opens} "\\n" body "\\n" {closes}']
    rules.append("body: " + " | ".join(f"body_{place}" for place in range(len(offered))))
    for place, tool in enumerate(offered):
        begin = json.dumps(f'{{"name": {json.dumps(tool.function.name)}, "arguments": ')
        rules.append(f'body_{place}: {begin} arguments_{place} "}}"')
        rules.append(f"arguments_{place}: %json {json.dumps(spaced(tool.parameters))}")
    return lark_grammar("\n".join(rules))


@dataclass(frozen=True, slots=True)
class Call:
    """A call that an answer makes."""

    id: str
    name: str
    arguments: str

    def as_json(self) -> dict[str, Any]:
        """As OpenAI's answers have it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def new_id() -> str:
    """The id of a call that is given out: one that Mistral's templates take when it comes back."""
    return uuid.uuid4().hex[: len(PROBE_ID)]


class CallReader:
    """Splits an answer, as it comes, into text and calls. What reads like a call and is none stays text.

    Args:
        names: of the tools that were offered.

    >>> reader = CallReader({"f"})
    >>> reader.add('Wait.\\n<tool'), reader.add('_call>{"name": "f", "argu')
    (['Wait.'], [])
    >>> [(each.name, each.arguments) for each in reader.add('ments": {}}</tool_call>')], reader.finish()
    ([('f', '{}')], [])
    """

    def __init__(self, names: set[str]) -> None:
        self.names, self.calls = names, 0
        self._space = ""
        """White space that is text only if text follows: it also stands around calls."""
        self._held = ""
        self._inside = False

    def add(self, text: str) -> list[str | Call]:
        """What this text makes ready."""
        self._held += text
        ready: list[str | Call] = []
        while (found := self._held.find(CLOSE if self._inside else OPEN)) >= 0:
            before, self._held = self._held[:found], self._held[found + len(CLOSE if self._inside else OPEN) :]
            ready += self._call(before, CLOSE) if self._inside else self._text(before)
            self._inside = not self._inside
        if not self._inside:
            free = len(self._held) - held_back(self._held, [OPEN])
            ready += self._text(self._held[:free])
            self._held = self._held[free:]
        return ready

    def finish(self) -> list[str | Call]:
        """The rest; a call whose end was cut off is one if it can be read."""
        ready = self._call(self._held, "") if self._inside else self._text(self._held)
        if self._space and not self.calls:
            ready.append(self._space)
        self._held = self._space = ""
        return ready

    def _text(self, text: str) -> list[str | Call]:
        whole = self._space + text
        seen = whole.rstrip()
        self._space = whole[len(seen) :]
        return [seen] if seen else []

    def _call(self, body: str, close: str) -> list[str | Call]:
        read = read_call(body)
        if read is None or read[0] not in self.names:
            return self._text(f"{OPEN}{body}{close}")
        self.calls += 1
        self._space = ""
        return [Call(new_id(), *read)]


class WrittenCallReader:
    """The same for templates that write calls in a form of their own, at the beginning of an answer: nothing is given
    out until it is clear that the answer is none, or until its end.

    Args:
        names: of the tools that were offered.
        form: as the template writes calls.

    >>> reader = WrittenCallReader({"f"}, WrittenCall('{"name": "', '", "parameters": ', "}<eot>"))
    >>> reader.add('{"name": "f", "parameters": {"a": [1]}'), reader.add("}")
    ([], [])
    >>> [(each.name, each.arguments) for each in reader.finish()]
    [('f', '{"a": [1]}')]
    """

    def __init__(self, names: set[str], form: WrittenCall) -> None:
        self.form, self.calls = form, 0
        self._heads = {f"{form.before.lstrip()}{name}{form.between}": name for name in names}
        self._more, self._after = (self._pattern(each) for each in (form.more, form.after))
        self._held, self._plain = "", False

    @staticmethod
    def _pattern(text: str) -> re.Pattern[str]:
        """The text, any id in the place of the probe's."""
        return re.compile(re.escape(text).replace(PROBE_ID, r"[\w-]+"))

    def add(self, text: str) -> list[str | Call]:
        """What this text makes ready."""
        self._held += text
        said = self._held.lstrip()
        self._plain = self._plain or not any(head.startswith(said) or said.startswith(head) for head in self._heads)
        if not self._plain:
            return []
        ready, self._held = self._held, ""
        return [ready] if ready else []

    def finish(self) -> list[str | Call]:
        """The calls, or the text that is none."""
        text, calls = self._held.lstrip(), list[str | Call]()
        heads = dict(self._heads)
        while found := next((head for head in heads if text.startswith(head)), ""):
            try:
                read, end = json.JSONDecoder().raw_decode(text, len(found))
                arguments = json.dumps(read, ensure_ascii=False, allow_nan=False)  # NaN is not JSON
                arguments.encode()  # half a character could not be sent
            except (ValueError, RecursionError):
                break
            calls.append(Call(new_id(), heads[found], arguments))
            text = text[end:]
            if not (self.form.more and (more := self._more.match(text))):
                break
            text = text[more.end() :]
            heads = {f"{name}{self.form.between}": name for name in self._heads.values()}
        self.calls = len(calls)
        if not calls:
            return [self._held] if self._held else []
        return calls if self._ends(text) else [*calls, text]

    def _ends(self, text: str) -> bool:
        """Whether it is what the template writes behind the last call, as far as the answer goes: it stops before the
        mark that ends it, or was cut off."""
        after = self.form.after
        return not text.strip() or any(self._after.fullmatch(text + after[at:]) for at in range(len(after) + 1))
