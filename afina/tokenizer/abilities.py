"""What a chat template has a place for, found by asking it: tools, calls and their results, thoughts, a system text.

Training and serving ask the same question of it, so that what is trained can be served. (transformers gives templates a
thought under each of the names that they read, and leaves out keys without a value.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from afina.errors import DataError
from afina.text.document import Message, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""Hermes' and Qwen's marks around a call."""
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {"name": "afina_probe", "description": "", "parameters": {"type": "object", "properties": {}}},
}
PROBE_ID = "call00001"
"""Nine letters and digits: Mistral's templates take no others."""
PROBE_CALL: ToolCall = {
    "id": PROBE_ID,
    "type": "function",
    "function": {"name": "afina_probe", "arguments": {"x": "said"}},
}

_THINKING = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "afina_said", "reasoning_content": "afina_thought"},
]

Render = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any], bool], str]
"""Turns, further arguments, whether an answer is asked for -> what the template writes. Raises a DataError."""


Arguments = Literal["object", "text"]
"""How a template wants a call's arguments: as an object, or as JSON text."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template does with all that is more than a content."""

    offers: bool = False
    """It tells the model which functions there are."""
    calls: Arguments | None = None
    """How it wants the arguments of calls; None: it has no place for calls."""
    replays: bool = False
    """It writes calls of earlier answers and their results."""
    hermes: bool = False
    """It writes calls as Hermes does."""
    thinks: bool = False
    """It writes the thought of an answer."""
    thought_marks: tuple[str, str] | None = None
    """What it writes before and after a thought, where the two are text."""
    own_system: str = ""
    """The system text that it writes where a conversation has none."""

    @classmethod
    def of(cls, render: Render) -> Abilities:
        """Ask the template."""

        def said(turns: Sequence[Mapping[str, Any]], *, generation: bool = False, **arguments: Any) -> str:
            """Nothing, where the template refuses."""
            try:
                return render(turns, arguments, generation)
            except DataError:
                return ""

        asked = [{"role": "user", "content": "a"}]
        call: Message = {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]}
        forms: tuple[Arguments, ...] = ("object", "text")
        form = next((each for each in forms if _writes_call(said([*asked, _formed(call, each)]))), None)
        result = {"role": "tool", "content": "afina_result", "name": "afina_probe", "tool_call_id": PROBE_ID}
        replayed = said([*asked, _formed(call, form), result], generation=True) if form else ""
        bodies = re.findall(f"{OPEN}(.*?){CLOSE}", replayed, re.DOTALL)
        thinking = said(_THINKING)
        return cls(
            offers="afina_probe" in said(asked, generation=True, tools=[FUNCTION]),
            calls=form,
            replays="afina_probe" in replayed and "afina_result" in replayed,
            hermes=any(
                read_call(body) == ("afina_probe", json.dumps(PROBE_CALL["function"]["arguments"])) for body in bodies
            ),
            thinks="afina_thought" in thinking,
            thought_marks=_marks(thinking, said(_THINKING[:1], generation=True)),
            own_system=_own_system(said),
        )

    def formed(self, turns: Sequence[Message]) -> list[dict[str, Any]]:
        """The turns as the template reads them: calls and thoughts in its form, every call with an id."""
        made: list[dict[str, Any]] = []
        waiting: list[str] = []
        for number, turn in enumerate(turns):
            each = _formed(turn, self.calls)
            for place, call in enumerate(each.get("tool_calls", ())):
                call.setdefault("id", f"c{number:04}{place:04}"[:9])
                waiting.append(call["id"])
            if each["role"] == "tool":
                given = each.setdefault("tool_call_id", waiting[0] if waiting else "")
                waiting = [other for other in waiting if other != given]
            made.append(each)
        return made


def _formed(turn: Message, arguments: Arguments | None) -> dict[str, Any]:
    """One turn in a template's form.

    >>> _formed({"role": "assistant", "content": "b", "learned": False}, None)
    {'role': 'assistant', 'content': 'b'}
    """
    made: dict[str, Any] = {key: value for key, value in turn.items() if key != "learned"}
    if calls := made.get("tool_calls"):
        made["tool_calls"] = [{"type": "function", **call, "function": dict(call["function"])} for call in calls]
        for call in made["tool_calls"] if arguments == "text" else ():
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return made


def read_call(body: str) -> tuple[str, str] | None:
    """Name and arguments of a call written as JSON, the arguments as JSON; None for anything else.

    >>> read_call(' {"name": "f", "arguments": {"a": 1}} '), read_call("{")
    (('f', '{"a": 1}'), None)
    """
    try:
        read = json.loads(body)
    except ValueError:
        return None
    if not isinstance(read, dict) or not isinstance(read.get("name"), str):
        return None
    arguments = read.get("arguments", read.get("parameters", {}))
    return read["name"], json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else str(arguments)


def written_forms(text: str) -> Iterator[str]:
    """A value of a call as templates write it: as it is, or inside JSON.

    >>> list(written_forms("é"))
    ['é', '\\\\u00e9']
    """
    yield from dict.fromkeys([text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]])


def _writes_call(rendered: str) -> bool:
    """Whether the probe's call stands there, its arguments written once as JSON or in words of the template's own, and
    no Python value among it."""
    wrong = ("'x'", '\\"x\\"', "None")
    return all(each in rendered for each in ("afina_probe", "x", "said")) and not any(
        each in rendered for each in wrong
    )


def _marks(rendered: str, prompt: str) -> tuple[str, str] | None:
    """What stands before and after a thought in an answer; the first may stand in the prompt."""
    start, end = rendered.find("afina_thought"), rendered.find("afina_said")
    if not 0 <= start < end or not rendered.startswith(prompt):
        return None
    opened = rendered[len(prompt) : start].strip() or prompt.rstrip().rpartition("\n")[2]
    found = re.search(r"\S+$", opened)
    closed = rendered[start + len("afina_thought") : end].strip()
    return (found.group(), closed) if found and closed and not re.search(r"\s", closed) else None


def _own_system(said: Callable[..., str]) -> str:
    """What stands in the place of the system text where there is none."""
    user = {"role": "user", "content": "afina_asked"}
    given, own = said([{"role": "system", "content": "afina_system"}, user]), said([user])
    before, found, after = given.partition("afina_system")
    after = after.partition("afina_asked")[0]
    if not found or not own or not before.strip() or not after.strip() or not own.startswith(before):
        return ""
    inside, found, _ = own[len(before) :].partition(after + "afina_asked")
    return inside.strip() if found else ""
