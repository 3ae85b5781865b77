"""YAML read in one place: whatever is wrong with it is ruamel's own error."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scanner import RoundTripScanner, Scanner, ScannerError

DEEPEST = 100
"""Brackets in brackets that are read; no recipe has as many. At each token ruamel looks at every one that is open, as
it may begin a key: two thousand of them took a second, in each of the several readings of one text."""


class _Bounded(Scanner):
    """Stops at the bracket that is one too many, before what stands behind it is read."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
        if self.flow_level == DEEPEST:
            what = f"brackets in brackets, more than {DEEPEST} deep"
            raise ScannerError(None, None, what, self.reader.get_mark())
        super().fetch_flow_collection_start(TokenClass, to_push)


class _BoundedRoundTrip(_Bounded, RoundTripScanner):
    """The same, for a text that is written again."""


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
        yaml = YAML(typ="rt" if round_trip else "safe", pure=True)
        yaml.Scanner = _BoundedRoundTrip if round_trip else _Bounded
        found = yaml.load(text)
        _refuse_circles(found, set(), set())
        return found
    except RecursionError as error:
        raise YAMLError("brackets in brackets without end") from error
    except (ValueError, OverflowError) as error:  # a number of thousands of digits, the 31st of February
        raise YAMLError(str(error)) from error
    except (LookupError, TypeError, AttributeError) as error:  # `!!bool x`, `!!int ''`: ruamel does not look first
        raise YAMLError("a value is not what its tag says") from error


def _refuse_circles(value: Any, above: set[int], seen: set[int]) -> None:
    """An anchor may hold itself (``&a [*a]``); whoever walks over such values never ends.

    Args:
        above: what holds `value`, by its id.
        seen: what has been walked over; one anchor may stand in many places.
    """
    if not isinstance(value, dict | list) or id(value) in seen:
        return
    for each in value.values() if isinstance(value, dict) else value:
        if id(each) in above or each is value:
            raise YAMLError("an anchor that holds itself")
        _refuse_circles(each, above | {id(value)}, seen)
    seen.add(id(value))


def yaml_of(value: Mapping[str, Any]) -> str:
    """Plain values as YAML, a key a line, in their own order."""
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(value), out)
    return out.getvalue()
