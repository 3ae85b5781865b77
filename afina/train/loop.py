"""The training loop, read from top to bottom; what computes is behind :class:`afina.train.backend.Backend`.

Every step: micro-batches of rows of like length, the loss summed over their targets and divided by
the step's targets (so that tokens weigh the same however they are grouped), clip, AdamW, log.
The state that a step depends on is in a checkpoint whole, so that a run that was killed ends with
bitwise the weights of one that was not (same machine, same number of threads).

Several processes can do it together, see :mod:`afina.train.ranks`: each runs this loop on its share of every step.
What happens when a loss is NaN or infinite or memory runs out is in :mod:`afina.train.guard`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from afina.errors import DataError, DoesNotFit
from afina.recipe import Budget, Train
from afina.run import Progress, no_progress
from afina.tokenizer.encode import Row
from afina.train.backend import Backend, StepSums
from afina.train.checkpoint import LoopState, forget_after
from afina.train.feed import Feed, Step, feed_rows, feed_stream
from afina.train.guard import LastGood, check_moving, does_not_fit, halve, is_finite, name_rows, newest_of
from afina.train.meter import Meter
from afina.train.schedule import learning_rate
from afina.train.signals import Stopped, collect_signals


class Log(Protocol):
    """Takes events for ``metrics.jsonl``."""

    def __call__(self, event: str, **values: object) -> None: ...


@dataclass(frozen=True)
class TrainingJob:
    """Which training this is, and what it may spend.

    Args:
        fingerprint: hash of recipe, data and base; checkpoints of another one are passed over.
        budget: a training that reaches it stops with a checkpoint; the time since its first start counts.
        earlier_seconds: what the run spent before training, for the budget.
        peak_flops: floating-point operations per second that the device can do at most, for MFU.
    """

    checkpoints: Path
    fingerprint: str
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    earlier_seconds: float = 0.0
    peak_flops: float | None = None


def train(
    backend: Backend,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    settings: Train,
    job: TrainingJob,
    *,
    log: Log,
    say: Callable[[str], None],
    progress: Progress = no_progress,
) -> LoopState:
    """Train a back end's model; resumes from the job's checkpoints.

    Args:
        rows: what is learned. held_out: measured ``validate_per_epoch`` times, never learned.
        settings: those that the back end was made with.
        log, say: of several ranks only the first one's are heard; each calls this with the same arguments.

    Raises:
        TrainingDiverged: a loss, gradient or weight is NaN or infinite, after going back ``tries`` times;
            or the loss is exactly zero, or stands still.
        DoesNotFit: one row does not fit the memory, or the budget is used up.
        DiskFull: while a checkpoint is written; earlier ones are whole.
    """
    if not rows:
        raise DataError("there is nothing to train on", "look at dataset/dropped.jsonl for the reasons")
    loop = Loop(backend, rows, held_out, settings, job, log, say, progress)
    loop.begin()
    over = backend.ranks.reason(loop.meter.over_budget())
    with collect_signals() as caught, backend.training():  # from here on, all ranks in step
        while loop.state.step < loop.steps and not loop.state.stopped:
            if over:
                raise loop.budget_spent(over)
            if not loop.step() or not loop.validate():
                continue  # it went back
            over = loop.save_when_due(caught)
    if settings.patience and loop.state.best_step:
        backend.load_best(job.checkpoints, loop.state)
    return loop.state


class Loop:
    """One training: its plan of steps, where it stands, and what a step of it is."""

    def __init__(
        self,
        backend: Backend,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        settings: Train,
        job: TrainingJob,
        log: Log,
        say: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self.backend, self.held_out, self.settings, self.job = backend, held_out, settings, job
        self.log, self.say, self.progress, self.ranks = log, say, progress, backend.ranks
        self.feed = (feed_stream if backend.carries_state else feed_rows)(rows, settings, job.seed)
        self.rows, self.given = self.feed.rows, len(rows)
        self.plan, self.steps, self.validation_steps = plan_training(self.feed, settings)
        self.state = LoopState(fingerprint=job.fingerprint, threads=backend.threads, ranks=self.ranks.world)
        self.good = LastGood(backend, job.checkpoints)
        self.meter: Meter
        self.first_step, self.saved = 0, 0.0

    # ---- begin

    def begin(self) -> None:
        """Check the loss, go on from the newest checkpoint where there is one, and be able to go back."""
        backend = self.backend
        first_row = self.rows[self.plan[0][1][0][0]]
        if short := backend.begin(first_row):
            raise does_not_fit("the first row", short, name_rows([first_row], [[0]]))
        backend.seed(self.job.seed)
        found = newest_of(backend, self.job.checkpoints, self.job.fingerprint, self.say)
        if found:
            self._resume(found)
        else:
            self.log("train_started_anew", steps=self.steps, rows=self.given, tokens=self.feed.tokens)
        backend.check_same()
        backend.share_beginnings(self.rows, [numbers for epoch, step in self.plan if not epoch for numbers in step])
        if self.settings.patience and not (self.held_out and self.validation_steps):
            why = "no rows are held out" if not self.held_out else "train.validate_per_epoch is 0"
            self.say(f"train: patience waits for nothing, since {why}: all {self.steps} steps are taken")
        self.meter = Meter(self.job.budget, self.job.earlier_seconds, self.state.wall_seconds)
        self.first_step, self.saved = self.state.step, time.monotonic()
        if not found and not self.good.in_memory:
            self.save()

    def _resume(self, checkpoint: Path) -> None:
        self.state, self.good.snapshot = self.backend.load(checkpoint)
        state, threads, world = self.state, self.backend.threads, self.ranks.world
        self.say(f"train: goes on from step {state.step} of {self.steps}")
        self.log("resumed", step=state.step)
        if state.threads != threads:
            self.say(
                f"train: the earlier part ran with {state.threads} threads, this one with "
                f"{threads}: the result will not be bitwise that of one run"
            )
        if state.ranks != world:
            self.say(
                f"train: the earlier part ran in {state.ranks} processes, this one in {world}: sums are rounded "
                "and dropout is drawn otherwise; the result will not be bitwise that of one run"
            )
        state.threads, state.ranks = threads, world

    # ---- a step

    def step(self) -> bool:
        """One step of the optimizer, logged; False where it went back instead."""
        started, on_processor, random = time.monotonic(), time.thread_time(), self.backend.random()
        epoch, micro_batches = self.plan[self.state.step]
        sums, count = self._gradients(micro_batches, random)
        loss, padded, shared, *figures = self.ranks.sum(
            sums.loss, sums.padded, sums.shared, *(sums.figures.get(name, 0.0) for name in self.backend.figures)
        )
        norm = self.backend.clip()
        if not is_finite(loss, norm):
            what = f"at step {self.state.step + 1} the loss is {loss} and the gradient's norm {norm}"
            return self._go_back(f"{what}; batch: {name_rows(self.rows, micro_batches)}")
        rate = learning_rate(self.state.step, self.steps, self.settings) * self.state.rate_factor
        check_moving(self.state, loss, rate)
        self.good.note(self.state, random)
        if short := self.backend.update(rate):
            raise does_not_fit("the optimizer's state", short)
        seconds = time.monotonic() - started
        step_rows = self._rows_of(micro_batches)
        tokens, targets = sum(row.tokens for row in step_rows), sum(row.targets for row in step_rows)
        state = self.state
        state.step += 1
        state.tokens += tokens
        state.targets += targets
        state.seconds += seconds
        state.thread_seconds += time.thread_time() - on_processor
        self.log(
            "step",
            step=state.step,
            epoch=epoch,
            loss=round(loss, 6),
            learning_rate=rate,
            grad_norm=round(norm, 5),
            tokens=tokens,
            target_tokens=targets,
            micro_batches=count,
            shared_tokens=int(shared),
            padded_share=round(1 - tokens / padded, 4),
            **self._speed(tokens, targets, int(shared), seconds),
            **{name: round(value, 6) for name, value in zip(self.backend.figures, figures, strict=True)},
        )
        self.progress(state.step, self.steps, f"steps, loss {loss:.3f}")
        return True

    def _gradients(self, micro_batches: Step, random: Any) -> tuple[StepSums, int]:
        """The step's gradients, in smaller micro-batches where memory runs out; and into how many it went."""
        step_rows = self._rows_of(micro_batches)
        while True:
            parts = halve(micro_batches, self.state.splits)
            own, idle = self.ranks.share(parts, self.feed.lengths)
            own_rows, idle_rows = ([[self.rows[n] for n in numbers] for numbers in side] for side in (own, idle))
            sums = self.backend.gradients(step_rows, own_rows, idle_rows)
            if not (why := self.ranks.reason(sums.short)):
                return sums, len(parts)
            self.backend.drop_gradients()
            if max(map(len, parts)) == 1:
                raise does_not_fit("a micro-batch of a single row", why, name_rows(self.rows, parts))
            self.backend.set_random(random)
            self.state.splits += 1
            step = self.state.step + 1
            self.say(f"train: step {step} does not fit the memory; micro-batches are halved from here on")
            self.log("smaller_batches", step=step, splits=self.state.splits, reason=why)

    def _rows_of(self, micro_batches: Step) -> list[Row]:
        return [self.rows[number] for numbers in micro_batches for number in numbers]

    def _speed(self, tokens: int, targets: int, shared: int, seconds: float) -> dict[str, Any]:
        """What a step says of time, memory and money."""
        per_token, per_target = self.backend.flops
        flops = (per_token * (tokens - shared) + per_target * targets) / seconds
        left = self.meter.eta_seconds(self.state.step - self.first_step, self.steps - self.state.step)
        return {
            "tokens_per_second": round(tokens / seconds, 1),
            "flops_per_second": float(f"{flops:.4g}"),
            "mfu": round(flops / self.job.peak_flops, 4) if self.job.peak_flops else None,
            "memory_bytes": self.backend.memory_bytes(),
            "eta_seconds": round(left or 0.0, 3),
            "money": round(self.meter.money, 6),
        }

    # ---- after a step

    def validate(self) -> bool:
        """Measure the held-out rows where it is time, keep the best weights; False where it went back."""
        state, settings = self.state, self.settings
        if state.step not in self.validation_steps or not self.held_out:
            return True
        score = self.ranks.from_first(self.backend.held_out(self.held_out, splits=state.splits))
        self.log("validation", step=state.step, **score.figures)
        if not is_finite(score.loss):
            return self._go_back(f"after step {state.step} the held-out loss is {score.loss}")
        if _is_best(state, score.loss):
            self.backend.save_best(self.job.checkpoints, state)
        elif settings.patience and state.waited >= settings.patience:
            state.stopped = f"no better held-out loss in {state.waited} measurements"
            self.say(f"train: {state.stopped}; the weights of step {state.best_step} are kept")
            self.log("stopped_early", step=state.step, best_step=state.best_step, best_loss=state.best_loss)
        return True

    def save_when_due(self, caught: Sequence[int]) -> str:
        """Write a checkpoint where it is time, the budget is spent, a signal came or training ends. Returns which limit
        of the budget is reached, or nothing.

        Raises:
            Stopped: a signal came.
        """
        state, ranks = self.state, self.ranks
        ends = state.step == self.steps or bool(state.stopped)
        over = ranks.reason(self.meter.over_budget())
        seconds_since = time.monotonic() - self.saved if ranks.first else 0.0
        signal, seconds_since = ranks.most(caught[0] if caught else 0, seconds_since)
        if seconds_since >= self.settings.checkpoint_seconds or signal or over or ends:
            if not ranks.most(not self.backend.finite())[0]:
                self.save()
            else:
                where = name_rows(self.rows, self.plan[state.step - 1][1])
                self._go_back(f"after step {state.step} a weight is NaN or infinite; batch: {where}")
        if signal and not ends:
            self.say(f"train: stopped at step {self.state.step} of {self.steps}; the same command goes on from there")
            raise Stopped(128 + int(signal))
        return over

    def save(self, keep: int | None = None) -> None:
        """Write a checkpoint."""
        self.state.wall_seconds = self.meter.wall_seconds
        self.backend.check_same()
        keep = self.settings.keep_checkpoints if keep is None else keep
        self.backend.save(self.job.checkpoints, self.state, keep=keep, good=self.good.snapshot)
        self.log("checkpoint", step=self.state.step)
        self.saved = time.monotonic()

    def _go_back(self, reason: str) -> bool:
        """To the last good state with half the rate; from then on, the checkpoints begin there as well. Always False:
        the step that was done does not count."""
        left, self.state = self.state.step, self.good.go_back(self.state, self.settings, reason)
        state = self.state
        self.say(f"train: {reason}; goes back to step {state.step} with {state.rate_factor:g} of the rate")
        self.log("went_back", step=left, to=state.step, reason=reason, tries=state.tries, rate_factor=state.rate_factor)
        self.save(keep=sys.maxsize)
        if self.ranks.first:
            forget_after(self.job.checkpoints, state.step)
        return False

    def budget_spent(self, over: str) -> DoesNotFit:
        """The error of a budget that is used up."""
        self.say(f"train: {over} at step {self.state.step} of {self.steps}; everything up to there is saved")
        return DoesNotFit(
            f"{over} at step {self.state.step} of {self.steps}; what was learned is in the checkpoint",
            "the same command with a larger budget goes on from there: budget.hours=..., budget.money=...",
            "budget",
        )


def plan_training(feed: Feed, settings: Train) -> tuple[list[tuple[int, Step]], int, set[int]]:
    """Each step's epoch and micro-batches, how many steps are taken, and those after which is measured."""
    epochs = feed.epochs
    plan: list[tuple[int, Step]] = [(epoch, step) for epoch, steps in enumerate(epochs) for step in steps]
    steps = max(1, round(len(plan) - (len(epochs) - settings.epochs) * len(epochs[-1])))
    return plan, steps, _validation_steps([len(each) for each in epochs], settings.validate_per_epoch, steps)


def _is_best(state: LoopState, loss: float) -> bool:
    """Note a held-out loss and whether it is the lowest so far."""
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.best_step, state.waited = loss, state.step, 0
        return True
    state.waited += 1
    return False


def _validation_steps(steps_per_epoch: Sequence[int], times: int, steps: int) -> set[int]:
    """The steps after which held-out loss is measured: `times` per epoch, the epoch's end among them."""
    wanted, before = set(), 0
    for count in steps_per_epoch:
        wanted |= {before + round(count * part / times) for part in range(1, times + 1)} if times else set()
        before += count
    return {step for step in wanted if 0 < step <= steps}
