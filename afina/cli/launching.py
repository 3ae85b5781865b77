"""``afina launch``: a recipe on a machine that is rented, reached or queued for."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson, Overrides, RecipeFile, RunsFolder, Yes
from afina.cli.output import confirm, say, show


def launch(
    recipe: RecipeFile,
    on: Annotated[str, typer.Option(metavar="WHERE", help="runpod, vast, lambda, aws, gcp or azure; slurm; ssh:HOST.")],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would leave, cost and be given to the engine.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help='This device, e.g. "RTX 4090", instead of the cheapest that fits.')
    ] = None,
    spot: Annotated[bool, typer.Option("--spot", help="One that may be taken back; goes on with another.")] = False,
    python: Annotated[
        str | None, typer.Option(help="With ssh and slurm: an interpreter over there that has afina.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--dir", metavar="FOLDER", help="With ssh: where to work over there; afina-launch.")
    ] = None,
    send_private: Annotated[
        bool, typer.Option("--send-private", help="Let sources that are marked `private` leave this machine.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="With ssh: leave the job's folder there at the end.")] = False,
    secret: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A variable of the environment that the job needs too.")
    ] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="With slurm: e.g. partition=gpu; several times.")
    ] = None,
    serve: Annotated[
        int | None, typer.Option(metavar="PORT", help="Serve what was trained there; prints a client's settings.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks, each with a copy home.")] = 15.0,
    retries: Annotated[int, typer.Option(min=0, help="How many machines may be lost before it is given up.")] = 5,
    yes: Yes = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Run a recipe on another machine: what leaves and costs is shown and asked about, results come home."""
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
        spot=spot,
        python=python,
        folder=folder,
        send_private=send_private,
        keep=keep,
        secrets=secret or (),
        sbatch=sbatch or (),
        every=every,
        retries=retries,
        serve=serve,
    )
    found = start(asked, say, confirm(False), Look(say))
    show(found.values, as_json, found.text)
    if found.code:
        raise typer.Exit(found.code)
