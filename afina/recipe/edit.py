"""Change values in a recipe's file and keep all else: comments, order, quotes."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from afina.errors import RecipeError
from afina.recipe.load import KeyProblem, parse_recipe


def change_recipe(path: Path, settings: Mapping[str, Any]) -> str:
    """The text of a recipe's file with dotted keys set. Nothing is written.

    Raises:
        RecipeError: as :func:`change_text`.
    """
    return change_text(path.read_text(encoding="utf-8"), settings, where=str(path))


def change_text(text: str, settings: Mapping[str, Any], *, removed: Collection[str] = (), where: str = "recipe") -> str:
    """A recipe's text with dotted keys set, e.g. ``{"train.batch_tokens": 512, "sources.0.path": "docs"}``.

    >>> print(change_text("train:\\n  epochs: 2  # enough\\n", {"train.epochs": 3, "seed": 1}), end="")
    train:
      epochs: 3  # enough
    seed: 1

    Args:
        settings: a number steps into a list, the one behind its last adds to it.
        removed: dotted keys, and places in lists, that are taken out; what is not there is passed over. Those of one
            list count as they stood before.
        where: the file, for errors.

    Raises:
        RecipeError: the text is no YAML or no mapping, or a key leads through something that holds no keys.
    """
    parse_recipe(text, where)  # which says what is wrong with it
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096
    dashes = [line for line in text.splitlines() if line.lstrip().startswith("- ")]
    offset = 2 if any(line.startswith("  ") for line in dashes[:1]) else 0
    yaml.indent(mapping=2, sequence=2 + offset, offset=offset)
    raw = yaml.load(text)
    for key, value in settings.items():
        place, last = _place_of(raw, key, where)
        if isinstance(place, list) and last == len(place):
            place.append(value)
        else:
            place[last] = value
    for key in sorted(removed, key=_steps, reverse=True):
        _remove(raw, key)
    out = io.StringIO()
    yaml.dump(raw, out)
    return out.getvalue()


def _steps(key: str) -> list[tuple[bool, int, str]]:
    """A key's steps in an order in which places of a list stand by number."""
    return [(step.isdigit(), int(step) if step.isdigit() else 0, step) for step in key.split(".")]


def _place_of(raw: CommentedMap, key: str, where: str) -> tuple[Any, str | int]:
    """What holds a key's last step, and that step. Mappings on the way are made where they are missing."""
    steps = key.split(".")
    last, place = steps[-1], cast(Any, raw)
    for step, below in pairwise(steps):
        inner = int(step) if isinstance(place, list) and step.isdigit() else step
        if isinstance(place, list) and inner == len(place):
            place.append(CommentedMap())
        elif isinstance(place, dict) and place.get(inner) is None:
            place[inner] = [] if below == "0" else CommentedMap()
        try:
            place = place[inner]
        except (IndexError, TypeError):
            place = None
        if not isinstance(place, dict | list):
            raise _no_way(f"{step} holds no keys", key, where)
    if isinstance(place, dict):
        return place, last
    if last.isdigit() and int(last) <= len(place):
        return place, int(last)
    raise _no_way(f"{last} is no place of its list", key, where)


def _no_way(what: str, key: str, where: str) -> RecipeError:
    return RecipeError(problems=[KeyProblem(what, f"set {key} by hand", where, key)])


def _remove(raw: CommentedMap, key: str) -> None:
    """Take a key out, if it is there."""
    *parents, last = key.split(".")
    place: Any = raw
    for step in parents:
        inner = int(step) if isinstance(place, list) and step.isdigit() else step
        there = inner in place if isinstance(place, dict) else isinstance(place, list) and inner in range(len(place))
        if not there:
            return
        place = place[inner]
    if isinstance(place, dict):
        place.pop(last, None)
    elif isinstance(place, list) and last.isdigit() and int(last) < len(place):
        del place[int(last)]
