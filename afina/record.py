"""A mapping read from one of a run's files, whose values are checked where they are asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import AfinaError
from afina.run import REDO, parse_json, read_mapping

LARGEST = 1e30
"""No figure of a run is as large; sums and squares of larger ones would be no numbers."""


def is_number(value: object) -> bool:
    """Whether a value of JSON is one: true and false are none.

    >>> is_number(1), is_number(float("nan")), is_number(True)
    (True, True, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Record:
    """A mapping from a run's file; a missing key or a value of the wrong kind is an error that names file and key.

    The methods give None (or nothing) for what is not there; ``record["key"]`` insists on it.

    >>> scores = Record({"loss": {"before": 2.5}}, "scores.json")
    >>> scores.record("loss").number("before"), scores.record("probes").number("n"), scores["loss"]["before"]
    (2.5, None, 2.5)
    >>> scores.number("loss")
    Traceback (most recent call last):
    afina.errors.AfinaError: scores.json: `loss` should be a number and is {'before': 2.5}
      -> remove the file and start the run again: the stage that wrote it is done anew
    >>> scores["loss"]["after"]
    Traceback (most recent call last):
    afina.errors.AfinaError: scores.json: `loss.after` is missing
      -> remove the file and start the run again: the stage that wrote it is done anew
    """

    values: Mapping[str, Any]
    where: str
    key: str = ""
    fix: str = REDO
    """What to do about a value that is wrong; for a file that a person wrote, not this."""

    def __bool__(self) -> bool:
        return bool(self.values)

    def __contains__(self, key: object) -> bool:
        return key in self.values

    def __getitem__(self, key: str) -> Any:
        """The value under `key`, which must be there; mappings as records, lists of mappings as lists of them."""
        if key not in self.values:
            raise self._missing(key)
        value = self.values[key]
        if isinstance(value, Mapping):
            return self.record(key)
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            return self.records(key)
        return value

    def items(self) -> list[tuple[str, Any]]:
        """Keys and values, as ``record[key]`` gives them."""
        return [(key, self[key]) for key in self.values]

    def number(self, key: str) -> float | None:
        """The number under `key`; None where there is none or null."""
        value = self.values.get(key)
        if value is None or (is_number(value) and not LARGEST < abs(value) < math.inf):
            return value
        raise self.wrong(key, "a number" if not is_number(value) else "a number that can be", value)

    def whole(self, key: str) -> int | None:
        """The whole number under `key`."""
        value = self.number(key)
        if value is None or (math.isfinite(value) and value == int(value)):
            return None if value is None else int(value)
        raise self.wrong(key, "a whole number", value)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.wrong(key, "text", value)

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.wrong(key, "true or false", value)

    def texts(self, key: str) -> list[str]:
        value = self.values.get(key)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise self.wrong(key, "a list of texts", value)

    def figures(self, key: str) -> list[float]:
        """The numbers of the list under `key`."""
        value = self.values.get(key)
        if value is None:
            return []
        if isinstance(value, list) and all(map(is_number, value)):
            return value
        raise self.wrong(key, "a list of numbers", value)

    def record(self, key: str) -> Record:
        """The mapping under `key`; an empty one where there is none or null."""
        value = self.values.get(key)
        if value is None or isinstance(value, Mapping):
            return Record(value or {}, self.where, self.path_of(key), self.fix)
        raise self.wrong(key, "a mapping", value)

    def records(self, key: str) -> list[Record]:
        """The mappings of the list under `key`."""
        value = self.values.get(key)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            return [Record(item, self.where, f"{self.path_of(key)}.{n}", self.fix) for n, item in enumerate(value)]
        raise self.wrong(key, "a list of mappings", value)

    def numbers(self) -> Iterator[tuple[str, float]]:
        """The keys that hold numbers."""
        for key, value in self.values.items():
            if is_number(value):
                self.number(key)
                yield key, value

    def required_number(self, key: str) -> float:
        """:meth:`number`, which must be there."""
        value = self.number(key)
        if value is None:
            raise self.wrong(key, "a number", None) if key in self else self._missing(key)
        return value

    def required_whole(self, key: str) -> int:
        """:meth:`whole`, which must be there."""
        self.required_number(key)
        return self.whole(key) or 0

    def required_text(self, key: str) -> str:
        """:meth:`text`, which must be there."""
        value = self.text(key)
        if value is None:
            raise self.wrong(key, "text", None) if key in self else self._missing(key)
        return value

    def required_flag(self, key: str) -> bool:
        """:meth:`flag`, which must be there."""
        value = self.flag(key)
        if value is None:
            raise self.wrong(key, "true or false", None) if key in self else self._missing(key)
        return value

    def required_record(self, key: str) -> Record:
        """:meth:`record`, which must be there."""
        if self.values.get(key) is None:
            raise self.wrong(key, "a mapping", None) if key in self else self._missing(key)
        return self.record(key)

    def path_of(self, key: str) -> str:
        """The key with those of the mappings around it: ``probes.0.name``."""
        return f"{self.key}.{key}" if self.key else key

    def _missing(self, key: str) -> AfinaError:
        return AfinaError(f"`{self.path_of(key)}` is missing", self.fix, self.where)

    def wrong(self, key: str, kind: str, value: object) -> AfinaError:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "…"
        return AfinaError(f"`{self.path_of(key)}` should be {kind} and is {shown}", self.fix, self.where)


def read_record(path: Path) -> Record | None:
    """The mapping that a JSON file holds; None where there is no file.

    Raises:
        AfinaError: the file is damaged, or holds no mapping.
    """
    if not path.exists():
        return None
    return Record(read_mapping(path), str(path))


def read_rows(path: Path, *, whole_characters: bool = False) -> list[Record] | None:
    """The rows of a JSONL file of a run that is written whole; None where there is none.

    Args:
        whole_characters: whether half of one (a surrogate) is damage: it can be shown, and neither hashed nor encoded.

    Raises:
        AfinaError: a line is damaged, or holds no mapping.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise AfinaError("damaged: it is a folder", REDO, str(path))
    rows = []
    # Not splitlines(): a model's answer may hold U+2028, which is no end of a row.
    for line_number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            if whole_characters and b"\\u" in line:
                json.dumps(row, ensure_ascii=False).encode()  # ValueError
        except ValueError as error:
            raise AfinaError(f"damaged: {error}", REDO, f"{path}:{line_number}") from error
        if not isinstance(row, dict):
            raise AfinaError(f"a row should be a mapping and is {row!r:.60}", REDO, f"{path}:{line_number}")
        rows.append(Record(row, f"{path}:{line_number}"))
    return rows
