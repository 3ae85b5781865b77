"""One run: what its files say, its curves, its report, and its page."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, JSONResponse, Response

from afina.errors import AfinaError
from afina.evaluate.scores import read_scores
from afina.record import read_record, read_rows
from afina.report.cautions import cautions
from afina.report.compare import plain
from afina.report.language import in_language
from afina.report.read import RunFiles
from afina.studio.curves import WHOLE, curve_values, read_log
from afina.studio.facts import SmallFiles, check_links, marks_of, text_of
from afina.studio.jobs import ask
from afina.studio.pages import render
from afina.studio.refusal import StudioRefusal
from afina.studio.runs import RunIndex
from afina.studio.security import REPORT_POLICY, run_folder
from afina.studio.settings import StudioSettings
from afina.watch.reader import RunReader

SAMPLES = 50
"""Answers before and after that a page shows; the report has them all."""
MOST_FILES = 400


def run_values(settings: StudioSettings, index: RunIndex, name: str) -> dict[str, Any]:
    """What the page of a run shows of its small files. A damaged file is among the ``problems``, the rest is there."""
    folder = run_folder(settings, name)
    files = SmallFiles(settings, folder, marks_of(folder))
    plan, audit = (files.of(each, read_record) for each in ("plan.json", "audit.json"))
    dataset = files.of("dataset/dataset.json", read_record)
    scores = files.of("scores.json", lambda path: read_scores(path.parent))
    stored = files.of("scores.json", read_record)
    samples = files.of("samples.jsonl", read_rows) or []
    known = RunFiles(folder, plan=plan, audit=audit, dataset=dataset, scores=scores)
    values: dict[str, Any] = index.line(name).as_json() | {
        "folder": str(folder),
        "recipe": files.of("recipe.yaml", text_of),
        "plan": dict(plan.values) if plan else None,
        "scores": dict(stored.values) if stored else None,
        "audit": dict(audit.values) if audit else None,
        "warnings": _warnings(settings, known, files),
        "samples": [dict(row.values) for row in samples[:SAMPLES]],
        "samples_in_all": len(samples),
        "has_report": "report.html" in files.present,
        "files": _files(folder),
    }
    problems = {str(each): each for each in (*index.facts(name).problems, *files.problems)}
    values["problems"] = [asdict(each) for each in problems.values()]
    found: dict[str, Any] = plain(values)
    return found


def _warnings(settings: StudioSettings, known: RunFiles, files: SmallFiles) -> list[dict[str, str]]:
    """What stands at the top of the run's report; those of its training come with its view."""
    with in_language(settings.language):
        try:
            return [asdict(each) for each in cautions(known)]
        except AfinaError as error:  # a value of the wrong kind in a file that could be parsed
            files.problems += error.problems
            return []


def _files(folder: Path) -> list[dict[str, Any]]:
    """The files of a run and of the folders in it."""
    found: list[dict[str, Any]] = []
    for place, folders, names in os.walk(folder):
        inner = Path(place).relative_to(folder)
        if len(inner.parts) >= 2:
            folders.clear()
        for name in sorted(names):
            status = (Path(place) / name).lstat()
            found.append({"name": (inner / name).as_posix(), "bytes": status.st_size, "modified": status.st_mtime})
    return sorted(found, key=lambda each: (each["name"].count("/"), each["name"]))[:MOST_FILES]


def report_of(settings: StudioSettings, name: str) -> Path:
    """A run's report.

    Raises:
        StudioRefusal: 404, it has none, or it is a link that leads elsewhere.
    """
    folder = run_folder(settings, name)
    files = SmallFiles(settings, folder, marks_of(folder))
    path = files.of("report.html", lambda found: found if found.is_file() else None)
    if path is None:
        raise StudioRefusal(404, "the run has no report yet", f"afina report {folder}", str(folder / "report.html"))
    return path


def routes(settings: StudioSettings, index: RunIndex) -> APIRouter:
    """The page of a run and its data."""
    made = APIRouter()

    @made.get("/run/{name}")
    def page(name: str) -> Response:
        """The page."""
        run_folder(settings, name)
        return render("run.html", settings, here="/", name=name)

    @made.get("/api/runs/{name}")
    def run(name: str) -> Response:
        """Its line in the list, and what its small files say."""
        return JSONResponse(run_values(settings, index, name))

    @made.get("/api/runs/{name}/metrics")
    def metrics(
        name: str, points: Annotated[int, Query(ge=10, le=20_000)] = 2000, training: str | None = None
    ) -> Response:
        """Its curves."""
        folder = run_folder(settings, name)
        files = SmallFiles(settings, folder, marks_of(folder))
        read = files.of("metrics.jsonl", read_log)
        return JSONResponse(curve_values(read or read_log(folder / "-"), points, training))

    @made.get("/api/runs/{name}/view")
    async def view(name: str) -> Response:
        """How its training stands, and the warnings about it: the object of `afina watch --json`."""
        folder = run_folder(settings, name)
        check_links(settings, folder)
        log = folder / "metrics.jsonl"
        if log.is_file() and log.stat().st_size > WHOLE:  # seconds and memory that the studio has not
            return JSONResponse(await ask("watch", str(folder)))
        return JSONResponse(await asyncio.to_thread(lambda: RunReader(folder).look().as_json()))

    @made.get("/api/runs/{name}/report")
    def report(name: str) -> Response:
        """Its report, which may run no script."""
        path = report_of(settings, name)
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

    return made
