"""``afina plot``: the curves and the probes of one run or several, as pictures and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.evaluate.scores import read_scores
from afina.plot.curves import draw_curves
from afina.plot.figures import picture_files
from afina.plot.plotted import PlottedRun
from afina.plot.probes import draw_probes
from afina.plot.tables import metrics_csv
from afina.watch.reader import RunReader
from afina.whole import write_json, write_whole

PICTURES = ("png", "svg")
CURVES, PROBES, TABLE, VALUES = "curves", "probes", "metrics.csv", "metrics.json"
POINTS = 2000
"""Of each curve in :data:`VALUES`; :data:`TABLE` holds every step."""


@dataclass(frozen=True)
class Plots:
    """What was written, and what could not be drawn."""

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """A line a file, then the notes."""
        return "\n".join([*(f"wrote {file}" for file in self.files), *(f"note: {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"files": [str(file) for file in self.files], "notes": list(self.notes)}


def plot_runs(folders: Sequence[Path], to: Path | None = None) -> Plots:
    """Write pictures and tables of runs, several in one picture.

    Args:
        to: the folder that is written into; of a single run ``plots/`` in its own where none is named.

    Raises:
        RecipeError: matplotlib is not installed, a folder is no run, nothing was trained in one, or `to` is missing.
        AfinaError: a file of a run is damaged.
    """
    if to is None:
        if len(folders) > 1:
            raise RecipeError("the pictures of several runs need a folder", "name one with --to FOLDER", "--to")
        to = folders[0] / "plots"
    runs = read_plotted(folders)
    notes = [
        f"{run.label} has no probes to draw: `afina eval {run.view.folder}` measures before and after"
        for run in runs
        if not run.probes
    ]
    files = {f"{CURVES}.{form}": content for form, content in picture_files(draw_curves(runs), PICTURES).items()}
    if any(run.probes for run in runs):
        files |= {f"{PROBES}.{form}": content for form, content in picture_files(draw_probes(runs), PICTURES).items()}
    for name, content in files.items():
        write_whole(to / name, content)
    write_whole(to / TABLE, metrics_csv(runs))
    write_json(to / VALUES, {"runs": [run.as_json(POINTS) for run in runs]})
    return Plots(tuple(to / name for name in (*files, TABLE, VALUES)), tuple(notes))


def read_plotted(folders: Sequence[Path]) -> list[PlottedRun]:
    """The runs, each by a name that no other has."""
    views = [RunReader(folder).look() for folder in folders]
    for view in views:
        if not any(len(training.steps) for training in view.trainings):
            what = f"nothing was trained in this run yet: {view.reason}"
            raise RecipeError(what, "there is something to draw after the first step", str(view.folder))
    for labels in ([view.name for view in views], [view.folder.resolve().name for view in views]):
        if len(set(labels)) == len(labels):
            break
    else:
        labels = [str(view.folder) for view in views]
    scores = [read_scores(view.folder) for view in views]
    return [
        PlottedRun(label, view, tuple(found.probes) if found else ())
        for label, view, found in zip(labels, views, scores, strict=True)
    ]
