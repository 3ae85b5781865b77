"""YAML read in one place: whatever is wrong with it is ruamel's own error."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


def parse_yaml(text: str, *, round_trip: bool = False) -> Any:
    """What a text in YAML holds.

    >>> parse_yaml("a: [1, x]")
    {'a': [1, 'x']}

    Args:
        round_trip: with the lines that keys stand in, as :class:`~ruamel.yaml.comments.CommentedMap`.

    Raises:
        YAMLError: it is no YAML, or holds a value that is none.
    """
    try:
        return YAML(typ="rt" if round_trip else "safe", pure=True).load(text)
    except RecursionError as error:
        raise YAMLError("brackets in brackets without end") from error
    except (ValueError, OverflowError) as error:  # a number of thousands of digits, the 31st of February
        raise YAMLError(str(error)) from error
