"""``afina watch`` and ``plot``: a run while it goes on, and its curves as pictures."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson, RunFolder
from afina.cli.completions import complete_run
from afina.cli.output import show


def watch(
    run: RunFolder,
    once: Annotated[bool, typer.Option("--once", help="Print one picture as text and end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Watch a run in the terminal while it goes on, without touching it; a killed or finished one too."""
    from afina.watch.frame import frame, paper
    from afina.watch.reader import RunReader

    reader = RunReader(run)
    if once or as_json:
        view = reader.look()
        show(view.as_json(), as_json, frame(view, *paper(), ascii_only=not _can_draw()))
        return
    from afina.watch.live import watch_live

    watch_live(reader, every)


def _can_draw() -> bool:
    """Whether what reads our output takes Braille and bars."""
    return "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, e.g. runs/demo.", autocompletion=complete_run),
    ],
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write; RUN/plots for a single run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the curves and probes of runs, several in one picture: PNG, SVG, metrics.csv, metrics.json."""
    from afina.plot.plot import plot_runs

    written = plot_runs(runs, to)
    show(written.as_json(), as_json, written.describe())
