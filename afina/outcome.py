"""What a run's training leaves, and which of what lies in a run's folder is its result.

Nobody else asks for ``adapter/`` or ``model/`` by name: after a change of the recipe the other one may be
an earlier recipe's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from afina.errors import RecipeError
from afina.manifest import Kind
from afina.recipe import Chat, Recipe
from afina.run import again, read_stages

OUTCOME_KINDS: tuple[Kind, ...] = get_args(Kind)


ASKED_BY = {"template", "template_args", "system", "system_turn"}
"""Keys of `chat` that say how a model is asked; the others, how its rows were made."""
KEPT_TEMPLATE = "chat_template.jinja"
"""Where transformers writes the chat template beside a model's weights, as it was read."""


@dataclass(frozen=True)
class Outcome:
    """A run's result."""

    kind: Kind
    folder: Path


def outcome_kind(recipe: Recipe) -> Kind:
    """What training by this recipe leaves.

    >>> from afina.recipe import Adapter, Source
    >>> recipe = Recipe(name="x", base="b", sources=[Source(path="a")])
    >>> outcome_kind(recipe), outcome_kind(recipe.model_copy(update={"adapter": Adapter(kind="none")}))
    ('adapter', 'model')
    """
    return "model" if recipe.trains_all else "adapter"


def find_outcome(run: Path, recipe: Recipe) -> Outcome:
    """The result that a run's folder holds now.

    Args:
        run: the run's folder.
        recipe: the one saved in it.

    Raises:
        RecipeError: nothing is trained yet, or what is there was trained by an earlier recipe.
    """
    kind = outcome_kind(recipe)
    train_it = again(run)
    if not (run / kind).is_dir():
        for other in OUTCOME_KINDS:
            if (run / other).is_dir():
                what = f"the run {run} has no {kind}/, which its recipe trains; {other}/ is an earlier recipe's"
                raise RecipeError(what, train_it)
        raise RecipeError(f"the run {run} holds neither adapter/ nor model/", train_it)
    if changed := list(_changes(run, recipe)):
        raise RecipeError(
            f"{run / kind} was trained by an earlier recipe of this run: {', '.join(changed)} changed since", train_it
        )
    return Outcome(kind, run / kind)


def chat_of(result: Path, recipe: Recipe) -> Chat:
    """How a result is asked. A template file of the recipe that is gone lies with what it trained.

    Args:
        result: the adapter's or the model's folder.
    """
    chat = recipe.chat
    if chat.template in (None, "chatml") or (Path(recipe.root) / chat.template).is_file():
        return chat
    kept = result / KEPT_TEMPLATE
    return chat.model_copy(update={"template": str(kept.resolve())}) if kept.is_file() else chat


def _changes(run: Path, recipe: Recipe) -> Iterator[str]:
    """In what the recipe differs from the one that trained, of what says how its result is opened.

    A folder without ``stages.json`` was made by hand, or holds only what was copied of a run: nothing is known.
    """
    stages = run / "stages.json"
    trained: Mapping[str, Any] = read_stages(stages).get("train", {}).get("inputs", {}) if stages.is_file() else {}
    if not trained:
        return
    if ("scratch" in trained) != (recipe.train.method == "scratch"):
        yield "train.method"
    if "adapter" in trained and trained["adapter"].get("kind") != recipe.adapter.kind:
        yield "adapter.kind"
    if ("starts_from" in trained) != (recipe.train.first is not None):
        yield "train.first"
    asked, asked_then = recipe.chat.model_dump(mode="json", include=ASKED_BY), trained.get("chat") or {}
    for key, value in asked.items():
        if key in asked_then and _kind_of(key, asked_then[key]) != _kind_of(key, value):
            yield f"chat.{key}"


def _kind_of(key: str, value: Any) -> Any:
    """The setting; of a template file only that it is one: it may lie elsewhere now, or have been sent to a machine."""
    return "a file" if key == "template" and value not in (None, "chatml") else value
