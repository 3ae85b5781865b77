"""Which of the two back ends computes a training here, and why. Neither is loaded for it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from afina.errors import RecipeError
from afina.machine import is_apple_chip
from afina.recipe import BackEndName, Recipe

INSTALL = "pip install 'afina[mlx]'"


@dataclass(frozen=True)
class BackEnd:
    """What computes."""

    name: BackEndName
    why: str


def choose_back_end(recipe: Recipe) -> BackEnd:
    """What computes a recipe's training on this machine.

    Raises:
        RecipeError: it names mlx, which is not installed; or what only mlx has, where torch computes.
    """
    if recipe.backend == "torch":
        return BackEnd("torch", "as the recipe says")
    installed = find_spec("mlx_lm") is not None
    if recipe.backend == "mlx":
        if not installed:
            raise RecipeError("backend mlx needs mlx-lm, which is not installed", INSTALL, "backend")
        return BackEnd("mlx", "as the recipe says")
    if not is_apple_chip():
        found = BackEnd("torch", "no Apple chip here")
    elif not installed:
        found = BackEnd("torch", f"mlx-lm is not installed: {INSTALL}")
    elif missing := recipe.beyond_mlx:
        found = BackEnd("torch", f"mlx has no {', no '.join(missing)}")
    else:
        return BackEnd("mlx", "an Apple chip, and mlx-lm is installed")
    if missing := recipe.beyond_torch:
        raise RecipeError(
            f"the recipe is computed by torch here ({found.why}), which has no {', no '.join(missing)}",
            "remove it, or name backend mlx",
            "backend",
        )
    return found
