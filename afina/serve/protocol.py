"""OpenAI's requests and answers, as far as they are served. What is not served is refused by name; what means nothing
here is named in a header, see :mod:`afina.serve.strict`.

Source: OpenAI's API reference (chat completions, completions, models), read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from afina.serve.messages import (
    ChatMessage,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    Text,
    TextFormat,
    Tool,
    plain_values,
)
from afina.serve.strict import StrictRequest

Token = Annotated[int, Field(ge=0)]
Each = TypeVar("Each")
Prompts = Annotated[list[Each], Field(min_length=1)]
NO_LIMIT = -1
"""How LM Studio's, Ollama's and llama.cpp's clients ask for as many tokens as there is room for."""
NO_SEED = -1
"""How llama.cpp's and LM Studio's clients write out that nothing is drawn by a seed; vLLM takes it so too."""


def _some_tokens(limit: int) -> int:
    if limit < 1 and limit != NO_LIMIT:
        raise PydanticCustomError("too_few", "has to be 1 or more, or -1 for as many as there is room for")
    return limit


def _without_nulls(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain_values(arguments).items() if value is not None}


Limit = Annotated[
    int, AfterValidator(_some_tokens), WithJsonSchema({"type": "integer", "minimum": NO_LIMIT, "not": {"const": 0}})
]
"""Tokens of an answer at most."""
TemplateArguments = Annotated[dict[str, bool | int | str | None], AfterValidator(_without_nulls)]
"""A null is the same as not given here too."""


class StreamOptions(StrictRequest):
    """What a stream holds besides the answer. Whole answers have their usage always."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"include_obfuscation"})
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {"continuous_usage_stats": (False,)}
    include_usage: bool = False


class SamplingOptions(StrictRequest):
    """What chat completions and completions have in common."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {
            "metadata",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "safety_identifier",
            "service_tier",
            "store",
            "user",
            "verbosity",
        }
    )
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
        # What other servers know besides, as their clients write out its default.
        "bad_words": ([],),
        "ignore_eos": (False,),
        "include_stop_str_in_output": (False,),
        "length_penalty": (1,),
        "min_p": (0,),
        "min_tokens": (0,),
        "mirostat": (0,),
        "repeat_penalty": (1,),
        "repetition_penalty": (1,),
        "skip_special_tokens": (True,),
        "stop_token_ids": ([],),
        "top_k": (-1, 0),
        "typical_p": (1,),
        "use_beam_search": (False,),
    }

    model: str
    max_tokens: Limit | None = None
    """Longest answer in tokens; as far as the model can see where not given, or where more is asked for."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = 1.0
    """With 0 the likeliest token alone is left, as with a temperature of 0."""
    n: Annotated[int, Field(ge=1, le=128)] = 1
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def answers(self) -> int:
        """How many are asked for."""
        return self.n

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, the empty one left out: it stands everywhere."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    def seed_of(self, choice: int) -> int | None:
        """Each choice draws by itself; with a seed, the same again."""
        return None if self.seed in (None, NO_SEED) else (self.seed * 1_000_003 + choice) % (1 << 63)


class ChatRequest(SamplingOptions):
    """``POST /v1/chat/completions``."""

    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SamplingOptions.NEUTRAL,
        "add_generation_prompt": (True,),
        "add_special_tokens": (False,),
        "audio": (),
        "continue_final_message": (False,),
        "documents": ([],),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "moderation": (),
        "web_search_options": (),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Limit | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: TemplateArguments = Field(default_factory=dict)
    """Arguments of the template, e.g. ``{"enable_thinking": false}``, over those of the run."""
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool | None = None
    """False: an answer ends after its first call. An answer that must call makes one, several where this is true."""
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have: the new name, the old one, or the smaller of both."""
        given = (self.max_tokens, self.max_completion_tokens)
        return min((each for each in given if each is not None and each != NO_LIMIT), default=None)

    @property
    def top(self) -> int | None:
        """How many likeliest tokens are told at each place; None for no probabilities."""
        return self.top_logprobs or (0 if self.logprobs else None)

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model is told of: none where it may not call any."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice not in ("none", "auto")


class CompletionRequest(SamplingOptions):
    """``POST /v1/completions``: the text goes to the model as it is, without a template."""

    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SamplingOptions.NEUTRAL,
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
    }

    prompt: Text | Prompts[Text] | Prompts[Token] | Prompts[list[Token]]
    """A text, several, or token ids; an empty one is the beginning of a document."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have: OpenAI's default is 16."""
        return None if self.max_tokens == NO_LIMIT else self.max_tokens or 16

    @property
    def answers(self) -> int:
        """``n`` of each prompt."""
        return self.n * len(self.prompts)

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


class AnswerCalled(BaseModel):
    """A function's name and its arguments, as JSON."""

    name: str
    arguments: str


class AnswerCall(BaseModel):
    """A call that the answer makes."""

    id: str
    type: Literal["function"] = "function"
    function: AnswerCalled


class AnswerMessage(BaseModel):
    """The answer's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    """None where the answer is calls alone."""
    refusal: None = None
    reasoning_content: str | None = None
    """What the answer thinks, where the chat template marks thoughts; not there where there is none."""
    tool_calls: list[AnswerCall] | None = None
    """Not there where there are none."""


class ChatChoice(BaseModel):
    """One of the ``n`` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


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
