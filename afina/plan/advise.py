"""What would fit: settings for this device, ranked by cost; the cheapest device; the largest context and model."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from afina.errors import RecipeError
from afina.model.shape import Shape
from afina.model.shape_read import read_shape
from afina.plan.bases import adapter_kinds, known_bases
from afina.plan.device import Device, find_device, known_devices
from afina.plan.memory import Parallel
from afina.plan.plan import Plan, computed_by_mlx, plan_run
from afina.plan.tokens import TokenCount
from afina.recipe import Recipe
from afina.recipe.changed import lighter_kinds, takes, with_settings
from afina.units import show_bytes, show_count, show_money, show_seconds


@dataclass(frozen=True)
class Suggestion:
    """Settings with which the same job fits, and the plan that they give."""

    settings: dict[str, Any]
    plan: Plan

    @property
    def price(self) -> tuple[float, int, int]:
        """What they are ranked by: seconds, then how many settings change, then those that change what is learned."""
        return (
            round(self.plan.time.point, 1),
            len(self.settings),
            sum(key.startswith("adapter") for key in self.settings),
        )

    def in_words(self) -> str:
        """`key=value ...`, as the command line takes it."""
        return " ".join(f"{key}={_text(value)}" for key, value in self.settings.items())

    def as_json(self) -> dict[str, Any]:
        """Settings and what they lead to."""
        money = self.plan.money
        return {
            "settings": self.settings,
            "memory": self.plan.memory.as_json(),
            "time": self.plan.time.as_json(),
            "money": money.as_json() if money else None,
            "fits": self.plan.fits,
        }


def what_would_fit(
    recipe: Recipe,
    shape: Shape,
    tokens: TokenCount,
    device: Device,
    *,
    first: TokenCount | None = None,
    devices: int = 1,
    parallel: Parallel = "none",
    most: int = 5,
) -> list[Suggestion]:
    """The same job with other settings, such that it surely fits; cheapest first.

    Changed are the micro-batch (accumulated as much more), the recomputation of activations, the optimizer's
    precision and, last, the adapter's kind. What the examples are is left alone.
    """
    found: list[Suggestion] = []
    for settings in _candidates(recipe, tokens, device, adapter_kinds(recipe, shape)):
        changed = with_settings(recipe, settings)
        recounted = _recounted(tokens, recipe, changed)
        plan = plan_run(changed, shape, recounted, device, first=first, devices=devices, parallel=parallel)
        if plan.fits == "yes" and not any(one.settings.items() <= settings.items() for one in found):
            found.append(Suggestion(settings, plan))
    return sorted(found, key=lambda suggestion: suggestion.price)[:most]


def computed_on(recipe: Recipe, device: Device) -> str:
    """What computes a recipe's training there: the device's kind, or `mlx` on an Apple chip by MLX."""
    return "mlx" if device.kind == "mps" and computed_by_mlx(recipe, device) else device.kind


def _candidates(
    recipe: Recipe, tokens: TokenCount, device: Device, trained_over: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Changes that the recipe takes, few first; micro-batches halve down to the longest example."""
    train, adapter = recipe.train, recipe.adapter
    longest = min(tokens.longest, train.max_length)
    batches, size = [train.batch_tokens], train.batch_tokens
    while size > longest:
        size = max(longest, size // 2)
        batches.append(size)
    recompute = [False] if train.checkpoint_activations else [False, True]
    eight_bit = [False]
    if not train.optimizer.endswith("8bit") and device.kind != "mps":
        eight_bit.append(True)
    kinds = [adapter.kind, *lighter_kinds(recipe, computed_on(recipe, device), trained_over)]
    for kind, again, eight, batch in itertools.product(kinds, recompute, eight_bit, batches):
        settings: dict[str, Any] = {}
        if batch != train.batch_tokens:
            settings["train.batch_tokens"] = batch
            settings["train.accumulate"] = max(1, round(train.batch_tokens * train.accumulate / batch))
        if again:
            settings["train.checkpoint_activations"] = True
        if eight:
            settings["train.optimizer"] = "adamw_8bit"
        if kind != adapter.kind:
            settings["adapter.kind"] = kind
            if train.optimizer == "muon" and not eight:  # it is for whole matrices
                settings["train.optimizer"] = "adamw"
        if takes(recipe, settings):
            yield settings


def _recounted(tokens: TokenCount, before: Recipe, after: Recipe) -> TokenCount:
    """Counted micro-batches, scaled to another size of them; padding stays what it was."""
    if not tokens.micro_batches or not tokens.largest_batch or not tokens.padded:
        return tokens
    share = after.train.batch_tokens / before.train.batch_tokens
    if share == 1:
        return tokens
    largest = max(tokens.longest, round(tokens.largest_batch * share))
    targets = round((tokens.largest_targets or largest) * largest / tokens.largest_batch)
    count = max(
        1, round(tokens.padded / max(largest * tokens.padded / (tokens.micro_batches * tokens.largest_batch), 1))
    )
    return replace(tokens, largest_batch=largest, largest_targets=min(largest, targets), micro_batches=count)


def cheapest_device(
    recipe: Recipe,
    shape: Shape,
    tokens: TokenCount,
    *,
    first: TokenCount | None = None,
    devices: int = 1,
    parallel: Parallel = "none",
) -> Plan | None:
    """Of all devices with a price, the one on which this job surely fits for the least money; none where none does."""
    priced = [each for each in map(find_device, known_devices()) if recipe.budget.price_per_hour or each.price_per_hour]
    plans = [plan_run(recipe, shape, tokens, each, first=first, devices=devices, parallel=parallel) for each in priced]
    fitting = [plan for plan in plans if plan.fits == "yes" and plan.money]
    return min(fitting, key=lambda plan: plan.money.point if plan.money else 0.0, default=None)


def largest_context(recipe: Recipe, shape: Shape, device: Device) -> int:
    """The longest example, in tokens, that this recipe could train alone in a micro-batch; 0 where not even 16 fit."""

    def fits(length: int) -> bool:
        changed = with_settings(recipe, {"train.max_length": length, "train.batch_tokens": length})
        tokens = TokenCount(length * 100, length * 100, 100, length)
        return plan_run(changed, shape, tokens, device).fits == "yes"

    low, high = 0, min(shape.max_positions, 1 << 20) if shape.max_positions >= 16 else 1 << 20
    if high >= 16 and fits(high):
        return high
    while high - low > max(8, low // 100):
        middle = max(16, (low + high) // 2)
        if fits(middle):
            low = middle
        elif middle <= 16:
            return 0
        else:
            high = middle
    return low


def largest_model(
    recipe: Recipe, tokens: TokenCount, device: Device, *, first: TokenCount | None = None
) -> tuple[str, int] | None:
    """The base with most parameters among those known here that this recipe could train, and how many it has."""
    if recipe.train.method == "scratch":
        return None
    best: tuple[str, int] | None = None
    for name, config in known_bases().items():
        try:
            shape = read_shape(config, name)
            if best and shape.parameters <= best[1]:
                continue
            if plan_run(recipe, shape, tokens, device, first=first).fits == "yes":
                best = name, shape.parameters
        except RecipeError:  # an adapter target that this base does not have, or a base that is not computed
            continue
    return best


def describe_advice(
    suggestions: list[Suggestion], cheapest: Plan | None, context: int, model: tuple[str, int] | None, plan: Plan
) -> str:
    """What would fit, in a few lines."""
    lines = []
    if plan.fits != "yes":
        lines.append(
            f"with these settings it surely fits {plan.device.name}:" if suggestions else "no settings make it fit"
        )
        for suggestion in suggestions:
            now = suggestion.plan
            lines.append(f"    {suggestion.in_words()}: {show_bytes(now.memory.point)}, {show_seconds(now.time.point)}")
    if cheapest and cheapest.money:
        lines.append(
            f"cheapest device with a price: {cheapest.device.name}, "
            f"{show_money(cheapest.money.point, cheapest.currency)}, {show_seconds(cheapest.time.point)}"
        )
    lines.append(
        f"longest example that fits alone here: {context} tokens" if context else "not even 16 tokens fit here"
    )
    if model:
        lines.append(f"largest known base that fits here with this recipe: {model[0]} ({show_count(model[1])})")
    return "\n".join(lines)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
