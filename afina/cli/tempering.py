"""``afina temper``: what a trained adapter is worth at another strength."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson, Places, RunFolder
from afina.cli.completions import complete_run
from afina.cli.opened import reopened
from afina.cli.output import choice, end_by, show


def temper(
    run: RunFolder,
    places: Places = None,
    strengths: Annotated[
        str | None, typer.Option(metavar="S,S,...", help="Strengths to try, e.g. 1,0.8,0.6; tenths where not given.")
    ] = None,
    by_layers: Annotated[
        bool, typer.Option("--by-layers", help="Then each third of the layers by itself, from the best one on.")
    ] = False,
    mix: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|ADAPTER|CHECKPOINT",
            help="Turn the run's share of a mix with another adapter of the same base, or with its own checkpoint.",
            autocompletion=complete_run,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="With --mix, PEFT's: cat (the exact sum), svd, linear, ties, dare_ties, dare_linear, ..."),
    ] = "cat",
    density: Annotated[float, typer.Option(help="With ties, dare and magnitude_prune: the share that stays.")] = 0.5,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the adapter there too, for PEFT.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Make it the run's adapter (the trained one is kept), and measure it anew.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a trained adapter's strength to where it keeps what it learned and breaks least; nothing is trained.

    Half of the questions chooses, the other half judges. Exit code 5 when that misses the recipe's limits.
    """
    from afina.temper.mixing import METHODS
    from afina.temper.temper import Tempering
    from afina.temper.temper import temper as find
    from afina.walk.walk import do_stages

    choice("--method", method, METHODS)
    with reopened(run, places) as walk:
        do_stages(walk, "tokens", "skills")
        found = find(walk, Tempering(strengths, by_layers, mix, method, density, to, write))
        values, text = found.as_json(), found.describe()
        if write:
            values["evaluated"] = do_stages(walk, "evaluate")
            do_stages(walk, "manifest", "report")
            text += f"\nmeasured anew, with all questions: {values['evaluated']['text']}"
        show(values, as_json, text)
        end_by(values)
        if write:
            end_by(values["evaluated"])
