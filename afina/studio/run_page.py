"""One run: how it stands, what its files say, its curves, its report, and its page."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, JSONResponse, Response

from afina.record import read_record, read_rows
from afina.report.compare import plain
from afina.report.language import in_language
from afina.report.sentences import StoredSentence
from afina.studio.curves import curve_values
from afina.studio.facts import SmallFiles, marks_of, text_of
from afina.studio.pages import render
from afina.studio.readers import Readers
from afina.studio.refusal import StudioRefusal
from afina.studio.runs import RunIndex
from afina.studio.security import REPORT_POLICY, run_folder
from afina.studio.settings import StudioSettings
from afina.studio.translate import sentence_values
from afina.watch.lock import UNNAMED, lock_holder
from afina.watch.view import RunView, RunWarning, TrainingView, without_nan

SAMPLES = 20
"""Answers before and after that a page shows; the report has them all."""
MOST_FILES = 400
"""Files that a page lists; it says how many there are."""
ENDED = ("finished", "running")


def standing(index: RunIndex, readers: Readers, name: str) -> dict[str, Any]:
    """How a run stands: its line in the list, and what may change while it works. ``why`` is the reason of its state in
    the studio's language, and so are the warnings, each with ``lang`` where it stays English.
    """
    line = index.line(name)
    folder = index.settings.runs / name
    facts = index.facts(name)
    with readers.looking(name) as (view, _), in_language(index.settings.language):
        shown = _shown(view) | {"why": sentence_values(StoredSentence(line.reason))}
    of_files = [{"kind": each.section, "what": each.text, "training": None, "lang": None} for each in facts.cautions]
    shown["warnings"] = [*of_files, *shown["warnings"]]
    can = {
        "stop": (lock_holder(folder / ".lock") or UNNAMED) != UNNAMED,
        "resume": line.state not in ENDED and (folder / "recipe.yaml").is_file(),
    }
    problems = {str(each): each for each in (*facts.problems, *view.problems)}
    standing = line.as_json() | shown | {"can": can, "report": (folder / "report.html").is_file()}
    return standing | {"problems": [asdict(each) for each in problems.values()]}


def _shown(view: RunView) -> dict[str, Any]:
    kept = ("stages", "error", "last_event", "currency", "usable_bytes")
    return without_nan(
        {key: getattr(view, key) for key in kept}
        | {
            "warnings": [_warning(each) for each in view.warnings],
            "training": _training(view.training) if view.training else None,
            "money": view.training.money if view.training else None,
        }
    )


def _warning(warning: RunWarning) -> dict[str, Any]:
    said = sentence_values(StoredSentence(warning.what))
    return asdict(warning) | {"what": said["text"], "lang": said["lang"]}


def _training(training: TrainingView) -> dict[str, Any]:
    """The figures of a training, its last and its lowest measurement; no curves."""
    left_out = ("steps", "held_out", "went_back", "smaller_batches")
    values = {key: value for key, value in vars(training).items() if key not in left_out}
    best, last = training.best, training.held_out[-1] if training.held_out else None
    return values | {"best": asdict(best) if best else None, "held_out": asdict(last) if last else None}


def run_values(settings: StudioSettings, index: RunIndex, readers: Readers, name: str) -> dict[str, Any]:
    """All that the page of a run shows but its curves. A damaged file is among the ``problems``, the rest is there."""
    folder = run_folder(settings, name)
    values = standing(index, readers, name)
    files = SmallFiles(settings, folder, marks_of(folder))
    samples = files.of("samples.jsonl", read_rows) or []
    stored = {name: files.of(f"{name}.json", read_record) for name in ("plan", "scores", "audit")}
    values |= {name: dict(record.values) if record else None for name, record in stored.items()}
    listed = _files(folder)
    values |= {
        "folder": str(folder),
        "recipe": files.of("recipe.yaml", text_of),
        "samples": [dict(row.values) for row in samples[:SAMPLES]],
        "samples_total": len(samples),
        "files": listed[:MOST_FILES],
        "files_total": len(listed),
        "trained": any(re.match(r"(adapter|model)(/|$)", each["name"]) for each in listed),
    }
    known = {(each["what"], each["where"]) for each in values["problems"]}
    values["problems"] += [asdict(each) for each in files.problems if (each.what, each.where) not in known]
    found: dict[str, Any] = plain(values)
    return found


def _files(folder: Path) -> list[dict[str, Any]]:
    """The files of a run, of the folders in it and of those in them: name from the run's folder, bytes, and when each
    was changed, in Unix seconds."""
    found: list[dict[str, Any]] = []
    for place, folders, names in os.walk(folder):
        inner = Path(place).relative_to(folder)
        if len(inner.parts) >= 2:
            folders.clear()
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a checkpoint that was written anew meanwhile
                status = (Path(place) / name).lstat()
                found.append({"name": (inner / name).as_posix(), "bytes": status.st_size, "modified": status.st_mtime})
    return sorted(found, key=lambda each: (each["name"].count("/"), each["name"]))


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
        """How it stands, and what its files say."""
        return JSONResponse(run_values(settings, index, readers, name))

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
