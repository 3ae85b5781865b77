"""A transformers model (or PEFT's around it), asked by evaluation. See :class:`afina.model.reader.Reader`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from afina.model.decoder_torch import text_config
from afina.model.footprint import reading_tokens
from afina.model.generate.forwards_torch import TorchForwards
from afina.model.loss_torch import answer_log_probs, causal_lm, make_batch, target_loss, target_scores
from afina.model.reader import AnswerLogProb, TargetScores
from afina.model.shape_table import positions_of
from afina.tokenizer.encode import Row


class TorchReader:
    """
    Args:
        model: in evaluation mode; what is read of it is what it is at that moment.
        device: of the batches; its weights' where not given.
    """

    def __init__(self, model: Any, device: torch.device | None = None) -> None:
        self.model, self._device = model, device

    @property
    def device(self) -> torch.device:
        """Of the batches."""
        if self._device is not None:
            return self._device
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def dtype(self) -> str:
        """E.g. ``torch.float32``."""
        return str(next(self.model.parameters()).dtype)

    @property
    def context(self) -> int | None:
        """Positions that the text model has."""
        return positions_of(text_config(causal_lm(self.model)).to_dict())

    def tokens_at_once(self, least: int) -> int:
        """See :class:`~afina.model.reader.Reader`."""
        inner = causal_lm(self.model)
        of_tokens = inner.get_input_embeddings(), inner.get_output_embeddings()  # logits are made for few at a time
        apart = {id(each.weight) for each in of_tokens if each is not None}
        outputs = sum(each.shape[0] for each in inner.parameters() if each.dim() == 2 and id(each) not in apart)
        return reading_tokens(outputs, next(inner.parameters()).element_size(), least)

    def forwards(self) -> TorchForwards:
        """See :class:`~afina.model.reader.Reader`."""
        return TorchForwards(self.model)

    @torch.no_grad()
    def summed_loss(self, rows: Sequence[Row], pad_id: int) -> float:
        """See :class:`~afina.model.reader.Reader`."""
        return target_loss(self.model, make_batch(rows, pad_id, self.device)).item()

    @torch.no_grad()
    def log_probs(self, rows: Sequence[Row], pad_id: int, *, share: bool = False) -> list[AnswerLogProb]:
        """See :class:`~afina.model.reader.Reader`; summed in 64 bits."""
        batch = make_batch(rows, pad_id, self.device, share=share)
        sums, counts = answer_log_probs(target_loss(self.model, batch, reduction="none").double(), batch)
        return [AnswerLogProb(nats, round(count)) for nats, count in zip(sums.tolist(), counts.tolist(), strict=True)]

    @torch.no_grad()
    def target_scores(self, rows: Sequence[Row], pad_id: int) -> list[TargetScores]:
        """See :class:`~afina.model.reader.Reader`."""
        nll_N, hit_N = target_scores(self.model, make_batch(rows, pad_id, self.device))
        sizes = [row.targets for row in rows]
        split = zip(nll_N.double().cpu().split(sizes), hit_N.cpu().split(sizes), strict=True)
        return [TargetScores(nats.tolist(), hits.tolist()) for nats, hits in split]
