"""What the methods that learn from judged answers share: a held-out score of their own loss and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from afina.evaluate.loss import by_length
from afina.model.loss_torch import Batch, Totals, make_batch
from afina.recipe import Train
from afina.tokenizer.encode import Row
from afina.train.methods import Objective


@dataclass(frozen=True)
class JudgedScore:
    """Held-out rows: the mean loss and the figures of a method."""

    figures: dict[str, float]

    @property
    def loss(self) -> float:
        return self.figures["loss"]


@dataclass(frozen=True)
class JudgedObjective:
    """A method's settings, and its held-out score; each method adds its loss and its figures."""

    settings: Train

    @property
    def before(self) -> tuple[str, ...]:
        """Nothing is needed before the first gradient."""
        return ()

    def sums_before(self, model: Any, batch: Batch) -> tuple[float, ...]:  # noqa: ARG002
        """Nothing."""
        return ()

    @torch.no_grad()
    def held_out(
        self: Objective, model: Any, rows: Sequence[Row], *, pad_id: int, device: torch.device, batch_tokens: int
    ) -> JudgedScore:
        """The same loss and figures over held-out rows, whatever the batches."""
        numbers = list(by_length(rows, batch_tokens))
        totals = Totals.of_rows(rows)
        if self.before:
            sums = [self.sums_before(model, _batch(rows, each, pad_id, device)) for each in numbers]
            totals = totals._replace(before=tuple(map(sum, zip(*sums, strict=True))))
        summed: dict[str, float] = {"loss": 0.0}
        for each in numbers:
            loss, figures = self.loss(model, _batch(rows, each, pad_id, device), totals)
            for name, value in {"loss": loss.item(), **figures}.items():
                summed[name] = summed.get(name, 0.0) + value
        return JudgedScore({name: value if name == "loss" else round(value, 6) for name, value in summed.items()})


def _batch(rows: Sequence[Row], numbers: Sequence[int], pad_id: int, device: torch.device) -> Batch:
    return make_batch([rows[number] for number in numbers], pad_id, device)
