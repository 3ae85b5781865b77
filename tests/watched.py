"""Runs to watch: folders written by hand, and a process that works in one as a training does, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from report_fixture import PLAN, RECIPE, SCORES, answers, jsonl

NOW = 1_795_904_700.0
"""When it is looked at."""
START = NOW - 600


def step(n: int, loss: float, **more: Any) -> dict[str, Any]:
    """A step's event, a second after the one before."""
    return {
        "event": "step",
        "time": START + n,
        "step": n,
        "epoch": (n - 1) // 100,
        "loss": loss,
        "learning_rate": 2e-4,
        "grad_norm": 1.0,
        "tokens": 2000,
        "target_tokens": 1000,
        "tokens_per_second": 2000.0,
        "memory_bytes": 2**30,
        "eta_seconds": float(300 - n),
        "money": n / 10_000,
    } | more


def held_out(n: int, loss: float) -> dict[str, Any]:
    """A measurement's event."""
    return {"event": "validation", "time": START + n, "step": n, "loss": loss, "bits_per_byte": loss / 2}


def steps(count: int, first: float = 3.0, last: float = 1.0, *, after: int = 0) -> list[dict[str, Any]]:
    """Steps whose loss goes from `first` to `last` in a straight line."""
    part = (last - first) / max(1, count - 1)
    return [step(after + n + 1, round(first + part * n, 6)) for n in range(count)]


def began(name: str = "train") -> dict[str, Any]:
    return {"event": "stage", "time": START, "name": name, "state": "began"}


def start(planned: int = 300) -> list[dict[str, Any]]:
    """What a training logs before its first step."""
    return [
        began(),
        {"event": "computing", "time": START, "device": "cpu", "precision": "fp32"},
        {"event": "train_started_anew", "time": START, "steps": planned, "rows": 500, "tokens": 100_000},
    ]


def write_watched(folder: Path, events: Sequence[dict[str, Any]], **files: Any) -> Path:
    """A run of which these events are logged; further files by name, with ``_`` for the dot."""
    content = {"recipe.yaml": RECIPE, "plan.json": PLAN, "metrics.jsonl": jsonl([*events])}
    content |= {name.replace("_", "."): value for name, value in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def overfitting(count: int = 200) -> list[dict[str, Any]]:
    """A training whose held-out loss rises from the middle on."""
    found = [*start(300), *steps(count)]
    losses = (2.6, 2.1, 1.8, 1.62, 1.60, 1.66, 1.78, 1.93)
    return [*found, *(held_out(25 * n, loss) for n, loss in enumerate(losses, start=1) if 25 * n <= count)]


def finished_files() -> dict[str, Any]:
    """What else a finished run holds."""
    samples, _ = answers()
    return {
        "finished_json": {"exit_code": 0, "verdict": "learned: yes, broke: nothing"},
        "scores_json": SCORES,
        "samples_jsonl": jsonl(samples[:1]),
    }


WORKER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins by ignoring it
from pathlib import Path
from afina.recipe import Recipe, Source
from afina.run import Run

def train():
    run.log("train_started_anew", steps=300)
    for step in range(1, 6):
        run.log("step", step=step, loss=3.0 / step, tokens_per_second=100.0)
    print("training", flush=True)
    sys.stdin.readline()
    {end}
    return {{}}

recipe = Recipe(name="test", base="a/b", sources=[Source(path=".")])
with Run.open(Path(sys.argv[1]), recipe, lambda _: None) as run:
    run.stage("train", {{}}, [], train)
"""


@contextmanager
def working(folder: Path, end: str = "pass") -> Iterator[subprocess.Popen[str]]:
    """A process that holds a run, has made five steps, and ends the stage by `end` when it is sent a line."""
    command = [sys.executable, "-c", WORKER.format(end=end), str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout and process.stdout.readline() == "training\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        said = process.communicate()[1]
        assert "NameError" not in said, said
