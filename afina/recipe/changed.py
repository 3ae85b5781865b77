"""A recipe with some of its settings changed: whether it takes them, and which of them need less memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from afina.recipe.methods import in_words
from afina.recipe.parts import Recipe

ADAPTER_KINDS = ("none", "lora", "qlora")
"""Values of ``adapter.kind``, the one that needs most memory first."""


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """A recipe with some dotted settings changed (``sources.0.repeat``: of the first source), checked again.

    Raises:
        ValidationError: it does not take them.
    """
    raw = recipe.model_dump()
    for key, value in settings.items():
        *parents, last = key.split(".")
        place: Any = raw
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        place[last] = value
    return Recipe.model_validate(raw)


def takes(recipe: Recipe, settings: Mapping[str, Any]) -> bool:
    """Whether a recipe is still one with some dotted settings changed.

    >>> lstm = Recipe(name="x", sources=[{"path": "a"}], train={"method": "scratch"}, scratch={"kind": "lstm"})
    >>> takes(lstm, {"train.epochs": 9}), takes(lstm, {"train.checkpoint_activations": True})
    (True, False)
    """
    try:
        with_settings(recipe, settings)
    except ValidationError:
        return False
    return True


def lighter_settings(recipe: Recipe, device: str, kinds: Collection[str] = ADAPTER_KINDS) -> list[dict[str, Any]]:
    """Changes of one setting each that need less memory to train, and that the recipe and the device take.

    Args:
        device: what computes: cpu, cuda, mps, or mlx on an Apple chip.
        kinds: of adapters, those that can be trained over the base.
    """
    changes: list[dict[str, Any]] = []
    if not recipe.train.checkpoint_activations:
        changes.append({"train.checkpoint_activations": True})
    changes += [{"adapter.kind": kind} for kind in lighter_kinds(recipe, device, kinds)]
    if not recipe.train.optimizer.endswith("8bit") and device in ("cpu", "cuda"):
        changes.append({"train.optimizer": "adamw_8bit"})
    return [change for change in changes if takes(recipe, change)]


def lighter_kinds(recipe: Recipe, device: str, kinds: Collection[str] = ADAPTER_KINDS) -> list[str]:
    """Kinds of adapters that need less memory than the recipe's. None from scratch, and none where an earlier adapter
    is trained on: it is of the kind that it is. Matrices in 4 bits are computed with slowly but on CUDA and by MLX."""
    if recipe.base is None or recipe.start_from is not None:
        return []
    lighter = ADAPTER_KINDS[ADAPTER_KINDS.index(recipe.adapter.kind) + 1 :]
    return [kind for kind in lighter if kind in kinds and (kind != "qlora" or device in ("cuda", "mlx"))]


def needs_less(recipe: Recipe, device: str, kinds: Collection[str] = ADAPTER_KINDS) -> str:
    """What to set so that training needs less memory, in words.

    >>> lstm = Recipe(name="x", sources=[{"path": "a"}], train={"method": "scratch"}, scratch={"kind": "lstm"})
    >>> needs_less(lstm, "cpu")
    'a smaller train.max_length or train.optimizer: adamw_8bit'
    """
    changes = [item for change in lighter_settings(recipe, device, kinds) for item in change.items()]
    said = [f"{key}: {'true' if value is True else value}" for key, value in changes]
    return in_words(["a smaller train.max_length", *said])


def smaller_model(recipe: Recipe) -> str:
    """What a recipe could train that is smaller, in words."""
    return "a smaller base" if recipe.base is not None else "a smaller model (scratch.hidden, scratch.layers)"
