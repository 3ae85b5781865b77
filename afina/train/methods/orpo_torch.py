"""ORPO: the better answer is learned, and the odds against the worse one grow; no reference is needed.

Shapes: P pairs in a batch of 2P rows (better answers first), N targets.

    l = log p(y|x) / tokens of the answer,  odds(l) = exp(l) / (1 - exp(l))
    loss = nll(yw) - beta log sigmoid(log odds(lw) - log odds(ll))       arXiv 2403.07691

As everywhere here, nothing of the prompt is learned; TRL's ORPO takes its nll over the prompt too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from afina.model.loss_torch import Batch, Totals, answer_log_probs, target_loss
from afina.train.methods.dpo_torch import PairLoss
from afina.train.methods.judged_torch import JudgedObjective

SATURATED = -1e-7
"""A mean log-probability above this (an answer that is certain) counts as this: its odds are infinite."""


def odds_ratio_loss(mean_log_probs_2P: torch.Tensor, *, beta: float) -> tuple[PairLoss, torch.Tensor]:
    """The second part of ORPO's loss, and the log of the odds ratio; the first part is the better answers' nll.

    Args:
        mean_log_probs_2P: of better and worse answers (2 x P), in nats per token.

    >>> both = torch.tensor([[0.5], [0.2]]).log()  # odds 1 and 1/4
    >>> (loss, margin), log_odds = odds_ratio_loss(both, beta=1.0)
    >>> round(log_odds.exp().item(), 4), round(loss.item(), 4)  # -log(4 / (1 + 4))
    (4.0, 0.2231)
    """
    x = mean_log_probs_2P.clamp(max=SATURATED)
    log_odds_2P = x - torch.log(-torch.expm1(x))
    log_odds = log_odds_2P[0] - log_odds_2P[1]
    margin = beta * (x[0] - x[1])
    return PairLoss(-beta * F.logsigmoid(log_odds), margin.detach()), log_odds.detach()


@dataclass(frozen=True)
class OrpoObjective(JudgedObjective):
    """Each pair of a step counted alike, and each token of its better answers."""

    figures = ("log_odds", "nll", "reward_margin", "preference_accuracy")

    def loss(self, model: Any, batch: Batch, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of a step's loss that a micro-batch adds, and of its figures."""
        nll_N = target_loss(model, batch, reduction="none")
        sums, counts = (each.view(2, -1) for each in answer_log_probs(nll_N, batch))
        (loss_P, margin_P), log_odds = odds_ratio_loss(sums / counts, beta=self.settings.beta)
        nll = nll_N[: batch.better].sum() / totals.better
        figures = {
            "log_odds": log_odds.sum() / totals.pairs,
            "nll": nll.detach(),
            "reward_margin": margin_P.sum() / totals.pairs,
            "preference_accuracy": (margin_P > 0).sum() / totals.pairs,
        }
        return nll + loss_P.sum() / totals.pairs, {name: value.item() for name, value in figures.items()}


OBJECTIVE = OrpoObjective
