"""Figures that somebody else published, read from a YAML file, to stand beside those of runs.

title: A monograph ...
source: https://...
found: [what is known about all of it]
results:
  - name: v6 Transformer
    road: from nothing            # or adapter, every weight
    hours: 16.6
    scores: [{task: qa, metric: exact match, before: 0.035, after: 0.08, label: as published}]
    found: [what is known about this one]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ruamel.yaml.error import YAMLError

from afina.errors import AfinaError, RecipeError
from afina.recipe import nearest
from afina.recipe.yaml_text import parse_yaml
from afina.record import Record
from afina.report.costs import Road, TaskScore, TrainingCost

_FIX = "correct the value; recipes/ptbr-scratch/published.yaml is an example"
_PAGE_KEYS = ("title", "source", "found", "results")
_NUMBERS = ("hours", "money", "parameters", "trained_parameters", "tokens", "flops", "bits_per_byte")
_RESULT_KEYS = ("name", "road", "device", "currency", "text", "derived", "scores", "found", *_NUMBERS)
_SCORE_KEYS = ("task", "metric", "before", "after", "label")


@dataclass(frozen=True)
class PublishedFigures:
    """What a file of published figures holds."""

    title: str
    source: str
    results: tuple[TrainingCost, ...]
    found: tuple[str, ...] = ()


def read_published(file: Path) -> PublishedFigures:
    """The figures in a file.

    Raises:
        RecipeError: it is not there or no YAML, a key is not known, a value is missing or of the wrong kind.
    """
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", "name a file of published figures", str(file)) from error
    except (UnicodeDecodeError, YAMLError) as error:
        raise RecipeError(f"no YAML: {str(error).splitlines()[0]}", _FIX, str(file)) from error
    if not isinstance(content, Mapping):
        raise RecipeError("should hold `title`, `source` and `results`", _FIX, str(file))
    try:
        return _figures(Record(content, str(file), fix=_FIX))
    except AfinaError as error:
        raise RecipeError(problems=error.problems) from None


def _figures(page: Record) -> PublishedFigures:
    _only(page, _PAGE_KEYS)
    results = tuple(_result(each) for each in page.records("results"))
    if not results:
        raise page.wrong("results", "a list of one result at least", page.values.get("results"))
    return PublishedFigures(
        page.required_text("title"), page.required_text("source"), results, tuple(page.texts("found"))
    )


def _result(record: Record) -> TrainingCost:
    _only(record, _RESULT_KEYS)
    road = record.required_text("road")
    if road not in get_args(Road):
        raise record.wrong("road", f"one of {', '.join(get_args(Road))}", road)
    numbers = {key: record.number(key) for key in _NUMBERS}
    for key, value in numbers.items():
        if value is not None and value <= 0:
            raise record.wrong(key, "above 0", value)
    return TrainingCost(
        name=record.required_text("name"),
        road=road,  # type: ignore[arg-type]
        published=True,
        device=record.text("device"),
        currency=record.text("currency") or "US$",
        text=record.text("text") or "a text of its own",
        derived=record.text("derived") or "",
        scores=tuple(_score(each) for each in record.records("scores")),
        found=tuple(record.texts("found")),
        **numbers,  # type: ignore[arg-type]
    )


def _score(record: Record) -> TaskScore:
    _only(record, _SCORE_KEYS)
    return TaskScore(
        record.required_text("task"),
        record.required_text("metric"),
        record.required_number("after"),
        record.number("before"),
        label=record.text("label") or "",
    )


def _only(record: Record, known: tuple[str, ...]) -> None:
    """Refuse a key that nobody reads."""
    for key in record.values:
        if key not in known:
            guess = nearest(str(key), known)
            fix = f"did you mean `{guess}`?" if guess else f"known here: {', '.join(known)}"
            raise RecipeError(f"unknown key `{record.path_of(str(key))}`", fix, record.where)
