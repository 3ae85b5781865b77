"""Reading a run's folder: what is not there is None or empty, what is damaged is an error that names the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from afina.errors import AfinaError, RecipeError
from afina.evaluate.scores import Scores, read_scores
from afina.manifest import Manifest, read_manifest
from afina.recipe.yaml_text import parse_yaml
from afina.record import Record, read_record, read_rows
from afina.report.language import ENGLISH, LANGUAGES
from afina.run import REDO, hash_file, parse_json, read_metrics

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

WHY_AGAIN = "remove the folder why/ of the run and ask again: `afina why RUN --misses`"


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds. A record is None where its file is not there."""

    folder: Path
    recipe_text: str | None = None
    recipe: Mapping[str, Any] | None = None
    manifest: Manifest | None = None
    plan: Record | None = None
    audit: Record | None = None
    dataset: Record | None = None
    scores: Scores | None = None
    benchmarks: Record | None = None
    finished: Record | None = None
    metrics: list[Record] = field(default_factory=list)
    unreadable_metrics: int = 0
    """Lines of ``metrics.jsonl`` that a kill cut."""
    samples: list[Record] | None = None
    predictions: list[Record] | None = None
    """Of the probes, and of afina's own questions about skills."""
    task_predictions: list[Record] | None = None
    choices: list[Record] | None = None
    """Every choice among sentences."""
    continuations: list[Record] | None = None
    effects: Record | None = None
    """What each source did to the losses, as ``afina why`` measured it."""
    misses: Record | None = None
    """The rows behind wrong answers, as it found them."""
    predictions_sha256: str = ""
    """Of ``predictions.jsonl``, where there is something of `afina why` that was found of it."""

    @property
    def name(self) -> str:
        """The run's own name, or that of its folder."""
        named = self.manifest.name if self.manifest else None
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
    manifest: Manifest | None = None
    scores: Scores | None = None
    try:
        manifest = read_manifest(folder)
    except AfinaError as error:
        damaged.append(error)
    for name in ("plan", "audit", "dataset/dataset", "benchmarks", "finished"):
        try:
            found[name.rpartition("/")[2]] = read_record(folder / f"{name}.json")
        except AfinaError as error:
            damaged.append(error)
    try:
        scores = read_scores(folder)
    except AfinaError as error:
        damaged.append(error)
    for name in ("effects", "misses"):
        try:
            record = read_record(folder / f"why/{name}.json")
            found[name] = replace(record, fix=WHY_AGAIN) if record else None
        except AfinaError as error:
            damaged.append(AfinaError(problems=[replace(each, fix=WHY_AGAIN) for each in error.problems]))
    rows: dict[str, list[Record] | None] = {}
    for name in ("samples", "predictions", "skills", "task_predictions", "choices", "continuations"):
        try:
            rows[name] = read_rows(folder / f"{name}.jsonl")
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
    if skills := rows.pop("skills"):
        rows["predictions"] = [*(rows["predictions"] or []), *skills]
    return RunFiles(
        folder,
        recipe_text,
        recipe,
        manifest=manifest,
        scores=scores,
        metrics=metrics,
        unreadable_metrics=cut,
        predictions_sha256=_hash_of_answers(folder) if found["effects"] or found["misses"] else "",
        **found,  # type: ignore[arg-type]
        **rows,  # type: ignore[arg-type]
    )


def _hash_of_answers(folder: Path) -> str:
    file = folder / "predictions.jsonl"
    return hash_file(file) if file.is_file() else ""


def language_of(run: RunFiles) -> str:
    """The language of its page: that of the recipe's texts where a page can be in it, else English."""
    dataset = run.recipe.get("dataset") if run.recipe else None
    named = dataset.get("language") if isinstance(dataset, Mapping) else None
    return named if named in LANGUAGES else ENGLISH


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
            event = parse_json(line)
        except ValueError:
            cut += 1
            continue
        if not isinstance(event, dict):
            raise AfinaError(f"an event should be a mapping and is {event!r:.60}", REDO, f"{path}:{line_number}")
    return [Record(event, str(path), f"step {event.get('step')}") for event in read_metrics(folder)], cut


def _read_recipe(path: Path) -> tuple[str | None, Mapping[str, Any] | None]:
    """The recipe as text and as plain values. Not `load_recipe`: the paths in it need not exist on this machine."""
    if not path.exists():
        return None, None
    try:
        text = path.read_text(encoding="utf-8")
        content = parse_yaml(text)
    except (UnicodeDecodeError, YAMLError) as error:
        raise AfinaError(
            f"damaged: {error}", "write the resolved recipe again: start the run again", str(path)
        ) from error
    if not isinstance(content, dict):
        raise AfinaError(f"should hold a mapping and holds a {type(content).__name__}", REDO, str(path))
    return text, content


def is_finite(value: float | None) -> bool:
    """Whether there is a number that can be drawn.

    >>> is_finite(None), is_finite(float("nan")), is_finite(0.0)
    (False, False, True)
    """
    return value is not None and math.isfinite(value)
