"""``make prose``: six runs over the Zig release notes whose truth is known. Is each judged as what it is?

    python -m benchmarks.prose [KEY=VALUE ...] [--until prepare|train] [--only trained claims] [--again] [--json]

Every step goes on where an earlier start stopped. What was trained on something else than the notes (the notes with
their terms permuted, another manual, claims) is asked about the notes by a second run, which starts from its adapter
and trains it by one step at a learning rate of 0. `--tiny` is the short form; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afina.cli.opened import walk_of
from afina.errors import AfinaError
from afina.progress import say
from afina.recipe.yaml_text import parse_yaml
from afina.report.read import RunFiles, read_run
from afina.run import read_json
from afina.walk.walk import walk_through
from benchmarks.experiment import Experiment, base_of
from benchmarks.prose.page import PAGE, page_of
from benchmarks.prose.prepare import RECIPE, prepare
from benchmarks.prose.rungs import ONE_STEP, RUNGS, WITHOUT_REPLAY, as_expected
from benchmarks.zig.prepare import Wanted, prepare_replay

STEPS = ("prepare", "train", "evaluate")
TINY = (
    "train.epochs=0.01",
    "evaluate.questions=6",
    "evaluate.skills=2",
    "evaluate.max_new_tokens=8",
)
EXPERIMENT = Experiment(
    "prose",
    str(__doc__),
    {name: rung.title for name, rung in RUNGS.items()},
    STEPS,
    Path(__file__).with_name("figures.json"),
    PAGE,
    page_of,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the exit code."""
    return EXPERIMENT.main(arguments, _work)


def _work(asked: argparse.Namespace) -> dict[str, Any] | None:
    """All steps as far as they are asked for; the figures where all are."""
    data = (asked.runs / "prose-data").resolve()
    overrides = [f"root={data}", *asked.overrides]
    prepare(asked.root, data)
    if any(RUNGS[name].replays for name in asked.only):
        base = base_of(asked.overrides, str(parse_yaml(RECIPE.read_text(encoding="utf-8"))["base"]))
        wanted = Wanted(replayed=12) if asked.tiny else Wanted()
        prepare_replay(base, data, asked.runs, wanted, say, RECIPE.with_name("short-prompts.txt"))
    if asked.until == "prepare":
        return None
    folders = {}
    for number, name in enumerate(asked.only, start=1):
        rung, run = RUNGS[name], f"prose-{name}"
        say(f"prose: {number} of {len(asked.only)}: {rung.title}")
        short = TINY if asked.tiny else ()
        settings = [*overrides, f"name={run}", *rung.settings, *short]
        only_trains = asked.until == "train" or rung.elsewhere
        _walk(asked, run, settings, "train" if only_trains else "report")
        if rung.elsewhere and asked.until != "train":
            trained, run = (asked.runs / run).resolve(), f"{run}-asked"
            notes = () if rung.replays else WITHOUT_REPLAY
            settings = [*overrides, f"name={run}", f"start_from={trained}", *notes, *short, *ONE_STEP]
            _walk(asked, run, settings, "report")
        folders[name] = asked.runs / run
    return None if asked.until == "train" else _figures(folders, asked.runs)


def _walk(asked: argparse.Namespace, run: str, settings: Sequence[str], until: str) -> None:
    if asked.again:
        (asked.runs / run / "scores.json").unlink(missing_ok=True)
    with walk_of(RECIPE, list(settings), asked.runs) as walk:
        walk_through(walk, until=until)


def _figures(folders: Mapping[str, Path], runs: Path) -> dict[str, Any]:
    """Everything that the page shows, as plain values.

    Raises:
        AfinaError: a run is not finished, or one of its files is damaged.
    """
    found = {name: _run(name, read_run(folder), runs / f"prose-{name}") for name, folder in folders.items()}
    first = read_run(next(iter(folders.values()))).manifest
    assert first is not None
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "afina": first.afina,
        "device": first.device.text("name") or first.device.text("device"),
        "threads": first.threads,
        "base": {key: first.base.values.get(key) for key in ("name", "parameters")},
        "seconds": sum(run["seconds"] for run in found.values()),
        "runs": found,
    }


def _run(name: str, run: RunFiles, trained: Path) -> dict[str, Any]:
    """One rung: judged in `run`, trained in `trained`, which are two where it was trained on something else."""
    if run.scores is None or run.scores.verdict is None:
        raise AfinaError(
            "the run is not finished", "start `make prose` again, it goes on where it stopped", str(run.folder)
        )
    scores, verdict, retrieval = run.scores, run.scores.verdict.as_json(), run.scores.retrieval
    stages = [read_json(folder / "stages.json") for folder in dict.fromkeys([trained, run.folder])]
    return {
        "verdict": verdict,
        "as_expected": as_expected(RUNGS[name], verdict),
        "tokens": stages[0]["train"]["result"]["tokens"],
        "seconds": sum(stage["seconds"] for each in stages for stage in each.values()),
        "loss": [side.number("loss") for side in (scores.loss.before, scores.loss.after)] if scores.loss else None,
        "probes": [probe.as_json() for probe in scores.probes],
        "retrieval": retrieval.as_json()
        | {"about": retrieval.describe(), "conclusions": [probe.conclusion() for probe in retrieval.probes]}
        if retrieval
        else None,
    }


if __name__ == "__main__":
    sys.exit(main())
