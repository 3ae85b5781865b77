"""Which devices a provider rents on which the job fits, the cheapest in all first: the figures are those of
``afina plan``, and the set-up that is paid for too.

With `launch.devices` and `launch.nodes` an offer is that many of a device, and its price that of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.errors import DoesNotFit, RecipeError
from afina.launch.providers import Assumed, Provider
from afina.plan.device import Device
from afina.recipe import Recipe
from afina.recipe.changed import takes
from afina.units import show_bytes, show_money, show_seconds
from afina.walk.plan_answers import PlanAsked, answer_recipe

HOUR = 3600.0
On = Callable[[Device], Recipe] | None
"""The recipe on a device, of :func:`afina.walk.plan_answers.suited`."""


@dataclass(frozen=True)
class Offer:
    """A device of a provider, as many as the recipe asks for, and what this job takes there. Seconds, and the price's
    currency."""

    device: str
    accelerator: str
    """As the provider's engine calls it."""
    plan: Mapping[str, Any]
    """As ``afina plan --device DEVICE --gpus COUNT --parallel WAY --json`` gives it."""
    setup_seconds: float

    @property
    def count(self) -> int:
        """How many of the device, on all machines."""
        return int(self.plan["devices"])

    @property
    def parallel(self) -> str:
        """How several share the work: `ddp` or `fsdp`; `none` for one."""
        return str(self.plan["parallel"])

    @property
    def fits(self) -> str:
        """`yes`, `maybe` or `no`, as the plan says."""
        return str(self.plan["fits"])

    @property
    def price_per_hour(self) -> float | None:
        """Of all of them; None where it is not known."""
        money = self.plan["money"]
        return float(money["price_per_hour"]) * self.count if money else None

    @property
    def currency(self) -> str:
        """Of all amounts."""
        return str(self.plan["money"]["currency"]) if self.plan["money"] else ""

    def total(self, end: str = "point") -> float | None:
        """Price of an hour x (predicted hours + set-up); `end` is `low`, `point` or `high` of the prediction."""
        if self.price_per_hour is None:
            return None
        return self.price_per_hour / HOUR * (float(self.plan["time"][end]) + self.setup_seconds)

    @property
    def most_seconds(self) -> float:
        """For how long the machine is wanted at most: the plan's high end and the set-up."""
        return float(self.plan["time"]["high"]) + self.setup_seconds

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "device": self.device,
            "accelerator": self.accelerator,
            "count": self.count,
            "parallel": self.parallel,
            "fits": self.fits,
            "price_per_hour": self.price_per_hour,
            "currency": self.currency,
            "price_source": self.plan["money"]["source"] if self.plan["money"] else "",
            "memory": self.plan["memory"]["point"],
            "seconds": self.plan["time"]["point"],
            "money": self.plan["money"]["point"] if self.plan["money"] else None,
            "setup_seconds": self.setup_seconds,
            "total": self.total(),
            "total_high": self.total("high"),
        }


def find_offers(
    recipe: Recipe, provider: Provider, runs: Path, *, sent_bytes: int, devices: Sequence[str] = (), on: On = None
) -> list[Offer]:
    """Every device of a provider with this job's plan, the cheapest in all that surely fits first; those without a
    price behind those with one, those that do not fit last.

    Args:
        runs: where the recipe's run is, whose dataset is counted if it is built.
        sent_bytes: what is copied to the machine before anything begins.
        devices: only these.
        on: the recipe on each of them, where that is another.

    Raises:
        RecipeError: the provider has none of `devices`.
    """
    names = [name for name in provider.accelerators if not devices or name in devices]
    if missing := [name for name in devices if name not in provider.accelerators]:
        raise RecipeError(
            f"{provider.title} is not known to rent the {missing[0]}",
            "use one of " + ", ".join(provider.accelerators),
            "--device",
        )
    plans = plans_of(recipe, names, runs, on)
    offers = [Offer(plan["device"]["name"], provider.accelerators[plan["device"]["name"]], plan, 0.0) for plan in plans]
    there = [_with_setup(offer, recipe, provider.assumed, sent_bytes) for offer in offers]
    return sorted(there, key=lambda each: (FITTING[each.fits], each.total() is None, each.total() or 0.0, each.device))


def plans_of(recipe: Recipe, devices: Sequence[str], runs: Path, on: On = None) -> list[Mapping[str, Any]]:
    """What ``afina plan`` answers for each device. Where several share the work and the recipe leaves open how, each
    holds all of the model where that surely fits, and else a part of it where that fits better."""
    count, wanted = recipe.launch.devices * recipe.launch.nodes, recipe.train.parallel
    ways = [wanted] if wanted != "auto" or count == 1 else ["ddp", "fsdp"]
    if wanted == "auto" and not takes(recipe, {"train.parallel": "fsdp"}):
        ways = ["ddp"]
    chosen: list[Mapping[str, Any]] = []
    for way in ways:
        asked = PlanAsked("", (), list(devices), runs, gpus=count, parallel="ddp" if way == "auto" else way)
        values = answer_recipe(asked, recipe, on=on).values
        plans = list(values) if isinstance(values, list) else [values]
        better = zip(chosen or plans, plans, strict=True)
        chosen = [new if FITTING[new["fits"]] < FITTING[old["fits"]] else old for old, new in better]
    return chosen


FITTING = {"yes": 0, "maybe": 1, "no": 2}


def fits_one(recipe: Recipe, device: str, runs: Path) -> bool:
    """Whether one device may hold the model, to measure it when several have trained it."""
    alone = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"devices": 1, "nodes": 1})})
    (plan,) = plans_of(alone, [device], runs)
    return bool(plan["fits"] != "no")


def _with_setup(offer: Offer, recipe: Recipe, assumed: Assumed, sent_bytes: int) -> Offer:
    """The seconds before the first step: machine, libraries, what is sent, and a base that comes from the hub."""
    fetched = 0 if recipe.base is None or Path(recipe.base).exists() else 2 * int(offer.plan["parameters"])
    seconds = assumed.start_seconds + sent_bytes / assumed.sent_bytes_per_second
    seconds += (assumed.library_bytes + fetched) / assumed.fetched_bytes_per_second
    return replace(offer, setup_seconds=round(seconds, 1))


def choose_offer(offers: Sequence[Offer], provider: Provider) -> Offer:
    """The first that surely fits, or the one that was named and may.

    Raises:
        DoesNotFit: there is none.
        RecipeError: no price is known of those that fit.
    """
    fitting = [offer for offer in offers if offer.fits == "yes"] or [each for each in offers if each.fits == "maybe"]
    if not fitting:
        raise DoesNotFit(
            f"no device of {provider.title} fits this job",
            "`afina plan RECIPE` says which settings need less, `afina plan RECIPE --all` which devices fit",
            "memory",
        )
    if fitting[0].price_per_hour is None:
        raise RecipeError(
            f"no price of the {fitting[0].device} is known, and nothing is rented without one",
            "set `budget.price_per_hour`, or write it into prices.json in ~/.config/afina",
            "--on",
        )
    return fitting[0]


def describe_offers(offers: Sequence[Offer], chosen: Offer | None, provider: Provider, nodes: int = 1) -> str:
    """The table: one line per device, the chosen one marked; below it where prices come from and what is assumed."""
    head = f"   {'device':<16}{'fits':<7}{'memory':>10}{'an hour':>11}{'job':>13}{'its money':>12}"
    head += f"{'set-up':>13}{'total':>12}"
    rows = [f"{provider.title}: price of an hour x (predicted hours + set-up), cheapest first"]
    count = offers[0].count
    if count > 1:
        machines = f"on {nodes} machines " if nodes > 1 else ""
        rows.append(f"{count} of a device {machines}share the work: memory of each, an hour and money of all")
    rows.append(head)
    for offer in offers:
        cur, plan = offer.currency, offer.plan
        shown = [show_money(value, cur) if value is not None else "-" for value in _amounts(offer)]
        rows.append(
            f"{'->' if offer is chosen else '':<3}{offer.device:<16}{offer.fits:<7}"
            f"{show_bytes(plan['memory']['point']):>10}{shown[0]:>11}{show_seconds(plan['time']['point']):>13}"
            f"{shown[1]:>12}{show_seconds(offer.setup_seconds):>13}{shown[2]:>12}"
        )
    if chosen is not None and chosen.price_per_hour is not None:
        low, high = (show_money(chosen.total(end) or 0.0, chosen.currency) for end in ("low", "high"))
        shared = f", {chosen.parallel}" if count > 1 else ""
        rows.append(f"   {chosen.device}{shared}: {low} to {high} in all; price: {chosen.plan['money']['source']}")
    rows.append(f"   set-up is assumed, not measured: {provider.assumed.in_words}")
    return "\n".join(rows)


def _amounts(offer: Offer) -> tuple[float | None, float | None, float | None]:
    money = offer.plan["money"]
    return offer.price_per_hour, money["point"] if money else None, offer.total()
