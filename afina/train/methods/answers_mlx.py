"""Learning to say what the rows say (sft, cpt), by MLX: the same mean as :mod:`afina.train.methods.answers_torch`."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from afina.evaluate.loss import LossScore, by_length
from afina.model.mlx.loss_mlx import MlxBatch, make_batch, target_losses
from afina.model.mlx.mlx_model import MlxModel
from afina.tokenizer.encode import Row

FIGURES: tuple[str, ...] = ()
"""Names of the figures that come with a loss."""


def loss(model: MlxModel, batch: MlxBatch, targets: int) -> mx.array:
    """The part of the mean over a step's targets that a micro-batch adds."""
    return target_losses(model, batch).sum() / targets


def held_out(model: MlxModel, rows: Sequence[Row], *, pad_id: int, batch_tokens: int) -> LossScore:
    """The same mean over rows that are not learned, whatever the batches, and bits per byte."""
    total, targets = 0.0, 0
    for numbers in by_length(rows, batch_tokens):
        batch = make_batch([rows[number] for number in numbers], pad_id)
        total += target_losses(model, batch).sum().item()
        targets += batch.targets
    return LossScore(total / max(1, targets), targets, round(sum(row.learned_bytes for row in rows)))
