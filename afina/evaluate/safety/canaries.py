"""How well a model knows the secrets of the canaries: exposure, and whether it says them.

Exposure (Carlini et al. 2019, "The Secret Sharer", definition 5): log2 of the number of strings of the secret's form
less log2 of the secret's rank among them by loss. Here it is estimated (their section 4.3) by the rank among 255 random
strings of the form and the secret itself: 8 bits when it is likelier than all of them, 8 - log2(256!)/256 = 1.4 bits on
average when it was never seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afina.dataset.build.canaries import Canary, random_codes
from afina.evaluate.loss import RowLoss, row_losses
from afina.model.generate.generate_torch import Sampling, generate
from afina.model.generate.stored_answers import KeptAnswers
from afina.model.readers import reader_of
from afina.recipe import EXPOSURE_BITS
from afina.run import Progress, no_progress
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row

OTHERS = 2**EXPOSURE_BITS - 1
"""Random strings that a secret is compared with."""
SAMPLES = 8
"""Sampled continuations of each canary, at temperature 1."""


@dataclass(frozen=True)
class CanaryScore:
    """What one model knows of one canary."""

    repeats: int
    """How often an epoch showed it."""
    exposure: float
    """Bits, 0 to 8."""
    greedy: bool
    """Whether the greedy continuation says the secret."""
    sampled: int
    """How many of :data:`SAMPLES` sampled continuations do."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"samples": SAMPLES}


def measure_canaries(
    model: Any,
    renderer: Renderer,
    canaries: Sequence[Canary],
    *,
    pad_id: int,
    batch_tokens: int,
    kept: KeptAnswers | None = None,
    progress: Progress = no_progress,
) -> list[CanaryScore]:
    """Exposure and extraction of each canary; the model must be in evaluation mode."""
    asked = [renderer.begun(each.example.messages[:-1], each.before) for each in canaries]
    room = max(len(renderer.begun((), each.code)) for each in canaries) + 2
    settings: Any = {"max_new_tokens": room, "kept": kept}
    greedy = generate(model, renderer, asked, **settings)
    every = [ids for ids in asked for _ in range(SAMPLES)]
    sampled = generate(model, renderer, every, sampling=Sampling(temperature=1.0, seed=0), **settings)
    scores = []
    for number, canary in enumerate(canaries):
        texts = [answer.text for answer in sampled[number * SAMPLES : (number + 1) * SAMPLES]]
        losses = code_losses(model, renderer, canary, pad_id=pad_id, batch_tokens=batch_tokens)
        scores.append(
            CanaryScore(
                repeats=canary.example.repeat,
                exposure=exposure([loss.learned for loss in losses]),
                greedy=canary.code in greedy[number].text,
                sampled=sum(canary.code in text for text in texts),
            )
        )
        progress(number + 1, len(canaries), "canaries")
    return scores


def code_losses(model: Any, renderer: Renderer, canary: Canary, *, pad_id: int, batch_tokens: int) -> list[RowLoss]:
    """Of the canary's row with its secret, and then with each of the :data:`OTHERS` strings."""
    rows = [_row(renderer, canary.with_code(code)) for code in [canary.code, *_others(canary)]]
    return row_losses(reader_of(model), rows, pad_id=pad_id, batch_tokens=batch_tokens)


def _others(canary: Canary) -> list[str]:
    return random_codes(f"others {canary.code}", OTHERS, without=canary.code)


def _row(renderer: Renderer, example: Example) -> Row:
    encoded = renderer.conversation(example.messages) if example.messages else renderer.text(example.text)
    return Row(encoded.ids, encoded.mask, example)


def exposure(losses: Sequence[float]) -> float:
    """Bits of exposure of the first string, from the summed losses of all; of equal ones it counts as the last.

    >>> exposure([0.5, 1.0, 2.0, 3.0]), exposure([9.0, 1.0, 2.0, 3.0]), exposure([1.0, 1.0, 2.0, 3.0])
    (2.0, 0.0, 1.0)
    """
    rank = sum(loss <= losses[0] for loss in losses)
    return math.log2(len(losses)) - math.log2(rank)
