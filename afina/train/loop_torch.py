"""The training loop: one function, read from top to bottom.

Every step: micro-batches of rows of like length, the loss summed over their targets and divided by
the step's targets (so that tokens weigh the same however they are grouped), clip, AdamW, log.
The state that a step depends on is in a checkpoint whole, so that a run that was killed ends with
bitwise the weights of one that was not (same machine, same number of threads).

Several processes can do it together, see :mod:`afina.train.ranks`: each runs this loop on its share of every step.
What happens when a loss is not a number or memory runs out is in :mod:`afina.train.guard`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from afina.errors import DataError, DoesNotFit
from afina.evaluate.loss import held_out_loss
from afina.model.loss_torch import Batch, Totals, check_loss, make_batch, target_loss
from afina.recipe import Budget, Train
from afina.run import Progress, no_progress
from afina.tokenizer.encode import Row
from afina.tokenizer.tokens import row_sizes
from afina.train.batches import plan_epoch, plan_steps
from afina.train.checkpoint import (
    LoopState,
    forget_after,
    load_best,
    load_checkpoint,
    newest_checkpoint,
    random_states,
    save_best,
    save_checkpoint,
    set_random_states,
)
from afina.train.guard import (
    LastGood,
    all_finite,
    check_moving,
    does_not_fit,
    halve,
    in_smaller_batches,
    is_number,
    memory_errors,
    name_rows,
)
from afina.train.meter import Meter, flops_per_token, memory_bytes
from afina.train.optimizer import make_optimizer, set_rate
from afina.train.ranks import Ranks
from afina.train.schedule import learning_rate
from afina.train.shard_torch import whole
from afina.train.sharing import may_share
from afina.train.signals import Stopped, collect_signals
from afina.train.switches import products_in, switch_kernels, training_mode, uncompiled


class Score(Protocol):
    """A measurement of held-out rows; the lower its loss the better."""

    @property
    def loss(self) -> float: ...

    @property
    def figures(self) -> dict[str, Any]: ...


class Objective(Protocol):
    """What a training makes small: see :class:`Answers`, and :mod:`afina.train.preference` for pairs."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that come with a loss."""

    def loss(self, model: Any, batch: Batch, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of a step's loss that a micro-batch adds, and of figures to log with it."""

    def held_out(
        self, model: Any, rows: Sequence[Row], *, pad_id: int, device: torch.device, batch_tokens: int
    ) -> Score:
        """Measure rows that are not learned."""


class Answers:
    """Cross-entropy, each target of a step counted alike."""

    figures = ()

    def loss(self, model: Any, batch: Batch, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        return target_loss(model, batch) / totals.targets, {}

    def held_out(self, model: Any, rows: Sequence[Row], **options: Any) -> Score:
        return held_out_loss(model, rows, **options)


class Log(Protocol):
    """Takes events for ``metrics.jsonl``."""

    def __call__(self, event: str, **values: object) -> None: ...


def train(
    model: Any,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    settings: Train,
    *,
    seed: int,
    pad_id: int,
    device: torch.device,
    checkpoints: Path,
    fingerprint: str,
    log: Log,
    say: Any,
    progress: Progress = no_progress,
    lora_plus_ratio: float = 1.0,
    budget: Budget | None = None,
    earlier_seconds: float = 0.0,
    peak_flops: float | None = None,
    objective: Objective | None = None,
    ranks: Ranks | None = None,
) -> LoopState:
    """Train the parameters of `model` that require a gradient; resumes from `checkpoints`.

    Args:
        model: a transformers or PEFT causal language model on `device`.
        rows: what is learned. held_out: measured ``validate_per_epoch`` times, never learned.
        settings: what they leave at ``auto`` is off; :func:`afina.model.choices.choose` decides it before.
        fingerprint: hash of recipe, data and base; checkpoints of another one are passed over.
        budget: a training that reaches it stops with a checkpoint; the time since its first start counts.
        earlier_seconds: what the run spent before training, for the budget.
        peak_flops: floating-point operations per second that the device can do at most, for MFU.
        objective: what is made small; :class:`Answers` where not given.
        ranks: the processes that train together, connected; each calls this with the same arguments, and only the
            first one's `log` and `say` are heard.

    Raises:
        TrainingDiverged: a loss, gradient or weight is not a number, after going back ``tries`` times;
            or the loss is exactly zero, or stands still.
        DoesNotFit: one row does not fit the memory, or the budget is used up.
        DiskFull: while a checkpoint is written; earlier ones are whole.
    """
    if not rows:
        raise DataError("there is nothing to train on", "look at dataset/dropped.jsonl for the reasons")
    objective, ranks = objective or Answers(), ranks or Ranks()
    sizes = row_sizes(rows)
    lengths = sizes.places
    epochs = [
        plan_steps(plan_epoch(lengths, batch_tokens=settings.batch_tokens, seed=seed, epoch=epoch), settings.accumulate)
        for epoch in range(math.ceil(settings.epochs))
    ]
    plan = [(epoch, step) for epoch, steps in enumerate(epochs) for step in steps]
    steps = max(1, round(len(plan) - (len(epochs) - settings.epochs) * len(epochs[-1])))
    validation_steps = _validation_steps([len(each) for each in epochs], settings.validate_per_epoch, steps)

    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = make_optimizer(model, settings, device, lora_plus_ratio=lora_plus_ratio)
    first_row = [rows[plan[0][1][0][0]]]
    with memory_errors(final=ranks.sharded) as short:
        check_loss(model, make_batch(first_row, pad_id, device), lambda: switch_kernels(model, settings, say))
    if short:
        raise does_not_fit("the first row", short[0], name_rows(first_row, [[0]]))
    ranks.seed(seed)
    state, snapshot = LoopState(fingerprint=fingerprint, threads=torch.get_num_threads(), ranks=ranks.world), None
    found = newest_checkpoint(checkpoints, fingerprint, say, ranks)
    if found:
        with ranks.in_turn():
            state, snapshot = load_checkpoint(found, model, optimizer, ranks)
        say(f"train: goes on from step {state.step} of {steps}")
        log("resumed", step=state.step)
        if state.threads != torch.get_num_threads():
            say(
                f"train: the earlier part ran with {state.threads} threads, this one with "
                f"{torch.get_num_threads()}: the result will not be bitwise that of one run"
            )
            state.threads = torch.get_num_threads()
        if state.ranks != ranks.world:
            say(
                f"train: the earlier part ran in {state.ranks} processes, this one in {ranks.world}: sums are rounded "
                "and dropout is drawn otherwise; the result will not be bitwise that of one run"
            )
            state.ranks = ranks.world
    else:
        log("train_started_anew", steps=steps, rows=len(rows), tokens=sum(sizes.tokens))
    ranks.check_same(parameters)
    one_epoch = [numbers for step in epochs[0] for numbers in step]
    share = not ranks.sharded and may_share(model, rows, one_epoch, settings, pad_id=pad_id, device=device, say=say)
    good = LastGood.for_model(model, checkpoints, snapshot, ranks)
    meter = Meter(budget or Budget(), earlier_seconds, state.wall_seconds)
    flops_token, flops_target = flops_per_token(model)
    first, saved = state.step, time.monotonic()

    def save(keep: int = settings.keep_checkpoints) -> None:
        nonlocal saved
        state.wall_seconds = meter.wall_seconds
        ranks.check_same(parameters)
        save_checkpoint(checkpoints, model, optimizer, state, keep=keep, good=good.snapshot, ranks=ranks)
        log("checkpoint", step=state.step)
        saved = time.monotonic()

    def go_back(reason: str) -> None:
        """To the last good state with half the rate; from then on, the checkpoints begin there as well."""
        nonlocal state
        left, state = state.step, good.go_back(model, optimizer, state, settings, reason)
        say(f"train: {reason}; goes back to step {state.step} with {state.rate_factor:g} of the rate")
        log("went_back", step=left, to=state.step, reason=reason, tries=state.tries, rate_factor=state.rate_factor)
        save(keep=sys.maxsize)
        if ranks.first:
            forget_after(checkpoints, state.step)

    if not found and not good.in_memory:
        save()
    over = ranks.reason(meter.over_budget())
    with collect_signals() as caught, training_mode(model, settings):  # from here on, all ranks in step
        while state.step < steps and not state.stopped:
            if over:
                raise _budget_spent(over, state.step, steps, say)
            started, random = time.monotonic(), random_states()
            epoch, micro_batches = plan[state.step]
            totals = Totals.of_rows([rows[row] for numbers in micro_batches for row in numbers])
            while True:
                parts = halve(micro_batches, state.splits)
                own, idle = ranks.share(parts, lengths)
                with memory_errors(final=ranks.sharded) as short:
                    batches = [
                        make_batch([rows[row] for row in numbers], pad_id, device, share=share)
                        for numbers in [*own, *idle]
                    ]
                    loss_sum, figures = _backward(model, batches, totals, objective, settings.precision, idle=len(idle))
                if not (why := ranks.reason("".join(short))):
                    break
                optimizer.zero_grad(set_to_none=True)
                if max(map(len, parts)) == 1:
                    raise does_not_fit("a micro-batch of a single row", why, name_rows(rows, parts))
                set_random_states(random)
                state.splits += 1
                say(f"train: step {state.step + 1} does not fit the memory; micro-batches are halved from here on")
                log("smaller_batches", step=state.step, splits=state.splits, reason=why)
            loss_sum, padded, shared, *values = ranks.sum(
                loss_sum,
                sum(batch.ids_BL.numel() for batch in batches),
                sum(batch.saved for batch in batches[: len(own)]),
                *(figures.get(name, 0.0) for name in objective.figures),
            )
            ranks.add_gradients(parameters)
            norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, settings.clip)))
            if not is_number(loss_sum, norm):
                what = f"at step {state.step + 1} the loss is {loss_sum} and the gradient's norm {norm}"
                go_back(f"{what}; batch: {name_rows(rows, micro_batches)}")
                continue
            rate = learning_rate(state.step, steps, settings) * state.rate_factor
            check_moving(state, loss_sum, rate)
            good.note(model, optimizer, state, random)
            set_rate(optimizer, rate)
            with memory_errors(final=ranks.sharded) as short:
                optimizer.step()
            if short:
                raise does_not_fit("the optimizer's state", short[0])
            optimizer.zero_grad(set_to_none=True)

            seconds = time.monotonic() - started
            state.step += 1
            state.tokens += totals.tokens
            state.targets += totals.targets
            state.seconds += seconds
            flops = (flops_token * (totals.tokens - shared) + flops_target * totals.targets) / seconds
            log(
                "step",
                step=state.step,
                epoch=epoch,
                loss=round(loss_sum, 6),
                learning_rate=rate,
                grad_norm=round(norm, 5),
                tokens=totals.tokens,
                target_tokens=totals.targets,
                micro_batches=len(parts),
                shared_tokens=int(shared),
                padded_share=round(1 - totals.tokens / padded, 4),
                tokens_per_second=round(totals.tokens / seconds, 1),
                flops_per_second=float(f"{flops:.4g}"),
                mfu=round(flops / peak_flops, 4) if peak_flops else None,
                memory_bytes=memory_bytes(device),
                eta_seconds=round(meter.eta_seconds(state.step - first, steps - state.step) or 0.0, 3),
                money=round(meter.money, 6),
                **{name: round(value, 6) for name, value in zip(objective.figures, values, strict=True)},
            )
            progress(state.step, steps, f"steps, loss {loss_sum:.3f}")
            if state.step in validation_steps and held_out:
                score = measure(
                    model, held_out, settings, pad_id, device, objective, splits=state.splits, final=ranks.sharded
                )
                score = ranks.from_first(score)
                log("validation", step=state.step, **score.figures)
                if not is_number(score.loss):
                    go_back(f"after step {state.step} the held-out loss is {score.loss}")
                    continue
                if _is_best(state, score.loss):
                    save_best(checkpoints, model, state, ranks)
                elif settings.patience and state.waited >= settings.patience:
                    state.stopped = f"no better held-out loss in {state.waited} measurements"
                    say(f"train: {state.stopped}; the weights of step {state.best_step} are kept")
                    log("stopped_early", step=state.step, best_step=state.best_step, best_loss=state.best_loss)
            ends = state.step == steps or bool(state.stopped)
            over = ranks.reason(meter.over_budget())
            seconds_since = time.monotonic() - saved if ranks.first else 0.0
            signal, seconds_since = ranks.most(caught[0] if caught else 0, seconds_since)
            if seconds_since >= settings.checkpoint_seconds or signal or over or ends:
                if not ranks.most(not all_finite(parameters))[0]:
                    save()
                else:
                    where = name_rows(rows, micro_batches)
                    go_back(f"after step {state.step} a weight is not a number; batch: {where}")
            if signal and not ends:
                say(f"train: stopped at step {state.step} of {steps}; the same command goes on from there")
                raise Stopped(128 + int(signal))
    if settings.patience and state.best_step:
        load_best(checkpoints, model, state)
    return state


def _backward(
    model: Any, batches: Sequence[Batch], totals: Totals, objective: Objective, precision: str, *, idle: int = 0
) -> tuple[float, dict[str, float]]:
    """Add up the gradients of a step; returns its loss and figures. A function, so that nothing of a graph outlives
    it. The last `idle` batches are other ranks', who need this one while they compute theirs: they count nothing."""
    loss_sum, figures = 0.0, dict[str, float]()
    for number, batch in enumerate(batches):
        with products_in(precision, batch.ids_BL.device):
            loss, more = objective.loss(model, batch, totals)
        if number >= len(batches) - idle:
            (0.0 * loss).backward()
            continue
        loss.backward()
        loss_sum += loss.item()
        figures = {name: figures.get(name, 0.0) + value for name, value in more.items()}
    return loss_sum, figures


def measure(
    model: Any,
    held_out: Sequence[Row],
    settings: Train,
    pad_id: int,
    device: torch.device,
    objective: Objective,
    *,
    splits: int = 0,
    final: bool = False,
) -> Score:
    """Held-out loss without a trace in the training state; smaller batches where memory runs out.

    Raises:
        DoesNotFit: not even single rows fit.
    """

    def score(batch_tokens: int) -> Score:
        return objective.held_out(model, held_out, pad_id=pad_id, device=device, batch_tokens=batch_tokens)

    model.eval()
    try:
        with uncompiled(settings), products_in(settings.precision, device):
            return in_smaller_batches(
                score, settings.batch_tokens >> splits, held_out, "the held-out loss", final=final
            )
    finally:
        model.train()


def _is_best(state: LoopState, loss: float) -> bool:
    """Note a held-out loss and whether it is the lowest so far."""
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.best_step, state.waited = loss, state.step, 0
        return True
    state.waited += 1
    return False


def _budget_spent(over: str, step: int, steps: int, say: Any) -> DoesNotFit:
    say(f"train: {over} at step {step} of {steps}; everything up to there is saved")
    return DoesNotFit(
        f"{over} at step {step} of {steps}; what was learned is in the checkpoint",
        "the same command with a larger budget goes on from there: budget.hours=..., budget.money=...",
        "budget",
    )


def _validation_steps(steps_per_epoch: Sequence[int], times: int, steps: int) -> set[int]:
    """The steps after which held-out loss is measured: `times` per epoch, the epoch's end among them."""
    wanted, before = set(), 0
    for count in steps_per_epoch:
        wanted |= {before + round(count * part / times) for part in range(1, times + 1)} if times else set()
        before += count
    return {step for step in wanted if 0 < step <= steps}
