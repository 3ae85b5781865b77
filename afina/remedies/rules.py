"""The remedies, one small function each: from the reading of a training to what was seen and which keys to change.

To add one: a function here and its line in :data:`RULES`, gravest first; a test with a tiny run that shows it, and
with a good one that does not. The numbers (half the batch, half the rate, 5e-4, 4 to 5 epochs, 768 tokens) are what
guides to adapting models on laptops give their readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from afina.recipe import Train
from afina.remedies.reading import Remedy, RunReading
from afina.units import show_bytes, show_seconds, show_share

FASTER = 2.5
"""Times the usual rate (5e-4 for an adapter): what a loss that does not fall is given."""
FAR_TOO_FAST = 10.0
"""Times the usual rate: beyond it, half of it would be too much as well."""
ENOUGH_EPOCHS = (4.0, 5.0)
LONGER = 768
"""Tokens of an example, where longer ones were left out."""
SLOWER = 1.5
"""Times the high end of the plan: slower than that is too slow."""
ROOM = 0.5
"""Share of the usable memory below which twice the micro-batch fits."""
LEAST_LENGTH = 16


def out_of_memory(run: RunReading) -> Remedy | None:
    """Micro-batches that did not fit: half of them and twice as many, as the loop itself did; or less of a row."""
    halved, full = run.warning("smaller_batches"), run.warning("memory_nearly_full")
    splits = int(halved.figures["splits"]) if halved else 0
    if halved:
        seen = f"at step {halved.step} micro-batches of {run.settings.batch_tokens} tokens did not fit the memory"
        seen += f"; they were halved {_times(splits)}"
    elif run.memory_ran_out:
        seen = f"at step {run.training.step + 1} a single row did not fit the memory"
    elif full and run.view.state == "killed":
        splits = 1
        seen = (
            f"it was killed without a word when it held {show_bytes(full.figures['memory_bytes'])} of "
            f"{show_bytes(full.figures['usable_bytes'])} that can be used"
        )
    else:
        return None
    settings = _smaller_batches(run, splits)
    why = "as many tokens in a step, fewer at a time: what is learned stays the same"
    if run.memory_ran_out:
        seen = seen if not halved else f"{seen}, and then a single row did not fit"
        settings |= _less_of_a_row(run)
        why = "a single row needs less memory then"
    return Remedy(seen, why, settings)


def _smaller_batches(run: RunReading, splits: int) -> dict[str, Any]:
    train = run.settings
    least = train.max_length if run.recipe.reads_stream else LEAST_LENGTH
    batch = max(train.batch_tokens >> splits, min(least, train.batch_tokens))
    if batch == train.batch_tokens:
        return {}
    return {
        run.key("batch_tokens"): batch,
        run.key("accumulate"): train.accumulate * round(train.batch_tokens / batch),
    }


def _less_of_a_row(run: RunReading) -> dict[str, Any]:
    """For a row that does not fit alone: activations computed again, then a base in 4 bits, then shorter rows."""
    train, adapter = run.settings, run.recipe.adapter
    if not train.checkpoint_activations and not run.recipe.reads_stream:
        return {"train.checkpoint_activations": True}
    on_gpu = (run.training.device or "cpu").split(":")[0] not in ("cpu", "mps")
    if on_gpu and not run.recipe.trains_all and adapter.kind == "lora" and adapter.variant != "pissa":
        return {"adapter.kind": "qlora"}
    return _shorter(run)


def _shorter(run: RunReading) -> dict[str, Any]:
    """Half the length; conversations that are longer are left out, and counted."""
    return {"train.max_length": max(LEAST_LENGTH, run.settings.max_length // 2), "dataset.on_too_long": "drop"}


def unstable(run: RunReading) -> Remedy | None:
    """A loss that became NaN, infinite or far higher than it was: half the rate, reached more slowly."""
    back, rising = run.training.went_back, run.warning("rising")
    train, diverged = run.settings, run.ended_by("TrainingDiverged")
    if back:
        steps = ", ".join(str(event.get("step")) for event in back)
        seen = f"a loss, gradient or weight was NaN or infinite after step {steps}: it went back {_times(len(back))}"
        seen += " and gave up" if diverged else ""
    elif diverged and not train.tries:
        seen = f"a loss, gradient or weight was NaN or infinite after step {run.training.step}"
    elif rising:
        seen = rising.what
    else:
        return None
    factor = min(0.5, float(back[-1].get("rate_factor") or 0.5) if back else 0.5)
    rate = train.learning_rate * factor / (2 if back and diverged else 1)
    if rate > FAR_TOO_FAST * run.usual_rate:
        rate = run.usual_rate
    settings = {run.key("learning_rate"): _rounded(rate), run.key("warmup"): _longer_warmup(train)}
    return Remedy(seen, "half the rate (or the usual one), and twice the warm-up", settings)


def _longer_warmup(train: Train) -> float:
    most = 1 - train.decay if train.schedule == "wsd" else 0.5
    return _rounded(min(most, 2 * train.warmup or Train.model_fields["warmup"].default))


def broken_base(run: RunReading) -> Remedy | None:
    """NaN before anything was learned: no learning rate helps."""
    if not run.ended_by("TrainingDiverged") or run.training.step or run.training.went_back:
        return None
    seen = "the base itself computes NaN or an infinite loss, before the first step"
    if run.training.precision == "bf16":
        return Remedy(seen, "some bases overflow in 16 bits", {"train.precision": "fp32"})
    return Remedy(seen, "look at the base with `afina base show`, and take another or a whole copy of it")


def broke(run: RunReading) -> Remedy | None:
    """What the base knew and the trained model does not: general data mixed in, and a lower rate."""
    if run.verdict is None or "of what it knew" not in run.verdict.broke:
        return None
    settings: dict[str, Any] = {run.key("learning_rate"): _rounded(run.settings.learning_rate / 2)}
    if any(source.replay for source in run.recipe.sources):
        share = run.recipe.dataset.replay_share
        settings["dataset.replay_share"] = min(0.5, 2 * share) if share else 0.2
        why = "more of what the base knew, and smaller steps away from it"
    else:
        why = "smaller steps away from what it knew; and add a source of general rows with `replay: true`"
    if not run.recipe.trains_all:
        why += f"; before that, without training: `afina temper {run.view.folder}`"
    return Remedy(f"it broke {run.verdict.broke}", why, settings)


def overfitting(run: RunReading) -> Remedy | None:
    """Held-out loss that rises while the training's falls: stop where it was lowest."""
    warning, train = run.warning("overfitting"), run.settings
    if warning is None or train.patience or run.passed:  # with patience the best weights are those that were kept
        return None
    best, steps = warning.figures["best_step"], run.training.planned_steps
    settings: dict[str, Any] = {}
    if steps and (needed := max(1.0, float(math.ceil(train.epochs * best / steps)))) < train.epochs:
        settings[run.key("epochs")] = needed
    settings |= {"train.patience": 2, "train.validate_per_epoch": max(2, train.validate_per_epoch)}
    return Remedy(
        f"held-out loss was lowest at step {best:.0f} ({warning.figures['best_loss']:.3f}) and is "
        f"{warning.figures['held_out_loss']:.3f} at step {warning.figures['step']:.0f}, while the training loss fell "
        f"from {warning.figures['train_loss_then']:.3f} to {warning.figures['train_loss']:.3f}",
        "what comes after the lowest held-out loss is memorized; with patience the best weights are kept",
        settings,
    )


def nothing_left(run: RunReading) -> Remedy | None:
    """A loss of exactly zero: there was nothing left to learn long before the end."""
    standing = run.ended_by("TrainingDiverged") and run.training.step > 0 and run.settings.tries > 0
    if not standing or run.training.went_back or run.warning("not_falling"):
        return None
    done = run.training.step / (run.training.planned_steps or run.training.step)
    return Remedy(
        f"after step {run.training.step} the loss was exactly zero, or stood still",
        "end before there is nothing left to learn, with smaller steps",
        {
            run.key("epochs"): _rounded(run.settings.epochs * done / 2),
            run.key("learning_rate"): _rounded(run.settings.learning_rate / 2),
        },
    )


def not_falling(run: RunReading) -> Remedy | None:
    """A loss that is where it began: a rate that moves something, and more passes."""
    warning, train = run.warning("not_falling"), run.settings
    if warning is None and train.learning_rate:
        return None
    rate, settings = _rounded(FASTER * run.usual_rate), dict[str, Any]()
    if train.learning_rate < rate or train.learning_rate > FAR_TOO_FAST * rate:
        settings[run.key("learning_rate")] = rate
    if more := next((epochs for epochs in ENOUGH_EPOCHS if epochs > train.epochs), None):
        settings[run.key("epochs")] = more
    seen = "the learning rate is 0: no step moves anything"
    if warning is not None:
        seen = (
            f"the loss was {warning.figures['first_loss']:.3f} and is {warning.figures['loss']:.3f} after "
            f"{warning.figures['steps']:.0f} steps at a rate of {train.learning_rate:g}"
        )
    if settings:
        return Remedy(seen, "a rate at which adapters learn, and passes enough", settings)
    return Remedy(seen, "look at what is learned with `afina data show --tokens`")


def too_slow(run: RunReading) -> Remedy | None:
    """Much slower than was planned, or out of budget: more at a time where memory allows it, else shorter rows."""
    train, parts = run.settings, run.plan.record("time").record("parts") if run.plan else None
    planned = parts.record("training").number("high") if parts and run.recipe.train.first is None else None
    if run.budget_spent:
        seen = "; ".join(problem.what for problem in run.view.problems if problem.where)
    elif planned and run.seconds > SLOWER * planned:
        seen = f"training takes {show_seconds(run.seconds)}, and the plan said {show_seconds(planned)} at most"
    else:
        return None
    used = run.memory_used
    if used is None or used > ROOM:
        return Remedy(seen, "there is no room for larger batches; shorter rows take less time", _shorter(run))
    seen += f"; {show_share(used)} of the usable memory was used"
    if train.checkpoint_activations:
        return Remedy(seen, "activations have room: they need not be computed again", _kept_activations())
    settings: dict[str, Any] = {run.key("batch_tokens"): 2 * train.batch_tokens}
    if train.accumulate > 1:
        settings[run.key("accumulate")] = -(-train.accumulate // 2)
    return Remedy(seen, "there is room for larger batches, which take less time for as many tokens", settings)


def _kept_activations() -> dict[str, Any]:
    return {"train.checkpoint_activations": False}


def more_to_learn(run: RunReading) -> Remedy | None:
    """A training that ended while it still learned, or did not learn enough: more passes, and longer rows."""
    falling, verdict = run.warning("still_falling"), run.verdict
    if run.passed:
        return None
    if falling:
        seen = falling.what
    elif verdict is not None and verdict.learned in ("too little", "no"):
        seen = f"the verdict: learned {verdict.learned}"
    else:
        return None
    train, enough = run.settings, ENOUGH_EPOCHS[-1]
    more = enough if train.epochs < enough else float(math.ceil(1.5 * train.epochs))
    settings: dict[str, Any] = {run.key("epochs"): more}
    if lost := run.dropped.get("too_long"):
        seen += f"; conversations with {lost} tokens were left out, longer than {train.max_length}"
        settings["train.max_length"] = LONGER if train.max_length < LONGER else 2 * train.max_length
    return Remedy(seen, "more passes, and nothing left out for its length", settings)


Rule = Callable[[RunReading], Remedy | None]
RULES: dict[str, Rule] = {
    each.__name__: each
    for each in (
        out_of_memory,
        broken_base,
        unstable,
        broke,
        overfitting,
        nothing_left,
        not_falling,
        too_slow,
        more_to_learn,
    )
}
"""Every rule by its name, the gravest first: where two want a key to be different, the first one is tried first."""


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _rounded(value: float) -> float:
    """Two digits that count.

    >>> _rounded(1.27e-4)
    0.00013
    """
    return float(f"{value:.2g}")
