"""Learning to say what the rows say (sft, cpt), by MLX: the same mean as :mod:`afina.train.methods.answers_torch`."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from afina.evaluate.loss import LossScore, held_out_loss
from afina.model.mlx.loss_mlx import MlxBatch, target_losses
from afina.model.mlx.mlx_model import MlxModel
from afina.model.reader_mlx import MlxReader
from afina.tokenizer.encode import Row

FIGURES: tuple[str, ...] = ()
"""Names of the figures that come with a loss."""


def loss(model: MlxModel, batch: MlxBatch, targets: int) -> mx.array:
    """The part of the mean over a step's targets that a micro-batch adds."""
    return target_losses(model, batch).sum() / targets


def held_out(model: MlxModel, rows: Sequence[Row], *, pad_id: int, batch_tokens: int) -> LossScore:
    """The same mean over rows that are not learned, whatever the batches, and bits per byte."""
    return held_out_loss(MlxReader(model), rows, pad_id=pad_id, batch_tokens=batch_tokens)
