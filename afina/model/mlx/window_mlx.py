"""How long a row may be that mlx-lm reads as the model was trained to read it.

Some of mlx-lm's models attend to everything where the configuration gives their layers a window (Mistral, Gemma 2): up
to the window both are the same, and beyond it mlx-lm computes another model.
"""

from __future__ import annotations

from mlx_lm.models.cache import make_prompt_cache

from afina.errors import RecipeError
from afina.model.mlx.mlx_model import MlxModel
from afina.model.shape_table import attention_window
from afina.recipe import Recipe


def longest_row(model: MlxModel) -> int | None:
    """In tokens; None where the model sets no limit."""
    limits = [each for each in (model.context, _lost_window(model)) if each]
    return min(limits, default=None)


def check_rows(model: MlxModel, recipe: Recipe) -> None:
    """
    Raises:
        RecipeError: rows of the recipe may be longer than a window that mlx-lm does not keep.
    """
    stages = (recipe.train, recipe.train.of_first()) if recipe.train.first else (recipe.train,)
    window, longest = _lost_window(model), max(stage.max_length for stage in stages)
    if window and longest > window:
        raise RecipeError(
            f"layers of this {model.config.get('model_type')} model attend to {window} tokens at most, which mlx-lm "
            f"does not keep; rows may have {longest}",
            f"train.max_length: {window}, or backend: torch",
            "train.max_length",
        )


def _lost_window(model: MlxModel) -> int | None:
    """The window of the configuration, where no layer of mlx-lm's model has one."""
    kept = any(getattr(each, "max_size", None) for each in make_prompt_cache(model.network))
    return None if kept else attention_window(model.text_config)
