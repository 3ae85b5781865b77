"""Cross-entropy at the targets only: the part of a step that needs the vocabulary.

Shapes: B rows, L padded length, D hidden size, N targets in the batch, V vocabulary.

Rows are padded on the right and attention is causal, so that no target ever sees padding: no
attention mask is needed, and logits (the largest tensor of a small model) are made only at the
N positions before a target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from afina.errors import AfinaError
from afina.model.decoder_torch import text_config
from afina.model.footprint import chunk_targets
from afina.model.steps.cross_entropy_torch import linear_cross_entropy
from afina.model.steps.prefix_torch import hidden_states, shared_prefix, side_by_side
from afina.tokenizer.encode import Row


@dataclass(slots=True)
class Batch:
    """Rows side by side."""

    ids_BL: torch.Tensor
    positions_N: torch.Tensor
    """Flat positions in B x L whose next token is a target."""
    targets_N: torch.Tensor
    tokens: int
    """Real tokens: padding is not counted."""
    prefix: int = 0
    """So many first tokens are the same in all rows and computed once."""
    pairs: int = 0
    """Preferences: their better answers are the first rows, their worse ones the last, in the same order."""
    better: int = 0
    """Targets in the better answers; they are the first of the N."""
    reference_JR: torch.Tensor | None = None
    """What the model before training said of each of the R rows: J log-probabilities in nats, as the method asks."""
    rows: Sequence[Row] = ()
    """The rows that it was made of."""
    pad_id: int = 0

    @property
    def targets(self) -> int:
        return int(self.targets_N.numel())

    @property
    def padded_share(self) -> float:
        """Share of the batch that is padding."""
        return 1.0 - self.tokens / self.ids_BL.numel()

    @property
    def saved(self) -> int:
        """Tokens that need not be computed again."""
        return (self.ids_BL.shape[0] - 1) * self.prefix


class Totals(NamedTuple):
    """What a whole step holds, over all its micro-batches: what a loss is divided by, so that how rows are grouped
    does not matter, nor who computes which."""

    targets: int
    better: int
    pairs: int
    tokens: int = 0
    rows: Sequence[Row] = ()
    before: tuple[float, ...] = ()
    """Sums over all rows of the step that a method asks for before the first gradient."""

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> Totals:
        return cls.of_rows([row for batch in batches for row in batch.rows])

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> Totals:
        """The same before there are batches: no process makes those of all rows."""
        pairs = [row for row in rows if row.rejected]
        better = sum(sum(row.mask) for row in pairs)
        return cls(sum(row.targets for row in rows), better, len(pairs), sum(row.tokens for row in rows), rows)


def make_batch(rows: Sequence[Row], pad_id: int, device: torch.device, *, share: bool = False) -> Batch:
    """Pad rows on the right to the longest of them. All of them are preferences, or none is.

    Args:
        share: what all rows begin with is computed once, where that saves enough.
    """
    given, pairs, better, references = rows, 0, 0, [row.reference for row in rows if row.reference]
    if any(row.rejected for row in rows):
        pairs, better = len(rows), sum(sum(row.mask) for row in rows)
        rows = side_by_side(rows)
        assert len(rows) == 2 * pairs, "preferences and other rows are learned in different stages"
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        mask[number, : len(row.ids)] = torch.tensor(row.mask)
    positions = (mask[:, 1:].nonzero() * torch.tensor([length, 1])).sum(1)
    return Batch(
        ids_BL=ids.to(device),
        positions_N=positions.to(device),
        targets_N=ids[:, 1:][mask[:, 1:]].to(device),
        prefix=shared_prefix(rows) if share else 0,
        tokens=sum(len(row.ids) for row in rows),
        pairs=pairs,
        better=better,
        reference_JR=torch.tensor(references, device=device).T if references else None,
        rows=given,
        pad_id=pad_id,
    )


def causal_lm(model: Any) -> Any:
    """The transformers model inside a PEFT model, adapters included; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def target_loss(model: Any, batch: Batch, *, reduction: str = "sum") -> torch.Tensor:
    """Sum (or, with ``reduction="none"``, the N values) of the targets' cross-entropy in nats.

    Logits are made for a chunk of targets at a time (:func:`~afina.model.footprint.chunk_targets`). Of the sum, each
    chunk's gradient is made with it; of single values, or where the head is more than a matrix, a chunk is computed
    again in the backward pass instead of being kept.
    """
    inner = causal_lm(model)
    if hasattr(inner, "sharded_loss"):  # the same, between gathering the weights of the head and giving them away
        sharded: torch.Tensor = inner.sharded_loss(batch, reduction)
        return sharded
    return plain_loss(inner, batch, reduction)


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


def plain_loss(inner: Any, batch: Batch, reduction: str) -> torch.Tensor:
    """:func:`target_loss` of a model whose weights are here."""
    row_N = batch.positions_N // batch.ids_BL.shape[1]  # each row loses its prefix
    positions_N = batch.positions_N - (row_N + 1) * batch.prefix
    hidden_BLD = hidden_states(inner, batch.ids_BL, batch.prefix, positions_N)
    hidden_ND = hidden_BLD.flatten(0, 1).index_select(0, positions_N)
    if reduction == "sum" and (fused := getattr(inner, "fused_loss", None)):  # liger_torch.use_liger put it there
        return fused(inner.get_output_embeddings(), hidden_ND, batch.targets_N, *logit_scale(text_config(inner)))
    chunk = chunk_targets(_vocabulary(inner), hidden_ND.device.type)
    if reduction == "sum" and type(head := inner.get_output_embeddings()) is torch.nn.Linear:
        return linear_cross_entropy(head, hidden_ND, batch.targets_N, *logit_scale(text_config(inner)), chunk)
    if batch.targets <= chunk:
        return _chunk_loss(inner, hidden_ND, batch.targets_N, reduction)
    losses = []
    for start in range(0, batch.targets, chunk):
        part = (inner, hidden_ND[start : start + chunk], batch.targets_N[start : start + chunk], reduction)
        if torch.is_grad_enabled():
            losses.append(checkpoint(_chunk_loss, *part, use_reentrant=False))
        else:
            losses.append(_chunk_loss(*part))
    return torch.stack(losses).sum() if reduction == "sum" else torch.cat(losses)


def _vocabulary(inner: Any) -> int:
    return int(text_config(inner).vocab_size)


def _chunk_loss(inner: Any, hidden: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    """Cross-entropy of N targets, from hidden states N x D; the logits do not outlive it."""
    factor, cap = logit_scale(text_config(inner))
    logits_NV = inner.get_output_embeddings()(hidden).float()
    if factor != 1.0:
        logits_NV = logits_NV * factor
    if cap:
        logits_NV = torch.tanh(logits_NV / cap) * cap
    return F.cross_entropy(logits_NV, targets, reduction=reduction)


def logit_scale(config: Any) -> tuple[float, float | None]:
    """What an architecture does to its logits: the factor, and the bound c of c * tanh(logit / c).

    >>> from types import SimpleNamespace
    >>> logit_scale(SimpleNamespace(logits_scaling=8.0)), logit_scale(SimpleNamespace(final_logit_softcapping=30.0))
    ((0.125, None), (1.0, 30.0))
    """
    divisor = getattr(config, "logits_scaling", None) or 1.0  # Granite
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    return factor / divisor, getattr(config, "final_logit_softcapping", None)  # Gemma 2


@torch.no_grad()
def check_loss(model: Any, batch: Batch, switch: Callable[[], object] = lambda: None) -> float:
    """Compare our loss with the model's own on one batch; returns the difference.

    Catches what :func:`target_loss` does not know: logits that this architecture scales or caps in
    a way of its own, a head under another name.

    Args:
        switch: exchanges the model's kernels. Its own loss is computed before, ours afterwards.

    Raises:
        AfinaError: the two differ.
    """
    was_training = model.training
    model.eval()
    try:
        labels = torch.full_like(batch.ids_BL, -100)
        flat = batch.positions_N + 1
        labels.view(-1)[flat] = batch.targets_N
        own = causal_lm(model)(input_ids=batch.ids_BL, labels=labels, use_cache=False).loss.item()
        switch()
        ours = target_loss(model, batch).item() / max(batch.targets, 1)
    finally:
        model.train(was_training)
    tolerance = 2e-2 if next(model.parameters()).dtype in (torch.bfloat16, torch.float16) else 1e-3
    if not abs(own - ours) <= tolerance * max(1.0, abs(own)):
        raise AfinaError(
            f"the loss computed here ({ours:.5f}) is not the model's own ({own:.5f}) on the first batch",
            "this architecture is not supported yet: please report its config.json",
            str(getattr(causal_lm(model).config, "model_type", "")),
        )
    return abs(own - ours)
