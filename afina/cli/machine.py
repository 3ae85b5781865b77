"""``afina doctor`` and ``demo``: this machine, and the whole walk on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afina.cli.arguments import AsJson, RunsFolder
from afina.cli.opened import opened
from afina.cli.output import end_by, say, show

if TYPE_CHECKING:
    pass


def doctor(as_json: AsJson = False, runs: RunsFolder = Path("runs")) -> None:
    """Look at this machine: Python, memory, disk, devices, libraries."""
    from afina.plan.doctor import describe_checks, examine

    checks = examine(runs)
    show([check.as_json() for check in checks], as_json, describe_checks(checks))


def demo(
    replay: Annotated[bool, typer.Option(help="Mix in what the base knew, against forgetting.")] = True,
    ladder: Annotated[bool, typer.Option("--ladder", help="Five runs of known truth: is each judged so?")] = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """The whole walk on an invented world, in minutes, without network: a base, an adapter, a verdict."""
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
