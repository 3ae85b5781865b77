"""The engine: requests go in at any time, every step writes one token for each that runs.

A step lets waiting requests in while there are places, reads their prompts, runs one forward for all rows, and
chooses a token for each; finished rows leave and make room (continuous batching). No threads: whoever drives it calls
:meth:`Engine.step` in a loop, and :meth:`Engine.submit` and :meth:`Engine.cancel` between two steps.

**The same whatever the batch.** A matrix product of 64 rows is not rounded as that of one row is, so logits differ in
their last bits (up to some 1e-6 of their size in float32). That can turn a greedy choice only where the two likeliest
tokens are that close. In float32 such a row (lead below :data:`TIE`) is taken out of the batch, read again alone,
operation by operation as ``model.generate`` does with one prompt, and finished there. In bfloat16 the rounding is too
coarse for that (1e-2); there, ``Finished.lead`` says how near the nearest choice was. A sampled result depends on
the request's seed alone in the same sense: a draw within 1e-6 of a boundary may fall on either side.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from afina.errors import ContextOverflow, DoesNotFit, RecipeError
from afina.model.generate.choose_torch import allow_only, greedy, logprobs, sample
from afina.model.generate.forwards import READ_TOKENS, ActiveRow, RowPath
from afina.model.generate.grammar import Grammars
from afina.model.generate.request import Finish, Finished, Produced, Request, Stats, TokenLogprob
from afina.model.generate.text_stream import TextStream
from afina.model.readers import reader_of

PLACES = 128
"""Rows in a batch: matrix products this tall are near the speed of the machine, and a step stays short."""
TIE = 1e-5
"""In float32 a greedy choice is too near to call when it leads by less than this times its logit's size (at least 1).

Measured between batches and one by one: logits differ by at most 1e-6 of that size."""


@dataclass(eq=False, slots=True)
class _Running(ActiveRow):
    """A request in a place."""

    id: int
    request: Request
    generator: torch.Generator | None
    stream: TextStream | None
    matcher: Any = None
    """Of the grammar that the answer is held to."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    lead: float | None = None


class Engine:
    """Continuous batching over one model.

    Args:
        model: a transformers causal language model, PEFT's around one, or one of MLX, in evaluation mode.
        tokenizer: its ``decode`` makes the text.
        stop_ids: tokens that end an answer.
        places: most requests that run at a time.
        max_tokens_in_cache: most tokens whose keys and values are held, counted as places times the longest
            running request; None takes what :data:`~afina.model.generate.forwards.CACHE_BYTES` hold, and lets one
            longer request run by itself.
        exact: whether near ties are decided alone; None does so in float32.
        keep_special: whether special tokens that the model writes appear in the text.
        say: is told, once, when the model cannot take the fast path, and why.

    >>> engine = Engine(model, tokenizer, [tokenizer.eos_token_id])        # doctest: +SKIP
    >>> engine.submit(Request(prompt=[5, 6, 7], max_new_tokens=2))         # doctest: +SKIP
    0
    >>> while engine.busy:                                                 # doctest: +SKIP
    ...     for produced in engine.step():
    ...         print(produced.id, produced.tokens, produced.done and produced.done.finish)
    0 [41] None
    0 [8] length
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        stop_ids: Sequence[int],
        *,
        places: int = PLACES,
        max_tokens_in_cache: int | None = None,
        exact: bool | None = None,
        keep_special: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.tokenizer, self.stop_ids, self.keep_special = tokenizer, frozenset(stop_ids), keep_special
        self.places = places
        self.stats = Stats()
        self._call = reader_of(model).forwards()
        self._default = self._call.standing
        self._ability = self._call.ability
        self._say = self._say_apart = say
        if not self._ability.slots:
            self._explain()
        self.exact = self._call.full_precision if exact is None else exact
        self._asked_limit = max_tokens_in_cache
        self.max_tokens_in_cache = max_tokens_in_cache or self._default_tokens()
        self.context = self._call.context
        """Longest prompt and answer together, in tokens; None where the model sets no limit."""
        self.grammars = Grammars(tokenizer, self._call.vocabulary, stop_ids)
        self._ids = itertools.count()
        self._waiting: deque[_Running] = deque()
        self._shared: dict[str, RowPath] = {}
        self._alone = self._call.alone()
        self._equal = self._call.equal() if self._ability.equal else self._alone

    def _default_tokens(self) -> int | None:
        if not self._ability.bytes_per_token:
            return None
        return self._call.cache_bytes // self._ability.bytes_per_token

    # ---- from outside

    @property
    def dtype(self) -> str:
        """The numbers computed with, e.g. ``float32 cpu``."""
        return self._call.numbers

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._waiting) or self.running > 0

    @property
    def running(self) -> int:
        """Requests in a place."""
        return sum(len(path.rows) for path in self._paths())

    @property
    def waiting(self) -> int:
        """Requests submitted that have no place yet."""
        return len(self._waiting)

    def adapters(self) -> list[str]:
        """Names that :attr:`Request.adapter` may hold, :data:`~afina.model.generate.request.BASE` first."""
        return self._call.names()

    def adopt(self, model: Any) -> None:
        """Go on with the same base in a new wrapping (its first adapter was loaded); running requests stay."""
        self._call.adopt(model)

    def submit(self, request: Request) -> int:
        """Queue a request; returns its number.

        Raises:
            ContextOverflow: prompt and ``max_new_tokens`` are longer than the model can see.
            DoesNotFit: or than ``max_tokens_in_cache``.
            RecipeError: no such adapter, an empty prompt, a setting out of range, or a grammar that cannot be compiled.
        """
        adapter = self._check(request)
        matcher = self.grammars.matcher(request.grammar) if request.grammar is not None else None
        ids = list(request.prompt)
        generator = None
        if request.temperature > 0:
            generator = torch.Generator()
            if request.seed is None:
                generator.seed()
            else:
                generator.manual_seed(request.seed)
        streamed = request.stream or request.stop
        running = _Running(
            ids=ids,
            prompt=len(ids),
            limit=len(ids) + request.max_new_tokens,
            adapter=adapter,
            id=next(self._ids),
            request=request,
            generator=generator,
            stream=TextStream(self.tokenizer, request.stop, keep_special=self.keep_special) if streamed else None,
            matcher=matcher,
        )
        self._waiting.append(running)
        self.stats.requests += 1
        self.stats.read += len(ids)
        return running.id

    def cancel(self, number: int) -> Produced | None:
        """Take a request out, waiting or running; its last piece, or None when it is not there (any more)."""
        found = next((running for running in self._waiting if running.id == number), None)
        if found is not None:
            self._waiting.remove(found)
            return self._last(found, "cancelled")
        for path in self._paths():
            for row in path.rows:
                if isinstance(row, _Running) and row.id == number:
                    path.remove([row])
                    return self._last(row, "cancelled")
        return None

    @torch.no_grad()
    def step(self) -> list[Produced]:
        """One token for each running request, after letting waiting ones in."""
        self._admit()
        produced: list[Produced] = []
        for path in self._paths():
            if path.rows:
                produced += self._advance(path)
        if len(self._shared) > 1:
            self._shared = {name: slots for name, slots in self._shared.items() if slots.rows}
        self.stats.steps += 1
        return produced

    # ---- inside

    def _explain(self) -> None:
        """Say, once, why requests of different lengths do not share a forward."""
        if self._say:
            self._say(f"generation: {self._ability.why}")
        self._say = None

    def _paths(self) -> list[RowPath]:
        return [*self._shared.values(), self._alone, *([self._equal] if self._ability.equal else [])]

    def _check(self, request: Request) -> str:
        adapter = self._default if request.adapter is None else request.adapter
        if request.adapter is not None and adapter not in self.adapters():
            raise RecipeError(f"there is no adapter {adapter!r}", "there are: " + ", ".join(self.adapters()), "adapter")
        if not request.prompt or request.max_new_tokens < 1 or request.temperature < 0 or not 0 < request.top_p <= 1:
            raise RecipeError(
                "a request needs a prompt, max_new_tokens of 1 or more, a temperature of 0 or more and top_p in (0, 1]",
                f"it has {len(request.prompt)} tokens, max_new_tokens {request.max_new_tokens}, "
                f"temperature {request.temperature}, top_p {request.top_p}",
            )
        vocabulary = self._call.vocabulary
        if not 0 <= min(request.prompt) <= max(request.prompt) < vocabulary:  # on a GPU it would end the process
            raise RecipeError(
                f"token ids run from 0 to {vocabulary - 1}, the prompt holds one outside", "use this base's tokenizer"
            )
        length = len(request.prompt) + request.max_new_tokens
        if self.context is not None and length > self.context:
            raise ContextOverflow(
                f"{len(request.prompt)} prompt tokens and {request.max_new_tokens} new ones are {length}, "
                f"the model sees {self.context} at most",
                "ask for fewer new tokens or shorten the prompt",
            )
        if self._asked_limit is not None and length > self._asked_limit:
            raise DoesNotFit(
                f"prompt and answer of {length} tokens are longer than max_tokens_in_cache ({self._asked_limit})",
                "raise it, or ask for fewer new tokens",
            )
        return adapter

    def _path_for(self, row: _Running) -> RowPath:
        """The batch that a request can share; adapters that PEFT cannot mix have one each."""
        longest = self._ability.longest
        if not self._ability.slots:
            return self._equal
        if longest is not None and row.limit > longest:
            self._explain()
            return self._equal
        name = "" if self._call.mixes(row.adapter) else row.adapter
        if name and self._say_apart and (why := self._call.why_apart()):
            self._say_apart(f"generation: rows of different adapters are answered apart: {why}")
            self._say_apart = None
        if name not in self._shared:
            self._shared[name] = self._call.slots(self.max_tokens_in_cache)
        return self._shared[name]

    def _admit(self) -> None:
        """Let waiting requests in, first come first served, as many as have a place and READ_TOKENS to read."""
        running, read = self.running, 0
        coming: dict[RowPath, list[ActiveRow]] = {}
        while self._waiting and running < self.places and (not read or read + self._waiting[0].prompt <= READ_TOKENS):
            row = self._waiting[0]
            path = self._path_for(row)
            if running and not self._fits(path, row, coming):
                break
            coming.setdefault(path, []).append(self._waiting.popleft())
            running, read = running + 1, read + row.prompt
            self.stats.alone += path not in self._shared.values()
        for path, rows in coming.items():
            path.add(rows)

    def _fits(self, path: RowPath, row: ActiveRow, coming: dict[RowPath, list[ActiveRow]]) -> bool:
        if self.max_tokens_in_cache is None:
            return True
        with_row = coming | {path: [*coming.get(path, []), row]}
        return sum(each.tokens(with_row.get(each, ())) for each in self._paths()) <= self.max_tokens_in_cache

    def _advance(self, path: RowPath) -> list[Produced]:
        logits_nV = path.step().float()
        rows = [row for row in path.rows if isinstance(row, _Running)]
        chosen_nV = _held_to_grammars(rows, logits_nV)
        tokens, tops, leads = greedy(chosen_nV)
        produced: list[Produced] = []
        leaving: list[ActiveRow] = []
        for place, row in enumerate(rows):
            token = tokens[place]
            if not float("-inf") < tops[place] < float("inf"):  # the others go on
                produced.append(self._last(row, "failed"))
                path.wipe(row)
                leaving.append(row)
                continue
            if row.generator is not None:
                token = sample(chosen_nV[place], row.request.temperature, row.request.top_p, row.generator)
            elif self.exact and path is not self._alone and leads[place] < TIE * max(1.0, abs(tops[place])):
                self.stats.near_ties += 1
                leaving.append(row)
                self._alone.add([row])
                continue
            else:
                row.lead = min(leads[place], row.lead) if row.lead is not None else leads[place]
            piece = self._take(row, token, logits_nV[place])
            produced.append(piece)
            if piece.done:
                leaving.append(row)
        if leaving:
            path.remove(leaving)
        return produced

    def _take(self, row: _Running, token: int, logits: torch.Tensor) -> Produced:
        """Write a token to a row; says whether it was the last one."""
        self.stats.written += 1
        if token in self.stop_ids:
            return self._last(row, "stop", stop_token=True)
        row.ids.append(token)
        # Nothing can follow: the form is complete, and the stop token would be all that is allowed.
        complete = row.matcher is not None and row.matcher.consume_token(token) and row.matcher.is_stopped()
        new = []
        if row.request.logprobs is not None:
            new = [logprobs(logits, token, row.request.logprobs)]
            row.logprobs += new
        text, stopped = row.stream.add(token) if row.stream else ("", False)
        if stopped or complete or len(row.ids) == row.limit:
            finish: Finish = "stop" if stopped or complete else "length"
            return self._last(row, finish, [token], new, text, stopped=stopped)
        return Produced(row.id, [token], text if row.request.stream else "", new)

    def _last(
        self,
        row: _Running,
        finish: Finish,
        tokens: list[int] | None = None,
        new: list[TokenLogprob] | None = None,
        text: str = "",
        *,
        stopped: bool = False,
        stop_token: bool = False,
    ) -> Produced:
        written = row.ids[row.prompt :]
        if row.stream is None:
            whole = str(self.tokenizer.decode(written, skip_special_tokens=not self.keep_special))
        else:
            text += "" if stopped else row.stream.finish()
            whole = row.stream.text
        done = Finished(
            tokens=written,
            text=whole,
            finish=finish,
            prompt_tokens=row.prompt,
            written=len(written) + stop_token,
            logprobs=row.logprobs,
            lead=row.lead,
        )
        return Produced(row.id, tokens or [], text if row.request.stream else "", new or [], done)


def _held_to_grammars(rows: Sequence[_Running], logits_nV: torch.Tensor) -> torch.Tensor:
    """The logits that tokens are chosen from: minus infinity for what a row's grammar does not allow, everywhere where
    it has failed. Rows without a grammar stay bit by bit; probabilities that are told are those of `logits_nV`."""
    held = [(place, row.matcher) for place, row in enumerate(rows) if row.matcher is not None]
    if not held:
        return logits_nV
    chosen_nV = logits_nV.clone()
    for place, matcher in held:
        allowed = matcher.compute_bitmask()
        chosen_nV[place] = -torch.inf if matcher.is_error() else allow_only(logits_nV[place], allowed)
    return chosen_nV
