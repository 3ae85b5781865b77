"""The loop's back end for torch: see :class:`afina.train.backend.Backend` for what each method promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from afina.errors import RecipeError
from afina.model.lengths_torch import lengths_of
from afina.model.loss_torch import Batch, Totals, causal_lm, check_loss, make_batch, remarks, target_loss, try_padding
from afina.model.steps.prefix_torch import side_by_side
from afina.model.targets_torch import without_gradient
from afina.recipe import Train
from afina.tokenizer.encode import Row
from afina.train.backend import Score, StepSums
from afina.train.checkpoint import LoopState
from afina.train.flops_torch import flops_per_token, memory_bytes
from afina.train.guard import in_smaller_batches
from afina.train.memory_torch import memory_errors
from afina.train.methods import objective_of
from afina.train.optimizer_torch import make_optimizer, set_rate
from afina.train.ranks import Ranks
from afina.train.shard_torch import local, whole
from afina.train.sharing_torch import may_share, prefix_of
from afina.train.snapshot_torch import (
    Snapshot,
    load_best,
    load_checkpoint,
    random_states,
    save_best,
    save_checkpoint,
    set_random_states,
)
from afina.train.switches_torch import products_in, switch_kernels, training_mode, uncompiled


class TorchBackend:
    """A transformers or PEFT causal language model; its parameters that require a gradient are trained by AdamW.

    Args:
        settings: what they leave at ``auto`` is off; :func:`afina.model.choices.choose` decides it before.
        lora_plus_ratio: how many times the rate of A the rate of an adapter's B is.
        ranks: the processes that train together, connected.
    """

    carries_state = False

    def __init__(
        self,
        model: Any,
        settings: Train,
        *,
        pad_id: int,
        device: torch.device,
        say: Callable[[str], None],
        lora_plus_ratio: float = 1.0,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.settings, self.pad_id, self.device, self.say = model, settings, pad_id, device, say
        self.objective, self.ranks, self.share = objective_of(settings), ranks or Ranks(), False
        self.lengths = lengths_of(causal_lm(model))
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = make_optimizer(model, settings, device, lora_plus_ratio=lora_plus_ratio)
        self.flops = flops_per_token(model)
        self.carried: dict[str, torch.Tensor] = {}
        """What the model has kept of all that the finished steps have read."""

    @property
    def figures(self) -> tuple[str, ...]:
        return self.objective.figures

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    @property
    def trained_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.parameters)

    def memory_bytes(self) -> int:
        return memory_bytes(self.device)

    # ---- before the first step

    def begin(self, row: Row) -> str:
        with memory_errors(final=self.ranks.sharded) as short:
            batch = self._batch([row])
            check_loss(self.model, batch, lambda: switch_kernels(self.model, self.settings, self.say))
            for remark in remarks(self.model, batch):
                self.say(f"train: {remark}")
            if not self.ranks.sharded:
                self._say_untouched(batch)
        return "".join(short)

    def _say_untouched(self, batch: Batch) -> None:
        """Count what is to be trained and has no gradient: it would be saved as it began."""
        loss = target_loss(self.model, batch)
        if loss.requires_grad and (names := without_gradient(self.model, loss)):
            self.say(
                f"train: {len(names):,} of {len(self.parameters):,} trained tensors have no gradient on the first row "
                f"({', '.join(names[:3])}{', ...' if names[3:] else ''})"
            )

    def seed(self, seed: int) -> None:
        self.ranks.seed(seed)

    def share_beginnings(self, rows: Sequence[Row], micro_batches: Sequence[Sequence[int]]) -> None:
        """Shared where that is exact and saves enough; not of sharded weights. Padding is tried before."""
        if self.ranks.sharded:
            self._check_sharded(rows)
            return
        before = remarks(self.model, self._batch(rows[:1]))
        try_padding(self.model, rows, micro_batches, self.pad_id, self.device)
        for remark in remarks(self.model, self._batch(rows[:1])):
            if remark not in before:
                self.say(f"train: {remark}")
        self.share = may_share(
            self.model, rows, micro_batches, self.settings, pad_id=self.pad_id, device=self.device, say=self.say
        )

    def training(self) -> AbstractContextManager[None]:
        return training_mode(self.model, self.settings)

    # ---- a step

    def random(self) -> dict[str, torch.Tensor]:
        return random_states()

    def set_random(self, states: dict[str, torch.Tensor]) -> None:
        set_random_states(states)

    def gradients(
        self, step: Sequence[Row], own: Sequence[Sequence[Row]], idle: Sequence[Sequence[Row]] = ()
    ) -> StepSums:
        totals, final = Totals.of_rows(step), self.ranks.sharded
        with memory_errors(final=final) as short:
            batches = [self._batch(rows, share=self._shares(rows)) for rows in (*own, *idle)]
            sums = self._sums_before(batches, len(idle))
        if self.objective.before:  # the ranks add these up: one that is short of memory must not leave the rest waiting
            if why := self.ranks.reason("".join(short)):
                return StepSums(short=why)
            totals = totals._replace(before=tuple(self.ranks.sum(*sums)))
        if not short:
            with memory_errors(final=final) as short:
                loss, figures = self._backward(batches, totals, idle=len(idle))
        if short:
            return StepSums(short=short[0])
        shared = sum(batch.saved for batch in batches[: len(own)])
        return StepSums(loss, figures, sum(batch.ids_BL.numel() for batch in batches), shared)

    @torch.no_grad()
    def _sums_before(self, batches: Sequence[Batch], idle: int) -> list[float]:
        """What the method asks for before the first gradient, of these micro-batches, without dropout."""
        sums = [0.0] * len(self.objective.before)
        if not sums:
            return sums
        self.model.eval()
        try:
            with uncompiled(self.settings), products_in(self.settings.precision, self.device):
                for number, batch in enumerate(batches):
                    found = self.objective.sums_before(self.model, batch)
                    if number < len(batches) - idle:
                        sums = [one + other for one, other in zip(sums, found, strict=True)]
        finally:
            self.model.train()
        return sums

    def _backward(self, batches: Sequence[Batch], totals: Totals, *, idle: int = 0) -> tuple[float, dict[str, float]]:
        """Add up the gradients of a step; returns its loss and figures. A function, so that nothing of a graph
        outlives it."""
        loss_sum, figures = 0.0, dict[str, float]()
        for number, batch in enumerate(batches):
            with products_in(self.settings.precision, self.device):
                loss, more = self.objective.loss(self.model, batch, totals)
            if number >= len(batches) - idle:
                (0.0 * loss).backward()
                continue
            loss.backward()
            loss_sum += loss.item()
            figures = {name: figures.get(name, 0.0) + value for name, value in more.items()}
        return loss_sum, figures

    def _shares(self, rows: Sequence[Row]) -> bool:
        return self.share and (not self.lengths.scaled or prefix_of(rows, self.lengths) > 0)

    def _batch(self, rows: Sequence[Row], *, share: bool = False) -> Batch:
        return make_batch(rows, self.pad_id, self.device, share=share)

    def _check_sharded(self, rows: Sequence[Row]) -> None:
        """Refuse rows of which ranks would read different numbers of groups, and wait for each other for ever."""
        if len({self.lengths.turn(length) for row in rows for length in map(len, side_by_side([row]))}) > 1:
            raise RecipeError(
                f"positions of this model are scaled by length beyond {self.lengths.original} tokens, and rows on both "
                "sides cannot be read by sharded weights",
                f"train.parallel: ddp, or train.max_length: {self.lengths.original}",
                "train.parallel",
            )

    def drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def clip(self) -> float:
        self.ranks.add_gradients(self.parameters)
        return float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)))

    def update(self, rate: float) -> str:
        set_rate(self.optimizer, rate)
        with memory_errors(final=self.ranks.sharded) as short:
            self.optimizer.step()
        self.drop_gradients()
        return "".join(short)

    def held_out(self, rows: Sequence[Row], *, splits: int) -> Score:
        def score(batch_tokens: int) -> Score:
            return self.objective.held_out(
                self.model, rows, pad_id=self.pad_id, device=self.device, batch_tokens=batch_tokens
            )

        self.model.eval()
        try:
            with uncompiled(self.settings), products_in(self.settings.precision, self.device):
                size = self.settings.batch_tokens >> splits
                return in_smaller_batches(
                    score, size, rows, "the held-out loss", partial(memory_errors, final=self.ranks.sharded)
                )
        finally:
            self.model.train()

    def finite(self) -> bool:
        return all(bool(torch.isfinite(local(weight)).all()) for weight in self.parameters)

    # ---- state

    def check_same(self) -> None:
        self.ranks.check_same(self.parameters)

    def snapshot(self, state: LoopState, random: dict[str, torch.Tensor]) -> Snapshot:
        """In memory of its own, off the GPU."""
        return Snapshot.of(self.model, self.optimizer, state, random, self.carried).copied()

    def restore(self, snapshot: Snapshot) -> LoopState:
        return snapshot.restore(self.model, self.optimizer, self.carried)

    def save(self, folder: Path, state: LoopState, *, keep: int, good: Snapshot | None) -> None:
        save_checkpoint(folder, self.model, self.optimizer, state, self.carried, keep=keep, good=good, ranks=self.ranks)

    def load(self, checkpoint: Path) -> tuple[LoopState, Snapshot | None]:
        """One rank of a machine after the other."""
        with self.ranks.in_turn():
            return load_checkpoint(checkpoint, self.model, self.optimizer, self.carried, self.ranks)

    def save_best(self, folder: Path, state: LoopState) -> None:
        save_best(folder, self.model, state, self.ranks)

    def load_best(self, folder: Path, state: LoopState) -> None:
        load_best(folder, self.model, state)
