"""Which back end opens a recipe's base here, to train over it and to be asked."""

from __future__ import annotations

from afina.errors import RecipeError
from afina.model.back_ends import BackEnd, choose_back_end
from afina.model.base import place_of
from afina.model.base_damage import read_config
from afina.model.base_kind import kind_of
from afina.recipe import Recipe


def back_end_of(recipe: Recipe, why_torch: str = "") -> BackEnd:
    """What computes a recipe's training, and what is asked of its model.

    Args:
        why_torch: why it can be nothing else, where that is so.

    Raises:
        RecipeError: the recipe names mlx, and it cannot be had.
    """
    found = choose_back_end(recipe)
    if found.name == "torch" or recipe.base is None:
        return found
    why = why_torch or _why_not_mlx(recipe.base)
    if not why:
        return found
    if recipe.backend == "mlx":
        raise RecipeError(f"backend mlx: {why}", "backend: torch", "backend")
    return BackEnd("torch", why)


def _why_not_mlx(base: str) -> str:
    """Why mlx-lm does not open a base of this machine; empty where it does, or where the base is not here yet."""
    from afina.model.mlx.open_mlx import why_unknown

    place = place_of(base, weights=False)
    if place is None or not (place / "config.json").is_file():
        return ""  # whoever looks for the base says what is wrong with it
    kind = kind_of(place)
    if kind.opens and "mlx" not in kind.opens:
        return f"mlx-lm does not open what {kind.what}"
    return why_unknown(read_config(place))
