"""Held-out loss: nats per target token, and bits per byte, which compares across tokenizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from afina.model.loss_torch import make_batch, target_loss
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

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


@torch.no_grad()
def held_out_loss(
    model: Any, rows: Sequence[Row], *, pad_id: int, device: torch.device, batch_tokens: int
) -> LossScore:
    """Mean loss over the targets of `rows`, whatever the batches; the model must be in evaluation mode."""
    total, targets = 0.0, 0
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= batch_tokens:
            end += 1
        batch = make_batch([rows[number] for number in order[start:end]], pad_id, device)
        total += target_loss(model, batch).item()
        targets += batch.targets
        start = end
    return LossScore(
        loss=total / max(1, targets), tokens=targets, utf8_bytes=round(sum(row.learned_bytes for row in rows))
    )
