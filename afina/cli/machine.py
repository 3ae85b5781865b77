"""``afina doctor`` and ``demo``: this machine or a run, and the whole walk on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afina.cli.arguments import AsJson, RunsFolder
from afina.cli.completions import complete_recipe, complete_run
from afina.cli.opened import opened
from afina.cli.output import confirm, end_by, say, show
from afina.errors import RecipeError

if TYPE_CHECKING:
    from afina.plan.doctor import DoctorCheck


def doctor(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="A run's folder; without it, this machine.", autocompletion=complete_run),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            "--apply",
            metavar="RECIPE",
            help="Write what helps the run into this recipe.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Install what is missing into this Python, asking before each command.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: do not ask.")] = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Look at this machine: Python, memory, disk, devices, libraries. With RUN: what it shows, and what to change."""
    if run is not None:
        if fix:
            raise RecipeError("--fix installs into this machine's Python, not into a run", "afina doctor --fix")
        _doctor_run(run, apply, as_json)
        return
    if apply is not None:
        raise RecipeError("--apply needs a run: this machine has no settings", "afina doctor RUN --apply RECIPE")
    from afina.plan.doctor import describe_checks, examine

    checks = _fixed(runs, yes) if fix else examine(runs)
    show([check.as_json() for check in checks], as_json, describe_checks(checks))


def _fixed(runs: Path, yes: bool) -> "Sequence[DoctorCheck]":
    from afina.plan.doctor import examine
    from afina.plan.installing import mend

    ask = confirm(yes)
    if ask is None and not yes:
        raise RecipeError(
            "nobody is at a terminal to be asked", "`afina doctor --fix --yes` installs all that is missing", "--fix"
        )
    return mend(lambda: examine(runs), ask=ask, say=say)


def _doctor_run(run: Path, recipe: Path | None, as_json: bool) -> None:
    from afina.remedies.answer import apply, diagnose

    found = diagnose(run)
    applied = apply(found, recipe) if recipe else ""
    show(found.as_json(), as_json, found.describe())
    if applied:
        say(applied)


def demo(
    replay: Annotated[bool, typer.Option(help="Mix in what the base knew, against forgetting.")] = True,
    ladder: Annotated[bool, typer.Option("--ladder", help="Five runs of known truth: is each judged so?")] = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Everything on an invented world, in minutes and without network: a base, an adapter, a verdict."""
    from afina.demo.demo import run_demo, run_ladder

    if ladder:
        climbed = run_ladder(runs, opened=opened, say=say)
        show(climbed, as_json, climbed["table"])
        end_by(climbed)
        return
    verdict = run_demo(runs, replay=replay, opened=opened, say=say)
    show(verdict, as_json, verdict["table"])
    say(f"report: {verdict['run']}/report.html")
    end_by(verdict)
