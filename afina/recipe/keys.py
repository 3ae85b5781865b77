"""The recipe's keys as data: path, default, what it may be, help. Read from the fields, their only owner."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic.fields import FieldInfo

from afina.recipe.part import RecipePart
from afina.recipe.parts import Recipe

_FIRST_SENTENCE = re.compile(r"(?s).*?(?<!e\.g)\.(?=\s|$)")


@dataclass(frozen=True)
class Key:
    """One key of a recipe."""

    path: str
    """``train.learning_rate``; inside lists ``sources[].path``."""
    field: FieldInfo
    inside: type[RecipePart]
    """The part that it is a field of."""
    part: type[RecipePart] | None
    """The part that the key holds, or a list of them."""

    @property
    def name(self) -> str:
        """The last step of the path."""
        return self.path.rpartition(".")[2]

    @property
    def schema(self) -> dict[str, Any]:
        """The field's JSON schema."""
        return _schema_of(self.inside)["properties"][self.name]

    @property
    def many(self) -> bool:
        """Whether it holds a list of parts."""
        return self.part is not None and self.schema.get("type") == "array"

    @property
    def always(self) -> bool:
        """Whether it holds a part that every recipe has; others are null or an empty list until they are given."""
        return self.part is not None and (self.field.is_required() or isinstance(self.default, RecipePart))

    @property
    def default(self) -> Any:
        """The default; None where the key has to be given."""
        return None if self.field.is_required() else self.field.get_default(call_default_factory=True)

    @property
    def shown(self) -> Any:
        """What an example shows: the default, or the field's own example where the key has to be given."""
        return self.field.examples[0] if self.field.examples else self.default

    @property
    def help(self) -> str:
        """The field's docstring as one line; of a part without one, the first paragraph of its class's."""
        text = self.inside.docstrings().get(self.name) or (self.part.__doc__ if self.part else "") or ""
        return " ".join(text.partition("\n\n")[0].split())

    @property
    def comment(self) -> str:
        """The help, and the choices that it does not name."""
        return f"{self.help} {self._choices_beside(self.help)}".strip()

    @property
    def brief(self) -> str:
        """The first sentence of the help, and the choices that it does not name."""
        found = _FIRST_SENTENCE.match(self.help)
        text = found[0] if found else self.help
        return f"{text} {self._choices_beside(text)}".strip()

    def _choices_beside(self, text: str) -> str:
        """`One of a, b.` where the key has a few values to choose from and the text does not name them all."""
        values = [each for each in _options(self.schema) if isinstance(each, str)]
        if all(f"`{value}`" in text for value in values if value != "auto"):
            return ""
        return f"{'Any' if self.schema.get('type') == 'array' else 'One'} of {', '.join(values)}."

    @property
    def choices(self) -> list[str]:
        """What may stand behind ``KEY=`` on the command line: the values to choose from, or else the default."""
        found = _options(self.schema) or ([True, False] if self.schema.get("type") == "boolean" else [])
        if not found and not self.field.is_required():
            found = [self.default]
        return [value if isinstance(value, str) else json.dumps(value) for value in found]

    @property
    def values(self) -> str:
        """What it may be, in words: ``number, above 0``."""
        return in_words(self.schema)


def keys_of(part: type[RecipePart] = Recipe, path: str = "") -> Iterator[Key]:
    """The keys of one part, in the order of its fields.

    >>> [key.path for key in keys_of()][:3]
    ['name', 'seed', 'root']
    """
    for name, field in part.model_fields.items():
        yield Key(f"{path}.{name}" if path else name, field, part, _part_in(field.annotation))


def every_key(part: type[RecipePart] = Recipe, path: str = "") -> Iterator[Key]:
    """The keys of a part and of all parts inside it, each before its own."""
    for key in keys_of(part, path):
        yield key
        if key.part is not None:
            yield from every_key(key.part, f"{key.path}[]" if key.many else key.path)


@cache
def _schema_of(part: type[RecipePart]) -> dict[str, Any]:
    return part.model_json_schema()


def _part_in(annotation: Any) -> type[RecipePart] | None:
    """The part that an annotation names: itself, a list of it, or it and None."""
    if isinstance(annotation, type) and issubclass(annotation, RecipePart):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _part_in(inner)) is not None), None)


def _options(schema: dict[str, Any]) -> list[Any]:
    if "enum" in schema:
        return list(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    inner = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    return [value for each in inner for value in _options(each)]


def in_words(schema: dict[str, Any]) -> str:
    """A JSON schema in words.

    >>> in_words({"type": "number", "minimum": 0.0, "maximum": 1.0})
    'number, 0 to 1'
    >>> in_words({"anyOf": [{"items": {"enum": ["a", "b"], "type": "string"}, "type": "array"}, {"type": "null"}]})
    'list of `a`, `b`; null'
    """
    if "anyOf" in schema:
        return "; ".join(map(in_words, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in _options(schema))
    if "$ref" in schema:
        return "mapping"
    kind = schema["type"]
    if kind == "array":
        return f"list of {in_words(schema['items']).replace('text', 'texts').replace('number', 'numbers')}"
    if kind == "object":
        return f"mapping to {in_words(schema['additionalProperties'])}"
    plain = {"string": "text", "boolean": "true, false", "integer": "whole number", "null": "null"}.get(kind, kind)
    return f"{plain}{_bounds(schema)}"


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return "".join(f", {word} {schema[key]:g}" for key, word in words.items() if key in schema)
