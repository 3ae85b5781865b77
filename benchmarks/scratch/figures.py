"""The figures of the ladder, read from the runs' folders."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afina.errors import AfinaError
from afina.manifest import Manifest
from afina.recipe import Chat
from afina.report.compare import RunComparison
from afina.report.labels import words
from afina.report.read import RunFiles, read_run
from afina.text.example import read_examples
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.measures import VocabularyMeasure
from afina.tokenizer.pieces import read_tokenizer

SEED = 101
"""Of the samples that are shown."""


def figures_of(folders: Mapping[str, Path], comparison: RunComparison) -> dict[str, Any]:
    """Everything that the page shows, as plain values.

    Args:
        folders: finished runs by the names of their recipes.
        comparison: of the same runs in the same order.

    Raises:
        AfinaError: a run is not finished, or one of its files is damaged.
    """
    runs = {name: read_run(folder) for name, folder in folders.items()}
    for name, run in runs.items():
        if run.scores is None or run.manifest is None:
            raise AfinaError(
                "the run is not finished", "start `make scratch` again, it goes on where it stopped", str(folders[name])
            )
    first = next(iter(runs.values())).manifest or Manifest()
    values = comparison.as_json()
    costs = dict(zip(folders, values["costs"], strict=False))
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "afina": first.afina,
        "device": first.device.text("name") or first.device.text("device"),
        "threads": first.threads,
        "runs": {name: costs[name] | _run(run) for name, run in runs.items()},
        "samples": _samples(runs),
        "published": values["costs"][len(folders) :],
    }


def _run(run: RunFiles) -> dict[str, Any]:
    """What the comparison does not hold."""
    assert run.scores is not None and run.manifest is not None
    scores, manifest = run.scores, run.manifest
    written = scores.continuations
    return {
        "steps": manifest.measured.number("steps"),
        "train_seconds": manifest.measured.number("train_seconds"),
        "loss": {side: getattr(scores.loss, side).number("loss") for side in ("before", "after")}
        if scores.loss
        else None,
        "gains": _gains(run),
        "windows": scores.windows.as_json() if scores.windows else None,
        "broken": written.sampled.broken.as_json() if written and written.sampled.broken else None,
        "control": written.corpus.control if written else None,
        "flaws": dict(written.sampled.flaws) if written else None,
        "texts": written.sampled.texts if written else None,
        "tokenizer": _tokenizer(run) if scores.windows else None,
    }


def _gains(run: RunFiles) -> dict[str, Any]:
    """By how much a model changed on the held-out rows and on each task, row by row with the 95 % interval."""
    assert run.scores is not None
    found: dict[str, Any] = {}
    if losses := run.scores.intrinsic.record("learned").record("difference"):
        found["loss"] = {key: losses.number(key) for key in ("value", "low", "high")}
    for task in run.scores.tasks:
        for metric in task.records("metrics"):
            gain = metric.record("difference")
            title = f"{task.required_text('name')}, {words(metric.required_text('name'))}"
            found[title] = {"value": gain.number("mean"), "low": gain.number("low"), "high": gain.number("high")}
    return found


def _tokenizer(run: RunFiles) -> dict[str, Any]:
    """How the version's vocabulary cuts the held-out texts."""
    folder = run.folder / "tokenizer"
    measure = VocabularyMeasure(read_tokenizer(load_tokenizer(str(folder), Chat()), run.name))
    measure.add(example.text for example in read_examples(run.folder / "dataset/validation.jsonl"))
    found = measure.as_json()
    return {key: value for key, value in found.items() if key not in ("languages", "tokenizer")}


def _samples(runs: Mapping[str, RunFiles]) -> list[dict[str, Any]]:
    """What each version writes behind each prompt, drawn with one and the same seed."""
    found: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        for row in run.continuations or ():
            if row.whole("seed") == SEED:
                each = found.setdefault(row.required_text("prompt"), {"prompt": row["prompt"], "seed": SEED})
                each[name] = row.required_text("output")
    return list(found.values())
