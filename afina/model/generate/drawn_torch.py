"""Is a sampled answer, known by its tokens, what a seed draws of a model's probabilities?

A draw inverts the cumulative distribution at a number that follows from the seed. So each token has an interval, which
the model tells, and its number, which the seed tells: another machine moves the ends of an interval a little, another
model or another text misses the number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import Request, TokenLogprob
from afina.tokenizer.chat import Renderer

EVERY = 2**31 - 1
"""As many likeliest tokens as there are."""
AT_ONCE = 4
"""Places that are looked at together: each gives a probability for every token of the vocabulary."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class DrawnText:
    """A sampled text.

    Args:
        prompt: token ids before it.
        ids: its tokens.
        stopped: whether an end token closed it.
    """

    prompt: Sequence[int]
    ids: Sequence[int]
    stopped: bool


def draws_of(seed: int, count: int) -> list[float]:
    """The numbers from 0 to 1 that a request of this seed draws its tokens by, the first `count`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand((), generator=generator, dtype=torch.float64).item() for _ in range(count)]


def intervals_of(model: Any, renderer: Renderer, text: DrawnText, temperature: float) -> list[list[Interval]]:
    """For each token of a text the part of 0 to 1 that its draw fell into; where it ended that of each end token.

    Raises:
        ContextOverflow: the text is longer than the model can see.
    """
    engine = Engine(model, renderer.tokenizer, [], places=AT_ONCE)  # an end is a token like others here
    places = len(text.ids) + text.stopped
    numbers = {
        engine.submit(Request(prompt=[*text.prompt, *text.ids[:place]], max_new_tokens=1, logprobs=EVERY)): place
        for place in range(places)
    }
    found: list[list[Interval]] = [[] for _ in range(places)]
    while engine.busy:
        for produced in engine.step():
            place = numbers[produced.id]
            tokens = [text.ids[place]] if place < len(text.ids) else list(renderer.stop_ids())
            for told in produced.logprobs:
                found[place] = _parts(told, tokens, temperature)
    return found


def _parts(told: TokenLogprob, tokens: Sequence[int], temperature: float) -> list[Interval]:
    """The parts of some tokens, added up as :func:`~afina.model.generate.choose_torch.sample` does."""
    logprobs_V = torch.full((max(token for token, _ in told.top) + 1,), -torch.inf, dtype=torch.float64)
    ids, values = zip(*told.top, strict=True)
    logprobs_V[list(ids)] = torch.tensor(values, dtype=torch.float64)
    probabilities_V = torch.softmax(logprobs_V / temperature, -1)
    ends_V = probabilities_V.cumsum(-1)
    known = [token for token in tokens if 0 <= token < len(ends_V)]
    return [(float(ends_V[token] - probabilities_V[token]), float(ends_V[token])) for token in known]


def is_drawn(intervals: Sequence[Sequence[Interval]], seed: int, within: float) -> bool:
    """Whether a seed draws a text.

    Args:
        intervals: of :func:`intervals_of`.
        within: by how much the ends of an interval may be moved.

    >>> first, second = draws_of(7, 2)
    >>> is_drawn([[(0.0, first)], [(second, 1.0)]], 7, 1e-9), is_drawn([[(0.0, first - 0.1)]], 7, 1e-3)
    (True, False)
    """
    return all(
        any(low - within <= draw <= high + within for low, high in parts)
        for draw, parts in zip(draws_of(seed, len(intervals)), intervals, strict=True)
    )
