"""A run's plan: counted rows and this machine in, the plan and what would help out; and what was measured, noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from afina.errors import DoesNotFit
from afina.evaluate.prose import describe_power
from afina.model.choices import Choices
from afina.model.shape import Shape
from afina.outcome import outcome_kind
from afina.plan import check
from afina.plan.advise import what_would_fit
from afina.plan.bases import rounding_of
from afina.plan.check import cost_in_words, describe, is_long
from afina.plan.device import Device, local_device
from afina.plan.plan import Plan, learned, plan_run
from afina.plan.record import Correction, MeasuredRun, add_run
from afina.plan.tokens import TokenCount, stream_count
from afina.recipe import Recipe, Train
from afina.recipe.changed import smaller_model
from afina.run import Progress
from afina.tokenizer.encode import Row
from afina.tokenizer.tokens import row_sizes
from afina.train.feed import feed_stream
from afina.walk.base import base_files, model_shape, pad_id
from afina.walk.chosen_settings import choose_here
from afina.walk.context import Context
from afina.walk.lengths import count_micro_batches, count_prose
from afina.walk.models import fresh_model
from afina.walk.rows import encoded_rows
from afina.walk.trainings import trainings_of
from afina.whole import write_json

if TYPE_CHECKING:
    from afina.train.trial import Trial


@dataclass(frozen=True)
class Made:
    """A plan and what it was made from."""

    plan: Plan
    shape: Shape
    tokens: TokenCount
    recipe: Recipe
    first: TokenCount | None = None

    def helps(self) -> str:
        """Settings with which it would fit, in words; empty where none would."""
        found = what_would_fit(self.recipe, self.shape, self.tokens, self.plan.device, first=self.first, most=2)
        return " or ".join(suggestion.in_words() for suggestion in found)


def plan_inputs(context: Context) -> dict[str, Any]:
    """What the plan depends on."""
    parts = context.recipe.model_dump(mode="json", include={"adapter", "train", "budget", "chat"})
    return {
        "dataset": context.dataset_hash,
        "tokens": context.tokens_hash,
        "base": base_files(context),
        "recipe": parts | {"scratch": context.recipe.scratch.settings},
        **context.recipe.stages,
        **({"ranks": context.ranks.world} if context.ranks else {}),
    }


def look_ahead(context: Context) -> dict[str, Any]:
    """The stage ``plan``: write ``plan.json``, tell it, refuse what cannot work, ask before a long job.

    All of it inside the stage: a plan that is refused is no finished stage, and is refused again the next time.

    Raises:
        DoesNotFit: even the low end does not fit, or the person at the terminal does not want it.
    """
    made = plan_of(context)
    write_json(context.folder / "plan.json", made.plan.as_json())
    context.tell(describe(made.plan))
    for line in describe_power(context.recipe, context.folder / "dataset"):
        context.tell(line)
    if context.ranks:
        context.tell(f"counted for one device; {context.ranks.world} processes share the work: nothing is refused")
    else:
        check.check_plan(made.plan, context.recipe, helps=made.helps() if made.plan.fits == "no" else "")
    question = f"this takes {cost_in_words(made.plan)}. Start?"
    if context.confirm and is_long(made.plan) and not context.confirm(question):
        raise DoesNotFit("not started, as you said", "the same command asks again; --yes does not ask")
    return {
        "tokens": {
            name: {
                "examples": train.tokens,
                "rows": sum(row_sizes(train.rows).tokens),
                "targets": train.targets,
                "repeated": train.repeated,
                "dropped": train.dropped,
                "boundary_merges": train.boundary_merges,
            }
            for name, (train, _) in encoded_rows(context).items()
        }
    }


def plan_of(context: Context, correction: Correction | None = None) -> Made:
    """The plan of a walk whose rows are encoded, on this machine, corrected by what it has measured before."""
    shape, rows = model_shape(context), encoded_rows(context)
    *first, tokens = [
        count_rows(rows[training.name][0].rows, rows[training.name][1].rows, training.settings, context.recipe)
        for training in trainings_of(context.recipe)
    ]
    tokens = replace(tokens, prose=count_prose(context.folder / "dataset", context.recipe))
    before = first[0] if first else None
    device = local_device(context.recipe.device)
    notes = [rounded] if (rounded := rounding_of(context.recipe)) else []
    plain = plan_run(context.recipe, shape, tokens, device, first=before, notes=notes)
    found = correction or learned(plain)
    if found is None:
        return Made(plain, shape, tokens, context.recipe, before)
    plan = plan_run(context.recipe, shape, tokens, device, first=before, notes=notes, correction=found)
    return Made(plan, shape, tokens, context.recipe, before)


def count_rows(rows: Sequence[Row], held_out: Sequence[Row], settings: Train, recipe: Recipe) -> TokenCount:
    """What a stage of training has to do with its rows; a preference is two of them side by side."""
    sizes, aside = row_sizes(rows), sum(row_sizes(held_out).tokens)
    if recipe.reads_stream:
        return stream_count(feed_stream(rows, settings, recipe.seed).tokens, aside, settings)
    counted = count_micro_batches(sizes.places, sizes.targets, aside, recipe, batch_tokens=settings.batch_tokens)
    return replace(counted, tokens=sum(sizes.tokens), rows=len(rows) + sizes.pairs)


def note_measured(context: Context, result: dict[str, Any]) -> None:
    """Add a finished training, predicted without correction beside measured, to this machine's record."""
    if (
        context.ranks
        or result["stopped"]
        or result["splits"]
        or context.recipe.train.first
        or not (context.folder / "plan.json").is_file()
    ):
        return  # not the job that was planned
    made = plan_of(context)
    plain = plan_run(context.recipe, made.shape, made.tokens, made.plan.device)
    if result["peak_bytes"] > 0 and result["train_seconds"] > 0:
        took = _measured(context, plain, result["peak_bytes"], result["train_seconds"])
        add_run(replace(took, own_share=result.get("own_share")))


def trial_plan(context: Context) -> Plan:
    """Three trial steps of the real thing, by what would train it; the plan that they correct.

    Raises:
        DoesNotFit: memory ran out on the way.
    """
    made, choices = plan_of(context), choose_here(context)
    device: Device = made.plan.device
    with context.open_progress("trial steps") as progress:
        found = (_tried_by_mlx if choices.backend == "mlx" else _tried_by_torch)(context, choices, progress)
    if found is None:
        help_ = made.helps() or f"{smaller_model(context.recipe)}, or a device with more memory"
        raise DoesNotFit("memory ran out within the first steps", help_, "memory")
    plain = plan_run(context.recipe, made.shape, made.tokens, device)
    whole = plain.tokens.padded or 1
    seconds = found.seconds * whole / found.padded_tokens * context.recipe.train.epochs
    measured = _measured(context, plain, found.peak_bytes, seconds, trial=True)
    return plan_of(context, Correction([measured])).plan


def _tried_by_torch(context: Context, choices: Choices, progress: Progress) -> Trial | None:
    from afina.train.trial_torch import try_steps

    model, place = fresh_model(context, choices.precision)
    return try_steps(
        model,
        encoded_rows(context)["train"][0].rows,
        choices.settings(context.recipe.train).model_copy(update={"compile": "off"}),  # three steps do not pay
        seed=context.recipe.seed,
        pad_id=pad_id(context),
        device=place,
        lora_plus_ratio=1.0 if outcome_kind(context.recipe) == "model" else context.recipe.adapter.lora_plus_ratio,
        progress=progress,
    )


def _tried_by_mlx(context: Context, choices: Choices, progress: Progress) -> Trial | None:
    from afina.train.trial import by_backend
    from afina.walk.to_train import opened_by_mlx

    _, _, backend = opened_by_mlx(context, context.recipe.train, choices)
    rows = encoded_rows(context)["train"][0].rows
    return by_backend(backend, rows, backend.settings, seed=context.recipe.seed, progress=progress)


def _measured(context: Context, plain: Plan, peak: float, seconds: float, *, trial: bool = False) -> MeasuredRun:
    return MeasuredRun(
        device=plain.device.name,
        job=plain.job,
        predicted_bytes=plain.memory.point,
        measured_bytes=peak,
        predicted_seconds=plain.time_parts["training"].point,
        measured_seconds=seconds,
        name=context.recipe.name,
        trial=trial,
        rate=plain.device.flops_per_second,
    )
