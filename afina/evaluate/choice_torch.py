"""Log-probabilities of the sentences of choices.

The eight sentences of a question share the prompt and their beginning, which are computed once; only what stands from
the first difference on is a target, so that logits are made for little more than the gap and what follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from afina.evaluate.choice import Choice, Ranked
from afina.evaluate.loss import by_length
from afina.model.loss_torch import answer_log_probs, make_batch, target_loss
from afina.run import Progress, no_progress
from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row

NEUTRAL = {"pt": ("Escreve um termo.", "O termo é {}."), "en": ("Write a term.", "The term is {}.")}
"""By language, a request that asks for nothing in particular, and an answer to it: what a term costs by itself."""
_NONE = Example()


@torch.no_grad()
def rank_choices(
    model: Any,
    renderer: Renderer,
    choices: Sequence[Choice],
    language: str,
    *,
    pad_id: int,
    device: torch.device,
    batch_tokens: int,
    progress: Progress = no_progress,
) -> list[Ranked]:
    """What the model makes of each choice, in their order; it must be in evaluation mode.

    Args:
        language: of the neutral request, as ``dataset.language``.
        batch_tokens: padded tokens of a batch of terms; the sentences of one choice are always a batch.
    """
    terms = list(dict.fromkeys(term for choice in choices for term in choice.terms))
    request, answer = NEUTRAL.get(language[:2], NEUTRAL["en"])
    alone: list[tuple[Message, ...]] = [
        ({"role": "user", "content": request}, {"role": "assistant", "content": answer.format(term)}) for term in terms
    ]
    rows, costs = _apart([_row(renderer, turns) for turns in alone]), dict[str, float]()
    for numbers in by_length(rows, batch_tokens):
        found = _log_probs(model, [rows[number] for number in numbers], pad_id, device)
        costs |= {terms[number]: value for number, value in zip(numbers, found, strict=True)}
    ranked = []
    for choice in choices:
        sentences = _apart([_row(renderer, choice.conversation(each)) for each in choice.sentences])
        log_probs = _log_probs(model, sentences, pad_id, device)
        ranked.append(Ranked(tuple(log_probs), tuple(costs[term] for term in choice.terms)))
        progress(len(ranked), len(choices), "choices")
    return ranked


def longest_row(renderer: Renderer, choice: Choice) -> int:
    """Tokens of the longest of its sentences behind the prompt."""
    return max(len(_row(renderer, choice.conversation(each)).ids) for each in choice.sentences)


def _row(renderer: Renderer, turns: Sequence[Message]) -> Row:
    encoded = renderer.conversation(turns, last_only=True)
    return Row(encoded.ids, encoded.mask, _NONE)


def _apart(rows: Sequence[Row]) -> list[Row]:
    """The rows with targets from their first difference on only: what they have in common decides nothing. The end
    token stays a target, so that a sentence that another one goes on from is no likelier for being shorter."""
    if len(rows) < 2:
        return list(rows)
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    shortest = min(len(first), len(last))
    common = next((at for at in range(shortest) if first[at] != last[at]), shortest)
    return [replace(row, mask=[at >= common and flag for at, flag in enumerate(row.mask)]) for row in rows]


def _log_probs(model: Any, rows: Sequence[Row], pad_id: int, device: torch.device) -> list[float]:
    """Summed log-probability of each row's targets, in nats."""
    batch = make_batch(rows, pad_id, device, share=True)
    sums, _ = answer_log_probs(target_loss(model, batch, reduction="none").double(), batch)
    values: list[float] = sums.tolist()
    return values
