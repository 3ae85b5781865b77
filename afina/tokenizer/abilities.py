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
from afina.run import parse_json
from afina.text.document import Message, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""Hermes' and Qwen's marks around a call."""
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {"name": "afina_probe", "description": "", "parameters": {"type": "object", "properties": {}}},
}
PROBE_ID = "call00001"
"""Nine letters and digits: Mistral's templates take no others."""
_SHORT = re.compile("[A-Za-z0-9]{9}")
PROBE_CALL: ToolCall = {
    "id": PROBE_ID,
    "type": "function",
    "function": {"name": "afina_probe", "arguments": {"x": "said"}},
}

_THINKING = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "afina_said", "reasoning_content": "afina_thought"},
]
_SAYING = [_THINKING[0], {"role": "assistant", "content": "afina_said"}]

Render = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any], bool], str]
"""Turns, further arguments, whether an answer is asked for -> what the template writes. Raises a DataError."""


Arguments = Literal["object", "text"]
"""How a template wants a call's arguments: as an object, or as JSON text."""


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """How a template writes an answer that calls, its marks among it: ``before NAME between ARGUMENTS after``, and a
    further call behind ``more``. The call's id in it is :data:`PROBE_ID`."""

    before: str
    between: str
    after: str
    more: str = ""

    @classmethod
    def of(cls, said: Callable[..., str], calling: Callable[..., list[dict[str, Any]]]) -> WrittenCall | None:
        """Ask the template, by one call and by two; None where the arguments stand there in another form than JSON."""
        one, two = _behind(said, calling("afina_probe")), _behind(said, calling("afina_probe", "afina_other"))
        read = re.fullmatch(r"(.*?)afina_probe(.*?)(\{\s*\"x\":\s*\"said\"\s*\})(.*)", one, re.DOTALL)
        if not read:
            return None
        before, between, arguments, after = read.groups()
        further = two.partition(arguments)[2].partition("afina_other")[0] if "afina_other" in two else ""
        return cls(before, between, after, further)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template does with all that is more than a content."""

    offers: bool = False
    """It tells the model which functions there are."""
    calls: Arguments | None = None
    """How it wants the arguments of calls; None: it has no place for calls."""
    short_ids: bool = False
    """It takes no ids of calls but such as :data:`PROBE_ID`."""
    replays: bool = False
    """It writes calls of earlier answers and their results."""
    hermes: bool = False
    """It writes calls as Hermes does."""
    written: WrittenCall | None = None
    """How it writes them otherwise; None: as Hermes does, or in no form that could be read back."""
    thinks: bool = False
    """It writes the thought of an answer."""
    thought_marks: tuple[str, str] | None = None
    """What it writes before and after a thought, where the two are text."""
    opens: str = ""
    """What it writes before an answer that does not think (gpt-oss: the channel)."""
    own_system: str = ""
    """The system text that it writes where a conversation has none."""

    @classmethod
    def of(cls, render: Render) -> Abilities:
        """Ask the template."""

        said = _asking(render)
        asked = [{"role": "user", "content": "a"}]
        call: Message = {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]}
        forms: tuple[Arguments, ...] = ("object", "text")
        form = next((each for each in forms if _writes_call(said([*asked, _formed(call, each)]))), None)
        other: Message = {**call, "tool_calls": [{**PROBE_CALL, "id": "c1"}]}
        hermes = _is_hermes(said([*asked, _formed(call, form)])) if form else False
        result = {"role": "tool", "content": "afina_result", "name": "afina_probe", "tool_call_id": PROBE_ID}
        replayed = said([*asked, _formed(call, form), result], generation=True) if form else ""
        thinking = said(_THINKING)
        return cls(
            offers="afina_probe" in said(asked, generation=True, tools=[FUNCTION]),
            calls=form,
            short_ids=bool(form) and not said([*asked, _formed(other, form)]),
            replays="afina_probe" in replayed and "afina_result" in replayed,
            hermes=hermes,
            written=None if hermes or not form else WrittenCall.of(said, lambda *names: _calling(form, *names)),
            thinks="afina_thought" in thinking,
            thought_marks=_marks(thinking, said(_THINKING[:1], generation=True)),
            opens=_behind(said, _SAYING).partition("afina_said")[0].strip(),
            own_system=own_system_text(render),
        )

    def formed(self, turns: Sequence[Message]) -> list[dict[str, Any]]:
        """The turns as the template reads them: calls and thoughts in its form, every call with an id."""
        made: list[dict[str, Any]] = []
        waiting: list[str] = []
        names: dict[str, str] = {}
        for number, turn in enumerate(turns):
            each = _formed(turn, self.calls)
            for place, call in enumerate(each.get("tool_calls", ())):
                own = f"c{number:04}{place:04}"[:9]
                given = call.setdefault("id", own)
                names[given] = call["id"] = own if self.short_ids and not _SHORT.fullmatch(given) else given
                waiting.append(call["id"])
            if each["role"] == "tool":
                given = each.get("tool_call_id") or (waiting[0] if waiting else "")
                each["tool_call_id"] = names.get(given, given)
                waiting = [other for other in waiting if other != each["tool_call_id"]]
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


def _calling(form: Arguments, *names: str) -> list[dict[str, Any]]:
    """A question and an answer that calls these functions."""
    calls: list[ToolCall] = [
        {**PROBE_CALL, "function": {"name": name, "arguments": PROBE_CALL["function"]["arguments"]}} for name in names
    ]
    return [{"role": "user", "content": "a"}, _formed({"role": "assistant", "content": "", "tool_calls": calls}, form)]


def _behind(said: Callable[..., str], turns: list[dict[str, Any]]) -> str:
    """What the template writes behind the prompt; nothing where that is not one."""
    whole, prompt = said(turns), said(turns[:-1], generation=True)
    return whole[len(prompt) :] if whole.startswith(prompt) else ""


def _is_hermes(rendered: str) -> bool:
    bodies = re.findall(f"{OPEN}(.*?){CLOSE}", rendered, re.DOTALL)
    return any(read_call(body) == ("afina_probe", '{"x": "said"}') for body in bodies)


def read_call(body: str) -> tuple[str, str] | None:
    """Name and arguments of a call written as JSON, the arguments as JSON; None for anything else, such as values in
    values without end, half a character, or NaN, which could not be sent.

    >>> read_call(' {"name": "f", "arguments": {"a": 1}} '), read_call("{")
    (('f', '{"a": 1}'), None)
    """
    try:
        read = parse_json(body)
        json.dumps(read, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
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


def _asking(render: Render) -> Callable[..., str]:
    """Ask a template: nothing, where it refuses."""

    def said(turns: Sequence[Mapping[str, Any]], *, generation: bool = False, **arguments: Any) -> str:
        try:
            return render(turns, arguments, generation)
        except DataError:
            return ""

    return said


def own_system_text(render: Render) -> str:
    """What stands in the place of the system text where there is none."""
    said = _asking(render)
    user = {"role": "user", "content": "afina_asked"}
    given, own = said([{"role": "system", "content": "afina_system"}, user]), said([user])
    before, found, after = given.partition("afina_system")
    after = after.partition("afina_asked")[0]
    if not found or not own or not before.strip() or not after.strip() or not own.startswith(before):
        return ""
    inside, found, _ = own[len(before) :].partition(after + "afina_asked")
    return inside.strip() if found else ""
