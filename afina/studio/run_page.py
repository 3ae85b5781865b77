"""One run: what its files say, how its training stands, its curves, its report, and its page."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, JSONResponse, Response

from afina.record import read_record, read_rows
from afina.report.compare import plain
from afina.studio.curves import curve_values
from afina.studio.facts import SmallFiles, marks_of, text_of
from afina.studio.pages import render
from afina.studio.readers import Readers
from afina.studio.refusal import StudioRefusal
from afina.studio.runs import RunIndex
from afina.studio.security import REPORT_POLICY, run_folder
from afina.studio.settings import StudioSettings
from afina.watch.view import without_nan

SAMPLES = 20
"""Answers before and after that a page shows; the report has them all."""
MOST_FILES = 400


def run_values(settings: StudioSettings, index: RunIndex, name: str) -> dict[str, Any]:
    """What the page of a run shows of its small files. A damaged one is among the ``problems``, the rest is there."""
    folder = run_folder(settings, name)
    line, facts = index.line(name), index.facts(name)
    files = SmallFiles(settings, folder, marks_of(folder))
    samples = files.of("samples.jsonl", read_rows) or []
    stored = {key: files.of(f"{key}.json", read_record) for key in ("plan", "scores", "audit")}
    values = line.as_json() | {key: dict(record.values) if record else None for key, record in stored.items()}
    values |= {
        "folder": str(folder),
        "recipe": files.of("recipe.yaml", text_of),
        "warnings": [asdict(each) for each in facts.cautions],
        "samples": [dict(row.values) for row in samples[:SAMPLES]],
        "samples_in_all": len(samples),
        "has_report": "report.html" in files.present,
        "files": _files(folder),
    }
    problems = {(each.what, each.where): asdict(each) for each in (*facts.problems, *files.problems)}
    found: dict[str, Any] = plain(values | {"problems": list(problems.values())})
    return found


def _files(folder: Path) -> list[dict[str, Any]]:
    """The files of a run and of the folders in it."""
    found: list[dict[str, Any]] = []
    for place, folders, names in os.walk(folder):
        inner = Path(place).relative_to(folder)
        if len(inner.parts) >= 2:
            folders.clear()
        for name in names:
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


def routes(settings: StudioSettings, index: RunIndex, readers: Readers) -> APIRouter:
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

    @made.get("/api/runs/{name}/view")
    def watch(name: str) -> Response:
        """How its training stands, and the warnings about it: the object of `afina watch --json`, without curves."""
        with readers.looking(name) as (view, _):
            return JSONResponse(without_nan(view.as_json(points=2)))

    @made.get("/api/runs/{name}/metrics")
    def metrics(name: str, points: Annotated[int, Query(ge=10, le=20_000)] = 2000) -> Response:
        """Its curves."""
        with readers.looking(name) as (view, log):
            return JSONResponse(curve_values(view, log, points))

    @made.get("/api/runs/{name}/report")
    def report(name: str) -> Response:
        """Its report, which may run no script."""
        path = report_of(settings, name)
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

    return made
