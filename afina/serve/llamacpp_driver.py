"""llama.cpp behind our routes: prompts and answers go to it as token ids, adapters by their place.

The routes, the chat template, adapters' names, keys, queue and metrics are those of our own server, so that a client
sees no difference but speed and rounding; llama.cpp reads, writes and chooses the tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from afina.errors import AfinaError
from afina.llamacpp.completion import completion_body, logprobs_of
from afina.llamacpp.program import LlamaCppServer
from afina.model.generate.grammar import Grammars
from afina.model.generate.request import Finish, Finished, Produced, Request, TokenLogprob
from afina.model.generate.text_stream import TextStream
from afina.serve.driver import Busy, EngineStopped

if TYPE_CHECKING:
    import httpx


class LlamaCppDriver:
    """Asks a llama.cpp server; see :class:`afina.serve.driver.Answering`.

    Args:
        server: runs, with `adapters` adapters.
        stop_ids: tokens that end an answer; llama.cpp has its own, most of them the same.
        vocabulary: how many logits the model has.
        places: answers at a time; others wait here, `queue_limit` of them at most.
    """

    def __init__(
        self,
        server: LlamaCppServer,
        tokenizer: Any,
        stop_ids: Sequence[int],
        vocabulary: int,
        *,
        adapters: int,
        context: int,
        places: int,
        queue_limit: int,
    ) -> None:
        self.server, self.tokenizer, self.stop_ids = server, tokenizer, frozenset(stop_ids)
        self.adapters, self.places, self.queue_limit = adapters, places, queue_limit
        self.context: int | None = context
        self.grammars = Grammars(tokenizer, vocabulary, stop_ids)
        self.running = self.open = 0
        self._ids = itertools.count()
        self._free: asyncio.Semaphore | None = None
        self._client: httpx.AsyncClient | None = None

    @property
    def failure(self) -> BaseException | None:
        """Its process has ended."""
        return None if self.server.process.poll() is None else self.server.gone("")

    @property
    def most(self) -> int:
        """Requests that may be under way at most, waiting ones included."""
        return self.places + self.queue_limit

    def has_room(self, requests: int) -> bool:
        """Whether the queue takes so many more."""
        return self.open + requests <= self.most

    def close(self) -> None:
        """The process is ended by whoever started it."""

    async def answer(self, request: Request) -> AsyncGenerator[Produced, None]:
        """What llama.cpp writes for a request, piece by piece; leaving the loop early frees its place.

        Raises:
            Busy: the queue is full.
            EngineStopped: llama.cpp does not answer any more.
            AfinaError: it refuses the request.
        """
        import httpx

        if self.failure is not None:
            raise EngineStopped(str(self.failure))
        if not self.has_room(1):
            raise Busy
        if self._client is None or self._free is None:  # they belong to the event loop that is there now
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.places)
            self._client = httpx.AsyncClient(
                base_url=self.server.url, headers=self.server.headers, timeout=None, limits=limits, trust_env=False
            )
            self._free = asyncio.Semaphore(self.places)
        self.open += 1
        try:
            async with self._free:
                self.running += 1
                try:
                    async with contextlib.aclosing(self._asked(self._client, request)) as pieces:
                        async for piece in pieces:
                            yield piece
                finally:
                    self.running -= 1
        except httpx.HTTPError as error:
            raise EngineStopped(str(self.server.gone(str(error)))) from error
        finally:
            self.open -= 1

    async def _asked(self, client: httpx.AsyncClient, request: Request) -> AsyncGenerator[Produced, None]:
        streamed = request.stream or bool(request.stop)  # stop strings are found here, as everywhere
        body = completion_body(request, self.adapters, streamed=streamed)
        writing = _Writing(next(self._ids), request, self.tokenizer, self.stop_ids)
        if not streamed:
            answer = await client.post("/completion", json=body)
            _check(answer.status_code, answer.text)
            yield writing.whole(answer.json())
            return
        async with client.stream("POST", "/completion", json=body) as answer:
            if answer.status_code != 200:
                _check(answer.status_code, (await answer.aread()).decode(errors="replace"))
            async for event in _events(answer):
                piece = writing.piece(event)
                yield piece
                if piece.done is not None:
                    return  # closing the connection frees the place, where it was cut here
        raise EngineStopped("llama.cpp ended an answer in its middle")


class _Writing:
    """An answer as it is written; llama.cpp gives the end token among its tokens."""

    def __init__(self, number: int, request: Request, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self.number, self.request, self.stop_ids = number, request, stop_ids
        self.text = TextStream(tokenizer, request.stop, keep_special=True)
        self.logprobs: list[TokenLogprob] = []

    def whole(self, answer: dict[str, Any]) -> Produced:
        """An answer that came at once."""
        tokens: list[int] = answer["tokens"]
        end = next((place for place, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
        self.text.ids = tokens[:end]
        ended = end < len(tokens)
        return self._last("stop" if ended else _finish(answer), self._told(answer)[:end], ended=ended)

    def piece(self, event: dict[str, Any]) -> Produced:
        """One event of a stream: a token or two, or the end."""
        if event.get("error"):
            raise AfinaError(f"llama.cpp could not go on: {event['error'].get('message')}", "ask again")
        found, ready, new = self._told(event), "", list[int]()
        for token in event.get("tokens") or ():
            if token in self.stop_ids:
                return self._last("stop", found[: len(new)], new, ready, ended=True)
            new.append(token)
            text, stopped = self.text.add(token)
            ready += text
            if stopped:
                return self._last("stop", found[: len(new)], new, ready, cut=True)
        if event["stop"]:
            return self._last(_finish(event), found[: len(new)], new, ready)
        self.logprobs += found
        return Produced(self.number, new, ready if self.request.stream else "", found)

    def _told(self, answer: dict[str, Any]) -> list[TokenLogprob]:
        if self.request.logprobs is None:
            return []
        return logprobs_of(answer.get("completion_probabilities") or (), self.request.logprobs)

    def _last(
        self,
        finish: Finish,
        found: list[TokenLogprob],
        new: list[int] | None = None,
        ready: str = "",
        *,
        ended: bool = False,
        cut: bool = False,
    ) -> Produced:
        """The last piece.

        Args:
            ended: whether the model wrote its end token.
            cut: whether a stop string was met, so that nothing is held back any more.
        """
        if not cut:
            ready += self.text.finish()
        self.logprobs += found
        done = Finished(
            tokens=list(self.text.ids),
            text=self.text.text,
            finish=finish,
            prompt_tokens=len(self.request.prompt),
            written=len(self.text.ids) + ended,
            logprobs=self.logprobs,
        )
        return Produced(self.number, new or [], ready if self.request.stream else "", found, done)


def _finish(answer: dict[str, Any]) -> Finish:
    return "length" if answer["stop_type"] == "limit" else "stop"


def _check(status: int, said: str) -> None:
    if status != 200:
        raise AfinaError(f"llama.cpp refuses: {said[:500]}", "see what it says")


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events; lines that only keep the connection alive begin with a colon."""
    held = b""
    async for piece in answer.aiter_raw():
        *whole, held = (held + piece).split(b"\n\n")
        for event in whole:
            kind, _, body = event.partition(b": ")
            if kind in (b"data", b"error"):
                found = json.loads(body)
                yield found if kind == b"data" else {"error": found}
