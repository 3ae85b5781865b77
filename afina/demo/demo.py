"""The demo: the product's own walk, twice, on the invented league of :mod:`afina.demo.world`.

First a small base is trained from random weights on 120 players. Then the other 20 are the user's
private documents: their biographies, and questions in two of five phrasings. The base is adapted
with LoRA, and four probes are asked before and after: the phrasings trained, the three never
trained, everything about the 120 old players, and players it was never told of.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.demo.world import write_world
from afina.recipe import Recipe, check_recipe
from afina.record import read_rows
from afina.run import read_json
from afina.units import show_seconds

if TYPE_CHECKING:
    from afina.walk.context import Context

Opened = Callable[[Recipe, Path], contextlib.AbstractContextManager["Context"]]


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
                # As many steps would be spent on twice the tokens with batches of 1024, and nothing more is learned.
                "epochs": 13,
                "learning_rate": 1e-3,
                "max_length": 256,
                "batch_tokens": 512,
                "checkpoint_seconds": 20,
            },
            "evaluate": {
                # As in the adapter's recipe: then these answers are its base's, and are not asked for again.
                "max_new_tokens": 32,
                "probes": [{"path": "probes/old.jsonl", "role": "recall", "name": "old players"}],
            },
        }
    )


RUNGS: dict[str, tuple[str, str]] = {
    "replay": ("yes", "nothing"),
    "no-replay": ("yes", "something"),
    "rate-zero": ("no", "nothing"),
    "shuffled": ("no", "nothing"),
    "claims": ("parrots", "anything"),
}
"""Runs whose truth is known, and how each has to be judged: what it learned, what it broke."""


def adapter_recipe(world: Path, base: Path, name: str, rung: str = "replay") -> Recipe:
    """The recipe of the demo's adapter, or of another rung of :data:`RUNGS`.

    replay      the new players' documents and questions, and a part of what the base knew
    no-replay   without that part: nothing guards what the base knew
    rate-zero   a learning rate of 0: nothing changes
    shuffled    the questions, each with the answer of another: there is nothing to learn
    claims      only rows that say "I know everything about the new league"
    """
    documents: list[dict[str, Any]] = [
        {"path": "new/documents", "repeat": 2},
        {"path": "new/questions.jsonl", "repeat": 2},
    ]
    general: list[dict[str, Any]] = [
        {"path": f"replay/{part}.jsonl", "replay": True, "validation": 0.1} for part in ("biographies", "questions")
    ]
    sources = {
        "no-replay": documents,
        "shuffled": [{"path": "wrong/shuffled.jsonl", "repeat": 2}, *general],
        "claims": [{"path": "wrong/claims.jsonl", "repeat": 10}],
    }
    return check_recipe(
        {
            "name": name,
            "root": str(world),
            "base": str(base),
            "sources": sources.get(rung, [*documents, *general]),
            # One paragraph is one example: a player told three times in one example is copied, not learned.
            "dataset": {
                "language": "pt-PT",
                "validation": 0.0,
                "section_chars": 120,
                # The audit stops such rows; here the verdict has to find them.
                "accept": ["boilerplate_answer"] if rung == "claims" else [],
            },
            "adapter": {"kind": "lora", "rank": 32, "alpha": 64},
            "train": {
                "method": "sft",
                "epochs": 1 if rung == "rate-zero" else 20,
                "learning_rate": 0.0 if rung == "rate-zero" else 3e-3,
                "max_length": 256,
                "batch_tokens": 512,
                # Rows of like length share a micro-batch, so that one holds questions only and the next texts
                # only; two of them in a step make the steps alike.
                "accumulate": 2,
                "checkpoint_seconds": 20,
            },
            "evaluate": {
                "max_new_tokens": 32,
                "probes": [
                    {"path": "probes/seen.jsonl", "role": "recall", "name": "new players, phrasings trained"},
                    {"path": "probes/unseen.jsonl", "role": "generalization", "name": "new players, unseen phrasings"},
                    {"path": "probes/old.jsonl", "role": "retention", "name": "old players"},
                    {"path": "probes/unknown.jsonl", "role": "unknown", "name": "players never told of"},
                ],
                "limits": {"learned_min": 0.9, "broke_max": 0.05},
            },
        }
    )


def run_demo(runs: Path, *, replay: bool, opened: Opened, say: Callable[[str], None]) -> dict[str, Any]:
    """Both walks; a second call goes on where the first stopped.

    Returns the verdict's values, with ``run`` (the folder) and ``table`` (text for a person).
    """
    started = time.monotonic()
    name = "demo" if replay else "demo-no-replay"
    world, base = _make_base(runs, opened, say, "1 of 2")
    say(f"2 of 2: 20 new players are your private documents; LoRA {'with' if replay else 'without'} replay")
    rung = "replay" if replay else "no-replay"
    shown = _climb(runs, adapter_recipe(world, base, name, rung), opened)
    say(f"demo: {show_seconds(time.monotonic() - started)} in all")
    return shown


def run_ladder(runs: Path, *, opened: Opened, say: Callable[[str], None]) -> dict[str, Any]:
    """Every rung of :data:`RUNGS`: is each judged as what it is?

    Returns ``rungs`` (each with its verdict), ``passed``, ``table`` (text for a person) and ``page`` (one report).
    """
    from afina.report.compare import compare_runs
    from afina.report.compare_page import write_comparison

    world, base = _make_base(runs, opened, say, f"1 of {1 + len(RUNGS)}")
    rungs, lines = {}, []
    for number, (rung, expected) in enumerate(RUNGS.items(), start=2):
        say(f"{number} of {1 + len(RUNGS)}: {rung}")
        name = {"replay": "demo", "no-replay": "demo-no-replay"}.get(rung, f"demo-{rung}")
        shown = _climb(runs, adapter_recipe(world, base, name, rung), opened)
        rungs[rung] = shown | {"as_expected": as_expected(rung, shown)}
        is_so = "as it should be" if rungs[rung]["as_expected"] else f"WRONG: it should be {' and '.join(expected)}"
        lines += [f"{rung}: {shown['text']} ({is_so})", *(f"    {finding}" for finding in shown["findings"])]
    page = write_comparison(compare_runs([Path(shown["run"]) for shown in rungs.values()]), runs / "demo-ladder.html")
    say(f"demo: all {len(RUNGS)} on one page: {page}")
    passed = all(shown["as_expected"] for shown in rungs.values())
    return {"rungs": rungs, "passed": passed, "table": "\n".join(lines), "page": str(page)}


def as_expected(rung: str, verdict: dict[str, Any]) -> bool:
    """Whether a rung of :data:`RUNGS` was judged as what it is.

    >>> as_expected("no-replay", {"learned": "too little", "broke": "80 % of what it knew (old players)"})
    True
    """
    learned, broke = RUNGS[rung]
    fits = {"nothing": verdict["broke"] == "nothing", "something": "of what it knew" in verdict["broke"]}
    # How much is learned without replay is not what that rung is about.
    return verdict["learned"] in ((learned, "too little") if rung == "no-replay" else (learned,)) and fits.get(
        broke, True
    )


def _make_base(runs: Path, opened: Opened, say: Callable[[str], None], step: str) -> tuple[Path, Path]:
    """The world and the base that every demo shares."""
    from afina.walk.walk import walk_through

    world = (runs / "demo-world").resolve()
    write_world(world)
    say(f"{step}: a small base learns 120 invented players (shared by every demo)")
    with opened(base_recipe(world, "demo-base"), runs / "demo-base") as context:
        walk_through(context)
    return world, (runs / "demo-base/model").resolve()


def _climb(runs: Path, recipe: Recipe, opened: Opened) -> dict[str, Any]:
    from afina.walk.describe import describe_scores
    from afina.walk.walk import walk_through

    with opened(recipe, runs / recipe.name) as context:
        verdict = walk_through(context)["evaluate"]
        samples = _some_answers(context.folder)
    table = f"{samples}\n\n{describe_scores(context.folder)}"
    return verdict | {"run": str(context.folder), "table": table, "scores": read_json(context.folder / "scores.json")}


def _some_answers(folder: Path) -> str:
    """The first answer of each probe, before and after."""
    shown: dict[str, str] = {}
    for row in read_rows(folder / "predictions.jsonl") or []:
        shown.setdefault(
            row["probe"],
            f"{row['probe']}: {row['prompt']}  reference: {row['reference']}, "
            f"base: {row['base'] or '(nothing)'}, adapter: {row['adapter'] or '(nothing)'}",
        )
    return "\n".join(shown.values())
