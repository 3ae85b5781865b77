"""A recipe as a form: each key as a field, and what a recipe's text gives for each, in the words of YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from afina.recipe.keys import Key, every_key, keys_of
from afina.recipe.part import RecipePart
from afina.recipe.parts import Recipe
from afina.recipe.starter import yaml_value

Control = Literal["part", "optional", "parts", "choice", "choices", "boolean", "number", "text", "yaml"]
"""How a key is asked for: a mapping that is always there, one that may be, a list of mappings; one of some values, any
of some values, true or false, a number, text, or anything else as YAML."""


def control_of(key: Key) -> Control:
    """How a key is asked for.

    >>> {key.path: control_of(key) for key in every_key() if key.path in ("seed", "sources", "train.first")}
    {'seed': 'number', 'sources': 'parts', 'train.first': 'optional'}
    """
    if key.part is not None:
        return "parts" if key.many else "part" if key.always else "optional"
    schema = key.schema
    if schema.get("type") == "array" and options_of(schema["items"]):
        return "choices"
    kinds = _without_null(schema)
    if options_of(schema):
        return "choice"
    names = {each.get("type") for each in kinds}
    if names == {"boolean"}:
        return "boolean"
    if names <= {"integer", "number"}:
        return "number"
    return "text" if names == {"string"} else "yaml"


def options_of(schema: Mapping[str, Any]) -> list[Any]:
    """The values that a schema allows, where it is but some values (and null).

    >>> options_of({"anyOf": [{"enum": [4, 8], "type": "integer"}, {"type": "null"}]})
    [4, 8]
    >>> options_of({"anyOf": [{"const": "all-linear"}, {"type": "array"}]})
    []
    """
    found: list[Any] = []
    for each in _without_null(schema):
        if "enum" not in each and "const" not in each:
            return []
        found += each["enum"] if "enum" in each else [each["const"]]
    return found


def _without_null(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a schema may be, but for null."""
    return [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]


def form_fields() -> list[dict[str, Any]]:
    """Every key of a recipe as a field, each part before what is in it: ``key`` (``sources[].path``: one of a list),
    ``control``, ``required``, ``default`` as YAML, ``options`` as YAML, ``values`` in words, ``brief`` and ``help``."""
    return [_field(key) for key in every_key()]


def _field(key: Key) -> dict[str, Any]:
    control = control_of(key)
    of = key.schema["items"] if control == "choices" else key.schema
    return {
        "key": key.path,
        "control": control,
        "required": key.field.is_required(),
        "default": "" if key.part or key.field.is_required() else yaml_value(key.default),
        "options": [yaml_value(each) for each in options_of(of)] if control in ("choice", "choices") else [],
        "values": "" if key.part else key.values,
        "brief": key.brief,
        "help": key.comment,
    }


def given_values(raw: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe gives, by dotted key: text as it is, the number of parts in a list, all else as YAML. A part that
    is given stands there too.

    Args:
        raw: plain values, as :func:`~afina.recipe.yaml_text.parse_yaml` gives them.

    >>> given_values({"name": "x", "sources": [{"path": "a"}], "train": {"epochs": 2.0}})
    {'name': 'x', 'sources': '1', 'sources.0.path': 'a', 'train': '', 'train.epochs': '2.0'}
    """
    return dict(_given(Recipe, raw, ""))


def _given(part: type[RecipePart], raw: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for key in keys_of(part, path):
        if key.name not in raw:
            continue
        value = raw[key.name]
        if key.part and key.many and isinstance(value, list):
            yield key.path, str(len(value))
            for place, each in enumerate(value):
                if isinstance(each, Mapping):
                    yield from _given(key.part, each, f"{key.path}.{place}")
        elif key.part and not key.many and isinstance(value, Mapping):
            yield key.path, ""
            yield from _given(key.part, value, key.path)
        elif isinstance(value, str) and control_of(key) == "text":
            yield key.path, str(value)
        else:
            yield key.path, yaml_value(value)
