"""``afina watch``, ``plot``, ``studio``: a run while it goes on, its curves as pictures, all runs in a browser."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson, RunFolder, RunsFolder
from afina.cli.completions import complete_run
from afina.cli.output import choice, say, show


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


def studio(
    runs: RunsFolder = Path("runs"),
    roots: Annotated[
        list[Path] | None,
        typer.Option("--root", metavar="FOLDER", help="Folders that its pages may read besides; this one if none."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8321,
    language: Annotated[str, typer.Option(metavar="LANGUAGE", help="en, pt-BR or pt-PT.")] = "en",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in the browser.")] = True,
    as_json: AsJson = False,
) -> None:
    """Look at runs in a browser, start them, stop them, audit data and plan: from the run folders alone."""
    from afina.report.language import LANGUAGES
    from afina.studio.serving import open_studio

    choice("--language", language, LANGUAGES)
    opened = open_studio(runs, roots or (), host=host, port=port, language=language)
    show({"url": opened.settings.url, "runs": str(opened.settings.runs)}, as_json, opened.settings.url)
    opened.serve(browser=browser, say=say)
