"""What the guard over skills says of trainings whose truth is known, on a real base: broken, kept, kept again.

    python benchmarks/skills_guard.py --base FOLDER --runs FOLDER [--questions 132] [--seed 10]

The same 60 invented facts are trained by LoRA with a rate of 5e-3, at which a small instruct model falls apart, and
with 1e-4 by two seeds, at which nothing should be lost. Each is the product's own walk; the base's answers are asked
once. Last, the two seeds are held against each other, question by question.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

from afina.evaluate.intervals import more_than_chance
from afina.recipe import Recipe, check_recipe
from afina.record import read_rows
from afina.run import Run, no_progress
from afina.walk.context import Context
from afina.walk.describe import describe_scores
from afina.walk.walk import walk_through

RUNS = {"broken": (5e-3, 0), "kept": (1e-4, 0), "kept-again": (1e-4, 1)}
"""Name -> learning rate and seed."""
NAMES = ("Orla", "Brant", "Tessin", "Ulvik", "Maren", "Corvin", "Dagny", "Fenn", "Isolt", "Perrin")
FACTS = {
    "In which town was {} born?": ("Ashwick", "Dunmere", "Hollin", "Kelbrook", "Marske"),
    "Which club did {} play for?": ("the Rovers", "the Herons", "the Anchors", "the Foxes", "the Millers"),
    "Which position did {} play?": ("goalkeeper", "defender", "winger", "midfielder", "striker"),
    "In which year did {} retire?": ("1951", "1962", "1973", "1984", "1995"),
    "What was the nickname of {}?": ("the Owl", "the Lamp", "the Bell", "the Oak", "the Comet"),
    "Who coached {}?": ("Mr Pell", "Mr Stroud", "Mr Quarles", "Mr Vance", "Mr Ibbot"),
}


def write_facts(file: Path) -> None:
    rows = [
        {"prompt": question.format(name), "completion": answers[(number + 3 * kind) % 5]}
        for kind, (question, answers) in enumerate(FACTS.items())
        for number, name in enumerate(NAMES)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def recipe_of(name: str, base: Path, root: Path, questions: int, first_seed: int) -> Recipe:
    rate, seed = RUNS[name]
    return check_recipe(
        {
            "name": name,
            "seed": first_seed + seed,
            "root": str(root),
            "base": str(base.resolve()),
            "sources": [{"path": "facts.jsonl"}],
            "dataset": {"language": "en", "validation": 0.1},
            "adapter": {"rank": 8, "alpha": 16},
            "train": {"epochs": 3, "learning_rate": rate, "max_length": 128, "batch_tokens": 512, "tries": 0},
            "evaluate": {"questions": 0, "samples": 0, "skills": questions},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of an instruct model")
    parser.add_argument("--runs", type=Path, default=Path("runs/skills-guard"))
    parser.add_argument("--questions", type=int, default=132, help="the first 132 are in English")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first run; a rule is chosen by some, tried by others"
    )
    arguments = parser.parse_args()
    if arguments.base is None:
        print("left out: name a model's folder with --base")
        return
    arguments.runs.mkdir(parents=True, exist_ok=True)
    write_facts(arguments.runs / "facts.jsonl")
    right: dict[str, list[bool]] = {}
    for name in RUNS:
        folder = arguments.runs
        recipe = recipe_of(name, arguments.base, folder, arguments.questions, arguments.seed)
        started = time.monotonic()
        with Run.open(folder / name, recipe, print) as run:
            walk_through(Context(run, lambda _: contextlib.nullcontext(no_progress)))
        print(f"\n{name}: {time.monotonic() - started:.0f} s\n{describe_scores(folder / name)}\n")
        right[name] = [row.required_flag("adapter_correct") for row in read_rows(folder / name / "skills.jsonl") or []]
    one, two = right["kept"], right["kept-again"]
    if not one:
        sys.exit(f"{arguments.base} does too few of the questions as asked for any loss to be told")
    apart = more_than_chance(one, two) or more_than_chance(two, one)
    differ = sum(a != b for a, b in zip(one, two, strict=True))
    print(f"kept and kept-again: {sum(one)} and {sum(two)} of {len(one)} as asked, {differ} differ, apart: {apart}")


if __name__ == "__main__":
    main()
