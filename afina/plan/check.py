"""Whether a plan may start, and how it reads."""

from __future__ import annotations

import math

from afina.errors import DoesNotFit, Problem, RecipeError
from afina.plan.plan import Plan
from afina.recipe import Recipe
from afina.recipe.changed import smaller_model
from afina.units import show_bytes, show_count, show_money, show_seconds

LONG_SECONDS = 3600.0
"""A job that takes longer, or costs more than :data:`LONG_MONEY`, is asked about once where a person is there."""
LONG_MONEY = 1.0


def check_plan(plan: Plan, recipe: Recipe, *, helps: str = "") -> None:
    """Refuse a run that cannot work: not even the low end fits the memory or the budget.

    Args:
        helps: what would fit, from :func:`afina.plan.advise.what_would_fit`.

    Raises:
        DoesNotFit: with one problem for each bound that is missed: by how much, and what helps. Not where the
            recipe says ``budget.anyway``.
        RecipeError: when `budget.money` is set and no price is known to compare it with.
    """
    budget, smaller = recipe.budget, smaller_model(recipe)
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
                helps or f"{smaller}, or a device with more memory: `afina plan --all` lists what fits",
                "memory",
            )
        )
    hours = plan.time.low / 3600
    if budget.hours is not None and hours > budget.hours:
        problems.append(
            Problem(
                f"takes at least {show_seconds(plan.time.low)}, {show_seconds(plan.time.low - budget.hours * 3600)} "
                f"more than `budget.hours` {budget.hours:g} allows",
                f"{_epochs_within(plan, recipe, budget.hours * 3600)}a faster device or {smaller}",
                "budget.hours",
            )
        )
    if budget.money is not None and plan.money is not None and plan.money.low > budget.money:
        problems.append(
            Problem(
                f"costs at least {show_money(plan.money.low, plan.currency)}, "
                f"{show_money(plan.money.low - budget.money, plan.currency)} more than `budget.money` allows",
                f"{_epochs_within(plan, recipe, plan.time.low * budget.money / plan.money.low)}a cheaper device or "
                f"{smaller}",
                "budget.money",
            )
        )
    if problems and not budget.anyway:
        raise DoesNotFit(problems=problems)


def _epochs_within(plan: Plan, recipe: Recipe, seconds: float) -> str:
    """The epochs that fit, in words before other advice; empty where the rest of the run takes that long alone.

    Evaluation, a first stage and the start cost the same whatever the epochs are.
    """
    training = plan.time_parts["training"].low
    left = (seconds - (plan.time.low - training)) / training
    if left <= 0 or recipe.train.first:
        return ""
    epochs = recipe.train.epochs * left
    digits = 1 - math.floor(math.log10(epochs))
    return f"train.epochs: {math.floor(epochs * 10**digits) / 10**digits:g} fits; so does "


def is_long(plan: Plan) -> bool:
    """Whether a person should be asked before it starts."""
    return plan.time.point > LONG_SECONDS or (plan.money is not None and plan.money.point > LONG_MONEY)


def cost_in_words(plan: Plan) -> str:
    """Time and money in one line."""
    text = f"{show_seconds(plan.time.point)} ({show_seconds(plan.time.low)} to {show_seconds(plan.time.high)})"
    if plan.money:
        low, high = (show_money(amount, plan.currency) for amount in (plan.money.low, plan.money.high))
        text += f", {show_money(plan.money.point, plan.currency)} ({low} to {high})"
    return text


def describe(plan: Plan) -> str:
    """The plan in a few aligned lines."""
    memory, time, device = plan.memory, plan.time, plan.device
    several = f"{plan.devices} x " if plan.devices > 1 else ""
    shared = f" each, {plan.parallel}" if plan.devices > 1 else ""
    lines = [
        ("device", f"{several}{device.name} ({device.kind}), {show_bytes(device.usable_bytes)} usable{shared}"),
        ("model", f"{show_count(plan.parameters)} parameters, {show_count(plan.trained_parameters)} trained"),
        (
            "data",
            f"{show_count(plan.tokens.tokens)} tokens an epoch, {show_count(plan.tokens.targets)} learned; "
            f"{plan.steps} steps",
        ),
        ("memory", f"{show_bytes(memory.point)} ({show_bytes(memory.low)} to {show_bytes(memory.high)})"),
    ]
    largest = sorted(plan.memory_parts.items(), key=lambda item: -item[1].point)
    if not plan.correction:  # what was measured on the device itself stands below
        lines.append(("", f"how sure: {plan.memory_sureness.in_words}"))
    lines += [("", f"{name:<20}{show_bytes(part.point):>10}") for name, part in largest if part.point >= 2**20]
    lines.append(("time", f"{show_seconds(time.point)} ({show_seconds(time.low)} to {show_seconds(time.high)})"))
    if not plan.correction or not plan.correction.timed:
        lines.append(("", f"how sure: {plan.time_sureness.in_words}"))
    if plan.money:
        low, high = (show_money(amount, plan.currency) for amount in (plan.money.low, plan.money.high))
        price = f"{show_money(plan.price_per_hour or 0.0, plan.currency)} an hour, {plan.price_source}"
        lines.append(("money", f"{show_money(plan.money.point, plan.currency)} ({low} to {high}); {price}"))
    lines.append(("fits", plan.fits + (f": depends on {plan.depends}" if plan.depends else "")))
    if plan.correction:
        lines.append(("learned", plan.correction.in_words))
    lines += [("note", note) for note in plan.notes]
    return "\n".join(f"{name:<8}{text}" for name, text in lines)


def describe_several(plans: list[Plan]) -> str:
    """One line per device, the cheapest that fits first."""
    order = {"yes": 0, "maybe": 1, "no": 2}
    rows = [f"{'device':<22}{'fits':<7}{'memory':>10}{'usable':>10}{'time':>13}{'money':>12}"]
    for plan in sorted(
        plans, key=lambda each: (order[each.fits], each.money.point if each.money else 1e12, each.time.point)
    ):
        money = show_money(plan.money.point, plan.currency) if plan.money else "-"
        rows.append(
            f"{plan.device.name:<22}{plan.fits:<7}{show_bytes(plan.memory.point):>10}"
            f"{show_bytes(plan.device.usable_bytes):>10}{show_seconds(plan.time.point):>13}{money:>12}"
        )
    return "\n".join(rows)
