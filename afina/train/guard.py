"""What a training does when something goes wrong: go back, make micro-batches smaller, or stop and say why.

Everything here is a function of the loop's state, which a checkpoint holds whole: a training that
is killed between two troubles meets them as one that was not.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from afina.errors import DoesNotFit, TrainingDiverged
from afina.recipe import Train
from afina.tokenizer.encode import Row
from afina.train.checkpoint import LoopState, Snapshot, load_checkpoint, newest_checkpoint
from afina.train.ranks import Ranks
from afina.train.shard_torch import local

T = TypeVar("T")
GOOD_STEPS = 20
"""A good state is noted at every step whose number divides by this."""
MEMORY_BYTES = 2 << 30
"""Trained weights and averages up to this many bytes are kept in memory; larger ones on the disk alone."""
CONSTANT_STEPS = 100
"""So many losses in a row without a change end a training whose rate is above zero."""
CONSTANT_CHANGE = 1e-9


@dataclass
class LastGood:
    """The state to go back to: in memory, or the newest checkpoint where it is too large for that."""

    checkpoints: Path
    snapshot: Snapshot | None = None
    in_memory: bool = True
    ranks: Ranks = field(default_factory=Ranks)

    @classmethod
    def for_model(cls, model: Any, checkpoints: Path, snapshot: Snapshot | None, ranks: Ranks) -> LastGood:
        """AdamW's two averages are as large as what is trained."""
        trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
        return cls(checkpoints, snapshot, in_memory=3 * trained <= MEMORY_BYTES, ranks=ranks)

    def note(
        self, model: Any, optimizer: torch.optim.Optimizer, state: LoopState, random: dict[str, torch.Tensor]
    ) -> None:
        """Keep the state before a step whose loss and gradient are numbers, once per :data:`GOOD_STEPS`."""
        if self.in_memory and state.step % GOOD_STEPS == 0:
            self.snapshot = Snapshot.of(model, optimizer, state, random).copied()

    def go_back(
        self, model: Any, optimizer: torch.optim.Optimizer, state: LoopState, settings: Train, reason: str
    ) -> LoopState:
        """Restore the good state, with half the rate from there on.

        What was spent, what did not fit and the best held-out loss stay as they are now.

        Raises:
            TrainingDiverged: with `reason`, when `train.tries` are used up or there is nothing to go back to.
        """
        fix = "lower train.learning_rate or train.clip, or look at these rows"
        if state.step == 0:
            raise TrainingDiverged(f"{reason}; the base itself computes this, before anything was learned", fix)
        if state.tries >= settings.tries:
            back = f"went back {state.tries} times, the rate is down to {state.rate_factor:g} of the recipe's"
            raise TrainingDiverged(f"{reason}; {back}", fix)
        if self.snapshot is not None:
            good = self.snapshot.restore(model, optimizer)
        else:
            found = newest_checkpoint(self.checkpoints, state.fingerprint, lambda _: None, self.ranks)
            if found is None:
                raise TrainingDiverged(f"{reason}; there is no checkpoint to go back to", fix)
            good, _ = load_checkpoint(found, model, optimizer, self.ranks)
        for name in ("seconds", "wall_seconds", "threads", "ranks", "splits", "best_step", "best_loss", "waited"):
            setattr(good, name, getattr(state, name))
        good.tries, good.rate_factor = state.tries + 1, state.rate_factor / 2
        optimizer.zero_grad(set_to_none=True)
        return good


def name_rows(rows: Sequence[Row], micro_batches: Sequence[Sequence[int]], most: int = 8) -> str:
    """The places of a step's rows, ``file:line``, as text."""
    places = sorted({f"{rows[n].example.path}:{rows[n].example.line}" for numbers in micro_batches for n in numbers})
    return ", ".join(places[:most]) + (f" and {len(places) - most} more" if len(places) > most else "")


def check_moving(state: LoopState, loss: float, rate: float) -> None:
    """Note a step's loss; refuse one that is exactly zero or has long stood still.

    Raises:
        TrainingDiverged: nothing is learned: no number in the log would say so.
    """
    if loss == 0.0:
        raise TrainingDiverged(
            f"at step {state.step + 1} the loss is exactly zero: there is nothing left to learn",
            "lower train.epochs or train.learning_rate; look at what is learned with `afina data show --tokens`",
        )
    still = rate > 0 and state.loss is not None and abs(loss - state.loss) <= CONSTANT_CHANGE
    state.constant_steps = state.constant_steps + 1 if still else 0
    state.loss = loss
    if state.constant_steps >= CONSTANT_STEPS:
        raise TrainingDiverged(
            f"the loss has been {loss:.6g} for {CONSTANT_STEPS} steps at a rate above zero: nothing is learned",
            "look at train.learning_rate (too small for this precision?) and adapter.targets",
        )


def all_finite(weights: Sequence[torch.Tensor]) -> bool:
    """Whether every number of `weights` is one, as far as they are in this process."""
    return all(bool(torch.isfinite(local(weight)).all()) for weight in weights)


def is_number(*values: float) -> bool:
    """Whether all of `values` are finite.

    >>> is_number(1.0, 2.0), is_number(1.0, float("nan"))
    (True, False)
    """
    return all(math.isfinite(value) for value in values)


# ---- memory


@contextmanager
def memory_errors(*, final: bool = False) -> Iterator[list[str]]:
    """Collect an out-of-memory error of the block instead of raising it, and give the memory back.

    Args:
        final: raise it after all. With sharded weights the other ranks wait in the middle of the block.

    Raises:
        DoesNotFit: where it is final.
    """
    short: list[str] = []
    try:
        yield short
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        short.append((str(error) or "out of memory").splitlines()[0])
        if final:
            raise DoesNotFit(
                f"a rank with a part of every weight is out of memory ({short[0]})",
                "a smaller train.batch_tokens with as much more train.accumulate, train.checkpoint_activations: true, "
                "or more ranks; the same command goes on from the newest checkpoint",
            ) from error
    if short:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def in_smaller_batches(
    work: Callable[[int], T], batch_tokens: int, rows: Sequence[Row], what: str, *, final: bool = False
) -> T:
    """`work` with so many padded tokens at a time; with half as many, and so on, where memory runs out.

    Raises:
        DoesNotFit: not even single rows fit; or at once where that is `final`, see :func:`memory_errors`.
    """
    while True:
        with memory_errors(final=final) as short:
            done = work(batch_tokens)
        if not short:
            return done
        if batch_tokens < min(map(len, rows)):
            raise does_not_fit(f"a single row of {what}", short[0])
        batch_tokens //= 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has several ways to say it.

    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    text = str(error).lower()
    said = "out of memory" in text or "defaultcpuallocator" in text or "can't allocate memory" in text
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or said


def halve(micro_batches: Sequence[Sequence[int]], splits: int) -> list[Sequence[int]]:
    """Each micro-batch cut in two by rows, `splits` times; one row stays whole.

    >>> halve([[1, 2, 3], [4]], 1)
    [[1, 2], [3], [4]]
    >>> halve([[1, 2, 3], [4]], 2)
    [[1], [2], [3], [4]]
    """
    for _ in range(splits):
        micro_batches = [
            part
            for batch in micro_batches
            for part in (batch[: (len(batch) + 1) // 2], batch[(len(batch) + 1) // 2 :])
            if part
        ]
    return list(micro_batches)


def does_not_fit(what: str, said: str, where: str = "") -> DoesNotFit:
    """The error for a piece of work that cannot be made smaller."""
    return DoesNotFit(
        f"{what} does not fit the memory ({said})",
        "train.checkpoint_activations: true, a smaller train.max_length, adapter.kind: qlora or "
        "train.optimizer: adamw_8bit need less",
        where,
    )
