"""What an agent is given of an answer: as much as it can read, and what was left out."""

from __future__ import annotations

import json
from typing import Any

from afina.errors import RecipeError

LONGEST = 100_000
"""Letters of an answer, as JSON."""
LONGEST_TEXT = 2_000
"""Letters of a text in it, where it is shortened."""
CAPS = (200, 50, 20, 5, 1, 0)
"""Items of each list in it, tried in turn."""


def as_text(values: Any) -> str:
    """An answer as JSON."""
    return json.dumps(values, ensure_ascii=False, default=str)


def bounded(values: dict[str, Any], most: int = LONGEST) -> dict[str, Any]:
    """An answer of at most so many letters: the lists and texts of a longer one are cut, and ``left_out`` says which.

    >>> bounded({"rows": list(range(1000))}, 1000)["left_out"]
    {'rows': '200 of 1000'}
    >>> bounded({"rows": [1, 2]})
    {'rows': [1, 2]}

    Raises:
        RecipeError: it is longer however little is left of its lists.
    """
    if len(as_text(values)) <= most:
        return values
    for cap in CAPS:
        left: dict[str, str] = {}
        cut = _cut(values, cap, "", left) | {"left_out": left}
        if len(as_text(cut)) <= most:
            return cut
    what = f"the answer is longer than the {most} letters that an agent is given"
    raise RecipeError(what, "ask for less: one file, one run, one recipe")


def _cut(values: Any, cap: int, path: str, left: dict[str, str]) -> Any:
    """Values with each list cut to so many items; what was cut is noted by its path."""
    if isinstance(values, dict):
        return {key: _cut(value, cap, f"{path}.{key}" if path else str(key), left) for key, value in values.items()}
    if isinstance(values, list):
        if len(values) > cap:
            left[path] = f"{cap} of {len(values)}"
        return [_cut(value, cap, path, left) for value in values[:cap]]
    if isinstance(values, str) and len(values) > LONGEST_TEXT:
        left[path] = f"{LONGEST_TEXT} of {len(values)} letters"
        return values[:LONGEST_TEXT]
    return values
