"""What the small files of a run tell, in two depths, and which of them are damaged."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml.error import YAMLError

from afina.errors import AfinaError, Problem, read_problem
from afina.evaluate.scores import Scores, read_scores
from afina.manifest import read_manifest
from afina.recipe.yaml_text import parse_yaml
from afina.record import Record, is_number, read_record
from afina.report.cautions import Caution, cautions
from afina.report.language import in_language
from afina.report.read import RunFiles
from afina.report.results import judge
from afina.run import REDO, parse_json, read_stages
from afina.studio.refusal import StudioRefusal
from afina.studio.security import inside, run_folder
from afina.studio.settings import StudioSettings
from afina.studio.translate import sentence_values
from afina.watch.follow import events_in

Found = TypeVar("Found")
LOG, RESULT = "console.log", "console.json"
"""What a process that the studio started says (remarks and errors), and what it gives, in the run's folder."""
SIGNS = ("recipe.yaml", "metrics.jsonl", "stages.json", "finished.json", LOG)
"""One of these is in every run's folder, or in that of one that is about to begin."""
ROWS = ("samples.jsonl", "predictions.jsonl", "skills.jsonl", "choices.jsonl", "continuations.jsonl")
FILES = (*SIGNS, RESULT, *ROWS, "manifest.json", "scores.json", "plan.json", "audit.json", "dataset", "report.html")
"""What of a run's folder the studio reads."""
GLANCE, TAIL = 2**13, 2**16
"""Bytes of the end of a log or of rows that are read in either depth."""
Marks = Mapping[str, tuple[int, int, bool]]
"""Of each file that is read: nanoseconds when it was changed, its bytes, whether it is a link."""


@dataclass(frozen=True)
class RunFacts:
    """What a run's files tell, whatever process works in it; None is what is not known (yet)."""

    finished: Record | None = None
    stages: tuple[str, ...] = ()
    stage_event: Mapping[str, Any] = field(default_factory=dict)
    """The last one of its log."""
    step: int | None = None
    problems: tuple[Problem, ...] = ()
    """Files that are damaged."""
    said: Problem | None = None
    """By which error the process ended that the studio started last."""
    base: str | None = None
    method: str | None = None
    started: float | None = None
    seconds: float | None = None
    cost: Mapping[str, Any] | None = None
    verdict: Mapping[str, Any] | None = None
    """See :func:`verdict_values`."""
    planned_steps: int | None = None
    cautions: tuple[Caution, ...] = ()
    """The warnings of its data, its plan and its figures, as the report has them, in the studio's language."""
    modified: float | None = None
    checked: bool = False
    """Whether all of it was read: at a glance stages, manifest, scores, plan, audit and rows are not."""


def marks_of(folder: Path) -> Marks:
    """Whether a run's files have changed: one look at the folder, none into a file."""
    marks: dict[str, tuple[int, int, bool]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in FILES:
                    found = entry.stat(follow_symlinks=False)
                    marks[entry.name] = found.st_mtime_ns, found.st_size, entry.is_symlink()
    except OSError:  # it was removed a moment ago, or may not be read: then it shows no sign of a run
        return {}
    return marks


def read_facts(
    settings: StudioSettings, folder: Path, marks: Marks, *, whole: bool, before: tuple[Marks, RunFacts]
) -> RunFacts:
    """What a run's files tell.

    Args:
        whole: parse every small file; else glance at it.
        before: what was read earlier. A recipe that did not change is not parsed again: it takes longer than the rest,
            and a run that trains changes its log all the time.
    """
    reading = SmallFiles(settings, folder, marks)
    finished = reading.of("finished.json", _read_finished)
    events = []
    if whole or not finished:
        events = reading.of("metrics.jsonl", lambda path: _end_of_log(path, TAIL if whole else GLANCE)) or []
    stage_event, step = _last_of(events)
    facts: dict[str, Any] = {
        "finished": finished,
        "stage_event": stage_event,
        "step": step,
        "modified": max((mark[0] for mark in marks.values()), default=0) / 1e9,
        "checked": whole,
    }
    if whole:
        facts |= _whole(reading, finished) | _recipe_facts(reading, marks, *before)
    else:
        text = reading.of("recipe.yaml", text_of)
        facts["base"], facts["method"] = named_in(text) if text else (None, None)
        facts["stages"] = (str(stage_event["name"]),) if stage_event.get("state") == "done" else ()
    return RunFacts(**facts, problems=tuple(reading.problems))


class SmallFiles:
    """Reads files of a run; what is wrong with one is noted, and the rest is read as usual."""

    def __init__(self, settings: StudioSettings, folder: Path, marks: Marks) -> None:
        self.settings, self.folder, self.problems = settings, folder, list[Problem]()
        reachable = not folder.is_symlink() or self._stays_inside(folder)
        self.present = {
            name for name, mark in marks.items() if reachable and (not mark[2] or self._stays_inside(folder / name))
        }

    def of(self, name: str, reader: Callable[[Path], Found]) -> Found | None:
        """What a file tells; None where it is not there or damaged.

        Args:
            name: one of :data:`FILES`, or a file in a folder that is one.
        """
        path, nested = self.folder / name, "/" in name
        if name.partition("/")[0] not in self.present or (nested and not (path.is_file() and self._stays_inside(path))):
            return None
        try:
            return reader(path)
        except AfinaError as error:
            self.problems += error.problems
        except OSError as error:
            self.problems.append(Problem(f"cannot be read: {error.strerror}", REDO, str(path)))
        return None

    def _stays_inside(self, link: Path) -> bool:
        """Whether a link leads to where the studio may read; a run's folder may come from anyone."""
        try:
            inside(self.settings, link.absolute())
        except StudioRefusal:
            what = "is a link that leads out of the folders that the studio may read"
            self.problems.append(Problem(what, "put the files themselves there", str(link)))
            return False
        return True


def check_links(settings: StudioSettings, folder: Path) -> None:
    """Before readers that know nothing of the studio look into a run's folder.

    Raises:
        AfinaError: one of the files that they read is a link that leads out of what the studio may read.
    """
    files = SmallFiles(settings, folder, marks_of(folder))
    files.of("dataset/dataset.json", lambda path: path)
    if files.problems:
        raise AfinaError(problems=files.problems)


def checked_run(settings: StudioSettings, name: str) -> Path:
    """The folder of the run with this name, for who reads it by other means than :class:`SmallFiles`.

    Raises:
        StudioRefusal: 404, there is none; 403, a link leads out of the runs' folder and the roots.
        AfinaError: as :func:`check_links`.
    """
    folder = run_folder(settings, name)
    check_links(settings, folder)
    return folder


def _whole(reading: SmallFiles, finished: Record | None) -> dict[str, Any]:
    stages = reading.of("stages.json", read_stages) or {}
    manifest = reading.of("manifest.json", lambda path: read_manifest(path.parent))
    scores = reading.of("scores.json", lambda path: read_scores(path.parent))
    plan, audit, dataset = (reading.of(f"{name}.json", read_record) for name in ("plan", "audit", "dataset/dataset"))
    known = RunFiles(reading.folder, plan=plan, audit=audit, dataset=dataset, scores=scores)
    for name in ROWS:
        reading.of(name, _check_rows)
    starts, seconds = ([each[key] for each in stages.values() if is_number(each.get(key))] for key in _TIMES)
    return {
        "stages": tuple(stages),
        "planned_steps": _count(plan.values.get("steps")) if plan else None,
        "cautions": tuple(_cautions(reading, known)),
        "verdict": verdict_values(reading.settings, scores, finished),
        "said": None if finished else reading.of(RESULT, _said_at_end),
        "started": min(starts, default=None),
        "seconds": sum(seconds) if seconds else None,
        "cost": dict(manifest.cost.values) if manifest and manifest.cost else None,
    }


def _recipe_facts(reading: SmallFiles, marks: Marks, marked: Marks, before: RunFacts) -> dict[str, Any]:
    same = before.checked and marks.get("recipe.yaml") == marked.get("recipe.yaml")
    if same and not any(each.where.endswith("recipe.yaml") for each in before.problems):
        return {"base": before.base, "method": before.method}
    base, method = reading.of("recipe.yaml", _base_and_method) or (None, None)
    return {"base": base, "method": method}


def verdict_values(settings: StudioSettings, scores: Scores | None, finished: Record | None) -> dict[str, Any] | None:
    """The verdict of a run; None where nothing was measured.

    ``learned``, ``broke`` and ``passed`` are as they were stored. ``state`` (good, partly, bad, open), ``word`` and
    ``sentence`` are as the report says them, in the studio's language, and so are the sentences of ``remarks`` and
    ``notes``: each with ``text``, and ``lang`` where it stays English.
    """
    verdict = scores.verdict if scores else None
    if verdict is None:
        return None
    with in_language(settings.language):
        said = judge(RunFiles(Path(), scores=scores, finished=finished))
        told = {key: list(map(sentence_values, getattr(said, key))) for key in ("remarks", "notes")}
    stored = {"learned": verdict.learned, "broke": verdict.broke, "passed": verdict.passed}
    return stored | {"state": said.state, "word": said.word, "sentence": said.sentence} | told


def _cautions(reading: SmallFiles, known: RunFiles) -> list[Caution]:
    """What stands at the top of a report; a value of the wrong kind in a file that could be parsed is damage."""
    with in_language(reading.settings.language):
        try:
            return cautions(known)
        except AfinaError as error:
            reading.problems += error.problems
            return []


_TIMES = ("started", "seconds")


def _read_finished(path: Path) -> Record | None:
    record = read_record(path)
    if record is not None:
        record.number("exit_code")
        record.text("verdict")
    return record


def text_of(path: Path) -> str:
    """A text file of a run; one that is no UTF-8 is damaged."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AfinaError(f"damaged: {error}", "start the run again: it is written anew", str(path)) from error


def _base_and_method(path: Path) -> tuple[str | None, str | None]:
    """Of a recipe that is byte by byte what the manifest noted two words are looked for: to parse it takes a
    hundred times as long as all other files of the run."""
    text = text_of(path)
    try:
        manifest = read_manifest(path.parent)
    except AfinaError:  # said of its own file
        manifest = None
    if manifest and manifest.recipe_sha256 == hashlib.sha256(text.encode()).hexdigest():
        return named_in(text)
    try:
        recipe = parse_yaml(text)
    except YAMLError as error:
        raise AfinaError(f"damaged: {error}", "start the run again: it is written anew", str(path)) from error
    if not isinstance(recipe, dict):
        raise AfinaError(f"should hold a mapping and holds a {type(recipe).__name__}", REDO, str(path))
    train = recipe.get("train")
    return _text(recipe.get("base")), _text(train.get("method")) if isinstance(train, dict) else None


def named_in(recipe: str) -> tuple[str | None, str | None]:
    """Base and method of a recipe as afina writes it, a key a line.

    >>> named_in("name: x\\nbase: ./my model\\ntrain:\\n  first: null\\n  method: sft\\n")
    ('./my model', 'sft')
    """
    base = re.search(r"(?m)^base:(.*(?:\n +.*)*)", recipe)
    method = re.search(r"(?m)^train:\n(?: +.*\n)*?  method: ([\w-]+)", recipe)
    found = None
    if base:
        try:
            said = base[1].strip()
            found = said if re.fullmatch(r"[\w./:@+-]*[a-z./][\w./@+-]*/[\w./@+-]*", said) else parse_yaml(said)
        except YAMLError:  # whoever reads the whole of it says so
            found = None
    return _text(found), method[1] if method else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _end_of(path: Path, limit: int) -> bytes:
    """The end of a file, from the beginning of a line on."""
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        opened.seek(max(0, size - limit))
        end = opened.read(limit)
    return end if size <= limit else end.partition(b"\n")[2]


def _end_of_log(path: Path, limit: int) -> list[dict[str, Any]]:
    """The last events of ``metrics.jsonl``.

    Raises:
        AfinaError: there is something, and no event in it.
    """
    end = _end_of(path, limit)
    lines = end.rpartition(b"\n")[0] or end
    events, unreadable = events_in(lines) if lines else ([], 0)
    if unreadable and not events:
        raise AfinaError("damaged: none of its last lines is an event", REDO, str(path))
    return events


def _last_of(events: list[dict[str, Any]]) -> tuple[Mapping[str, Any], int | None]:
    """The last event of a stage, and the last step."""
    nothing: Mapping[str, Any] = {}
    stage, step = (
        next((event for event in reversed(events) if event.get("event") == kind), nothing) for kind in ("stage", "step")
    )
    return stage, _count(step.get("step"))


def _count(value: Any) -> int | None:
    return int(value) if is_number(value) and abs(value) < 2**53 else None


def _check_rows(path: Path) -> None:
    """Whether the last rows of a file are rows: it was written whole, a line that is cut is damage."""
    end = _end_of(path, TAIL)
    _, unreadable = events_in(end.strip(b"\n")) if end.strip() else ([], 0)
    if unreadable:
        raise AfinaError(f"damaged: {unreadable} of its last lines are no rows", REDO, str(path))


def _said_at_end(path: Path) -> Problem | None:
    """The first problem of an error that ``afina run --json`` printed; None where it printed none, or is at work."""
    try:
        told = parse_json(path.read_bytes())
    except ValueError:  # what a process prints is no file that has to be whole
        return None
    problems = told.get("problems") if isinstance(told, dict) and "error" in told else None
    first = problems[0] if isinstance(problems, list) and problems else None
    return read_problem(first) if isinstance(first, dict) else None
