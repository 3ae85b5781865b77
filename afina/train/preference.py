"""Training on pairs of a better and a worse answer: the objective of the loop, and the reference that DPO needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from afina.evaluate.loss import by_length
from afina.model.loss_torch import Batch, Totals, make_batch, target_loss
from afina.model.preference_torch import answer_log_probs, dpo_loss, odds_ratio_loss
from afina.recipe import Train
from afina.run import Progress, no_progress, write_whole
from afina.tokenizer.encode import Row
from afina.train.guard import in_smaller_batches


@dataclass(frozen=True)
class PreferenceScore:
    """Held-out pairs: the mean loss and figures of each."""

    figures: dict[str, float]

    @property
    def loss(self) -> float:
        return self.figures["loss"]


@dataclass(frozen=True)
class Preferences:
    """DPO or ORPO, each pair of a step counted alike; ORPO's likelihood by token."""

    settings: Train

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that come with a loss."""
        more = () if self.settings.method == "dpo" else ("log_odds", "nll")
        return (*more, "reward_margin", "preference_accuracy")

    def loss(self, model: Any, batch: Batch, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of a step's loss that a micro-batch adds, and of ``preference_accuracy`` (share of the pairs whose
        better answer has the higher reward), ``reward_margin`` and, for ORPO, ``log_odds`` and ``nll``."""
        nll_N = target_loss(model, batch, reduction="none")
        sums, counts = (each.view(2, -1) for each in answer_log_probs(nll_N, batch))
        figures: dict[str, torch.Tensor] = {}
        if self.settings.method == "dpo":
            assert batch.reference_2P is not None, "the reference is computed before training"
            loss_P, margin_P = dpo_loss(
                sums, batch.reference_2P, beta=self.settings.beta, label_smoothing=self.settings.label_smoothing
            )
            loss = loss_P.sum() / totals.pairs
        else:
            (loss_P, margin_P), log_odds = odds_ratio_loss(sums / counts, beta=self.settings.beta)
            nll = nll_N[: batch.better].sum() / totals.better
            loss = nll + loss_P.sum() / totals.pairs
            figures = {"log_odds": log_odds.sum() / totals.pairs, "nll": nll.detach()}
        figures["reward_margin"] = margin_P.sum() / totals.pairs
        figures["preference_accuracy"] = (margin_P > 0).sum() / totals.pairs
        return loss, {name: value.item() for name, value in figures.items()}

    @torch.no_grad()
    def held_out(
        self, model: Any, rows: Sequence[Row], *, pad_id: int, device: torch.device, batch_tokens: int
    ) -> PreferenceScore:
        """The same loss and figures over held-out pairs, whatever the batches."""
        better = sum(sum(row.mask) for row in rows)
        totals = Totals(sum(row.targets for row in rows), better, len(rows))
        summed: dict[str, float] = {"loss": 0.0}
        for numbers in by_length(rows, batch_tokens):
            loss, figures = self.loss(model, make_batch([rows[each] for each in numbers], pad_id, device), totals)
            for name, value in {"loss": loss.item(), **figures}.items():
                summed[name] = summed.get(name, 0.0) + value
        return PreferenceScore({name: value if name == "loss" else round(value, 6) for name, value in summed.items()})


@torch.no_grad()
def write_reference(
    model: Any,
    rows: Sequence[Row],
    file: Path,
    *,
    pad_id: int,
    device: torch.device,
    batch_tokens: int,
    progress: Progress = no_progress,
) -> None:
    """Write the log-probabilities of every pair's answers by the model that training starts from.

    The model changes while it is trained; a file also serves a training that goes on after a kill, and
    costs one forward pass whatever the number of epochs.

    Raises:
        DoesNotFit: not even a single pair fits the memory.
    """
    model.eval()
    rows = list({row.example.id: row for row in rows}.values())  # one that is seen several times is judged once

    def judge(batch_tokens: int) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for numbers in by_length(rows, batch_tokens):
            batch = make_batch([rows[number] for number in numbers], pad_id, device)
            sums, _ = answer_log_probs(target_loss(model, batch, reduction="none"), batch)
            for number, pair in zip(numbers, sums.view(2, -1).T.tolist(), strict=True):
                found[rows[number].example.id] = pair
            progress(len(found), len(rows), "pairs judged by the reference")
        return found

    found = in_smaller_batches(judge, batch_tokens, rows, "the reference")
    lines = (json.dumps({"id": name, "chosen": a, "rejected": b}) + "\n" for name, (a, b) in found.items())
    write_whole(file, "".join(lines))


def read_reference(file: Path, rows: Sequence[Row]) -> list[Row]:
    """Every pair with what :func:`write_reference` wrote of it."""
    with file.open(encoding="utf-8") as lines:
        found = {each["id"]: (each["chosen"], each["rejected"]) for each in map(json.loads, lines)}
    return [replace(row, reference=found[row.example.id]) for row in rows]
