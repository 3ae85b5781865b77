"""What a page may send: JSON objects of known keys, whose text can be written to a file."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

MOST = 2**53
"""The largest number that a page may send: beyond it JavaScript counts no more one by one."""


class PageBody(BaseModel):
    """The body of a request. A key that nobody reads is refused as in a recipe, and so is half a character."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _can_be_written(cls, values: Any) -> Any:
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("holds half a character, which cannot be written") from error
        return values
