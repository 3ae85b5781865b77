"""``make scratch``: six versions from nothing on Machado de Assis, an adapter over the last, one table and one page.

    python -m benchmarks.scratch [KEY=VALUE ...] [--until prepare|plan|train] [--only v1 v6] [--again] [--json]

Every version may spend the same number of FLOP; its recipe's epochs say how many tokens these are. Every step goes on
where an earlier start stopped, in the middle of a training too. `--until plan` makes datasets and tokenizers and says
what each version will take; `--until train` measures nothing yet; `--again` measures once more what was measured.
`--tiny` is the short form: some works of one genre, few steps; its figures mean nothing. Settings of `scratch`,
`sources` and `train` are the versions', all others the adapter's too. The table goes to ``runs/scratch-table.md``, the
figures to ``runs/scratch-figures.json``, the comparison of both roads to ``runs/scratch-compare.html``; `--publish`
writes table and figures into the project as well (docs/scratch.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afina.cli.opened import walk_of
from afina.plan.bases import recipe_shape
from afina.progress import say
from afina.recipe import load_recipe
from afina.record import Record
from afina.report.compare import compare_runs
from afina.report.compare_page import write_comparison
from afina.run import read_mapping
from afina.units import show_count
from afina.walk.walk import walk_through
from benchmarks.experiment import DATA, Experiment
from benchmarks.scratch.figures import figures_of
from benchmarks.scratch.page import TITLES, page_of
from benchmarks.scratch.prepare import check_inputs, prepare

PROJECT = Path(__file__).parents[2]
RECIPES = PROJECT / "recipes/ptbr-scratch"
EXPERIMENT = Experiment(
    "scratch",
    str(__doc__),
    TITLES,
    ("prepare", "plan", "train", "evaluate"),
    Path(__file__).with_name("figures.json"),
    PROJECT / "docs/scratch.md",
    page_of,
    DATA / "ptbr",
)
TINY_SOURCES = "sources=[{path: 'machado/crítica/[a-g]*.txt'}]"
TINY_SHARE = 0.4
"""Of the recipes' epochs, over a fiftieth of their texts: a few steps."""
TINY = ("evaluate.windows.count=4", "evaluate.windows.bytes=1024")
"""As little held out as is read in seconds: one short work, its loss before and after, and windows of it."""
TINY_ROWS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the exit code."""
    return EXPERIMENT.main(arguments, _work)


def _work(asked: argparse.Namespace) -> dict[str, Any] | None:
    """All steps as far as they are asked for; the figures where all are."""
    check_inputs(asked.root)
    data = (asked.runs / "ptbr-scratch-data").resolve()
    if "adapter" in asked.only:
        prepare(asked.root, data, say, TINY_ROWS if asked.tiny else None)
    if asked.until == "prepare":
        return None
    until = {"plan": "plan", "train": "train"}.get(asked.until, "report")
    for number, name in enumerate(asked.only, start=1):
        if name == "adapter" and until == "plan":
            continue  # it stands on weights that are not there yet
        say(f"scratch: {number} of {len(asked.only)}: {name}, {TITLES[name]}")
        if asked.again:
            (asked.runs / f"ptbr-scratch-{name}/scores.json").unlink(missing_ok=True)
        overrides = _overrides(asked, name, data)
        with walk_of(RECIPES / f"{name}.yaml", overrides, asked.runs) as walk:
            walk_through(walk, until=until)
        if until == "plan":
            say(f"scratch: {name}: {_planned(asked.runs, name, overrides)}")
    if until != "report":
        return None
    folders = {name: asked.runs / f"ptbr-scratch-{name}" for name in asked.only}
    if len(folders) < 2:
        say("scratch: one version alone is compared with nothing: see its report.html")
        return None
    comparison = compare_runs(list(folders.values()), RECIPES / "published.yaml")
    page = write_comparison(comparison, asked.runs / "scratch-compare.html")
    say(f"scratch: both roads on one page: {page}")
    return figures_of(folders, comparison)


def _overrides(asked: argparse.Namespace, name: str, data: Path) -> list[str]:
    """The command line's settings of one recipe, behind those of the short form."""
    if name == "adapter":
        base = (asked.runs / "ptbr-scratch-v6/model").resolve()
        own = [f"root={data}", f"base={base}", *(["train.epochs=1"] if asked.tiny else [])]
        return [*own, *(each for each in asked.overrides if not each.startswith(("scratch.", "sources", "train.")))]
    own = [f"root={asked.root.resolve()}"]
    if asked.tiny:
        epochs = load_recipe(RECIPES / f"{name}.yaml", own).train.epochs
        own += [*TINY, TINY_SOURCES, f"train.epochs={TINY_SHARE * epochs:.4g}"]
    return [*own, *asked.overrides]


def _planned(runs: Path, name: str, overrides: Sequence[str]) -> str:
    """What a version will take: its matrices times six, times the tokens that it reads."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", overrides)
    file = runs / f"ptbr-scratch-{name}/plan.json"
    per_epoch = Record(read_mapping(file), str(file)).record("tokens").required_number("per_epoch")
    shape = recipe_shape(recipe)
    tokens, per_token = recipe.train.epochs * per_epoch, 6.0 * (shape.linear_parameters + shape.head_parameters)
    return (
        f"{recipe.train.epochs:g} epochs of {show_count(per_epoch)} tokens, {show_count(per_token)} FLOP for each: "
        f"{tokens * per_token:.3g} FLOP"
    )


if __name__ == "__main__":
    sys.exit(main())
