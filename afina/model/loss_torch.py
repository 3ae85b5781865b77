"""Cross-entropy at the targets only: the part of a step that needs the vocabulary.

Shapes: B rows, L padded length, D hidden size, N targets in the batch, V vocabulary.

Rows are padded on the right and attention is causal, so that no target ever sees padding: no
attention mask is needed, and logits (the largest tensor of a small model) are made only at the
N positions before a target. Where that is not so for a model, or its positions follow the longest
row of a batch, rows of different lengths are read apart (:func:`_read_in_groups`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from afina.errors import AfinaError
from afina.model.anatomy_torch import CANNOT, Anatomy, anatomy_of, in_short, own_logits, plainly
from afina.model.decoder_torch import text_config
from afina.model.footprint import chunk_targets
from afina.model.padding import pad_rows
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
    lengths: tuple[int, ...] = ()
    """Real tokens of each of the rows, side by side; empty where none is padded."""

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
    padded = pad_rows(rows, pad_id)
    return Batch(
        ids_BL=torch.from_numpy(padded.ids_BL).to(device),
        positions_N=torch.from_numpy(padded.positions_N).to(device),
        targets_N=torch.from_numpy(padded.targets_N).to(device),
        prefix=shared_prefix(rows) if share else 0,
        tokens=sum(padded.lengths),
        lengths=padded.lengths,
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
    anatomy = anatomy_of(inner, batch.ids_BL)
    if anatomy.slower:
        logits_NV = _read_in_groups(inner, anatomy, batch, partial(_logits_at, inner))
        return F.cross_entropy(logits_NV.float(), batch.targets_N, reduction=reduction)
    hidden_ND = _read_in_groups(inner, anatomy, batch, partial(_hidden_at, inner, anatomy))
    scale = anatomy.factor, anatomy.cap
    if reduction == "sum" and (fused := getattr(inner, "fused_loss", None)):  # liger_torch.use_liger put it there
        return fused(inner.get_output_embeddings(), hidden_ND, batch.targets_N, *scale)
    chunk = chunk_targets(_vocabulary(inner), hidden_ND.device.type)
    if reduction == "sum" and type(head := inner.get_output_embeddings()) is torch.nn.Linear:
        return linear_cross_entropy(head, hidden_ND, batch.targets_N, *scale, chunk)
    if batch.targets <= chunk:
        return _chunk_loss(inner, hidden_ND, batch.targets_N, reduction, *scale)
    losses = []
    for start in range(0, batch.targets, chunk):
        part = (inner, hidden_ND[start : start + chunk], batch.targets_N[start : start + chunk], reduction, *scale)
        if torch.is_grad_enabled():
            losses.append(checkpoint(_chunk_loss, *part, use_reentrant=False))
        else:
            losses.append(_chunk_loss(*part))
    return torch.stack(losses).sum() if reduction == "sum" else torch.cat(losses)


@torch.no_grad()
def target_scores(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of the N targets its cross-entropy in nats, and whether it is the likeliest token at its place.

    Logits are made for a chunk of targets at a time. Not for a model whose weights are shared out among processes.
    """
    inner = causal_lm(model)
    anatomy = anatomy_of(inner, batch.ids_BL)
    if anatomy.slower:
        logits_NV = _read_in_groups(inner, anatomy, batch, partial(_logits_at, inner)).float()
        return F.cross_entropy(logits_NV, batch.targets_N, reduction="none"), logits_NV.argmax(1) == batch.targets_N
    hidden_ND = _read_in_groups(inner, anatomy, batch, partial(_hidden_at, inner, anatomy))
    nll, hits = [], []
    chunk = chunk_targets(_vocabulary(inner), hidden_ND.device.type)
    for hidden, targets in zip(hidden_ND.split(chunk), batch.targets_N.split(chunk), strict=True):
        logits_NV = _chunk_logits(inner, hidden, anatomy.factor, anatomy.cap)
        nll.append(F.cross_entropy(logits_NV, targets, reduction="none"))
        hits.append(logits_NV.argmax(1) == targets)
    return torch.cat(nll), torch.cat(hits)


_Read = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""From ids B x L, flat positions N in them and the length of what all rows begin with, to one vector for each of N."""


def _hidden_at(
    inner: Any, anatomy: Anatomy, ids_BL: torch.Tensor, positions_N: torch.Tensor, prefix: int
) -> torch.Tensor:
    """Hidden states N x D."""
    row_N = positions_N // ids_BL.shape[1]  # each row loses its prefix
    positions_N = positions_N - (row_N + 1) * prefix
    looked_at = positions_N if anatomy.last_layer else None
    return hidden_states(inner, anatomy.body, ids_BL, prefix, looked_at).flatten(0, 1).index_select(0, positions_N)


def _logits_at(inner: Any, ids_BL: torch.Tensor, positions_N: torch.Tensor, prefix: int) -> torch.Tensor:
    """Logits N x V by the model's whole forward."""
    assert not prefix, "nothing is shared by a model that is read as a whole"
    return own_logits(inner, ids_BL).flatten(0, 1).index_select(0, positions_N)


def _read_in_groups(inner: Any, anatomy: Anatomy, batch: Batch, read: _Read) -> torch.Tensor:
    """What `read` gives at the targets' positions, in their order: of all rows at once, or of those that compute the
    same beside each other as they do alone."""
    groups = _groups(inner, anatomy, batch)
    if len(groups) == 1:
        anatomy.lengths.forget()
        shared = not anatomy.slower and (not batch.lengths or anatomy.lengths.may_share(batch.prefix, batch.lengths))
        return read(batch.ids_BL, batch.positions_N, batch.prefix if shared else 0)
    padded = batch.ids_BL.shape[1]
    row_N, column_N = batch.positions_N // padded, batch.positions_N % padded
    found, places = [], []
    for rows in groups:
        length = max(batch.lengths[row] for row in rows)
        chosen_R = torch.tensor(rows, device=row_N.device)
        at_M, of_M = (row_N[:, None] == chosen_R).nonzero(as_tuple=True)
        anatomy.lengths.forget()
        found.append(read(batch.ids_BL[chosen_R, :length], of_M * length + column_N[at_M], 0))
        places.append(at_M)
    return torch.cat(found)[torch.cat(places).argsort()]


def _groups(inner: Any, anatomy: Anatomy, batch: Batch) -> list[list[int]]:
    """Rows that may be read side by side; whether padding changes nothing is tried once for each kind of lengths."""
    lengths = batch.lengths
    if not lengths or (len(set(lengths)) == 1 and not anatomy.lengths.scaled):
        return [list(range(batch.ids_BL.shape[0]))]
    if not anatomy.alone and not hasattr(inner, "sharded_loss"):
        for rows in anatomy.lengths.groups(lengths):
            _try_padding(inner, anatomy, batch, rows)
    if anatomy.alone:
        return [[row for row, length in enumerate(lengths) if length == each] for each in sorted(set(lengths))]
    return anatomy.lengths.groups(lengths)


def _try_padding(inner: Any, anatomy: Anatomy, batch: Batch, rows: Sequence[int]) -> None:
    """Compare the logits of the shortest of some rows beside the longest of them with those that it has alone."""
    if (kind := _untried(anatomy, batch.lengths, rows)) is None:
        return
    anatomy.padding_tried.add(kind)
    short, long = (each(rows, key=batch.lengths.__getitem__) for each in (min, max))
    length, padded = batch.lengths[short], batch.lengths[long]
    read = (
        partial(_logits_at, inner) if anatomy.slower else partial(_hidden_at, inner, replace(anatomy, last_layer=False))
    )
    last = torch.arange(max(0, length - _LOOKED_AT), length, device=batch.ids_BL.device)
    with plainly(inner):
        anatomy.lengths.forget()
        beside = read(batch.ids_BL[[short, long], :padded], last, 0).float()
        anatomy.lengths.forget()
        alone = read(batch.ids_BL[[short], :length], last, 0).float()
    low = inner.dtype in (torch.bfloat16, torch.float16)
    difference = float((beside - alone).norm() / alone.norm().clamp(min=1e-30))
    if not difference <= (5e-2 if low else 1e-4):
        anatomy.alone = (
            f"rows of different lengths do not share a forward: beside {padded} tokens, {length} give other values "
            f"than alone (by {difference:.2g} of their size)"
        )


def _untried(anatomy: Anatomy, lengths: Sequence[int], rows: Sequence[int]) -> tuple[bool, ...] | None:
    """The kind of the shortest and the longest of these rows, where padding was not tried at it; else None."""
    short, long = (each(lengths[row] for row in rows) for each in (min, max))
    kind = anatomy.lengths.kind(short, long)
    return None if short == long or kind in anatomy.padding_tried else kind


_LOOKED_AT = 256
"""Last positions of a row that are compared: later ones depend on all before them."""


def _vocabulary(inner: Any) -> int:
    return int(text_config(inner).vocab_size)


def _chunk_loss(
    inner: Any, hidden: torch.Tensor, targets: torch.Tensor, reduction: str, factor: float, cap: float | None
) -> torch.Tensor:
    """Cross-entropy of N targets, from hidden states N x D; the logits do not outlive it."""
    return F.cross_entropy(_chunk_logits(inner, hidden, factor, cap), targets, reduction=reduction)


def _chunk_logits(inner: Any, hidden: torch.Tensor, factor: float, cap: float | None) -> torch.Tensor:
    """Logits N x V in float32, from hidden states N x D."""
    logits_NV: torch.Tensor = inner.get_output_embeddings()(hidden).float()
    if factor != 1.0:
        logits_NV = logits_NV * factor
    return torch.tanh(logits_NV / cap) * cap if cap else logits_NV


@torch.no_grad()
def check_loss(model: Any, batch: Batch, switch: Callable[[], object] = lambda: None) -> float:
    """Compare our loss with the model's own on one batch; returns the difference.

    A model whose parts (:mod:`afina.model.anatomy_torch`) do not give its own loss is read as a whole from then on.

    Args:
        switch: exchanges the model's kernels. Its own loss is computed before, ours afterwards.

    Raises:
        AfinaError: the two differ even so.
    """
    inner, was_training = causal_lm(model), model.training
    model.eval()
    try:
        anatomy = anatomy_of(inner, batch.ids_BL)
        own = _own_loss(inner, anatomy, batch)
        switch()
        try:
            ours, why = _mean_loss(model, batch), ""
        except CANNOT as error:
            if isinstance(error, torch.OutOfMemoryError) or anatomy.slower:
                raise
            ours, why = math.nan, f"its parts do not run by themselves ({in_short(error)})"
        if not _agree(model, own, ours) and not anatomy.slower and not hasattr(inner, "fused_loss"):
            anatomy.slower = why or f"its parts give a loss of {ours:.5f} and the whole one of {own:.5f}"
            ours = _mean_loss(model, batch)
    finally:
        model.train(was_training)
    if not _agree(model, own, ours):
        raise AfinaError(
            f"the loss computed here ({ours:.5f}) is not the model's own ({own:.5f}) on the first batch",
            "a damaged base, or kernels that do not fit it (train.kernels: torch); else please report its config.json",
            str(getattr(inner.config, "model_type", "")),
        )
    return abs(own - ours)


def _own_loss(inner: Any, anatomy: Anatomy, batch: Batch) -> float:
    """The mean loss that the model itself gives, less what a mixture of experts adds so that its router spreads tokens
    evenly: routers are not trained here."""
    labels = torch.full_like(batch.ids_BL, -100)
    labels.view(-1)[batch.positions_N + 1] = batch.targets_N
    anatomy.lengths.forget()
    said = inner(input_ids=batch.ids_BL, labels=labels, use_cache=False)
    added = getattr(said, "aux_loss", None)
    if not isinstance(added, torch.Tensor):
        return float(said.loss)
    share = float(added) * float(getattr(inner, "router_aux_loss_coef", 1.0))
    anatomy.balance = f"the model's own loss adds {share:.3g} for its router, which is not trained: left out"
    return float(said.loss) - share


def _mean_loss(model: Any, batch: Batch) -> float:
    return target_loss(model, batch).item() / max(batch.targets, 1)


def _agree(model: Any, own: float, ours: float) -> bool:
    tolerance = 2e-2 if next(model.parameters()).dtype in (torch.bfloat16, torch.float16) else 1e-4
    return abs(own - ours) <= tolerance * max(1.0, abs(own))


def try_padding(
    model: Any, rows: Sequence[Row], micro_batches: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> None:
    """Try, before training, whether rows may be padded to each other's length; once for each kind of lengths that
    occurs, see :attr:`~afina.model.anatomy_torch.Anatomy.alone`."""
    inner, anatomy = causal_lm(model), None
    for numbers in micro_batches:
        batched = [rows[number] for number in numbers]
        lengths = [len(row.ids) for row in side_by_side(batched)]
        if min(lengths) == max(lengths):
            continue
        if anatomy is None:
            anatomy = anatomy_of(inner, make_batch(batched[:1], pad_id, device).ids_BL)
        if any(_untried(anatomy, lengths, group) is not None for group in anatomy.lengths.groups(lengths)):
            _groups(inner, anatomy, make_batch(batched, pad_id, device))


def remarks(model: Any, batch: Batch) -> list[str]:
    """What a model costs beyond the usual because of what it is, in words; found out by :func:`check_loss`."""
    return anatomy_of(causal_lm(model), batch.ids_BL).remarks
