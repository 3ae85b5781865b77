"""A model that mlx-lm has opened, asked by evaluation. See :class:`afina.model.reader.Reader`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from afina.model.generate.forwards_mlx import MlxForwards, number_type
from afina.model.mlx.loss_mlx import make_batch, target_losses, target_scores
from afina.model.mlx.mlx_model import MlxModel
from afina.model.mlx.window_mlx import longest_row
from afina.model.reader import AnswerLogProb, TargetScores
from afina.model.steps.prefix_torch import side_by_side
from afina.tokenizer.encode import Row


class MlxReader:
    """
    Args:
        model: in evaluation mode; what is read of it is what it is at that moment.
    """

    def __init__(self, model: MlxModel) -> None:
        self.model = model

    @property
    def dtype(self) -> str:
        """E.g. ``mlx.float32``."""
        return f"mlx.{number_type(self.model)}"

    @property
    def context(self) -> int | None:
        """What it reads as it was trained to."""
        return longest_row(self.model)

    def tokens_at_once(self, least: int) -> int:
        """See :class:`~afina.model.reader.Reader`; no more than in training: the memory is everybody's here."""
        return least

    def forwards(self) -> MlxForwards:
        """See :class:`~afina.model.reader.Reader`."""
        return MlxForwards(self.model)

    def summed_loss(self, rows: Sequence[Row], pad_id: int) -> float:
        """See :class:`~afina.model.reader.Reader`; summed in 64 bits."""
        return float(self._nats(rows, pad_id).sum())

    def log_probs(self, rows: Sequence[Row], pad_id: int, *, share: bool = False) -> list[AnswerLogProb]:  # noqa: ARG002
        """See :class:`~afina.model.reader.Reader`; nothing is shared."""
        rows = side_by_side(rows)
        nats_N = self._nats(rows, pad_id)
        return [AnswerLogProb(-float(nats_N[start:end].sum()), end - start) for start, end in _places(rows)]

    def target_scores(self, rows: Sequence[Row], pad_id: int) -> list[TargetScores]:
        """See :class:`~afina.model.reader.Reader`."""
        nats_N, hit_N = target_scores(self.model, make_batch(rows, pad_id))
        return [TargetScores(nats_N[start:end].tolist(), hit_N[start:end].tolist()) for start, end in _places(rows)]

    def _nats(self, rows: Sequence[Row], pad_id: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Cross-entropy of each of the N targets, row by row."""
        return np.array(target_losses(self.model, make_batch(rows, pad_id)), dtype=np.float64)


def _places(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Where each row's targets stand among those of all rows."""
    return list(pairwise(accumulate((sum(row.mask) for row in rows), initial=0)))
