"""Reading a run's folder: what is not there is None or empty, what is damaged is an error that names the file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from afina.errors import AfinaError, RecipeError
from afina.run import read_json, read_metrics

_KNOWN = (
    "recipe.yaml",
    "manifest.json",
    "plan.json",
    "audit.json",
    "dataset/dataset.json",
    "metrics.jsonl",
    "scores.json",
    "samples.jsonl",
    "predictions.jsonl",
    "finished.json",
    "stages.json",
)
_FIX = "remove the file and start the run again: the stage that wrote it is done anew"


@dataclass(frozen=True)
class Record:
    """A mapping from a run's file; a value of the wrong kind is an error that names file and key.

    >>> scores = Record({"loss": {"before": 2.5}}, "scores.json")
    >>> scores.record("loss").number("before"), scores.record("probes").number("n")
    (2.5, None)
    >>> scores.number("loss")
    Traceback (most recent call last):
    afina.errors.AfinaError: scores.json: `loss` should be a number and is {'before': 2.5}
      -> remove the file and start the run again: the stage that wrote it is done anew
    """

    values: Mapping[str, Any]
    where: str
    key: str = ""

    def __bool__(self) -> bool:
        return bool(self.values)

    def number(self, key: str) -> float | None:
        """The number under `key`; None where there is none or null."""
        value = self.values.get(key)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise self._wrong(key, "a number", value)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(key, "text", value)

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(key, "true or false", value)

    def texts(self, key: str) -> list[str]:
        value = self.values.get(key)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise self._wrong(key, "a list of texts", value)

    def record(self, key: str) -> Record:
        """The mapping under `key`; an empty one where there is none or null."""
        value = self.values.get(key)
        if value is None or isinstance(value, Mapping):
            return Record(value or {}, self.where, self._path(key))
        raise self._wrong(key, "a mapping", value)

    def records(self, key: str) -> list[Record]:
        """The mappings of the list under `key`."""
        value = self.values.get(key)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            return [Record(item, self.where, f"{self._path(key)}.{n}") for n, item in enumerate(value)]
        raise self._wrong(key, "a list of mappings", value)

    def numbers(self) -> Iterator[tuple[str, float]]:
        """The keys that hold numbers."""
        for key, value in self.values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield key, value

    def _path(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def _wrong(self, key: str, kind: str, value: object) -> AfinaError:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "…"
        return AfinaError(f"`{self._path(key)}` should be {kind} and is {shown}", _FIX, self.where)


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds. A record is None where its file is not there."""

    folder: Path
    recipe_text: str | None = None
    recipe: Mapping[str, Any] | None = None
    manifest: Record | None = None
    plan: Record | None = None
    audit: Record | None = None
    dataset: Record | None = None
    scores: Record | None = None
    benchmarks: Record | None = None
    finished: Record | None = None
    metrics: list[Record] = field(default_factory=list)
    unreadable_metrics: int = 0
    """Lines of ``metrics.jsonl`` that a kill cut."""
    samples: list[Record] | None = None
    predictions: list[Record] | None = None
    task_predictions: list[Record] | None = None

    @property
    def name(self) -> str:
        """The run's own name, or that of its folder."""
        named = self.manifest.text("name") if self.manifest else None
        if named is None and self.recipe is not None and isinstance(self.recipe.get("name"), str):
            named = self.recipe["name"]
        return named or self.folder.resolve().name

    def events(self, kind: str, stage: str | None = None) -> list[Record]:
        """The events of one kind: of training, or of the ``first`` of its two stages."""
        events = [event for event in self.metrics if event.values.get("event") == kind]
        return [event for event in events if event.values.get("stage") == stage]


def read_run(folder: Path) -> RunFiles:
    """Read every file of a run that its report or a comparison needs.

    Raises:
        RecipeError: when there is no run in `folder`.
        AfinaError: naming the files that are damaged, all of them at once.
    """
    if not any((folder / name).exists() for name in _KNOWN):
        raise RecipeError(
            "there is no run here", "name a folder that `afina run` made, such as runs/<name>", str(folder)
        )
    damaged: list[AfinaError] = []
    found: dict[str, Record | None] = {}
    for name in ("manifest", "plan", "audit", "dataset/dataset", "scores", "benchmarks", "finished"):
        try:
            found[name.rpartition("/")[2]] = _read_record(folder / f"{name}.json")
        except AfinaError as error:
            damaged.append(error)
    rows: dict[str, list[Record] | None] = {}
    for name in ("samples", "predictions", "task_predictions"):
        try:
            rows[name] = _read_rows(folder / f"{name}.jsonl")
        except AfinaError as error:
            damaged.append(error)
    recipe_text: str | None = None
    recipe: Mapping[str, Any] | None = None
    metrics: list[Record] = []
    cut = 0
    try:
        recipe_text, recipe = _read_recipe(folder / "recipe.yaml")
    except AfinaError as error:
        damaged.append(error)
    try:
        metrics, cut = _read_events(folder)
    except AfinaError as error:
        damaged.append(error)
    if damaged:
        raise AfinaError(problems=[problem for error in damaged for problem in error.problems])
    return RunFiles(folder, recipe_text, recipe, metrics=metrics, unreadable_metrics=cut, **found, **rows)  # type: ignore[arg-type]


def _read_record(path: Path) -> Record | None:
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise AfinaError(f"should hold a mapping and holds a {type(content).__name__}", _FIX, str(path))
    return Record(content, str(path))


def _read_rows(path: Path) -> list[Record] | None:
    """The rows of a JSONL file that is written whole: every line must be good."""
    if not path.exists():
        return None
    rows = []
    # Not splitlines(): a model's answer may hold U+2028, which is no end of a row.
    for line_number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise AfinaError(f"damaged: {error}", _FIX, f"{path}:{line_number}") from error
        if not isinstance(row, dict):
            raise AfinaError(f"a row should be a mapping and is {row!r:.60}", _FIX, f"{path}:{line_number}")
        rows.append(Record(row, f"{path}:{line_number}"))
    return rows


def _read_events(folder: Path) -> tuple[list[Record], int]:
    """The events of ``metrics.jsonl`` and how many of its lines were cut by a kill."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return [], 0
    cut = 0
    for line_number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line.decode("utf-8"))
        except ValueError:
            cut += 1
            continue
        if not isinstance(event, dict):
            raise AfinaError(f"an event should be a mapping and is {event!r:.60}", _FIX, f"{path}:{line_number}")
    return [Record(event, str(path), f"step {event.get('step')}") for event in read_metrics(folder)], cut


def _read_recipe(path: Path) -> tuple[str | None, Mapping[str, Any] | None]:
    """The recipe as text and as plain values. Not `load_recipe`: the paths in it need not exist on this machine."""
    if not path.exists():
        return None, None
    try:
        text = path.read_text(encoding="utf-8")
        content = YAML(typ="safe", pure=True).load(text)
    except (UnicodeDecodeError, YAMLError) as error:
        raise AfinaError(
            f"damaged: {error}", "write the resolved recipe again: start the run again", str(path)
        ) from error
    if not isinstance(content, dict):
        raise AfinaError(f"should hold a mapping and holds a {type(content).__name__}", _FIX, str(path))
    return text, content


def is_finite(value: float | None) -> bool:
    """Whether there is a number that can be drawn.

    >>> is_finite(None), is_finite(float("nan")), is_finite(0.0)
    (False, False, True)
    """
    return value is not None and math.isfinite(value)
