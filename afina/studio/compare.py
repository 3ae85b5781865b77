"""Several runs side by side: the figures of `afina compare`, written in the studio's language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from afina.report.compare import RunComparison, compare_runs, metric_rows, recipe_rows, show_gain
from afina.report.costs import common_text, cost_cells, task_titles
from afina.report.language import in_language
from afina.report.results import judge
from afina.report.sentences import StoredSentence
from afina.studio.facts import checked_run
from afina.studio.pages import render
from afina.studio.refusal import StudioRefusal
from afina.studio.settings import StudioSettings
from afina.studio.translate import sentence_values
from afina.units import show_bytes

LONGEST_LOG = 2**25
"""Bytes of a log that is read whole for a comparison."""


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/compare")
    def page() -> Response:
        """The page; its script reads the runs' names from the address."""
        return render("compare.html", settings, here="/")

    @made.get("/api/compare")
    def compared(runs: Annotated[list[str], Query()]) -> dict[str, Any]:
        """Two runs or more; a damaged one is an error that names its file."""
        folders = [checked_run(settings, name) for name in dict.fromkeys(runs)]
        for folder in folders:
            check_length(folder / "metrics.jsonl")
        return comparison_values(settings, folders)

    return made


def check_length(log: Path) -> None:
    """Before a run's log is read whole.

    Raises:
        StudioRefusal: 413, it would take more memory than the studio has.
    """
    if log.is_file() and log.stat().st_size > LONGEST_LOG:
        what = f"its log is too long to be compared here: {show_bytes(log.stat().st_size)}"
        raise StudioRefusal(413, what, "`afina compare RUN RUN --page FILE` does it in a terminal", str(log))


def comparison_values(settings: StudioSettings, folders: Sequence[Path]) -> dict[str, Any]:
    """What the page shows of at least two runs: texts, in the order of the runs.

    Raises:
        AfinaError: naming the files that are damaged, or that there are fewer than two runs.
    """
    with in_language(settings.language):
        found = compare_runs(folders)
        titles, common = task_titles(found.costs), common_text(found.costs)
        return {
            "runs": _verdicts(found),
            "notes": [sentence_values(StoredSentence(note)) for note in found.notes],
            "tasks": titles,
            "costs": [cost_cells(cost, titles, common) for cost in found.costs],
            "figures": {"rows": metric_rows(found), "best": [metric.best for metric in found.metrics]},
            "same_items": [[each.name, *map(show_gain, each.differences[1:])] for each in found.same_items],
            "recipe": None if found.recipe is None else recipe_rows(found),
        }


def _verdicts(found: RunComparison) -> list[dict[str, Any]]:
    """Each run's folder and name, and what is said of it."""
    headings = [judge(files) for files in found.files]
    return [
        {
            "name": folder.name,
            "label": label,
            "verdict": {"state": heading.state, "word": heading.word, "sentence": heading.sentence},
        }
        for folder, label, heading in zip(found.folders, found.runs, headings, strict=True)
    ]
