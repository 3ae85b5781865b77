"""What every part of a recipe is made of."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Named = Annotated[str, Field(pattern=r"\S")]
"""A name or a path, which has to name something: an empty path would be the folder that one stands in."""


class RecipePart(BaseModel):
    """A part of the recipe: unknown keys are refused, values do not change once read.

    A key's docstring is its help. It is read from the source where somebody asks for it; pydantic's own
    `use_attribute_docstrings` would read all of them at every start, which takes as long as all that `--help` does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def docstrings(cls) -> dict[str, str]:
        """Key -> the docstring below it in the source, of the keys that have one."""
        return dict(_docstrings_of(cls))

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the docstrings to the schema that editors read."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for key, text in cls.docstrings().items():
            properties[key]["description"] = text
        return schema


@cache
def _docstrings_of(part: type[RecipePart]) -> dict[str, str]:
    """Read once: Python looks through the whole file for each class."""
    (definition,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(part))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for parent in reversed(part.__mro__[1:]):
        if issubclass(parent, RecipePart) and parent is not RecipePart:
            found |= parent.docstrings()
    for key, below in pairwise(definition.body):
        match key, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found
