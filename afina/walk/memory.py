"""Memory that runs out while a recipe is worked on: what of it needs less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from afina.errors import OutOfMemory
from afina.plan.advise import computed_on
from afina.plan.bases import adapter_kinds
from afina.plan.device import local_device
from afina.recipe.changed import needs_less
from afina.walk.base import model_shape
from afina.walk.context import Context


@contextmanager
def advice_on_memory(context: Context) -> Iterator[None]:
    """Where memory runs out inside, name the settings that need less and that this recipe takes.

    Raises:
        OutOfMemory: with them, before what it said itself.
    """
    try:
        yield
    except OutOfMemory as error:
        recipe, device = context.recipe, local_device(context.recipe.device)
        kinds = adapter_kinds(recipe, model_shape(context))
        less = needs_less(recipe, computed_on(recipe, device), kinds) + " would need less"
        problems = [replace(each, fix="; ".join(filter(None, (less, each.fix)))) for each in error.problems]
        raise OutOfMemory(problems=problems) from error
