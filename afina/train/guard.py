"""What a training does when something goes wrong: go back, make micro-batches smaller, or stop and say why.

Everything here is a function of the loop's state, which a checkpoint holds whole: a training that
is killed between two troubles meets them as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from afina.errors import OutOfMemory, TrainingDiverged
from afina.model import footprint
from afina.recipe import Train
from afina.tokenizer.encode import Row
from afina.train.backend import Backend
from afina.train.checkpoint import LoopState, newest_checkpoint

T = TypeVar("T")
CONSTANT_STEPS = 100
"""So many losses in a row without a change end a training whose rate is above zero."""
CONSTANT_CHANGE = 1e-9


@dataclass
class LastGood:
    """The state to go back to: in memory, or the newest checkpoint where it is too large for that."""

    backend: Backend
    checkpoints: Path
    snapshot: Any = None

    @property
    def in_memory(self) -> bool:
        """Whether it is kept in memory."""
        return footprint.state_in_memory(self.backend.trained_bytes)

    def note(self, state: LoopState, random: Any) -> None:
        """Keep the state before a step whose loss and gradient are finite, once per ``footprint.GOOD_STEPS``."""
        if self.in_memory and state.step % footprint.GOOD_STEPS == 0:
            self.snapshot = self.backend.snapshot(state, random)

    def go_back(self, state: LoopState, settings: Train, reason: str) -> LoopState:
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
            good = self.backend.restore(self.snapshot)
        else:
            found = newest_of(self.backend, self.checkpoints, state.fingerprint)
            if found is None:
                raise TrainingDiverged(f"{reason}; there is no checkpoint to go back to", fix)
            good, _ = self.backend.load(found)
        for name in ("seconds", "wall_seconds", "threads", "ranks", "splits", "best_step", "best_loss", "waited"):
            setattr(good, name, getattr(state, name))
        good.tries, good.rate_factor = state.tries + 1, state.rate_factor / 2
        self.backend.drop_gradients()
        return good


def newest_of(
    backend: Backend, checkpoints: Path, fingerprint: str, say: Callable[[str], None] = lambda _: None
) -> Path | None:
    """The newest whole checkpoint of a training. Of several ranks the first one looks."""
    ranks = backend.ranks
    found: Path | None = ranks.from_first(newest_checkpoint(checkpoints, fingerprint, say) if ranks.first else None)
    return found


def name_rows(rows: Sequence[Row], micro_batches: Sequence[Sequence[int]], most: int = 8) -> str:
    """The places of a step's rows, ``file:line``, as text."""
    places = sorted({f"{rows[n].example.path}:{rows[n].example.line}" for numbers in micro_batches for n in numbers})
    return ", ".join(places[:most]) + (f" and {len(places) - most} more" if len(places) > most else "")


def check_moving(state: LoopState, loss: float, rate: float) -> None:
    """Note a step's loss; refuse one that is exactly zero or has long stood still.

    Raises:
        TrainingDiverged: nothing is learned, and the log alone would not say so.
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
            "look at train.learning_rate (too small for this precision?) and, with an adapter, at adapter.targets",
        )


def is_finite(*values: float) -> bool:
    """Whether all of `values` are finite.

    >>> is_finite(1.0, 2.0), is_finite(1.0, float("nan"))
    (True, False)
    """
    return all(math.isfinite(value) for value in values)


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


def in_smaller_batches(
    work: Callable[[int], T],
    batch_tokens: int,
    rows: Sequence[Row],
    what: str,
    memory_errors: Callable[[], AbstractContextManager[list[str]]],
) -> T:
    """`work` with so many padded tokens at a time; with half as many, and so on, where memory runs out.

    Args:
        memory_errors: the back end's, which notes that memory ran out instead of raising it.

    Raises:
        OutOfMemory: not even single rows fit.
    """
    while True:
        with memory_errors() as short:
            done = work(batch_tokens)
        if not short:
            return done
        if batch_tokens < min(map(len, rows)):
            raise does_not_fit(f"a single row of {what}", short[0])
        batch_tokens //= 2


def does_not_fit(what: str, said: str, where: str = "") -> OutOfMemory:
    """The error for a piece of work that cannot be made smaller."""
    return OutOfMemory(f"{what} does not fit the memory ({said})", where=where)
