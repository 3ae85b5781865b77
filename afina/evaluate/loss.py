"""Held-out loss: nats per target token, and bits per byte, which compares across tokenizers; and held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from afina.model.loss_torch import make_batch, target_loss
from afina.model.preference_torch import answer_log_probs
from afina.tokenizer.encode import Row


@dataclass(frozen=True)
class LossScore:
    """Mean loss in nats per target token, over `tokens` targets that stand for `utf8_bytes` bytes."""

    loss: float
    tokens: int
    utf8_bytes: int = 0

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float | None:
        """loss x tokens / (bytes x ln 2); None where the bytes are not known.

        >>> LossScore(loss=math.log(2), tokens=8, utf8_bytes=4).bits_per_byte
        2.0
        """
        return self.loss * self.tokens / (self.utf8_bytes * math.log(2)) if self.utf8_bytes else None

    @property
    def figures(self) -> dict[str, Any]:
        """What ``metrics.jsonl`` notes of it while training."""
        return {"loss": self.loss, "bits_per_byte": self.bits_per_byte}

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


def by_length(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of rows of like length, as many at a time as `batch_tokens` padded tokens hold, one at least."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= batch_tokens:
            end += 1
        yield order[start:end]
        start = end


@torch.no_grad()
def held_out_loss(
    model: Any, rows: Sequence[Row], *, pad_id: int, device: torch.device, batch_tokens: int
) -> LossScore:
    """Mean loss over the targets of `rows`, whatever the batches; the model must be in evaluation mode."""
    total, targets = 0.0, 0
    for numbers in by_length(rows, batch_tokens):
        batch = make_batch([rows[number] for number in numbers], pad_id, device)
        total += target_loss(model, batch).item()
        targets += batch.targets
    return LossScore(
        loss=total / max(1, targets), tokens=targets, utf8_bytes=round(sum(row.learned_bytes for row in rows))
    )


@dataclass(frozen=True)
class PairScore:
    """How a model tells better from worse answers. Each answer's log-probability is a mean over its tokens, so that
    its length alone does not decide."""

    pairs: int
    accuracy: float
    """Share of the pairs whose better answer is the likelier one."""
    margin: float
    """Mean log-probability of the better answers less that of the worse ones, in nats per token."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def held_out_pairs(
    model: Any, rows: Sequence[Row], *, pad_id: int, device: torch.device, batch_tokens: int
) -> PairScore:
    """Which answers of held-out preferences are likelier; the model must be in evaluation mode."""
    right, margin = 0, 0.0
    for numbers in by_length(rows, batch_tokens):
        batch = make_batch([rows[number] for number in numbers], pad_id, device)
        sums, counts = answer_log_probs(target_loss(model, batch, reduction="none"), batch)
        better_P, worse_P = (sums / counts).view(2, -1)
        right += int((better_P > worse_P).sum())
        margin += (better_P - worse_P).sum().item()
    return PairScore(len(rows), right / max(1, len(rows)), margin / max(1, len(rows)))
