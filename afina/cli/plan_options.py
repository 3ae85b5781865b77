"""Which options mean something to which question of ``afina plan``: what is given and means nothing is refused."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from afina.errors import Problem, RecipeError

_OF_SERVING = {"serve", "context", "users", "weights", "lora_slots"}
MEANT: dict[str, set[str]] = {
    "afina plan RECIPE": {"overrides", "device", "all_devices", "gpus", "parallel", "apply", "tokens"},
    "afina plan RECIPE --serve": {"overrides", "device", "all_devices", "gpus", *_OF_SERVING},
    "afina plan RECIPE --trial": {"overrides", "trial"},
    "afina plan scaling": {"overrides", "device", "gpus", "parameters", "tokens"},
    "afina plan scratch": {"device", "gpus", "parameters", "tokens"},
}
"""Question -> the parameters that its answer depends on. All of them take `recipe`, `as_json` and `runs`."""


def check_options(called: typer.Context) -> None:
    """
    Raises:
        RecipeError: with every parameter that is given and means nothing to what is asked.
    """
    given = {name: word for name, word in _given(called) if name in set().union(*MEANT.values())}
    of_recipe = " RECIPE --trial" if "trial" in given else " RECIPE --serve" if "serve" in given else " RECIPE"
    word = called.params["recipe"]
    question = "afina plan" + (f" {word}" if word in ("scaling", "scratch") else of_recipe)
    if problems := [*_meaningless(given, question), *_devices(given, called, question)]:
        raise RecipeError(problems=problems)


def _given(called: typer.Context) -> Iterator[tuple[str, str]]:
    """Name and spelling of each parameter that the command line gives."""
    for each in called.command.params:
        name = str(each.name)
        source = called.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and called.params[name]:
            yield name, "KEY=VALUE" if each.param_type_name == "argument" else each.opts[0]


def _meaningless(given: dict[str, str], question: str) -> Iterator[Problem]:
    for name, spelled in given.items():
        if name not in MEANT[question]:
            others = " or ".join(f"`{each}`" for each, means in MEANT.items() if name in means)
            yield Problem(f"means nothing to `{question}`", f"leave it out: it is for {others}", spelled)


def _devices(given: dict[str, str], called: typer.Context, question: str) -> Iterator[Problem]:
    several = len([name for each in called.params["device"] or () for name in each.split(",") if name.strip()]) > 1
    if {"device", "all_devices"} <= given.keys():
        yield Problem("--all is every device, and --device names some", "leave one of the two out", "--device")
    elif several and "all_devices" not in MEANT[question]:
        yield Problem(f"`{question}` is asked about one device", "name one of them", "--device")
    elif "apply" in given and "apply" in MEANT[question] and (several or "all_devices" in given):
        yield Problem("writes what fits one device, and there are several", "name one device", given["apply"])
