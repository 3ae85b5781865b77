"""What a person should know of a training: warnings, each a rule of a few lines with its figures."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from afina.units import show_bytes, show_seconds, show_share
from afina.watch.view import HeldOutPoint, RunView, RunWarning, TrainingView

WINDOW = 20
"""Steps whose mean stands for a loss: one step's is noise."""
LEAST_STEPS = 3 * WINDOW
"""Before so many steps nothing is said of the loss."""
RISE = 0.02
"""So much of the lowest held-out loss it has to rise before it is called a rise; and twice its own noise."""
FALL = 0.02
"""A loss that fell by less than this share of the first steps' has not fallen."""
FAR_ABOVE = 1.5
"""The loss of the latest steps over the lowest that was reached: it rises."""
FULL = 0.95
SLOWER = 0.5
QUIET, LEAST_QUIET_SECONDS = 5.0, 120.0
"""Times the longest usual pause between two events, and seconds at least, that a run may log nothing."""


def judge(view: RunView, *, now: float, unreadable: int) -> RunView:
    """The view with its warnings, the gravest first."""
    found: list[RunWarning] = []
    for training in view.trainings:
        for rule in _RULES:
            found += [replace(each, training=training.name) for each in rule(training)]
        found += _memory(training, view.usable_bytes)
    found += _silent(view, now)
    if view.state in ("finished", "trained"):
        found += [each for training in view.trainings[-1:] for each in _still_falling(training)]
    if _measures_nothing(view):
        found.append(RunWarning("no_validation", "no held-out loss is measured: overfitting would not be seen"))
    if unreadable:
        what = f"{unreadable} lines of metrics.jsonl cannot be read (a kill cuts one)"
        found.append(RunWarning("unreadable_lines", what, figures={"lines": unreadable}))
    order = {kind: number for number, kind in enumerate(_GRAVEST_FIRST)}
    return replace(view, warnings=tuple(sorted(found, key=lambda each: order[each.kind])))


def mean_before(training: TrainingView, step: float) -> float:
    """Mean loss of the :data:`WINDOW` steps up to `step`; NaN where there are none."""
    steps, losses = training.steps["step"], training.steps["loss"]
    end = len(steps)
    while end and steps[end - 1] > step:
        end -= 1
    return _mean(losses[max(0, end - WINDOW) : end])


def _overfitting(training: TrainingView) -> Iterator[RunWarning]:
    """The held-out loss has been above its lowest twice since, beyond its noise, while the training loss fell."""
    best, held = training.best, [each for each in training.held_out if math.isfinite(each.loss)]
    later = [each for each in held if best and each.step > best.step]
    if best is None or len(later) < 2:
        return
    level = _mean([each.loss for each in later[-2:]])
    then, latest = mean_before(training, best.step), mean_before(training, later[-1].step)
    if level - best.loss > max(RISE * abs(best.loss), 2 * noise_of(held)) and latest < then:
        yield RunWarning(
            "overfitting",
            f"the held-out loss rose from {best.loss:.4g} (step {best.step}) to {later[-1].loss:.4g} (step "
            f"{later[-1].step}) while the training loss fell from {then:.4g} to {latest:.4g}: it overfits",
            step=best.step,
            figures={
                "best_step": best.step,
                "best_loss": best.loss,
                "step": later[-1].step,
                "held_out_loss": later[-1].loss,
                "train_loss_then": then,
                "train_loss": latest,
            },
        )


def noise_of(held: Sequence[HeldOutPoint]) -> float:
    """Standard deviation of single measurements around a straight line through their neighbours; a steady fall or rise
    is no noise.

    >>> [noise_of([HeldOutPoint(n, 3.0 - n) for n in range(5)]), noise_of([])]
    [0.0, 0.0]
    """
    losses = [each.loss for each in held]
    bends = [abs(a - 2 * b + c) for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)]
    return 1.4826 * statistics.median(bends) / math.sqrt(6) if bends else 0.0


def _not_falling(training: TrainingView) -> Iterator[RunWarning]:
    """The latest steps' loss is no lower than that of the first."""
    losses = training.steps["loss"]
    if len(losses) < LEAST_STEPS:
        return
    first, latest = _mean(losses[:WINDOW]), _mean(losses[-WINDOW:])
    if first - latest < FALL * abs(first) and not latest > FAR_ABOVE * abs(first):
        rate = training.learning_rate
        yield RunWarning(
            "not_falling",
            f"the loss does not fall: {first:.4g} in the first {WINDOW} steps, {latest:.4g} in the last {WINDOW} of "
            f"{len(losses)}" + (f", at a rate of {rate:.3g}" if rate is not None else ""),
            step=training.step,
            figures={"first_loss": first, "loss": latest, "steps": training.step}
            | ({"learning_rate": rate} if rate is not None else {}),
        )


def _rising(training: TrainingView) -> Iterator[RunWarning]:
    """The latest steps' loss is far above the lowest that was reached."""
    losses = training.steps["loss"]
    if len(losses) < LEAST_STEPS:
        return
    # By whole windows, so that a long run is looked through once and not once a step.
    means = [(_mean(losses[start : start + WINDOW]), start) for start in range(0, len(losses) - WINDOW + 1, WINDOW)]
    lowest, start = min((pair for pair in means if math.isfinite(pair[0])), default=(math.nan, 0))
    latest = _mean(losses[-WINDOW:])
    # Of losses near zero (a text known word for word) small changes are large shares.
    if latest > FAR_ABOVE * lowest and latest - lowest > 0.1 * means[0][0]:
        at = int(training.steps["step"][start + WINDOW - 1])
        yield RunWarning(
            "rising",
            f"the loss rises: it was {lowest:.4g} around step {at} and is {latest:.4g} now",
            step=at,
            figures={"lowest_loss": lowest, "lowest_step": at, "loss": latest},
        )


def _still_falling(training: TrainingView) -> Iterator[RunWarning]:
    """The last measurement is the lowest, and lower than the one before by more than noise."""
    held = [each for each in training.held_out if math.isfinite(each.loss)]
    if len(held) < 2 or training.best is not held[-1]:
        return
    fell = (held[-2].loss - held[-1].loss) / abs(held[-2].loss) if held[-2].loss else 0.0
    if fell > RISE and held[-2].loss - held[-1].loss > noise_of(held):
        yield RunWarning(
            "still_falling",
            f"the held-out loss still fell at the end, by {show_share(round(fell, 3))} between the last two "
            f"measurements (to {held[-1].loss:.4g}): more epochs may help",
            training.name,
            held[-1].step,
            {"best_step": held[-1].step, "held_out_loss": held[-1].loss, "fell_by": fell},
        )


def _went_back(training: TrainingView) -> Iterator[RunWarning]:
    if training.went_back:
        last = training.went_back[-1]
        factor, times = last.get("rate_factor"), len(training.went_back)
        figures = {key: last[key] for key in ("step", "to", "rate_factor") if isinstance(last.get(key), int | float)}
        yield RunWarning(
            "went_back",
            f"went back {'once' if times == 1 else f'{times} times'}, last to step {last.get('to')} with {factor} of "
            f"the rate: {last.get('reason')}",
            step=int(figures["to"]) if "to" in figures else None,
            figures={"times": times, **figures},
        )


def _smaller_batches(training: TrainingView) -> Iterator[RunWarning]:
    if training.smaller_batches:
        last = training.smaller_batches[-1]
        figures = {key: last[key] for key in ("step", "splits") if isinstance(last.get(key), int | float)}
        yield RunWarning(
            "smaller_batches",
            f"memory ran out at step {last.get('step')}; each micro-batch is cut into "
            f"{2 ** int(figures.get('splits', 1))} ({last.get('reason')})",
            step=int(figures["step"]) if "step" in figures else None,
            figures=figures,
        )


def _slower(training: TrainingView) -> Iterator[RunWarning]:
    """Tokens per second of the latest steps against the first: another program, heat, memory that is swapped."""
    speeds = training.steps["tokens_per_second"]
    if len(speeds) < LEAST_STEPS:
        return
    before, latest = _median(speeds[:LEAST_STEPS]), _median(speeds[-WINDOW:])
    if latest < SLOWER * before:
        yield RunWarning(
            "slower",
            f"it is slower than it was: {latest:,.0f} tokens/s, {before:,.0f} at the beginning",
            step=training.step,
            figures={"tokens_per_second": latest, "before": before},
        )


def _memory(training: TrainingView, usable_bytes: float | None) -> Iterator[RunWarning]:
    peak = training.peak_memory_bytes
    if peak and usable_bytes and peak > FULL * usable_bytes:
        yield RunWarning(
            "memory_nearly_full",
            f"memory is nearly full: {show_bytes(peak)} of {show_bytes(usable_bytes)} that are usable",
            training.name,
            figures={"memory_bytes": peak, "usable_bytes": usable_bytes},
        )


def _silent(view: RunView, now: float) -> Iterator[RunWarning]:
    """A training that runs has logged nothing for much longer than it does between two events."""
    training = view.training
    if view.state != "running" or training is None or training.done or view.last_event is None:
        return
    times = training.steps["time"][-10 * WINDOW :]
    pauses = [after - before for before, after in itertools.pairwise(times) if after > before]
    age = now - view.last_event
    if pauses and age > max(LEAST_QUIET_SECONDS, QUIET * max(pauses)):
        yield RunWarning(
            "silent",
            f"it runs, and has logged nothing for {show_seconds(age)}; before, at most for {show_seconds(max(pauses))}",
            training.name,
            training.step,
            {"seconds": age, "usual_seconds": max(pauses)},
        )


def _measures_nothing(view: RunView) -> bool:
    """Whether a training that is past its first epoch, or done, has no held-out loss and will have none."""
    training, settings = view.training, view.recipe.get("train")
    if training is None or training.held_out or not training.step:
        return False
    asked = settings.get("validate_per_epoch") if isinstance(settings, dict) else None
    return asked == 0 or training.done or bool(training.epoch)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if len(values) else math.nan


def _median(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


_RULES: tuple[Callable[[TrainingView], Iterator[RunWarning]], ...] = (
    _went_back,
    _smaller_batches,
    _rising,
    _not_falling,
    _overfitting,
    _slower,
)
_GRAVEST_FIRST: tuple[Any, ...] = (
    "silent",
    "rising",
    "not_falling",
    "went_back",
    "overfitting",
    "smaller_batches",
    "memory_nearly_full",
    "slower",
    "no_validation",
    "still_falling",
    "unreadable_lines",
)
