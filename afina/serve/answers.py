"""Requests to the engine, and what it writes back into OpenAI's answers, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from afina.errors import AfinaError, ContextOverflow, RecipeError
from afina.model.generate.grammar import json_grammar
from afina.model.generate.request import BASE, Finished, Produced, Request, TokenLogprob
from afina.serve.driver import Answering, Busy, EngineStopped
from afina.serve.messages import JsonObjectFormat, JsonSchemaFormat, NamedTool
from afina.serve.metrics import Metrics
from afina.serve.opened import Served
from afina.serve.protocol import (
    AnswerCall,
    AnswerMessage,
    ChatAnswer,
    ChatChoice,
    ChatLogprobs,
    ChatRequest,
    CompletionAnswer,
    CompletionRequest,
    TextChoice,
    TextLogprobs,
    TokenInfo,
    Top,
    Usage,
)
from afina.serve.thoughts import Thought, ThoughtReader
from afina.serve.tools import Call, CallReader, WrittenCallReader, call_grammar, check_template
from afina.tokenizer.abilities import CLOSE
from afina.tokenizer.chat import Renderer

DONE = "data: [DONE]\n\n"


class AnswerFailed(Exception):
    """The model could not go on: its logits were NaN, or nothing fits the form that was asked for."""

    def __init__(self) -> None:
        super().__init__(
            "the model could not go on: its numbers were NaN, or no token fits the form that was asked for"
        )


class AnswerText:
    """An answer's text as it comes, as a client gets it: calls apart, nothing that stands there by accident.

    One space before the first word is the template's or the tokenizer's, not the answer's (two are an indentation), and
    of a character that the limit cut in half there is nothing to show.

    Args:
        chat: whether it is a chat's answer; the text of a completion goes on where its prompt ended, space and all.
        calls: reads its calls, where it may call.
        thoughts: reads its thought, where the chat template marks thoughts.

    >>> text = AnswerText(chat=True)
    >>> text.add(" "), text.add("Faro"), text.add(" é\N{REPLACEMENT CHARACTER}", last=True)
    ([], ['Faro'], [' é'])
    """

    def __init__(
        self, *, chat: bool, calls: CallReader | WrittenCallReader | None = None, thoughts: ThoughtReader | None = None
    ) -> None:
        self._begun = not chat
        self._held = ""
        self._reader, self._thoughts = calls, thoughts

    @property
    def called(self) -> bool:
        """Whether it has made a call."""
        return self._reader is not None and self._reader.calls > 0

    def add(self, text: str, *, last: bool = False) -> list[str | Call]:
        """What this text makes ready."""
        if last:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        if not self._begun:
            text = self._held + text
            if text in ("", " ") and not last:
                self._held = text
                return []
            self._begun = True
            if text.startswith(" ") and not text.startswith("  "):
                text = text[1:]
        pieces = [text] if text else []
        if self._thoughts is not None:
            pieces = self._thoughts.add(text) + (self._thoughts.finish() if last else [])
        if self._reader is None:
            return list[str | Call](pieces)
        ready = list[str | Call]()
        for piece in pieces:
            ready += [piece] if isinstance(piece, Thought) else self._reader.add(piece)
        return ready + (self._reader.finish() if last else [])


@dataclass(slots=True)
class ClientRequest:
    """A request of a client: one or more choices, each a request to the engine."""

    served: Served
    wanted: ChatRequest | CompletionRequest
    requests: list[Request]
    driver: Answering
    metrics: Metrics
    context: int | None
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        kind = "chatcmpl" if isinstance(self.wanted, ChatRequest) else "cmpl"
        self.id = f"{kind}-{uuid.uuid4().hex}"

    # ---- whole

    async def whole(self) -> ChatAnswer | CompletionAnswer:
        """All choices at once."""
        tasks = [asyncio.create_task(self._one(request)) for request in self.requests]
        try:
            done = await asyncio.gather(*tasks)
        finally:  # one was refused, or the client hung up: the others go too
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        usage = self._usage(done)
        if isinstance(self.wanted, ChatRequest):
            choices = [self._chat_choice(place, each) for place, each in enumerate(done)]
            return ChatAnswer(id=self.id, created=self.created, model=self.served.name, choices=choices, usage=usage)
        texts = [
            TextChoice(
                index=place,
                text="".join(map(str, self._text().add(each.text, last=True))),
                logprobs=self._text_logprobs(each.logprobs, 0),
                finish_reason="stop" if each.finish == "stop" else "length",
            )
            for place, each in enumerate(done)
        ]
        return CompletionAnswer(id=self.id, created=self.created, model=self.served.name, choices=texts, usage=usage)

    def _text(self) -> AnswerText:
        if not isinstance(self.wanted, ChatRequest):
            return AnswerText(chat=False)
        template = self.served.renderer.template
        able, names, calls = template.abilities, {tool.function.name for tool in self.wanted.offered}, None
        if names:
            form = able.written
            calls = CallReader(names) if form is None else WrittenCallReader(names, form)
        thoughts = None
        if able.thought_marks:
            opened = _opens_thought(self.served.renderer, self.requests[0].prompt)
            thoughts = ThoughtReader(able.thought_marks, able.opens, opened=opened)
        return AnswerText(chat=True, calls=calls, thoughts=thoughts)

    def _chat_choice(self, place: int, done: Finished) -> ChatChoice:
        text = self._text()
        pieces = text.add(done.text, last=True)
        calls = [AnswerCall.model_validate(each.as_json()) for each in pieces if isinstance(each, Call)]
        said = "".join(each for each in pieces if isinstance(each, str) and not isinstance(each, Thought))
        thought = "".join(each for each in pieces if isinstance(each, Thought))
        message = AnswerMessage(
            content=said if said or not calls else None, reasoning_content=thought or None, tool_calls=calls or None
        )
        return ChatChoice(
            index=place,
            message=message,
            logprobs=self._chat_logprobs(done.logprobs),
            finish_reason=_reason(done, text),
        )

    async def _one(self, request: Request) -> Finished:
        with self.metrics.request(self.served.name) as seen:
            async with contextlib.aclosing(self.driver.answer(request)) as pieces:
                async for piece in pieces:
                    seen(piece)
                    if piece.done is not None:
                        if piece.done.finish == "failed":
                            raise AnswerFailed
                        return piece.done
        raise AssertionError("an answer ends with its last piece")

    # ---- as a stream

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events. Closing it early (the client hung up) frees the places."""
        merged: asyncio.Queue[tuple[int, Produced | BaseException]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._into(merged, place, request)) for place, request in enumerate(self.requests)]
        done: list[Finished] = []
        texts = [self._text() for _ in tasks]
        calls, written = [0] * len(tasks), [0] * len(tasks)
        try:
            if isinstance(self.wanted, ChatRequest):
                for place in range(len(tasks)):
                    yield self._event(place, {"delta": {"role": "assistant", "content": ""}})
            while len(done) < len(tasks):
                place, piece = await merged.get()
                if isinstance(piece, BaseException):
                    raise piece
                ready = texts[place].add(piece.text, last=piece.done is not None)
                if not ready and piece.logprobs:
                    ready = [""]
                for number, each in enumerate(ready):
                    values = self._delta(each, calls[place], () if number else piece.logprobs, written[place])
                    yield self._event(place, values)
                    calls[place] += isinstance(each, Call)
                    written[place] += len(each) if isinstance(each, str) else 0
                if piece.done is not None:
                    done.append(piece.done)
                    last: dict[str, Any] = {"delta": {}} if isinstance(self.wanted, ChatRequest) else {"text": ""}
                    yield self._event(place, last, _reason(piece.done, texts[place]))
            options = self.wanted.stream_options
            if options and options.include_usage:
                yield self._line({"choices": [], "usage": self._usage(done).model_dump()})
            yield DONE
        except (AfinaError, AnswerFailed, Busy, EngineStopped) as error:  # the status went out with the first event
            yield f"data: {json.dumps({'error': _error_of(error)}, ensure_ascii=False)}\n\n"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _into(
        self, merged: asyncio.Queue[tuple[int, Produced | BaseException]], place: int, request: Request
    ) -> None:
        try:
            with self.metrics.request(self.served.name) as seen:
                async with contextlib.aclosing(self.driver.answer(request)) as pieces:
                    async for piece in pieces:
                        seen(piece)
                        if piece.done is not None and piece.done.finish == "failed":
                            raise AnswerFailed
                        merged.put_nowait((place, piece))
        except (AfinaError, AnswerFailed, Busy, EngineStopped) as error:
            merged.put_nowait((place, error))

    def _delta(self, piece: str | Call, call: int, found: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
        if not isinstance(self.wanted, ChatRequest):
            texts = self._text_logprobs(found, offset)
            return {"text": piece, "logprobs": texts.model_dump() if texts else None}
        logprobs = self._chat_logprobs(found)
        said: dict[str, Any] = {"reasoning_content" if isinstance(piece, Thought) else "content": piece}
        if isinstance(piece, Call):
            said = {"tool_calls": [{"index": call, **piece.as_json()}]}
        return {"delta": said, "logprobs": logprobs.model_dump() if logprobs else None}

    def _event(self, place: int, values: dict[str, Any], finish: str | None = None) -> str:
        return self._line({"choices": [{"index": place, **values, "finish_reason": finish}]})

    def _line(self, values: dict[str, Any]) -> str:
        kind = "chat.completion.chunk" if isinstance(self.wanted, ChatRequest) else "text_completion"
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.served.name}
        return f"data: {json.dumps(head | values, ensure_ascii=False)}\n\n"

    # ---- pieces of both

    def _usage(self, done: Sequence[Finished]) -> Usage:
        prompts = 1 if isinstance(self.wanted, ChatRequest) else len(self.wanted.prompts)
        each = len(self.requests) // prompts  # a prompt is counted once, however many answers it gets
        read = sum(len(request.prompt) for request in self.requests[::each])
        return Usage.of(read, sum(finished.written for finished in done))

    def _token(self, token: int) -> str:
        return self.driver.grammars.token_bytes(token).decode(errors="replace")

    def _chat_logprobs(self, found: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        if not isinstance(self.wanted, ChatRequest) or self.wanted.top is None:
            return None

        def top(token: int, logprob: float) -> Top:
            read = self.driver.grammars.token_bytes(token)  # half a character's too: clients put them together
            return Top(token=read.decode(errors="replace"), logprob=max(logprob, LEAST), bytes=list(read))

        return ChatLogprobs(
            content=[
                TokenInfo(
                    **top(each.token, each.logprob).model_dump(), top_logprobs=[top(*other) for other in each.top]
                )
                for each in found
            ]
        )

    def _text_logprobs(self, found: Sequence[TokenLogprob], offset: int) -> TextLogprobs | None:
        if self.wanted.logprobs is None:
            return None
        tokens = [self._token(each.token) for each in found]
        offsets = [offset + sum(map(len, tokens[:place])) for place in range(len(tokens))]
        return TextLogprobs(
            tokens=tokens,
            token_logprobs=[max(each.logprob, LEAST) for each in found],
            top_logprobs=[{self._token(token): max(value, LEAST) for token, value in each.top} for each in found],
            text_offset=offsets,
        )


LAST_OF_PROMPT = 16
"""Tokens of a prompt that may hold the mark that opens a thought."""
LEAST = -9999.0
"""Stands for a probability of zero, whose logarithm JSON cannot hold. OpenAI's own servers say so too."""


def chat_requests(served: Served, wanted: ChatRequest, context: int | None) -> list[Request]:
    """The engine's requests for a chat: one a choice.

    Raises:
        ContextOverflow: the prompt leaves no room.
        DataError: the base has no chat template, or the template refuses the messages.
        RecipeError: keys that do not go together, or tools where the template has none.
    """
    _check_arguments(served, wanted.chat_template_kwargs)
    renderer = served.renderer.with_arguments(wanted.chat_template_kwargs)
    replayed = any(message.role == "tool" or message.tool_calls for message in wanted.messages)
    if wanted.must_call and not wanted.offered:
        raise RecipeError("a call is demanded and there are no tools", "give some, or tool_choice: auto", "tool_choice")
    if wanted.offered or replayed:
        check_template(
            renderer.template.abilities, offered=bool(wanted.offered), replayed=replayed, must_call=wanted.must_call
        )
    turns: list[Any] = []
    called: dict[str, str] = {}
    for place, message in enumerate(wanted.messages):
        turns.append(message.as_turn(f"messages.{place}", called))
        called |= {call.id: call.function.name for call in message.tool_calls or ()}
    tools = [tool.as_schema() for tool in wanted.offered]
    prompt, grammar = renderer.prompt(turns, tools), _grammar(served, wanted)
    if grammar is not None and _opens_thought(renderer, prompt):
        prompt = _behind_the_thought(renderer, prompt)
    stops = wanted.stops
    if wanted.offered and not wanted.must_call and wanted.parallel_tool_calls is False:
        stops = (*stops, CLOSE)
    return [
        replace(_request(served, prompt, wanted, wanted.top, choice, context), grammar=grammar, stop=stops)
        for choice in range(wanted.n)
    ]


def _opens_thought(renderer: Renderer, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends with the mark that opens a thought, so that the answer begins inside one."""
    marks = renderer.template.abilities.thought_marks
    if marks is None:
        return False
    return str(renderer.tokenizer.decode(list(prompt[-LAST_OF_PROMPT:]))).rstrip().endswith(marks[0])


def _behind_the_thought(renderer: Renderer, prompt: list[int]) -> list[int]:
    """A prompt that opens a thought, with an empty one closed: the first token of a demanded form would else be one of
    the thought, and the whole answer none."""
    marks = renderer.template.abilities.thought_marks
    assert marks is not None
    closed: list[int] = renderer.tokenizer(f"\n{marks[1]}\n\n", add_special_tokens=False)["input_ids"]
    return [*prompt, *closed]


def unread_thoughts(served: Served, wanted: ChatRequest | CompletionRequest) -> list[str]:
    """The key of thoughts in the history, where the chat template has no place for them."""
    given = isinstance(wanted, ChatRequest) and any(each.reasoning_content for each in wanted.messages)
    return ["messages.reasoning_content"] if given and not served.renderer.template.abilities.thinks else []


def _grammar(served: Served, wanted: ChatRequest) -> str | None:
    """The form that the answer is held to.

    Raises:
        RecipeError: two forms at once, or a call of a tool that is not there.
    """
    form = wanted.response_format
    held = isinstance(form, JsonObjectFormat | JsonSchemaFormat)
    if held and wanted.offered:
        raise RecipeError(
            "an answer cannot both have a form and call tools", "leave response_format or tools out", "response_format"
        )
    if isinstance(form, JsonObjectFormat):
        return json_grammar({"type": "object"})
    if isinstance(form, JsonSchemaFormat):
        return json_grammar(form.json_schema.schema_)
    if not wanted.must_call:
        return None
    chosen = wanted.tool_choice if isinstance(wanted.tool_choice, NamedTool) else None
    several = bool(wanted.parallel_tool_calls)
    return call_grammar(wanted.offered, chosen, served.renderer.tokenizer, several=several)


def limit_shown(wanted: ChatRequest | CompletionRequest, requests: Sequence[Request]) -> int | None:
    """Tokens that an answer may have where fewer fit than were asked for; None where all fit."""
    limit = min(request.max_new_tokens for request in requests)
    return limit if wanted.limit is not None and limit < wanted.limit else None


def _reason(done: Finished, text: AnswerText) -> Literal["stop", "length", "tool_calls"]:
    if done.finish != "stop":
        return "length"
    return "tool_calls" if text.called else "stop"


def _error_of(error: Exception) -> dict[str, Any]:
    """An error in OpenAI's shape, for a stream that has begun."""
    kind = "invalid_request_error" if isinstance(error, AfinaError) else "server_error"
    said = str(error) or "too many requests are waiting already; try again shortly"
    return {"message": said, "type": kind, "param": None, "code": None}


def _check_arguments(served: Served, arguments: Mapping[str, Any]) -> None:
    """Only what the template itself reads: a client brings no template of its own, and does not say how it is applied.

    Raises:
        RecipeError: an argument of the tokenizer's method.
    """
    own = inspect.signature(served.renderer.tokenizer.apply_chat_template).parameters
    if taken := sorted(set(arguments) & set(own)):
        raise RecipeError(f"chat_template_kwargs may not hold {', '.join(taken)}", "name what the template reads")


def completion_requests(served: Served, wanted: CompletionRequest, context: int | None) -> list[Request]:
    """The engine's requests for completions: ``n`` a prompt, prompt by prompt.

    Raises:
        ContextOverflow: as :func:`chat_requests`.
        DataError: a prompt holds a mark, and the recipe refuses them.
    """
    requests: list[Request] = []
    for prompt in wanted.prompts:
        renderer = served.renderer
        ids = renderer.completion_prompt(prompt) if isinstance(prompt, str) else prompt or [renderer.end_id]
        requests += [
            _request(served, ids, wanted, wanted.logprobs, len(requests) + choice, context)
            for choice in range(wanted.n)
        ]
    return requests


def _request(
    served: Served,
    prompt: Sequence[int],
    wanted: ChatRequest | CompletionRequest,
    logprobs: int | None,
    choice: int,
    context: int | None,
) -> Request:
    room = None if context is None else context - len(prompt)
    if room is not None and room < 1:
        raise ContextOverflow(
            f"this model's maximum context length is {context} tokens; the prompt has {len(prompt)}, and at least 1 is "
            "needed for the answer",
            "shorten the messages",
        )
    wished = (wanted.limit, room)
    limit = min((each for each in wished if each is not None), default=1024)
    return Request(
        prompt=prompt,
        max_new_tokens=limit,
        adapter=served.inside or BASE,
        stop=wanted.stops,
        temperature=wanted.temperature if wanted.top_p else 0.0,
        top_p=wanted.top_p or 1.0,
        seed=wanted.seed_of(choice),
        logprobs=logprobs,
        stream=wanted.stream,
    )
