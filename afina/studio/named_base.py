"""The base that a page names: a run's, a folder inside of the roots, an installed package's, one in the hub's cache."""

from __future__ import annotations

import json
from pathlib import Path

from afina.model.base import looks_like_path, no_such_place
from afina.model.gguf_file import PACKAGE
from afina.recipe import read_saved_recipe
from afina.studio.facts import checked_run
from afina.studio.refusal import StudioRefusal
from afina.studio.security import inside
from afina.studio.settings import StudioSettings


def allowed_base(settings: StudioSettings, given: str) -> str:
    """A base as verbs take it, its path absolute. What is no path names a package or the hub's cache: nothing is
    downloaded (the verbs work offline).

    Raises:
        StudioRefusal: 403, it lies outside of the roots.
        BaseError: there is no such folder or file.
    """
    if given.startswith(PACKAGE):
        return given
    found = inside(settings, given)
    if found.exists():
        return str(found)
    if looks_like_path(given):
        raise no_such_place(given)
    place = Path(given).absolute()
    if place.exists():  # from the folder in which the studio was started, where a verb would find it
        return str(inside(settings, place))
    return given


def tokenizer_words(settings: StudioSettings, base: str | None, run: str | None) -> list[str]:
    """The options of a verb that looks at data with a base's tokenizer, as a run asks it where one is named; none
    where neither is.

    Raises:
        StudioRefusal: the run is not there, or was trained from nothing; or the base as :func:`allowed_base`.
        RecipeError: the run's recipe is damaged.
        AfinaError: a file of the run is a link that leads out of what the studio may read.
    """
    if base:
        return [f"--base={allowed_base(settings, base)}"]
    if not run:
        return []
    folder = checked_run(settings, run)
    recipe = read_saved_recipe(folder)
    if recipe.base is None:
        raise StudioRefusal(400, "a model from nothing has no base", "name another base", str(folder))
    chat = recipe.chat.model_dump(mode="json", exclude_defaults=True)
    if chat.get("template") not in (None, "chatml"):
        chat["template"] = str(Path(recipe.root) / chat["template"])
    said = [f"train.max_length={recipe.train.max_length}"]
    said += [f"chat.{name}={json.dumps(value, ensure_ascii=False)}" for name, value in chat.items()]
    return [f"--base={recipe.base}", *(f"--set={each}" for each in said)]
