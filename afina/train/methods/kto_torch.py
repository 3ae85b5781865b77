"""KTO: answers that are said to be good become likelier than they were, bad ones less likely; no pairs are needed.

Shapes: R rows in a batch, N targets.

    r = log p(y|x) - log p0(y|x),  p0 the model before training
    z = max(0, mean of log p(y'|x) - log p0(y'|x)),  y' the answer to another question; without a gradient
    loss = w+ (1 - sigmoid(beta (r - z))) for good answers, w- (1 - sigmoid(beta (z - r))) for bad ones
                                                                            arXiv 2402.01306, equation 8

The mean of z is over all rows of a step, whatever its micro-batches and whoever computes them, so that neither changes
what is learned; TRL takes it over each micro-batch. As everywhere here, nothing of the prompt is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from afina.model.loss_torch import Batch, Totals, answer_log_probs, make_batch, target_loss
from afina.train.methods.judged_torch import JudgedObjective


def kto_loss(
    log_ratios_R: torch.Tensor, good_R: torch.Tensor, kl: float, *, beta: float, weights: tuple[float, float]
) -> torch.Tensor:
    """The loss of each row.

    Args:
        log_ratios_R: log-probability of each answer less that before training, in nats.
        good_R: whether it is a good one.
        kl: the estimate z of how far the model has moved, in nats, 0 at least.
        weights: of good and of bad answers.

    >>> ratios, good = torch.tensor([2.0, 2.0]), torch.tensor([True, False])
    >>> kto_loss(ratios, good, 1.0, beta=0.5, weights=(1.0, 2.0))  # 1 - sigmoid(0.5), 2 (1 - sigmoid(-0.5))
    tensor([0.3775, 1.2449])
    """
    sign_R = good_R.to(log_ratios_R.dtype) * 2 - 1
    weight_R = torch.where(good_R, *(log_ratios_R.new_tensor(weight) for weight in weights))
    return weight_R * (1 - torch.sigmoid(beta * sign_R * (log_ratios_R - kl)))


@dataclass(frozen=True)
class KtoObjective(JudgedObjective):
    """Each row of a step counted alike, but for the two weights."""

    figures = ("kl", "reward_margin", "rated_accuracy")
    judgements = ("answer", "mismatched")

    @property
    def before(self) -> tuple[str, ...]:
        """How much likelier the mismatched answers have become, and how many there are."""
        return ("moved", "rows")

    def judge(self, model: Any, batch: Batch) -> torch.Tensor:
        """Log-probabilities of each row's own answer and of the mismatched one, 2 x R."""
        return torch.stack([_log_probs(model, batch), _log_probs(model, _mismatched(batch))])

    def sums_before(self, model: Any, batch: Batch) -> tuple[float, ...]:
        """How much likelier the mismatched answers have become, in nats, and how many there are."""
        assert batch.reference_JR is not None, "the reference is computed before training"
        moved = _log_probs(model, _mismatched(batch)) - batch.reference_JR[1]
        return moved.sum().item(), float(len(batch.rows))

    def loss(self, model: Any, batch: Batch, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of a step's loss that a micro-batch adds; of ``kl``, of ``reward_margin`` (mean reward of good
        answers less that of bad ones) and of ``rated_accuracy`` (share of the rows on their side of ``kl``)."""
        assert batch.reference_JR is not None, "the reference is computed before training"
        settings, count = self.settings, len(totals.rows)
        kl = max(0.0, totals.before[0] / totals.before[1])
        log_ratios_R = _log_probs(model, batch) - batch.reference_JR[0]
        good_R = torch.tensor([bool(row.example.label) for row in batch.rows], device=log_ratios_R.device)
        weights = settings.desirable_weight, settings.undesirable_weight
        loss_R = kto_loss(log_ratios_R, good_R, kl, beta=settings.beta, weights=weights)
        good = sum(bool(row.example.label) for row in totals.rows)
        rewards_R = settings.beta * log_ratios_R.detach()
        margin = rewards_R[good_R].sum() / max(1, good) - rewards_R[~good_R].sum() / max(1, count - good)
        right = ((log_ratios_R > kl) == good_R).sum() / count
        figures = {"kl": kl * len(batch.rows) / count, "reward_margin": margin.item(), "rated_accuracy": right.item()}
        return loss_R.sum() / count, figures


def _mismatched(batch: Batch) -> Batch:
    rows = [row.mismatched for row in batch.rows if row.mismatched is not None]
    assert len(rows) == len(batch.rows), "every row has a mismatched answer"
    return make_batch(rows, batch.pad_id, batch.ids_BL.device)


def _log_probs(model: Any, batch: Batch) -> torch.Tensor:
    return answer_log_probs(target_loss(model, batch, reduction="none"), batch)[0]


OBJECTIVE = KtoObjective
