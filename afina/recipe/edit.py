"""Change values in a recipe's file and keep all else: comments, order, quotes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from afina.errors import RecipeError


def change_recipe(path: Path, settings: Mapping[str, Any]) -> str:
    """The text of a recipe with dotted keys set, e.g. ``{"train.batch_tokens": 512}``. Nothing is written.

    Raises:
        RecipeError: the file is not a mapping, or a key leads through something that is not one.
    """
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096
    text = path.read_text(encoding="utf-8")
    dashes = [line for line in text.splitlines() if line.lstrip().startswith("- ")]
    offset = 2 if any(line.startswith("  ") for line in dashes[:1]) else 0
    yaml.indent(mapping=2, sequence=2 + offset, offset=offset)
    raw = yaml.load(text)
    if not isinstance(raw, CommentedMap):
        raise RecipeError("a recipe is a mapping of keys to values", "`afina recipe init docs` shows one", str(path))
    for key, value in settings.items():
        *parents, last = key.split(".")
        place: Any = raw
        for parent in parents:
            if place.get(parent) is None:
                place[parent] = CommentedMap()
            place = place[parent]
            if not isinstance(place, CommentedMap):
                raise RecipeError(f"{parent} is not a mapping", f"set {key} by hand", str(path))
        place[last] = value
    out = io.StringIO()
    yaml.dump(raw, out)
    return out.getvalue()
