"""How the keys of a request are read: what is known, what is ignored and said, what is refused.

- ``null`` is the same as not given, whatever the key: clients write out the defaults that they do not use.
- Keys of :attr:`StrictRequest.IGNORED` are known and mean nothing here; the answer's header names them.
- Keys of :attr:`StrictRequest.NEUTRAL` are not served; the values that change nothing are taken.
- Any other key is an error that names the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from afina.recipe.load import nearest

NULL: dict[str, Any] = {"type": "null"}


def _describe_keys(schema: dict[str, Any], model: type[StrictRequest]) -> None:
    """The server's OpenAPI says what is taken, too."""
    properties, required = schema.setdefault("properties", {}), schema.get("required", [])
    for name, inner in properties.items():
        if name not in required and NULL not in inner.get("anyOf", ()):
            kept = {key: inner.pop(key) for key in ("title", "default", "description") if key in inner}
            properties[name] = kept | {"anyOf": [inner, NULL]}
    for name in sorted(model.IGNORED):
        properties[name] = {"description": "Taken and ignored; `X-Afina-Ignored` says so."}
    for name, neutral in model.NEUTRAL.items():
        properties[name] = {"enum": [None, *neutral], "description": "Not served, but for these."}
    schema["additionalProperties"] = NULL


class StrictRequest(BaseModel):
    """A request in which every key is known."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_describe_keys)

    IGNORED: ClassVar[frozenset[str]] = frozenset()
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    _ignored: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="wrap")
    @classmethod
    def _read_keys(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return handler(given)
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        kept: dict[str, Any] = {}
        ignored: list[str] = []
        for key, value in given.items():
            if value is None and not (key in fields and fields[key].is_required()):
                continue
            if key in cls.IGNORED:
                ignored.append(key)
            elif key in cls.NEUTRAL:
                if not any(type(value) is type(each) and value == each for each in _numbers(cls.NEUTRAL[key])):
                    raise PydanticCustomError("not_served", "{key} is not served here", {"key": key})
            elif key in fields:
                kept[key] = _whole_characters(key, value) if isinstance(value, str) else value
            else:
                key = key.encode(errors="backslashreplace").decode()  # half a character could be told to nobody
                near = nearest(key, [*fields, *sorted(cls.IGNORED), *cls.NEUTRAL])
                hint = f"; did you mean {near}?" if near else ""
                raise PydanticCustomError("unknown_key", "{key} is not known here{hint}", {"key": key, "hint": hint})
        cls.look_at(kept)
        made = handler(kept)
        made._ignored = ignored
        return made

    @classmethod
    def look_at(cls, given: Mapping[str, Any]) -> None:
        """What else a class refuses in words of its own, before the fields are looked at."""

    def ignored(self) -> Iterator[str]:
        """Keys that were given and mean nothing here, those of inner requests too: ``messages.name``."""
        yield from self._ignored
        for name in type(self).model_fields:
            value = getattr(self, name)
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, StrictRequest):
                    yield from (f"{name}.{key}" for key in each.ignored())


def _whole_characters(key: str, text: str) -> str:
    """A text that can be read and written: JSON can hold half a character, and pydantic takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("half_a_character", "holds half a character", {"key": key}) from None
    return text


def _numbers(neutral: tuple[Any, ...]) -> Iterator[Any]:
    """JSON's 0 and 0.0 are one number; true is none."""
    for each in neutral:
        yield each
        if type(each) is int:
            yield float(each)
