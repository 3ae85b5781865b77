"""What the loop asks of a framework: one model with its optimizer on one device.

The loop (:mod:`afina.train.loop`) plans steps, counts the budget, retries, logs and decides when to write; a back end
computes: forward, backward, update, snapshot, restore, save. Nothing here names a framework. Torch's is
:mod:`afina.train.backend_torch`; another one fills the same protocol and the same loop runs on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from afina.tokenizer.encode import Row
from afina.train.checkpoint import LoopState
from afina.train.ranks import Ranks


class Score(Protocol):
    """A measurement of held-out rows; the lower its loss the better."""

    @property
    def loss(self) -> float: ...

    @property
    def figures(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class StepSums:
    """What the micro-batches of a step gave, those of this process; added up over the ranks by the loop.

    Args:
        loss: the part of the step's loss.
        figures: the method's figures, by name.
        padded: places computed, padding included.
        shared: tokens that needed no computing again, see ``train.share_prefix``.
        short: why memory ran out; empty where it did not. Then the other values mean nothing.
    """

    loss: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    padded: int = 0
    shared: int = 0
    short: str = ""


class Backend(Protocol):
    """One model, its optimizer and its method's loss, on one device of one process.

    Where a method returns a text, that says why memory ran out, and is empty where it did not.
    """

    @property
    def ranks(self) -> Ranks:
        """The processes that train together; alone, ``Ranks()``."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that come with a loss."""

    @property
    def threads(self) -> int:
        """Threads of this process that compute: sums are rounded otherwise with another number."""

    @property
    def carries_state(self) -> bool:
        """Whether the model carries a state from micro-batch to micro-batch, so that it reads one stream and not
        rows."""

    @property
    def trained_bytes(self) -> int:
        """Of the weights that are trained, as they are held."""

    @property
    def flops(self) -> tuple[float, float]:
        """Floating-point operations of a step per token, and per target for the head."""

    def memory_bytes(self) -> int:
        """The most memory held so far."""

    # ---- before the first step

    def begin(self, row: Row) -> str:
        """Compare the loss of one row with the model's own, and put the kernels in place that training uses.

        Raises:
            AfinaError: the two losses differ.
        """

    def seed(self, seed: int) -> None:
        """Seed what dropout and noise draw from."""

    def share_beginnings(self, rows: Sequence[Row], micro_batches: Sequence[Sequence[int]]) -> None:
        """Decide whether rows that begin alike compute their beginning once."""

    def training(self) -> AbstractContextManager[None]:
        """The model in training mode; in evaluation mode afterwards."""

    # ---- a step

    def random(self) -> Any:
        """The states of the generators, to be given back to :meth:`set_random`."""

    def set_random(self, states: Any) -> None:
        """Draw again what was drawn after :meth:`random`."""

    def gradients(
        self, step: Sequence[Row], own: Sequence[Sequence[Row]], idle: Sequence[Sequence[Row]] = ()
    ) -> StepSums:
        """Add up the gradients of micro-batches.

        Args:
            step: every row of the step, on all ranks: what its loss is divided by.
            own: this process's micro-batches.
            idle: other ranks' who need this one while they compute; they count nothing.
        """

    def drop_gradients(self) -> None:
        """Forget what :meth:`gradients` has added up, and how far it has read."""

    def clip(self) -> float:
        """Add the gradients up over the ranks and bound their norm; returns the norm before."""

    def update(self, rate: float) -> str:
        """One step of the optimizer at this rate; the gradients are forgotten."""

    def held_out(self, rows: Sequence[Row], *, splits: int) -> Score:
        """Measure rows that are not learned, without a trace in the state of training.

        Args:
            splits: micro-batches are cut in two so many times.

        Raises:
            DoesNotFit: not even single rows fit.
        """

    def finite(self) -> bool:
        """Whether no trained weight in this process is NaN or infinite."""

    # ---- state

    def check_same(self) -> None:
        """Refuse weights that are not the same on every rank.

        Raises:
            AfinaError: they have drifted apart.
        """

    def snapshot(self, state: LoopState, random: Any) -> Any:
        """A copy of all that the next step depends on, which later steps do not change. Only the back end looks
        inside."""

    def restore(self, snapshot: Any) -> LoopState:
        """Put everything back to a snapshot; returns its state, free to change."""

    def save(self, folder: Path, state: LoopState, *, keep: int, good: Any) -> None:
        """Write a checkpoint, the good state with it, and keep the newest so many.

        Raises:
            DiskFull: earlier ones are whole.
        """

    def load(self, checkpoint: Path) -> tuple[LoopState, Any]:
        """Put everything back to a checkpoint; returns its state, and the good state that travelled along."""

    def save_best(self, folder: Path, state: LoopState) -> None:
        """Keep the weights with the best held-out loss."""

    def load_best(self, folder: Path, state: LoopState) -> None:
        """Take those weights.

        Raises:
            AfinaError: they are damaged.
        """
