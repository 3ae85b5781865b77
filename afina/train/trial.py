"""Trial steps: a few real ones, to see what a job takes on this machine before all of it is done.

Which micro-batches are tried is decided here; what computes a step is given, see :func:`by_backend` and
:mod:`afina.train.trial_torch`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from afina.recipe import Train
from afina.run import Progress, no_progress
from afina.tokenizer.encode import Row
from afina.tokenizer.tokens import row_sizes
from afina.train.backend import Backend
from afina.train.batches import plan_epoch

STEPS = 3

TakeStep = Callable[[Sequence[Row]], float | None]
"""Takes one step over a micro-batch. Gives its seconds, what is done once an optimizer step divided by
``train.accumulate``; None where memory ran out."""


@dataclass(frozen=True)
class Trial:
    """What the steps took. `padded_tokens` are of the timed micro-batches; `peak_bytes` of the process or the GPU."""

    seconds: float
    padded_tokens: int
    peak_bytes: int
    steps: int


def take_steps(
    take: TakeStep,
    rows: Sequence[Row],
    settings: Train,
    *,
    seed: int,
    peak_bytes: Callable[[], int],
    progress: Progress = no_progress,
) -> Trial | None:
    """One step with the largest micro-batch, for the memory, and three with usual ones, for the time. None where memory
    runs out.

    Args:
        peak_bytes: the most that was held so far.
    """
    lengths = row_sizes(rows).places
    batches = plan_epoch(lengths, batch_tokens=settings.batch_tokens, seed=seed, epoch=0)

    def padded(batch: Sequence[int]) -> int:
        return len(batch) * max(lengths[row] for row in batch)

    order = sorted(batches, key=padded)
    usual = [order[min(len(order) - 1, len(order) * (2 * part + 1) // (2 * STEPS))] for part in range(STEPS)]
    seconds = 0.0
    for number, batch in enumerate([order[-1], *usual]):
        took = take([rows[row] for row in batch])
        if took is None:
            return None
        if number:
            seconds += took
            progress(number, STEPS, "steps")
    return Trial(seconds, sum(map(padded, usual)), peak_bytes(), STEPS)


def by_backend(
    backend: Backend, rows: Sequence[Row], settings: Train, *, seed: int, progress: Progress = no_progress
) -> Trial | None:
    """Trial steps by a back end of the loop, whose model is changed by them and must not be used afterwards.

    Args:
        settings: those that the back end was made with.

    Raises:
        AfinaError: the loss is not the model's own.
    """

    def take(batch: Sequence[Row]) -> float | None:
        started = time.perf_counter()
        if backend.gradients(batch, [batch]).short:
            return None
        computed = time.perf_counter()
        backend.clip()
        if backend.update(settings.learning_rate):
            return None
        return computed - started + (time.perf_counter() - computed) / settings.accumulate

    if backend.begin(rows[0]):
        return None
    backend.seed(seed)
    with backend.training():
        return take_steps(take, rows, settings, seed=seed, peak_bytes=backend.memory_bytes, progress=progress)
