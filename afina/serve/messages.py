"""Messages, tools and forms of answers as OpenAI's clients send them.

Source: OpenAI's API reference (chat completions), read 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from afina.errors import RecipeError
from afina.run import parse_json
from afina.serve.strict import StrictRequest

Text = Annotated[str, Field(max_length=4_000_000)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
DEEPEST = 100
"""Values in values of what a client sends."""


def plain_values(value: Any) -> Any:
    """Refuse nested values that no template could write: values in values without end, and half a character.

    >>> plain_values({"a": ["b", 1]})
    {'a': ['b', 1]}
    """
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        if depth > DEEPEST:
            raise PydanticCustomError("too_deep", "more than {most} values in one another", {"most": DEEPEST})
        if isinstance(each, str):
            try:
                each.encode()
            except UnicodeEncodeError:
                raise PydanticCustomError("half_a_character", "holds half a character") from None
        elif isinstance(each, dict):
            waiting += [(inner, depth + 1) for pair in each.items() for inner in pair]
        elif isinstance(each, list):
            waiting += [(inner, depth + 1) for inner in each]
    return value


Values = Annotated[dict[str, Any], AfterValidator(plain_values)]
"""A JSON object of any form."""
NOT_TEXT = {
    "image_url": "images are",
    "input_image": "images are",
    "input_audio": "sound is",
    "file": "files are",
    "input_file": "files are",
    "video_url": "videos are",
}
"""Parts of a content that other models take."""


class TextPart(StrictRequest):
    """A piece of a message's content."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {"annotations", "cache_control", "id", "index", "prompt_cache_breakpoint"}
    )
    type: Literal["text"]
    text: Text

    @property
    def said(self) -> str:
        """The text."""
        return self.text


class RefusalPart(StrictRequest):
    """What a model said instead of an answer."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def said(self) -> str:
        """The text."""
        return self.refusal


class CalledFunction(StrictRequest):
    """A function's name and its arguments, as JSON."""

    name: ToolName
    arguments: Text


class GivenCall(StrictRequest):
    """A call that an answer made."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"index"})
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def as_turn(self, where: str) -> dict[str, Any]:
        """As templates take it: arguments are an object.

        Raises:
            RecipeError: the arguments are no JSON object, or one that no template could write.
        """
        try:
            arguments = plain_values(parse_json(self.function.arguments or "{}"))
        except ValueError:  # PydanticCustomError is one
            arguments = None
        if not isinstance(arguments, dict):
            raise RecipeError(
                f"the arguments of {self.function.name} are no JSON object: {self.function.arguments[:80]!r}",
                "send the call as it was answered",
                where,
            )
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class ChatMessage(StrictRequest):
    """One turn; an answer's message comes back as it was given."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {
            "annotations",
            "cache_control",
            "provider_specific_fields",
            "reasoning",
            "reasoning_details",
            "thinking_blocks",
        }
    )
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {"audio": (), "function_call": (), "images": ([],)}
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    refusal: Text | None = None
    reasoning_content: Text | None = None
    """What an answer thought, for a chat template that writes thoughts."""
    tool_calls: list[GivenCall] | None = None
    tool_call_id: str | None = None

    @classmethod
    def look_at(cls, given: Mapping[str, Any]) -> None:
        """Name what is no text."""
        parts = given.get("content")
        for part in parts if isinstance(parts, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in NOT_TEXT:
                raise PydanticCustomError(
                    "not_served", "{what} not served here: this model reads text only", {"what": NOT_TEXT[kind]}
                )

    def ignored(self) -> Iterator[str]:
        """A name means something to the result of a tool only."""
        yield from super().ignored()
        if self.name is not None and self.role != "tool":
            yield "name"
        if self.reasoning_content and self.role != "assistant":
            yield "reasoning_content"

    @property
    def said(self) -> str:
        """Its text."""
        if isinstance(self.content, list):
            return "".join(part.said for part in self.content)
        return self.content or self.refusal or ""

    def as_turn(self, where: str, called: Mapping[str, str]) -> dict[str, Any]:
        """As the renderer takes it.

        Args:
            where: the message's place, for errors.
            called: names of functions by the calls' ids, of the turns before.

        Raises:
            RecipeError: keys that do not go together.
        """
        if self.tool_calls and self.role != "assistant":
            raise RecipeError(f"a message of role {self.role} makes no calls", "leave tool_calls out", where)
        if self.content is None and self.refusal is None and not self.tool_calls:
            raise RecipeError("the message has no content", "give it a text", where)
        if self.role == "tool":
            if self.tool_call_id is None:
                raise RecipeError("the result of a tool has no tool_call_id", "name the call that it answers", where)
            if self.tool_call_id not in called:
                raise RecipeError(
                    f"the result of a tool answers {self.tool_call_id[:80]!r}, which no message before it calls",
                    "send the answer that made the call, too, or leave its result out",
                    where,
                )
            name = self.name or called[self.tool_call_id]
            return {"role": "tool", "content": self.said, "tool_call_id": self.tool_call_id, "name": name}
        role = "system" if self.role == "developer" else self.role
        calls = {"tool_calls": [call.as_turn(where) for call in self.tool_calls]} if self.tool_calls else {}
        thought = (
            {"reasoning_content": self.reasoning_content} if self.reasoning_content and role == "assistant" else {}
        )
        return {"role": role, "content": self.said} | thought | calls


class ToolFunction(StrictRequest):
    """What may be called."""

    name: ToolName
    description: Text | None = None
    parameters: Values = Field(default_factory=dict)
    """A JSON schema; without one the function takes nothing."""
    strict: bool | None = None


class Tool(StrictRequest):
    """A tool that an answer may call."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"cache_control"})
    type: Literal["function"]
    function: ToolFunction

    def as_schema(self) -> dict[str, Any]:
        """As templates take it."""
        made = {"name": self.function.name, "description": self.function.description or ""}
        return {"type": "function", "function": made | {"parameters": self.parameters}}

    @property
    def parameters(self) -> dict[str, Any]:
        """The schema of the arguments."""
        return self.function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}


class NamedFunction(StrictRequest):
    """The name of one function."""

    name: ToolName


class NamedTool(StrictRequest):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(StrictRequest):
    """An answer of any form."""

    type: Literal["text"]


class JsonObjectFormat(StrictRequest):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class NamedSchema(StrictRequest):
    """A JSON schema and its name; it holds whether or not `strict` is said."""

    name: str
    description: str | None = None
    schema_: Values = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(StrictRequest):
    """An answer that fits a JSON schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema
