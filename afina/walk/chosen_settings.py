"""How a run's training computes: chosen once, noted among its inputs, and kept when it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from afina.errors import RecipeError
from afina.model.base_damage import read_config
from afina.model.choices import Choices, Machine, choose, impossible
from afina.recipe import Recipe
from afina.record import read_record
from afina.run import hash_value
from afina.walk.base import back_end, base_folder, model_shape
from afina.walk.context import Context


def with_choices(context: Context, stage: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of training with ``computed``, how it computes.

    What another start of the same inputs noted is taken again where the recipe does not name another: numbers of
    two kinds in one training would be worse than an error.

    Raises:
        RecipeError: the recipe names what cannot be had here.
    """
    begun = context.run.begun(stage) or {}
    noted = begun.pop("computed", None)
    if noted and hash_value(begun) == hash_value(inputs) and _meets(Choices(**noted), context.recipe):
        return inputs | {"computed": noted}
    return inputs | {"computed": choose_here(context).as_json()}


def _meets(noted: Choices, recipe: Recipe) -> bool:
    return noted.meet(recipe.train) and recipe.backend in ("auto", noted.backend)


def choices_of(context: Context, inputs: dict[str, Any]) -> Choices:
    """The noted choices, with the reasons where they would be chosen again here.

    Raises:
        RecipeError: this machine cannot go on with them.
    """
    noted, machine = Choices(**inputs["computed"]), _machine(context)
    if noted.backend != (here := back_end(context)).name:
        raise RecipeError(
            f"the training began by backend {noted.backend}, and here it would go on by {here.name} ({here.why})",
            f"backend: {noted.backend} on a machine that has it; or a new name for the run",
            "backend",
        )
    if problems := list(impossible(noted.settings(context.recipe.train), machine, _model_type(context))):
        kept = "; the training began with it, and starts anew with anything else"
        raise RecipeError(problems=[replace(problem, fix=problem.fix + kept) for problem in problems])
    now = choose_here(context)
    if noted.as_json() == now.as_json():
        return now
    return replace(noted, why=(f"as it began; here it would be {replace(now, why=())}",))


def _machine(context: Context) -> Machine:
    from afina.model.load_torch import machine_of

    return machine_of(context.recipe, back_end(context).name)


def choose_here(context: Context) -> Choices:
    """What this machine would choose now.

    Raises:
        RecipeError: the recipe names what cannot be had here.
    """
    plan = context.folder / "plan.json"
    planned = read_record(plan)
    return choose(
        context.recipe,
        _machine(context),
        model_type=_model_type(context),
        # Several processes make room by sharing the weights out, which 8-bit moments cannot follow.
        fits="yes" if context.ranks or not planned else planned.required_text("fits"),
        back_end=back_end(context),
    )


def _model_type(context: Context) -> str:
    folder = base_folder(context)
    return model_shape(context).model_type if folder is None else str(read_config(folder)["model_type"])
