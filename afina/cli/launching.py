"""``afina launch``: a recipe on a machine that is rented, reached or queued for."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson, Overrides, RecipeFile, RunsFolder
from afina.cli.output import confirm, say, show

ASKED = "Before anything leaves"
THERE = "Over there"


def launch(
    recipe: RecipeFile,
    on: Annotated[str, typer.Option(metavar="WHERE", help="runpod, vast, lambda, aws, gcp or azure; slurm; ssh:HOST.")],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would leave, cost and be given to the engine.", rich_help_panel=ASKED
        ),
    ] = False,
    send_private: Annotated[
        bool,
        typer.Option(
            "--send-private", help="Let sources that are marked `private` leave this machine.", rich_help_panel=ASKED
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Yes to what is shown, money included.", rich_help_panel=ASKED)
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help='This device, e.g. "RTX 4090", instead of the cheapest that fits.', rich_help_panel=THERE),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(help="With ssh and slurm: an interpreter over there that has afina.", rich_help_panel=THERE),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="With slurm: e.g. partition=gpu; several times.", rich_help_panel=THERE),
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=1,
            max=65535,
            help="Serve what was trained there; prints a client's settings.",
            rich_help_panel=THERE,
        ),
    ] = None,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Run a recipe on another machine: what leaves and costs is shown and asked about, results come home.

    How many devices and machines, spot prices, retries and further secrets stand in the recipe's `launch`, or behind
    it: launch.devices=8.
    """
    from afina.launch.launch import LaunchAsked
    from afina.launch.launch import launch as start
    from afina.launch.look import Look

    asked = LaunchAsked(
        recipe,
        overrides or (),
        on,
        runs,
        dry_run=dry_run,
        yes=yes,
        device=device,
        python=python,
        send_private=send_private,
        sbatch=sbatch or (),
        serve=serve,
    )
    found = start(asked, say, confirm(False), Look(say))
    show(found.values, as_json, found.text)
    if found.code:
        raise typer.Exit(found.code)
