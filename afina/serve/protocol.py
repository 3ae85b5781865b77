"""OpenAI's requests and answers, as far as they are served. What is not served is refused by name, never ignored.

Source: OpenAI's API reference (chat completions, completions, models), read 2026-11.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(max_length=4_000_000)]
Token = Annotated[int, Field(ge=0)]
Each = TypeVar("Each")
Prompts = Annotated[list[Each], Field(min_length=1)]
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
}
"""What clients send along though it is not served, with the values that change nothing; others are refused."""


def _say_neutral(schema: dict[str, Any]) -> None:
    """The server's OpenAPI names the values that are taken, too."""
    for name, neutral in NEUTRAL.items():
        if name in schema.get("properties", {}):
            title = schema["properties"][name].get("title", name)
            schema["properties"][name] = {"title": title, "enum": list(neutral), "default": None}


class StrictRequest(BaseModel):
    """A request in which every key is known."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_say_neutral)


class StreamOptions(StrictRequest):
    """What a stream holds besides the answer. Whole answers have their usage always."""

    include_usage: bool = False


class SamplingOptions(StrictRequest):
    """What chat completions and completions have in common."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer in tokens; as far as the model can see where not given."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    n: Annotated[int, Field(ge=1, le=128)] = 1
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @model_validator(mode="after")
    def _nothing_unserved(self) -> SamplingOptions:
        for name, neutral in NEUTRAL.items():
            if name in type(self).model_fields and getattr(self, name) not in neutral:
                raise ValueError(f"{name} is not served here")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, the empty one left out: it stands everywhere."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    def seed_of(self, choice: int) -> int | None:
        """Each choice draws by itself; with a seed, the same again."""
        return None if self.seed is None else (self.seed * 1_000_003 + choice) % (1 << 63)


class TextPart(StrictRequest):
    """A piece of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(StrictRequest):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def as_message(self) -> dict[str, str]:
        """As the renderer takes it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(SamplingOptions):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, bool | int | str] = {}
    """Arguments of the template, e.g. ``{"enable_thinking": false}``, over those of the run."""
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Any = None

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have: the new name, the old one, or the smaller of both."""
        return min((each for each in (self.max_tokens, self.max_completion_tokens) if each), default=None)

    @property
    def top(self) -> int | None:
        """How many likeliest tokens are told at each place; None for no probabilities."""
        return self.top_logprobs or (0 if self.logprobs else None)


class CompletionRequest(SamplingOptions):
    """``POST /v1/completions``: the text goes to the model as it is, without a template."""

    prompt: Text | Prompts[Text] | Prompts[Token] | Prompts[list[Token]]
    """A text, several, or token ids; an empty one is the beginning of a document."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or more."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]


class LoadAdapter(StrictRequest):
    """``POST /v1/load_lora_adapter``, as vLLM has it."""

    lora_name: Annotated[str, Field(min_length=1, max_length=200)]
    lora_path: Annotated[str, Field(min_length=1, max_length=4000)]


class UnloadAdapter(StrictRequest):
    """``POST /v1/unload_lora_adapter``."""

    lora_name: Annotated[str, Field(min_length=1, max_length=200)]


# ---- answers


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt: int, written: int) -> Usage:
        return cls(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)


class Top(BaseModel):
    """A token, how likely it was, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class TokenInfo(Top):
    """A token that was written, with the likeliest at its place."""

    top_logprobs: list[Top]


class ChatLogprobs(BaseModel):
    """Of a chat's answer."""

    content: list[TokenInfo]


class AnswerMessage(BaseModel):
    """The answer's message."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """One of the ``n`` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatAnswer(BaseModel):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(BaseModel):
    """Of a completion: lists of like length, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(BaseModel):
    """The answer to a completion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class ModelCard(BaseModel):
    """A name that may be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["afina"] = "afina"
    root: str
    parent: str | None
    """The base's name, of an adapter."""
    max_model_len: int | None


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorBody
