"""Direct preference optimization: of a better and a worse answer the first becomes likelier than it was.

Shapes: P pairs in a batch of 2P rows (better answers first), N targets.

    log p(y|x)    sum of the log-probabilities of the answer's tokens, its end token too
    h = (log p(yw) - log p0(yw)) - (log p(yl) - log p0(yl)),  p0 the model before training
    loss = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)          arXiv 2305.18290, e: cDPO

As everywhere here, nothing of the prompt is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from afina.model.loss_torch import Batch, Totals, answer_log_probs, target_loss
from afina.train.methods.judged_torch import JudgedObjective


class PairLoss(NamedTuple):
    """Of each pair (P): the loss, and what it prefers: the reward of the better answer less that of the worse one."""

    loss_P: torch.Tensor
    margin_P: torch.Tensor


def dpo_loss(
    log_probs_2P: torch.Tensor, reference_2P: torch.Tensor, *, beta: float, label_smoothing: float = 0.0
) -> PairLoss:
    """The loss of each pair.

    Args:
        log_probs_2P: of better and worse answers (2 x P), in nats.
        reference_2P: the same by the model before training.

    >>> loss, margin = dpo_loss(torch.tensor([[-1.0], [-4.0]]), torch.tensor([[-2.0], [-3.0]]), beta=0.5)
    >>> margin.item(), round(loss.item(), 4)  # 0.5 * (1 - -1) = 1; -log sigmoid(1)
    (1.0, 0.3133)
    """
    rewards_2P = beta * (log_probs_2P - reference_2P)
    margin = rewards_2P[0] - rewards_2P[1]
    loss = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    return PairLoss(loss, margin.detach())


@dataclass(frozen=True)
class DpoObjective(JudgedObjective):
    """Each pair of a step counted alike."""

    figures = ("reward_margin", "preference_accuracy")
    judgements = ("chosen", "rejected")

    def judge(self, model: Any, batch: Batch) -> torch.Tensor:
        """Log-probabilities of better and worse answers, 2 x P."""
        sums, _ = answer_log_probs(target_loss(model, batch, reduction="none"), batch)
        return sums.view(2, -1)

    def loss(self, model: Any, batch: Batch, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of a step's loss that a micro-batch adds, of ``reward_margin``, and of ``preference_accuracy``
        (share of the pairs whose better answer has the higher reward)."""
        assert batch.reference_JR is not None, "the reference is computed before training"
        loss_P, margin_P = dpo_loss(
            self.judge(model, batch),
            batch.reference_JR,
            beta=self.settings.beta,
            label_smoothing=self.settings.label_smoothing,
        )
        figures = {"reward_margin": margin_P.sum(), "preference_accuracy": (margin_P > 0).sum()}
        return loss_P.sum() / totals.pairs, {name: (value / totals.pairs).item() for name, value in figures.items()}


OBJECTIVE = DpoObjective
