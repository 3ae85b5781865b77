"""Requests to the engine, and what it writes back into OpenAI's answers, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from afina.errors import AfinaError, ContextOverflow, RecipeError
from afina.model.generate.request import BASE, Finished, Produced, Request, TokenLogprob
from afina.serve.driver import Busy, Driver, EngineStopped
from afina.serve.metrics import Metrics
from afina.serve.opened import Served
from afina.serve.protocol import (
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

DONE = "data: [DONE]\n\n"


@dataclass(slots=True)
class ClientRequest:
    """A request of a client: one or more choices, each a request to the engine."""

    served: Served
    wanted: ChatRequest | CompletionRequest
    requests: list[Request]
    driver: Driver
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
            choices = [
                ChatChoice(
                    index=place,
                    message=AnswerMessage(content=each.text),
                    logprobs=self._chat_logprobs(each.logprobs),
                    finish_reason="stop" if each.finish == "stop" else "length",
                )
                for place, each in enumerate(done)
            ]
            return ChatAnswer(id=self.id, created=self.created, model=self.served.name, choices=choices, usage=usage)
        texts = [
            TextChoice(
                index=place,
                text=each.text,
                logprobs=self._text_logprobs(each.logprobs, 0),
                finish_reason="stop" if each.finish == "stop" else "length",
            )
            for place, each in enumerate(done)
        ]
        return CompletionAnswer(id=self.id, created=self.created, model=self.served.name, choices=texts, usage=usage)

    async def _one(self, request: Request) -> Finished:
        with self.metrics.request(self.served.name) as seen:
            async with contextlib.aclosing(self.driver.answer(request)) as pieces:
                async for piece in pieces:
                    seen(piece)
                    if piece.done is not None:
                        return piece.done
        raise AssertionError("an answer ends with its last piece")

    # ---- as a stream

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events. Closing it early (the client hung up) frees the places."""
        merged: asyncio.Queue[tuple[int, Produced | BaseException]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._into(merged, place, request)) for place, request in enumerate(self.requests)]
        done: list[Finished] = []
        written = [0] * len(tasks)
        try:
            if isinstance(self.wanted, ChatRequest):
                for place in range(len(tasks)):
                    yield self._event(place, {"delta": {"role": "assistant", "content": ""}})
            while len(done) < len(tasks):
                place, piece = await merged.get()
                if isinstance(piece, BaseException):
                    raise piece
                if piece.text or piece.logprobs:
                    yield self._event(place, self._delta(piece, written[place]))
                    written[place] += len(piece.text)
                if piece.done is not None:
                    done.append(piece.done)
                    last: dict[str, Any] = {"delta": {}} if isinstance(self.wanted, ChatRequest) else {"text": ""}
                    yield self._event(place, last, "stop" if piece.done.finish == "stop" else "length")
            options = self.wanted.stream_options
            if options and options.include_usage:
                yield self._line({"choices": [], "usage": self._usage(done).model_dump()})
            yield DONE
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
                        merged.put_nowait((place, piece))
        except (AfinaError, Busy, EngineStopped) as error:
            merged.put_nowait((place, error))

    def _delta(self, piece: Produced, offset: int) -> dict[str, Any]:
        if isinstance(self.wanted, ChatRequest):
            logprobs = self._chat_logprobs(piece.logprobs)
            return {"delta": {"content": piece.text}, "logprobs": logprobs.model_dump() if logprobs else None}
        texts = self._text_logprobs(piece.logprobs, offset)
        return {"text": piece.text, "logprobs": texts.model_dump() if texts else None}

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
        return str(self.served.renderer.tokenizer.decode([token]))

    def _chat_logprobs(self, found: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        if not isinstance(self.wanted, ChatRequest) or self.wanted.top is None:
            return None

        def top(token: int, logprob: float) -> Top:
            text = self._token(token)
            return Top(token=text, logprob=max(logprob, LEAST), bytes=list(text.encode()))

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


LEAST = -9999.0
"""Stands for a probability of zero, whose logarithm JSON cannot hold. OpenAI's own servers say so too."""


def chat_requests(served: Served, wanted: ChatRequest, context: int | None) -> list[Request]:
    """The engine's requests for a chat: one a choice.

    Raises:
        ContextOverflow: prompt and answer are longer than the model sees.
        DataError: the base has no chat template, or the template refuses the messages.
    """
    _check_arguments(served, wanted.chat_template_kwargs)
    renderer = served.renderer.with_arguments(wanted.chat_template_kwargs)
    prompt = renderer.prompt([message.as_message() for message in wanted.messages])  # type: ignore[misc]
    return [_request(served, prompt, wanted, wanted.limit, wanted.top, choice, context) for choice in range(wanted.n)]


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
            _request(served, ids, wanted, wanted.max_tokens or 16, wanted.logprobs, len(requests) + choice, context)
            for choice in range(wanted.n)
        ]
    return requests


def _request(
    served: Served,
    prompt: Sequence[int],
    wanted: ChatRequest | CompletionRequest,
    limit: int | None,
    logprobs: int | None,
    choice: int,
    context: int | None,
) -> Request:
    room = None if context is None else context - len(prompt)
    if room is not None and (room < 1 or (limit is not None and limit > room)):
        raise ContextOverflow(
            f"this model's maximum context length is {context} tokens; the prompt has {len(prompt)} and "
            f"{limit or 'at least 1'} are asked for",
            "shorten the messages, or ask for fewer tokens",
        )
    return Request(
        prompt=prompt,
        max_new_tokens=limit or room or 1024,
        adapter=served.inside or BASE,
        stop=wanted.stops,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        seed=wanted.seed_of(choice),
        logprobs=logprobs,
        stream=wanted.stream,
    )
