"""The loop's back end for MLX: see :class:`afina.train.backend.Backend` for what each method promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import clip_grad_norm
from mlx.utils import tree_map

from afina.model.mlx.adapter_mlx import draw_dropout
from afina.model.mlx.arrays_mlx import Arrays, read_arrays, save_arrays
from afina.model.mlx.loss_mlx import check_loss, make_batch
from afina.model.mlx.mlx_model import MlxModel
from afina.recipe import Train
from afina.tokenizer.encode import Row
from afina.train.backend import Score, StepSums
from afina.train.checkpoint import LoopState, checked_best, write_best, write_checkpoint
from afina.train.guard import in_smaller_batches
from afina.train.memory_mlx import memory_bytes, memory_errors, metal_limits
from afina.train.methods import answers_mlx
from afina.train.optimizer_mlx import make_optimizer, set_rate
from afina.train.ranks import Ranks
from afina.train.snapshot_mlx import (
    MlxSnapshot,
    random_state,
    set_random_state,
    set_weights,
    trained_weights,
)


class MlxBackend:
    """A model that mlx-lm has opened; its arrays that are not frozen are trained by AdamW.

    Args:
        flops: operations of a step per token, and per target for the head.
        lora_plus_ratio: how many times the rate of A the rate of an adapter's B is.
    """

    carries_state = False
    threads = 1
    """MLX computes in one thread on a CPU, and sums in one order."""

    def __init__(
        self,
        model: MlxModel,
        settings: Train,
        *,
        pad_id: int,
        say: Callable[[str], None],
        flops: tuple[float, float] = (0.0, 0.0),
        lora_plus_ratio: float = 1.0,
    ) -> None:
        self.model, self.settings, self.pad_id, self.say, self.flops = model, settings, pad_id, say, flops
        self.objective, self.ranks = answers_mlx, Ranks()
        self.optimizer = make_optimizer(settings, lora_plus_ratio=lora_plus_ratio)
        self.gradient: Any = None
        """What the micro-batches of a step have added up, as a tree of the trained arrays."""

    @property
    def figures(self) -> tuple[str, ...]:
        return self.objective.FIGURES

    @property
    def trained_bytes(self) -> int:
        return sum(weight.nbytes for weight in trained_weights(self.model).values())

    def memory_bytes(self) -> int:
        return memory_bytes()

    # ---- before the first step

    def begin(self, row: Row) -> str:
        with memory_errors() as short:
            check_loss(self.model, row, self.pad_id)
        return "".join(short)

    def seed(self, seed: int) -> None:
        mx.random.seed(seed)

    def share_beginnings(self, rows: Sequence[Row], micro_batches: Sequence[Sequence[int]]) -> None:
        """Nothing is shared: mlx-lm's attention takes no beginning that several rows have in common."""

    @contextmanager
    def training(self) -> Iterator[None]:
        self.model.train()
        try:
            with metal_limits(), activations_again(self.model, on=self.settings.checkpoint_activations):
                yield
        finally:
            self.model.eval()

    # ---- a step

    def random(self) -> Arrays:
        return random_state()

    def set_random(self, states: Arrays) -> None:
        set_random_state(states)

    def gradients(
        self, step: Sequence[Row], own: Sequence[Sequence[Row]], idle: Sequence[Sequence[Row]] = ()
    ) -> StepSums:
        assert not idle, "one process computes all of a step"
        targets, loss_sum, places = sum(row.targets for row in step), 0.0, 0
        with memory_errors() as short:
            for rows in own:
                batch = make_batch(rows, self.pad_id)
                draw_dropout(self.model)
                loss, gradient = nn.value_and_grad(
                    self.model.network, lambda batch=batch: self.objective.loss(self.model, batch, targets)
                )()
                if self.gradient is not None:
                    gradient = tree_map(mx.add, self.gradient, gradient)
                self.gradient = gradient
                mx.eval(loss, gradient)  # here, so that no graph of a micro-batch outlives it
                loss_sum += loss.item()
                places += batch.places
        return StepSums(short=short[0]) if short else StepSums(loss_sum, padded=places)

    def drop_gradients(self) -> None:
        self.gradient = None

    def clip(self) -> float:
        self.gradient, norm = clip_grad_norm(self.gradient, self.settings.clip)
        return float(norm.item())

    def update(self, rate: float) -> str:
        set_rate(self.optimizer, rate)
        with memory_errors() as short:
            self.optimizer.update(self.model.network, self.gradient)
            mx.eval(self.model.network.trainable_parameters(), self.optimizer.state)
        self.drop_gradients()
        return "".join(short)

    def held_out(self, rows: Sequence[Row], *, splits: int) -> Score:
        def score(batch_tokens: int) -> Score:
            return self.objective.held_out(self.model, rows, pad_id=self.pad_id, batch_tokens=batch_tokens)

        self.model.eval()
        try:
            size = self.settings.batch_tokens >> splits
            return in_smaller_batches(score, size, rows, "the held-out loss", memory_errors)
        finally:
            self.model.train()

    def finite(self) -> bool:
        return all(mx.isfinite(weight).all().item() for weight in trained_weights(self.model).values())

    # ---- state

    def check_same(self) -> None:
        """There is one process."""

    def snapshot(self, state: LoopState, random: Arrays) -> MlxSnapshot:
        return MlxSnapshot.of(self.model, self.optimizer, state, random)

    def restore(self, snapshot: MlxSnapshot) -> LoopState:
        return snapshot.restore(self.model, self.optimizer)

    def save(self, folder: Path, state: LoopState, *, keep: int, good: MlxSnapshot | None) -> None:
        write_checkpoint(folder / f"step-{state.step:08d}", self.snapshot(state, random_state()), good, keep)

    def load(self, checkpoint: Path) -> tuple[LoopState, MlxSnapshot | None]:
        good = MlxSnapshot.read(checkpoint, "good-") if (checkpoint / "good-state.json").exists() else None
        return self.restore(MlxSnapshot.read(checkpoint)), good

    def save_best(self, folder: Path, state: LoopState) -> None:
        write_best(folder, state, partial(save_arrays, trained_weights(self.model)))

    def load_best(self, folder: Path, state: LoopState) -> None:
        set_weights(self.model, read_arrays(checked_best(folder, state)), str(folder))


@contextmanager
def activations_again(model: MlxModel, *, on: bool) -> Iterator[None]:
    """Where it is on, layers compute their activations again in the backward pass instead of keeping them.

    mlx-lm does so by the classes of the layers, for good; here they are as they were afterwards.
    """
    from mlx_lm.tuner.trainer import grad_checkpoint

    classes = {type(layer): layer for layer in model.network.layers} if on else {}
    own = {each: each.__call__ for each in classes}
    for layer in classes.values():
        grad_checkpoint(layer)
    try:
        yield
    finally:
        for each, call in own.items():
            each.__call__ = call
