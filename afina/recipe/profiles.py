"""``train.profile``: settings of training by the memory of what it runs on, where the recipe does not write its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from afina.machine import training_memory_here
from afina.units import show_bytes

TABLE = Path(__file__).with_name("profiles.json")


@dataclass(frozen=True)
class Profile:
    """A line of the table.

    Args:
        rows: the largest micro-batch, in rows of the longest length.
        least_gib, below_gib: the memories that it is for; the last one ends nowhere.
        settings: keys of `train`.
    """

    name: str
    rows: str
    least_gib: int
    below_gib: int | None
    settings: Mapping[str, Any]

    @property
    def sizes(self) -> str:
        """Which memories it is for.

        >>> [each.sizes for each in profiles()]
        ['below 12 GiB', '12 to 28 GiB', '28 GiB and more']
        """
        if self.below_gib is None:
            return f"{self.least_gib} GiB and more"
        return f"{self.least_gib} to {self.below_gib} GiB" if self.least_gib else f"below {self.below_gib} GiB"

    @property
    def span(self) -> str:
        """The same without a word.

        >>> [each.span for each in profiles()]
        ['0-12 GiB', '12-28 GiB', '28+ GiB']
        """
        return f"{self.least_gib}+ GiB" if self.below_gib is None else f"{self.least_gib}-{self.below_gib} GiB"

    @property
    def listed(self) -> str:
        """Its settings."""
        return ", ".join(f"{key} {_text(value)}" for key, value in self.settings.items())

    @property
    def in_words(self) -> str:
        """Its settings in a line."""
        return f"{self.name} ({self.sizes} of memory, {self.rows} at a time): {self.listed}"

    def beside(self, train: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a recipe that are not the profile's."""
        return {key: train[key] for key, value in self.settings.items() if train[key] != value}


@cache
def profiles() -> tuple[Profile, ...]:
    """All of them, by the memory that they are for."""
    found, least = [], 0
    for name, facts in json.loads(TABLE.read_text(encoding="utf-8"))["profiles"].items():
        found.append(Profile(name, facts["rows"], least, facts["below_gib"], facts["settings"]))
        least = facts["below_gib"] or 0
    return tuple(found)


def profile_named(name: str) -> Profile:
    """One of them."""
    return next(each for each in profiles() if each.name == name)


def profile_for(memory_bytes: int) -> Profile:
    """The profile of so much memory.

    >>> [profile_for(size * 2**30).name for size in (8, 16, 24, 32, 192)]
    ['8gb', '16gb', '16gb', '32gb', '32gb']
    """
    gib = memory_bytes / 2**30
    return next(each for each in profiles() if each.below_gib is None or gib < each.below_gib)


def describe_profile(train: Mapping[str, Any], device: str, memory_bytes: int) -> list[str]:
    """Which profile a recipe took, for which device, which of its lines the recipe writes itself, and whether it is the
    one for that device's memory; nothing where it took none."""
    if train["profile"] is None:
        return []
    profile, fitting, memory = profile_named(train["profile"]), profile_for(memory_bytes), show_bytes(memory_bytes)
    own = ", ".join(f"{key} {_text(value)}" for key, value in profile.beside(train).items())
    said = f"train.profile {profile.name} (for {profile.span}; {device} has {memory}): {profile.listed}"
    told = [f"{said}; of these the recipe has its own {own}" if own else said]
    if fitting != profile:
        told.append(f"the profile for the memory of {device} is {fitting.name}: train.profile={fitting.name}")
    return told


def resolve_profile(raw: Any, memory_bytes: int | None = None) -> None:
    """Write a profile's settings into the raw recipe where it has none of its own, and the name for `auto`.

    What is no profile is left to the recipe's check.

    Args:
        memory_bytes: of the device that `auto` is to suit; of what would train here where not given.

    Raises:
        AfinaError: `auto` is asked for, and the system does not tell its memory.
    """
    train = raw.get("train")
    if not isinstance(train, CommentedMap | dict) or not isinstance(named := train.get("profile"), str):
        return
    if named == "auto":
        train["profile"] = named = profile_for(memory_bytes or training_memory_here(raw.get("device") or "auto")).name
    if named in {each.name for each in profiles()}:
        for key, value in profile_named(named).settings.items():
            train.setdefault(key, value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
