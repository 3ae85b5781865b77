"""The loop's back end for recurrent models: a state carried through one stream (:mod:`afina.train.stream`).

Shapes: B lanes, L tokens of a window, D hidden size, N layers, S tensors of a layer's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from afina.errors import RecipeError
from afina.model.footprint import chunk_targets
from afina.model.rnn_torch import RecurrentForCausalLM
from afina.model.steps.cross_entropy_torch import linear_cross_entropy
from afina.tokenizer.encode import Row
from afina.train.backend import StepSums
from afina.train.backend_torch import TorchBackend
from afina.train.memory_torch import memory_errors
from afina.train.stream import Window
from afina.train.switches_torch import products_in

STATE = "state"
NOT_A_TARGET = -100


class StreamBackend(TorchBackend):
    """A recurrent model that reads windows of a stream.

    The state after a step becomes :attr:`carried` when the step is taken (:meth:`update`): a step that is computed
    again, in smaller micro-batches or after going back, begins with the state that it began with before.

    Raises:
        RecipeError: there are several processes. Each window needs what the one before left.
    """

    carries_state = True
    model: RecurrentForCausalLM

    def __init__(self, model: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        if self.ranks.world > 1:
            raise RecipeError(
                f"a recurrent model reads one stream in one process, and there are {self.ranks.world}",
                "start it without torchrun",
                "scratch.kind",
            )
        config = model.config
        states = 2 if config.cell == "lstm" else 1
        size = states, config.num_hidden_layers, self.settings.lanes, config.hidden_size
        self.carried[STATE] = torch.zeros(size, device=self.device)
        self._ahead_SNBD = self.carried[STATE]

    def share_beginnings(self, rows: Sequence[Row], micro_batches: Sequence[Sequence[int]]) -> None:
        """Windows are no rows that begin alike."""

    def gradients(
        self, step: Sequence[Row], own: Sequence[Sequence[Row]], idle: Sequence[Sequence[Row]] = ()
    ) -> StepSums:
        assert not idle, "one process reads the stream"
        self._ahead_SNBD = self.carried[STATE].clone()
        total, targets, computed = 0.0, sum(row.targets for row in step), 0
        with memory_errors() as short:
            for windows in own:
                with products_in(self.settings.precision, self.device):
                    loss = self._loss([window for window in windows if isinstance(window, Window)]) / targets
                loss.backward()
                total += loss.item()
                computed += len(windows) * max(window.targets for window in windows)
        return StepSums(short=short[0]) if short else StepSums(total, {}, computed)

    def _loss(self, windows: Sequence[Window]) -> torch.Tensor:
        """Summed cross-entropy in nats of the next window of some lanes; their state goes ahead."""
        ids_BL = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(window.ids) for window in windows], batch_first=True, padding_value=NOT_A_TARGET
        ).to(self.device)
        lanes_B = torch.tensor([window.lane for window in windows], device=self.device)
        state_SNBD = self._ahead_SNBD[:, :, lanes_B]
        state_SNBD[:, :, [window.begins for window in windows]] = 0.0
        embedded_BLE = self.model.get_input_embeddings()(ids_BL[:, :-1])
        hidden_BLD, after_SNBD = self.model.model.read(embedded_BLE, state_SNBD)
        self._ahead_SNBD[:, :, lanes_B] = after_SNBD.detach().float()
        targets_BL = ids_BL[:, 1:]
        there_BL = targets_BL != NOT_A_TARGET  # the last window of an epoch is one token shorter in some lanes
        chunk = chunk_targets(self.model.config.vocab_size, self.device.type)
        head = self.model.get_output_embeddings()
        return linear_cross_entropy(head, hidden_BLD[there_BL], targets_BL[there_BL], 1.0, None, chunk)

    def update(self, rate: float) -> str:
        short = super().update(rate)
        self.carried[STATE] = self._ahead_SNBD
        return short
