"""``make zig``: the Zig experiment as four recipes on one small base, each run judged, and one table of all.

    python -m benchmarks.zig [KEY=VALUE ...] [--until prepare|audit|train] [--only lines replay] [--again] [--json]

Every step goes on where an earlier start stopped. `--until train` trains all four and measures nothing, so that the
measuring can be done later; `--again` measures once more what was measured (by a newer afina, say). `--tiny` is the
short form: few steps, few questions; its figures mean nothing. `--publish` writes the table into docs/zig.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afina.cli.opened import walk_of
from afina.errors import DataError
from afina.progress import say
from afina.recipe.yaml_text import parse_yaml
from afina.sandbox.launcher import isolation_missing
from afina.walk.walk import walk_through
from benchmarks.experiment import Experiment, base_of
from benchmarks.zig.figures import FILE, figures_of, sweep
from benchmarks.zig.page import PAGE, TITLES, page_of
from benchmarks.zig.prepare import RECIPES, Wanted, prepare, prepare_replay

STEPS = ("prepare", "audit", "train", "evaluate")
TINY = (
    "train.epochs=0.01",
    "dataset.validation=0.02",
    "evaluate.questions=2",
    "evaluate.samples=1",
    "evaluate.skills=0",
    "evaluate.max_new_tokens=8",
    "evaluate.tasks=[]",
)


EXPERIMENT = Experiment("zig", str(__doc__), TITLES, STEPS, FILE, PAGE, page_of)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the exit code."""
    return EXPERIMENT.main(arguments, _work)


def _work(asked: argparse.Namespace) -> dict[str, Any] | None:
    """All steps as far as they are asked for; the figures where all are."""
    wanted = Wanted(versions=3, replayed=12) if asked.tiny else Wanted()
    data = (asked.runs / "zig-data").resolve()
    overrides = [f"root={data}", *(TINY if asked.tiny else ()), *asked.overrides]
    if not asked.tiny and (reason := isolation_missing()):
        say(f"zig: programs are not compiled here: {reason}")
        overrides.append("evaluate.tasks=[]")
    prepare(asked.root, data, wanted)
    if "replay" in asked.only:
        prepare_replay(base_of(asked.overrides, _base()), data, asked.runs, wanted, say)
    if asked.until == "prepare":
        return None
    refusals = {name: _refusal(name, overrides, asked.runs) for name in asked.only}
    if asked.until == "audit":
        return None
    for number, name in enumerate(asked.only, start=1):
        say(f"zig: {number} of {len(asked.only)}: {TITLES[name]}")
        if asked.again:
            (asked.runs / f"zig-{name}/scores.json").unlink(missing_ok=True)
        with walk_of(RECIPES / f"{name}.yaml", overrides, asked.runs) as walk:
            walk_through(walk, until="train" if asked.until == "train" else "report")
    if asked.until == "train":
        return None
    folders = {name: asked.runs / f"zig-{name}" for name in asked.only}
    largest = RECIPES / f"{asked.only[-1]}.yaml"
    return figures_of(folders, refusals, sweep(largest, overrides, asked.runs))


def _base() -> str:
    """What every recipe stands on where nothing else is asked for."""
    return str(parse_yaml((RECIPES / "replay.yaml").read_text(encoding="utf-8"))["base"])


def _refusal(name: str, overrides: Sequence[str], runs: Path) -> list[str]:
    """What the audit stops the recipe by where it accepts nothing; nothing for most."""
    over = [*overrides, f"name=zig-{name}-audit", "dataset.accept=[]"]
    try:
        with walk_of(RECIPES / f"{name}.yaml", over, runs) as walk:
            walk_through(walk, until="audit")
    except DataError as error:
        return [problem.what for problem in error.problems]
    return []


if __name__ == "__main__":
    sys.exit(main())
