"""Learning to say what the rows say: cross-entropy, each target of a step counted alike (sft, cpt, scratch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from afina.evaluate.loss import LossScore, held_out_loss
from afina.model.loss_torch import Batch, Totals, target_loss
from afina.model.reader_torch import TorchReader
from afina.recipe import Train
from afina.tokenizer.encode import Row


@dataclass(frozen=True)
class AnswersObjective:
    """The mean cross-entropy of a step's targets, in nats."""

    settings: Train
    figures = ()
    before = ()

    def sums_before(self, model: Any, batch: Batch) -> tuple[float, ...]:  # noqa: ARG002
        """Nothing."""
        return ()

    def loss(self, model: Any, batch: Batch, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of the mean that a micro-batch adds."""
        return target_loss(model, batch) / totals.targets, {}

    def held_out(
        self, model: Any, rows: Sequence[Row], *, pad_id: int, device: torch.device, batch_tokens: int
    ) -> LossScore:
        """The same mean over rows that are not learned, and bits per byte."""
        return held_out_loss(TorchReader(model, device), rows, pad_id=pad_id, batch_tokens=batch_tokens)


OBJECTIVE = AnswersObjective
