"""Greedy answers in batches, the same for evaluation, chat and serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from afina.run import Progress, no_progress
from afina.tokenizer.chat import Renderer

BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, and whether it ended by itself."""

    text: str
    tokens: int
    stopped: bool
    """False: it reached the limit without an end token."""


@torch.no_grad()
def generate(
    model: Any,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    progress: Progress = no_progress,
) -> list[Answer]:
    """Greedy answers to prompts given as token ids, in the order given.

    Prompts of like length share a batch, padded on the left with a mask; transformers' own
    ``generate`` keeps the cache.
    """
    tokenizer, device = renderer.tokenizer, next(model.parameters()).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_id
    stops = renderer.stop_ids()
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    answers: list[Answer | None] = [None] * len(prompts)
    for start in range(0, len(order), BATCH_ROWS):
        numbers = order[start : start + BATCH_ROWS]
        length = max(len(prompts[number]) for number in numbers)
        ids = torch.full((len(numbers), length), pad, dtype=torch.long)
        mask = torch.zeros((len(numbers), length), dtype=torch.long)
        for row, number in enumerate(numbers):
            ids[row, length - len(prompts[number]) :] = torch.tensor(list(prompts[number]))
            mask[row, length - len(prompts[number]) :] = 1
        written = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=stops,
            pad_token_id=pad,
        )[:, length:].tolist()
        for row, number in enumerate(numbers):
            answers[number] = _answer(written[row], stops, tokenizer)
        progress(start + len(numbers), len(order), "answers")
    return [answer for answer in answers if answer is not None]


def _answer(ids: list[int], stops: Sequence[int], tokenizer: Any) -> Answer:
    end = next((position for position, token in enumerate(ids) if token in stops), None)
    kept = ids if end is None else ids[:end]
    return Answer(
        text=tokenizer.decode(kept, skip_special_tokens=False).strip(), tokens=len(kept), stopped=end is not None
    )
