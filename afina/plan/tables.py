"""The planner's data files: ours, and the user's own on top.

Ours stand beside this file; a file of the same name in :func:`home` adds entries to it or replaces
them: ``devices.json``, ``prices.json``, ``architectures.json``, each a mapping from a name to facts.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.recipe.home import from_home
from afina.run import parse_json


def home() -> Path:
    """Where the user's tables and the record of finished runs are: ``$AFINA_HOME``, or ``~/.config/afina``."""
    if named := os.environ.get("AFINA_HOME"):
        return from_home(named)
    if config := os.environ.get("XDG_CONFIG_HOME"):
        return Path(config) / "afina"
    own = from_home("~/.config")
    # Where HOME is unset and the system knows no such user, as in a container, there is no such folder.
    return (own if own.is_absolute() else Path(os.devnull)) / "afina"


def table(name: str) -> dict[str, Any]:
    """The entries of ``NAME.json``: ours, then the user's, key by key.

    Raises:
        RecipeError: the user's file is no mapping of mappings.
    """
    found = dict(_ours(name))
    file = home() / f"{name}.json"
    if not file.is_file():
        return found
    try:
        theirs = parse_json(file.read_bytes())
    except ValueError as error:
        raise RecipeError(f"not JSON: {error}", "fix the file, or remove it", str(file)) from None
    theirs = theirs.get("entries", theirs) if isinstance(theirs, dict) else None
    if not isinstance(theirs, dict) or not all(isinstance(facts, dict) for facts in theirs.values()):
        raise RecipeError("is not a mapping of names to facts", f"write it like {name}.json of afina", str(file))
    for key, facts in theirs.items():
        found[key] = {**found.get(key, {}), **facts}
    return found


@cache
def _ours(name: str) -> dict[str, Any]:
    ours: dict[str, Any] = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    return dict(ours.get("entries", ours))
