"""The demo: the product's own walk, twice, on the invented league of :mod:`afina.demo.world`.

First a small base is trained from random weights on 120 players. Then the other 20 are the user's
private documents: their biographies, and questions in two of five phrasings. The base is adapted
with LoRA, and three probes are asked before and after: the phrasings trained, the three never
trained, and everything about the 120 old players.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.demo.world import write_world
from afina.recipe import Recipe, check_recipe
from afina.run import read_json
from afina.units import show_seconds

if TYPE_CHECKING:
    from afina.walk import Walk

Opened = Callable[[Recipe, Path], contextlib.AbstractContextManager["Walk"]]


def base_recipe(world: Path, name: str) -> Recipe:
    """The recipe of the demo's base: 2.2 million parameters, from random weights."""
    return check_recipe(
        {
            "name": name,
            "root": str(world),
            "sources": [{"path": "old/biographies.jsonl"}, {"path": "old/questions.jsonl"}],
            "dataset": {"language": "pt-PT", "validation": 0.0},
            "scratch": {"hidden": 192, "layers": 4, "heads": 4, "vocab": 1500},
            "train": {
                "method": "scratch",
                "epochs": 40,
                "learning_rate": 1e-3,
                "max_length": 256,
                "batch_tokens": 1024,
                "checkpoint_seconds": 20,
            },
            "evaluate": {
                "max_new_tokens": 16,
                "probes": [{"path": "probes/old.jsonl", "role": "recall", "name": "old players"}],
            },
        }
    )


def adapter_recipe(world: Path, base: Path, name: str, *, replay: bool) -> Recipe:
    """The recipe of the demo's adapter; without `replay` nothing guards what the base knew."""
    general = [
        {"path": f"replay/{part}.jsonl", "replay": True, "validation": 0.1} for part in ("biographies", "questions")
    ]
    return check_recipe(
        {
            "name": name,
            "root": str(world),
            "base": str(base),
            "sources": [
                {"path": "new/documents", "repeat": 2},
                {"path": "new/questions.jsonl", "repeat": 2},
                *(general if replay else []),
            ],
            # One paragraph is one example: a player told three times in one example is copied, not learned.
            "dataset": {"language": "pt-PT", "validation": 0.0, "section_chars": 120},
            "adapter": {"kind": "lora", "rank": 64, "alpha": 128},
            "train": {
                "method": "sft",
                "epochs": 30,
                "learning_rate": 2e-3,
                "max_length": 256,
                "batch_tokens": 512,
                # Rows of like length share a micro-batch, so that one holds questions only and the next texts
                # only; two of them in a step make the steps alike.
                "accumulate": 2,
                "checkpoint_seconds": 20,
            },
            "evaluate": {
                "max_new_tokens": 16,
                "probes": [
                    {"path": "probes/seen.jsonl", "role": "recall", "name": "new players, phrasings trained"},
                    {"path": "probes/unseen.jsonl", "role": "generalization", "name": "new players, unseen phrasings"},
                    {"path": "probes/old.jsonl", "role": "retention", "name": "old players"},
                ],
                "limits": {"learned_min": 0.9, "broke_max": 0.05},
            },
        }
    )


def run_demo(runs: Path, *, replay: bool, opened: Opened, say: Callable[[str], None]) -> dict[str, Any]:
    """Both walks; a second call goes on where the first stopped.

    Returns the verdict's values, with ``run`` (the folder) and ``table`` (text for a person).
    """
    from afina.walk import describe_scores

    started = time.monotonic()
    world = (runs / "demo-world").resolve()
    write_world(world)
    name = "demo" if replay else "demo-no-replay"
    say("1 of 2: a small base learns 120 invented players (shared by every demo)")
    with opened(base_recipe(world, "demo-base"), runs / "demo-base") as walk:
        walk.everything()
    say(f"2 of 2: 20 new players are your private documents; LoRA {'with' if replay else 'without'} replay")
    base = (runs / "demo-base/model").resolve()
    with opened(adapter_recipe(world, base, name, replay=replay), runs / name) as walk:
        verdict = walk.everything()
        samples = _some_answers(walk.folder)
    say(f"demo: {show_seconds(time.monotonic() - started)} in all")
    table = f"{samples}\n\n{describe_scores(runs / name)}"
    return verdict | {"run": str(runs / name), "table": table, "scores": read_json(runs / name / "scores.json")}


def _some_answers(folder: Path) -> str:
    """The first answer of each probe, before and after."""
    import json

    shown: dict[str, str] = {}
    for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        shown.setdefault(
            row["probe"],
            f"{row['probe']}: {row['prompt']}  reference: {row['reference']}, "
            f"base: {row['base'] or '(nothing)'}, adapter: {row['adapter'] or '(nothing)'}",
        )
    return "\n".join(shown.values())
