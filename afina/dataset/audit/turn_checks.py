"""What can be wrong with thoughts, calls, results and the functions that a conversation defines.

Each check looks at one example and returns a :class:`~afina.dataset.audit.one_example.Spot`, or None; :class:`Thinking`
counts along all of them. Calls are held to their function's schema in what most people mean by it: `required`, `type`,
`enum`, and no argument that the function does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from afina.dataset.audit.one_example import Check, Spot, excerpt
from afina.text.code_blocks import without_fences
from afina.text.document import Message, ToolCall
from afina.text.example import Example

_CODE_SPAN = re.compile(r"`[^`\n]+`")
_THINK = re.compile(r"<(/?)(think|thinking|thought|reasoning)>")
_STARTS_THINKING = re.compile(r"\s*<(?:think|thinking|thought|reasoning)>")
_END_MARK = re.compile(
    r"(?:</s>|<\|(?:im_end|endoftext|eot_id|eom_id|end|end_of_text|return|eot)\|>|<end_of_turn>|<eos>|\[/?EOS\]"
    r"|<｜end▁of▁sentence｜>)\s*\Z"
)
_NULLS = frozenset({"nan", "NaN", "None", "null", "NULL", "undefined", "<NA>", "NaT", "[null]", "[object Object]"})
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def learned_answers(example: Example) -> Iterator[Message]:
    """The turns of an example that are targets."""
    return (each for each in example.messages if each["role"] == "assistant" and each.get("learned", True))


def think_unbalanced(example: Example) -> Spot | None:
    """A thought that is opened in an answer and never closed, or closed and never opened. Code is not looked at."""
    for message in learned_answers(example):
        content = message["content"]
        if found := _THINK.search(message.get("reasoning_content", "")):
            return Spot(excerpt(f"{found[0]} stands in a thought that has marks of its own: {found.string}"))
        if "think>" not in content and "thought>" not in content and "reasoning>" not in content:
            continue
        text = _CODE_SPAN.sub("", without_fences(content))
        open_tag = ""
        for found in _THINK.finditer(text):
            if not found[1] and not open_tag:
                open_tag = found[2]
            elif found[1] and found[2] == open_tag:
                open_tag = ""
            elif found[1]:
                return Spot(excerpt(f"closed and never opened: {content}"))
        if open_tag:
            return Spot(excerpt(f"opened and never closed: {content}"))
    return None


def stringified_null(example: Example) -> Spot | None:
    """A question, an answer, or the last paragraph of a question, that is the word ``nan``, ``None`` or ``null``."""
    for message in example.messages:
        content = message["content"].strip()
        if message["role"] != "tool" and (content in _NULLS or content.rpartition("\n\n")[2] in _NULLS):
            return Spot(excerpt(f"{message['role']}: {content}", max(0, len(content) - 80)))
    return Spot(excerpt(example.text)) if example.text.strip() in _NULLS else None


def end_mark_in_answer(example: Example) -> Spot | None:
    """An answer that ends with a base's end token, as a text."""
    for message in learned_answers(example):
        if _END_MARK.search(message["content"]):
            return Spot(excerpt(message["content"], max(0, len(message["content"]) - 80)))
    return None


_ASKS_AT_START = re.compile(r"^(?:#{1,3} ?)?(?:Human|User|USER|Usuário|Question|Pergunta|Q) ?:", re.MULTILINE)
_SAYS_AT_START = re.compile(
    r"^(?:#{1,3} ?)?(?:Assistant|ASSISTANT|Assistente|Bot|AI|GPT|Answer|Resposta|A) ?:|\sASSISTANT: ", re.MULTILINE
)


def transcript_in_text(example: Example) -> Spot | None:
    """A row's plain text that is a conversation: paragraphs that begin with who asks and who answers."""
    if example.messages or example.heading or not _ASKS_AT_START.match(example.text.lstrip()):
        return None
    return Spot(excerpt(example.text)) if _SAYS_AT_START.search(example.text) else None


def _calls(example: Example) -> Iterator[ToolCall]:
    for message in learned_answers(example):
        yield from message.get("tool_calls", ())


def _functions(example: Example) -> dict[str, Mapping[str, Any]]:
    """Parameters of the example's functions by name."""
    schemas = {each["function"]["name"]: each["function"].get("parameters") for each in example.tools}
    return {name: schema if isinstance(schema, Mapping) else {} for name, schema in schemas.items()}


def tool_unknown(example: Example) -> Spot | None:
    """A call of a function that the example does not define."""
    known = _functions(example)
    for call in _calls(example):
        if (name := call["function"]["name"]) not in known:
            return Spot(excerpt(f"calls {name}; defined: {', '.join(known) or 'none'}"))
    return None


def tool_missing_argument(example: Example) -> Spot | None:
    """A call without an argument that its function requires."""
    known = _functions(example)
    for call in _calls(example):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        required = known.get(name, {}).get("required")
        names = [each for each in required if isinstance(each, str)] if isinstance(required, list) else []
        missing = [each for each in names if each not in arguments]
        if missing:
            return Spot(excerpt(f"{name} without {', '.join(missing)}: {arguments}"))
    return None


def tool_wrong_argument(example: Example) -> Spot | None:
    """A call with an argument of another type than its function says, of none of its values, or unknown to it."""
    known = _functions(example)
    for call in _calls(example):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        schema = known.get(name, {})
        if schema.get("type") == "object" and (wrong := _wrong(arguments, schema)):
            return Spot(excerpt(f"{name}: {wrong}"))
    return None


def _wrong(value: Any, schema: Any, path: str = "") -> str:
    """What is wrong with a value by its schema; empty where nothing is, or the schema says it in another way."""
    if not isinstance(schema, Mapping):
        return ""
    kinds = schema.get("type")
    wanted = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if (
        wanted
        and all(isinstance(kind, str) and kind in _TYPES for kind in wanted)
        and not any(_is(value, kind) for kind in wanted)
    ):
        return f"{path or 'arguments'} is {value!r:.40} where {' or '.join(wanted)} is wanted"
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return f"{path} is {value!r:.40}, none of {schema['enum']!r:.80}"
    properties = schema.get("properties")
    if isinstance(value, dict) and isinstance(properties, Mapping):
        free = schema.get("additionalProperties") not in (None, False) or "patternProperties" in schema
        for name, each in value.items():
            if name not in properties and not free:
                return f"it has no {(path + '.') * bool(path)}{name}"
            if name in properties and (wrong := _wrong(each, properties[name], f"{(path + '.') * bool(path)}{name}")):
                return wrong
    if isinstance(value, list):
        wrongs = (_wrong(each, schema.get("items"), f"{path}[{place}]") for place, each in enumerate(value))
        return next(filter(None, wrongs), "")
    return ""


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, float) and value.is_integer())


def tool_result_without_call(example: Example) -> Spot | None:
    """A result to which no answer before it made a call."""
    open_calls = 0
    ids: set[str] = set()
    for message in example.messages:
        if message["role"] == "assistant":
            calls = message.get("tool_calls", [])
            open_calls, ids = len(calls), {call["id"] for call in calls if "id" in call}
        elif message["role"] == "tool":
            answered = message.get("tool_call_id")
            if open_calls <= 0 or (answered and ids and answered not in ids):
                return Spot(excerpt(message["content"]))
            open_calls -= 1
        else:
            open_calls = 0
    return None


def tool_call_without_result(example: Example) -> Spot | None:
    """A call that nothing answers although the conversation goes on."""
    waiting: list[str] = []
    for message in example.messages:
        if message["role"] == "tool":
            waiting = waiting[1:]
        elif waiting:
            return Spot(excerpt(f"calls {', '.join(waiting)}, then {message['role']}: {message['content']}"))
        else:
            waiting = [call["function"]["name"] for call in message.get("tool_calls", ())]
    return None


def tool_id_twice(example: Example) -> Spot | None:
    """Two calls with one id: their results cannot be told apart."""
    seen: set[str] = set()
    for message in example.messages:
        for call in message.get("tool_calls", ()):
            if (identity := call.get("id", "")) in seen:
                return Spot(excerpt(f"the id {identity} stands at two calls"))
            seen |= {identity} if identity else set()
    return None


def tool_definition(example: Example) -> Spot | None:
    """A function without parameters or with some that are no schema of an object, or one name twice."""
    seen: set[str] = set()
    for tool in example.tools:
        function = tool["function"]
        name, schema = function["name"], function.get("parameters")
        if name in seen:
            return Spot(excerpt(f"{name} is defined twice"))
        seen.add(name)
        if not isinstance(schema, Mapping) or (schema and schema.get("type") != "object"):
            return Spot(excerpt(f"{name}: its parameters are no schema of an object: {schema}"))
    return None


def said_to_be_bad(example: Example) -> Spot | None:
    """A row that says that its answer is a bad one."""
    return Spot(excerpt(f"{example.prompt} -> {example.answer}")) if example.label is False else None


def answer_not_learned(example: Example) -> Spot | None:
    """A conversation with an answer that is context only."""
    for turn in example.messages:
        if not turn.get("learned", True):
            return Spot(excerpt(turn["content"]))
    return None


TURN_CHECKS: dict[str, Check] = {
    "said_to_be_bad": said_to_be_bad,
    "answer_not_learned": answer_not_learned,
    "think_unbalanced": think_unbalanced,
    "stringified_null": stringified_null,
    "end_mark_in_answer": end_mark_in_answer,
    "transcript_in_text": transcript_in_text,
    "tool_unknown": tool_unknown,
    "tool_missing_argument": tool_missing_argument,
    "tool_wrong_argument": tool_wrong_argument,
    "tool_result_without_call": tool_result_without_call,
    "tool_call_without_result": tool_call_without_result,
    "tool_id_twice": tool_id_twice,
    "tool_definition": tool_definition,
}


@dataclass
class Thinking:
    """How many of the learned answers think before they say something."""

    answers: int = 0
    thinking: int = 0
    shown: list[dict[str, str]] = field(default_factory=list)
    """Up to five that do not, from where one did."""

    def add(self, example: Example) -> None:
        """Look at each of an example's answers."""
        for message in learned_answers(example):
            self.answers += 1
            if "reasoning_content" in message or _STARTS_THINKING.match(message["content"]):
                self.thinking += 1
            elif len(self.shown) < 5:
                self.shown.append({"where": f"{example.path}:{example.line}", "text": excerpt(message["content"])})

    def merge(self, later: Thinking) -> None:
        """Add the answers of the rows that follow."""
        self.answers += later.answers
        self.thinking += later.thinking
        self.shown = [*self.shown, *later.shown][:5]

    @property
    def on_some(self) -> bool:
        """Whether some answers think and some do not."""
        return 0 < self.thinking < self.answers
