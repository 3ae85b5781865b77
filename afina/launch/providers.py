"""Who rents machines, as data: the names of devices, what a provider cannot do, which command makes its credentials.

``providers.json`` beside this file holds it; a test compares what it says a provider lacks with SkyPilot's own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from afina.errors import Problem, RecipeError
from afina.recipe import nearest
from afina.run import read_mapping
from afina.units import show_bytes, show_seconds

Kind = Literal["sky", "ssh", "slurm"]
Ability = Literal["spot", "ports", "stop", "multi_node", "bucket_mount"]
_HOST = re.compile(r"([A-Za-z0-9_][\w.+-]*@)?[A-Za-z0-9_][\w.-]*", re.ASCII)
"""Nothing in it that ssh takes for an option, rsync for a path or a shell for more than a word."""


@dataclass(frozen=True)
class Assumed:
    """What is taken for granted of a set-up until one was measured."""

    start_seconds: float
    """From the order to a shell on the machine."""
    library_bytes: int
    """What installing afina fetches: torch with CUDA is nearly all of it."""
    fetched_bytes_per_second: float
    sent_bytes_per_second: float

    @property
    def in_words(self) -> str:
        """The four of them."""
        return (
            f"{show_seconds(self.start_seconds)} to a shell, {show_bytes(self.library_bytes)} of libraries and "
            f"the base at {show_bytes(self.fetched_bytes_per_second)}/s, your files at "
            f"{show_bytes(self.sent_bytes_per_second)}/s"
        )


@dataclass(frozen=True)
class Provider:
    """One that SkyPilot rents from."""

    name: str
    title: str
    accelerators: Mapping[str, str]
    """Our name of a device -> SkyPilot's."""
    lacks: Mapping[Ability, str]
    """What it cannot do -> the way round it."""
    credentials: str
    """The commands that make them."""
    assumed: Assumed


@dataclass(frozen=True)
class Where:
    """What ``--on`` names."""

    kind: Kind
    provider: Provider | None = None
    host: str = ""


@cache
def providers() -> dict[str, Provider]:
    """Name -> provider."""
    read: dict[str, Any] = read_mapping(Path(__file__).with_name("providers.json"), "assumed", "providers")
    assumed = Assumed(**{key: value for key, value in read["assumed"].items() if key != "note"})
    return {
        name: Provider(
            name,
            facts["title"],
            facts["accelerators"],
            {cast(Ability, lack): read["ways_round"][lack] for lack in facts["lacks"]},
            facts["credentials"],
            assumed,
        )
        for name, facts in read["providers"].items()
    }


def read_where(text: str) -> Where:
    """What ``--on`` means.

    >>> read_where("ssh:ada@gpu-box").host, read_where("runpod").kind, read_where("slurm").kind
    ('ada@gpu-box', 'sky', 'slurm')

    Raises:
        RecipeError: it means nothing; with the nearest that does.
    """
    kind, _, host = text.partition(":")
    if kind == "ssh" and host:
        if not _HOST.fullmatch(host):
            raise RecipeError(
                f"{host!r} is no name that ssh and rsync both take for a machine",
                "give the machine a name in ~/.ssh/config (Host, HostName, Port, User), and name that one: ssh:HOST",
                "--on",
            )
        return Where("ssh", host=host)
    if text == "slurm":
        return Where("slurm")
    if text in providers():
        return Where("sky", providers()[text])
    known = [*providers(), "slurm", "ssh:HOST"]
    guess = "ssh:HOST" if kind == "ssh" else nearest(kind, known)
    fix = f"use {guess}" if guess else "known are " + ", ".join(known)
    raise RecipeError(f"{text!r} is nowhere to launch on", fix, "--on")


def check_able(provider: Provider, wanted: Mapping[Ability, str]) -> None:
    """Refuse what a provider cannot do, with the way round it.

    Args:
        wanted: what is needed -> the option or key that asks for it.

    Raises:
        RecipeError: with all of them.
    """
    problems = [
        Problem(f"{provider.title} cannot do this: {ability.replace('_', ' ')}", provider.lacks[ability], where)
        for ability, where in wanted.items()
        if ability in provider.lacks
    ]
    if problems:
        raise RecipeError(problems=problems)
