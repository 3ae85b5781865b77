"""Cross-entropy at the targets only, over a model that mlx-lm has opened.

Shapes: B rows, L padded length, D hidden size, N targets in the batch, V vocabulary.

Rows are padded on the right and attention is causal, so that no target ever sees padding. mlx-lm's models make logits
of every place; here the output layer is given the N places before a target alone, whatever the model does with logits
afterwards (scaling, capping): see :func:`_at_positions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from afina.errors import AfinaError
from afina.model.mlx.mlx_model import TABLES, MlxModel
from afina.model.padding import pad_rows
from afina.tokenizer.encode import Row

PADDED_BY = 3
"""Places of padding behind the row by which :func:`check_loss` tries whether padding changes nothing."""


@dataclass(frozen=True, eq=False)
class MlxBatch:
    """Rows side by side."""

    ids_BL: mx.array
    positions_N: mx.array
    """Flat positions in B x L whose next token is a target."""
    targets_N: mx.array
    tokens: int
    """Real tokens: padding is not counted."""

    @property
    def targets(self) -> int:
        return int(self.targets_N.size)

    @property
    def places(self) -> int:
        """Places computed, padding among them."""
        return int(self.ids_BL.size)


def make_batch(rows: Sequence[Row], pad_id: int) -> MlxBatch:
    """Pad rows on the right to the longest of them."""
    padded = pad_rows(rows, pad_id)
    ids_BL, positions_N, targets_N = (mx.array(each.astype(np.int32)) for each in padded[:3])
    return MlxBatch(ids_BL, positions_N, targets_N, sum(padded.lengths))


def target_logits(model: MlxModel, batch: MlxBatch) -> mx.array:
    """Logits N x V in float32."""
    with _at_positions(model, batch.positions_N):
        logits_NV: mx.array = model.network(batch.ids_BL).astype(mx.float32)
    return logits_NV


def target_losses(model: MlxModel, batch: MlxBatch) -> mx.array:
    """Cross-entropy of each of the N targets in nats."""
    losses_N: mx.array = nn.losses.cross_entropy(target_logits(model, batch), batch.targets_N, reduction="none")
    return losses_N


def target_scores(model: MlxModel, batch: MlxBatch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Of each of the N targets its cross-entropy in nats, and whether it is the likeliest token at its place."""
    logits_NV = target_logits(model, batch)
    nats_N = nn.losses.cross_entropy(logits_NV, batch.targets_N, reduction="none")
    hits_N = mx.argmax(logits_NV, axis=1) == batch.targets_N
    mx.eval(nats_N, hits_N)
    return np.array(nats_N, dtype=np.float64), np.array(hits_N)


@contextmanager
def _at_positions(model: MlxModel, positions_N: mx.array) -> Iterator[None]:
    """The model's output layer reads hidden states at these flat positions alone, so that the model gives N x V."""
    holder, name, head = output_of(model)

    def at_positions(hidden_BLD: mx.array) -> mx.array:
        return head(hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[positions_N])

    setattr(holder, name, at_positions)
    try:
        yield
    finally:
        if name == "as_linear":
            delattr(holder, name)  # the class's own shows again
        else:
            setattr(holder, name, head)


def output_of(model: MlxModel) -> tuple[Any, str, Any]:
    """What makes logits of hidden states: who holds it, its name there, and itself; of tied weights the embedding's
    ``as_linear``.

    Raises:
        AfinaError: the model has another form.
    """
    modules = dict(model.network.named_modules())
    heads = [name for name in modules if name.rpartition(".")[2] == "lm_head"]
    if len(heads) == 1:
        place = heads[0].rpartition(".")[0]
        return modules[place], "lm_head", modules[heads[0]]
    tables = [part for name, part in modules.items() if name.rpartition(".")[2] in TABLES]
    if not heads and len(tables) == 1:
        return tables[0], "as_linear", tables[0].as_linear
    raise AfinaError(
        f"the output layer of this {model.config.get('model_type')} model is not found in mlx-lm's form of it",
        "backend: torch; and please report its config.json",
        str(model.folder),
    )


def check_loss(model: MlxModel, row: Row, pad_id: int) -> float:
    """Compare the loss of one row, with padding behind it, with that of the logits that the model itself makes of the
    row alone; returns the difference in nats per target.

    Raises:
        AfinaError: the two differ.
    """
    plain = make_batch([row], pad_id)
    own = nn.losses.cross_entropy(
        model.network(plain.ids_BL).astype(mx.float32).reshape(-1, _vocabulary(model))[plain.positions_N],
        plain.targets_N,
        reduction="mean",
    ).item()
    wide = mx.pad(plain.ids_BL, ((0, 0), (0, PADDED_BY)), constant_values=pad_id)
    ours = target_losses(model, MlxBatch(wide, plain.positions_N, plain.targets_N, plain.tokens)).mean().item()
    low = any(weight.dtype != mx.float32 for weight in _floating(model))
    if not abs(own - ours) <= (2e-2 if low else 1e-4) * max(1.0, abs(own)):
        raise AfinaError(
            f"the loss computed here ({ours:.5f}) is not the model's own ({own:.5f}) on the first row",
            "a damaged base, or a form of model that is read otherwise: backend: torch; please report its config.json",
            str(model.config.get("model_type", "")),
        )
    return abs(own - ours)


def _vocabulary(model: MlxModel) -> int:
    config = model.config
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


def _floating(model: MlxModel) -> list[mx.array]:
    from mlx.utils import tree_flatten

    return [each for _, each in tree_flatten(model.network.parameters()) if mx.issubdtype(each.dtype, mx.floating)]
