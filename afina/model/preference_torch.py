"""Learning that one answer is better than another: the losses of DPO and ORPO.

Shapes: P pairs in a batch of 2P rows (better answers first), N targets, L padded length.

    log p(y|x)    sum of the log-probabilities of the answer's tokens, its end token too
    DPO   h = (log p(yw) - log p0(yw)) - (log p(yl) - log p0(yl)),  p0 the model before training
          loss = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)          arXiv 2305.18290, e: cDPO
    ORPO  l = log p / tokens of the answer,  odds(l) = exp(l) / (1 - exp(l))
          loss = nll(yw) - beta log sigmoid(log odds(lw) - log odds(ll))       arXiv 2403.07691

As everywhere here, nothing of the prompt is learned; TRL's ORPO takes its nll over the prompt too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from afina.model.loss_torch import Batch

SATURATED = -1e-7
"""A mean log-probability above this (an answer that is certain) counts as this: its odds are infinite."""


class PairLoss(NamedTuple):
    """Of each pair (P): the loss, and what it prefers: the reward of the better answer less that of the worse one."""

    loss_P: torch.Tensor
    margin_P: torch.Tensor


def answer_log_probs(nll_N: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Per row the log-probability of its answer, and how many targets that has: two of 2P.

    Args:
        nll_N: cross-entropy of each target, as ``target_loss(..., reduction="none")`` gives it.
    """
    rows, length = batch.ids_BL.shape
    # One place for each position, so that the sum is in a fixed order on a GPU too.
    places = nll_N.new_zeros(rows * length)
    log_probs = -places.scatter(0, batch.positions_N, nll_N).view(rows, length).sum(1)
    counts = places.scatter(0, batch.positions_N, torch.ones_like(nll_N)).view(rows, length).sum(1)
    return log_probs, counts


def dpo_loss(
    log_probs_2P: torch.Tensor, reference_2P: torch.Tensor, *, beta: float, label_smoothing: float = 0.0
) -> PairLoss:
    """Direct preference optimization.

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
