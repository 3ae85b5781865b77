"""The plan: does the job fit, how long does it take, what does it cost. Before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from afina.errors import DoesNotFit, Problem, RecipeError
from afina.model.shape import Shape
from afina.plan.device import Device
from afina.plan.interval import Interval
from afina.plan.memory import Arithmetic, Setup, frozen_weight_bytes, trained_parameters, training_memory
from afina.plan.time import optimizer_steps, run_time
from afina.plan.tokens import TokenCount, estimate_tokens, unsized_sources
from afina.recipe import Recipe, expand_path
from afina.units import show_bytes, show_count, show_money, show_seconds

ANSWER_PEAK = 1.5
"""The micro-batch with most answers holds this many times the mean share of learned tokens."""


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take. Bytes, seconds, and the recipe's currency."""

    device: Device
    memory_parts: dict[str, Interval]
    time_parts: dict[str, Interval]
    steps: int
    tokens: TokenCount
    parameters: int
    trained_parameters: int
    money: Interval | None = None
    currency: str = "US$"
    notes: list[str] = field(default_factory=list)

    @property
    def memory(self) -> Interval:
        """Peak bytes."""
        return Interval.total(self.memory_parts.values())

    @property
    def time(self) -> Interval:
        """Seconds from start to end."""
        return Interval.total(self.time_parts.values())

    @property
    def fits(self) -> Literal["yes", "no", "maybe"]:
        """`yes` when even the high end fits the usable memory, `no` when not even the low end does."""
        if self.memory.high <= self.device.usable_bytes:
            return "yes"
        return "no" if self.memory.low > self.device.usable_bytes else "maybe"

    def as_json(self) -> dict[str, Any]:
        """The plan as ``plan.json`` holds it."""
        return {
            "device": self.device.as_json(),
            "parameters": self.parameters,
            "trained_parameters": self.trained_parameters,
            "tokens": {"per_epoch": self.tokens.tokens, "targets": self.tokens.targets, "spread": self.tokens.spread},
            "memory": {
                "parts": {name: part.as_json() for name, part in self.memory_parts.items()},
                **self.memory.as_json(),
                "usable": self.device.usable_bytes,
            },
            "time": {"parts": {name: part.as_json() for name, part in self.time_parts.items()}, **self.time.as_json()},
            "steps": self.steps,
            "money": {**self.money.as_json(), "currency": self.currency} if self.money else None,
            "fits": self.fits,
            "notes": self.notes,
        }


def plan_run(
    recipe: Recipe,
    shape: Shape,
    tokens: TokenCount | None,
    device: Device,
    *,
    checkpointing: bool = False,
    first: TokenCount | None = None,
) -> Plan:
    """Predict memory, time and money of a recipe.

    Args:
        shape: of the base, or of the model to start from nothing.
        tokens: what the dataset holds; estimated from the size of the source files where not given.
        device: what it would run on.
        checkpointing: whether activations are computed again instead of kept.
        first: what the first stage of ``train.first`` learns, where `tokens` are given.

    Raises:
        RecipeError: for an adapter target that the model does not have.
    """
    notes: list[str] = []
    if tokens is None:
        tokens = estimate_tokens(recipe)
        first = estimate_tokens(recipe, "first") if recipe.train.first else None
        notes.append("tokens are estimated from the size of the files; `afina data build` counts them")
        notes += unsized_sources(recipe)
    setup = _setup(recipe, tokens, device, checkpointing)
    if setup.batch_tokens > recipe.train.batch_tokens:
        notes.append(f"one example of {tokens.longest} tokens is longer than train.batch_tokens and sets the peak")
    if recipe.train.max_length > shape.max_positions:
        notes.append(
            f"train.max_length {recipe.train.max_length} is beyond the model's {shape.max_positions} positions"
        )
    if setup.arithmetic == "16bit":
        notes.append("every weight of the base is trained in 16 bits, AdamW's averages too")
    if setup.kind == "qlora" and device.kind != "cuda":
        notes.append(f"4-bit weights on {device.kind} are computed slowly; the time is an underestimate")
    scratch = recipe.train.method == "scratch"
    generated, unread = _generated_tokens(recipe)
    notes += unread
    time_parts = run_time(
        shape,
        setup,
        device,
        tokens,
        epochs=recipe.train.epochs,
        validations=recipe.train.validate_per_epoch * recipe.train.epochs + 2 * (not scratch),
        generated_tokens=generated,
        weight_bytes=frozen_weight_bytes(shape, setup),
        judged_before=recipe.train.method == "dpo",
    )
    memory_parts = training_memory(shape, setup)
    steps = optimizer_steps(tokens, recipe.train.batch_tokens, recipe.train.accumulate, recipe.train.epochs)
    if first is not None and recipe.train.first:
        alone = recipe.model_copy(update={"train": recipe.train.of_first()})
        before = plan_run(alone, shape, first, device, checkpointing=checkpointing)
        time_parts |= {name: time_parts[name] + before.time_parts[name] for name in ("training", "validation")}
        memory_parts = max(memory_parts, before.memory_parts, key=lambda parts: Interval.total(parts.values()).point)
        notes.append(
            f"two stages: {before.steps} steps of {recipe.train.first.method} over {show_count(first.tokens)} tokens "
            f"an epoch, then {steps} steps of {recipe.train.method}"
        )
        steps += before.steps
    price = recipe.budget.price_per_hour or device.price_per_hour
    seconds = Interval.total(time_parts.values())
    return Plan(
        device=device,
        memory_parts=memory_parts,
        time_parts=time_parts,
        steps=steps,
        tokens=tokens,
        parameters=shape.parameters,
        trained_parameters=trained_parameters(shape, setup),
        money=seconds * (price / 3600) if price else None,
        currency=recipe.budget.currency if recipe.budget.price_per_hour else "US$",
        notes=notes,
    )


def check_plan(plan: Plan, recipe: Recipe) -> None:
    """Refuse a run that cannot work: not even the low end fits the memory or the budget.

    Raises:
        DoesNotFit: with one problem for each bound that is missed: by how much, and what helps.
        RecipeError: when `budget.money` is set and no price is known to compare it with.
    """
    budget = recipe.budget
    if budget.money is not None and plan.money is None:
        raise RecipeError(
            "`budget.money` is set, but the device has no price", "give `budget.price_per_hour`", "budget.money"
        )
    problems = []
    if plan.fits == "no":
        low, usable = plan.memory.low, plan.device.usable_bytes
        problems.append(
            Problem(
                f"needs at least {show_bytes(low)} of memory; {plan.device.name} has {show_bytes(usable)} to use, "
                f"{show_bytes(low - usable)} too little",
                _what_helps(plan, recipe),
                "memory",
            )
        )
    hours = plan.time.low / 3600
    if budget.hours is not None and hours > budget.hours:
        problems.append(
            Problem(
                f"takes at least {show_seconds(plan.time.low)}, {show_seconds(plan.time.low - budget.hours * 3600)} "
                f"more than `budget.hours` {budget.hours:g} allows",
                f"train.epochs: {recipe.train.epochs * budget.hours / hours:.2g} would fit; so would a faster device "
                "or a smaller base",
                "budget.hours",
            )
        )
    if budget.money is not None and plan.money is not None and plan.money.low > budget.money:
        problems.append(
            Problem(
                f"costs at least {show_money(plan.money.low, plan.currency)}, "
                f"{show_money(plan.money.low - budget.money, plan.currency)} more than `budget.money` allows",
                f"train.epochs: {recipe.train.epochs * budget.money / plan.money.low:.2g} would fit; so would a "
                "cheaper device or a smaller base",
                "budget.money",
            )
        )
    if problems:
        raise DoesNotFit(problems=problems)


def describe(plan: Plan) -> str:
    """The plan in a few aligned lines."""
    memory, time, device = plan.memory, plan.time, plan.device
    lines = [
        ("device", f"{device.name} ({device.kind}), {show_bytes(device.usable_bytes)} usable"),
        ("model", f"{show_count(plan.parameters)} parameters, {show_count(plan.trained_parameters)} trained"),
        (
            "data",
            f"{show_count(plan.tokens.tokens)} tokens an epoch, {show_count(plan.tokens.targets)} learned; "
            f"{plan.steps} steps",
        ),
        ("memory", f"{show_bytes(memory.point)} ({show_bytes(memory.low)} to {show_bytes(memory.high)})"),
    ]
    largest = sorted(plan.memory_parts.items(), key=lambda item: -item[1].point)
    lines += [("", f"{name:<12}{show_bytes(part.point):>10}") for name, part in largest if part.point >= 2**20]
    lines.append(("time", f"{show_seconds(time.point)} ({show_seconds(time.low)} to {show_seconds(time.high)})"))
    if plan.money:
        low, high = (show_money(amount, plan.currency) for amount in (plan.money.low, plan.money.high))
        lines.append(("money", f"{show_money(plan.money.point, plan.currency)} ({low} to {high})"))
    lines.append(("fits", plan.fits))
    lines += [("note", note) for note in plan.notes]
    return "\n".join(f"{name:<8}{text}" for name, text in lines)


def _setup(recipe: Recipe, tokens: TokenCount, device: Device, checkpointing: bool) -> Setup:
    """The largest micro-batch: as full as it may be, one example at least, no more than there is."""
    train = recipe.train
    longest = min(tokens.longest, train.max_length * (2 if train.learns_preferences else 1))
    batch_tokens = max(longest, min(train.batch_tokens, tokens.tokens))
    share = min(1.0, tokens.target_share * ANSWER_PEAK)
    targets = recipe.adapter.targets
    kind = "none" if train.method == "scratch" else recipe.adapter.kind
    arithmetic: Arithmetic = "float32"
    if device.kind == "cuda" and train.method != "scratch" and kind != "qlora":
        arithmetic = "mixed" if kind == "lora" else "16bit"
    return Setup(
        kind=kind,
        batch_tokens=batch_tokens,
        target_tokens=round(batch_tokens * share),
        rank=recipe.adapter.rank,
        targets=targets if isinstance(targets, str) else tuple(targets),
        place=device.kind,
        arithmetic=arithmetic,
        trained_bytes=(2.0, 2.0, 4.0) if arithmetic == "16bit" else (4.0, 4.0, 8.0),
        checkpointing=checkpointing,
        validation_target_tokens=round(batch_tokens * share) if tokens.held_out else 0,
    )


def _generated_tokens(recipe: Recipe) -> tuple[float, list[str]]:
    """Most tokens that evaluation asks for: every probe's rows and the samples, before and after."""
    rows, notes = recipe.evaluate.samples, []
    for probe in recipe.evaluate.probes:
        for file in expand_path(Path(recipe.root), probe.path):
            if file.is_file():
                with file.open("rb") as lines:
                    rows += sum(1 for line in lines if line.strip())
            else:
                notes.append(f"probe {probe.path}: a folder; its questions are not in the time")
    times = 1 if recipe.train.method == "scratch" else 2
    return float(times * rows * recipe.evaluate.max_new_tokens), notes


def _what_helps(plan: Plan, recipe: Recipe) -> str:
    """What to change, by the largest part of the memory."""
    parts = {name: part.low for name, part in plan.memory_parts.items()}
    moving = parts["activations"] + parts["logits"] + parts["validation"]
    states = parts["gradients"] + parts["optimizer"]
    if moving >= max(states, parts["weights"]):
        over = plan.memory.low - plan.device.usable_bytes
        if over < moving and plan.tokens.longest < recipe.train.batch_tokens:
            fitting = max(plan.tokens.longest, int(recipe.train.batch_tokens * (1 - over / moving)))
            return f"train.batch_tokens: {fitting} or less, with train.accumulate raised as much"
        return "shorter examples (train.max_length), a smaller base, or a device with more memory"
    if recipe.adapter.kind == "none" or recipe.train.method == "scratch":
        return "adapter.kind: lora trains a few per cent of the weights, or take a smaller model"
    if recipe.adapter.kind == "lora" and plan.device.kind == "cuda":
        return "adapter.kind: qlora keeps the base in 4 bits, or take a smaller base"
    return "a smaller base, or a device with more memory"
