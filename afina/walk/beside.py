"""What is measured beside the probes: the losses of the held-out rows, the recipe's tasks, benchmarks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from afina.recipe.methods import JUDGED

if TYPE_CHECKING:
    from afina.evaluate.tasks import TaskSet
    from afina.recipe import Judge
    from afina.tokenizer.encode import Row
    from afina.walk.kept import Kept
    from afina.walk.walk import Walk

OpenModel = Callable[[], AbstractContextManager[Any]]


def measure_beside(
    walk: Walk,
    held_out: Sequence[Row],
    tasks: Sequence[TaskSet],
    models: tuple[OpenModel, OpenModel],
    kept: Kept,
) -> dict[str, Any]:
    """The keys ``intrinsic``, ``tasks`` and ``judge`` of ``scores.json``; writes the answers to the tasks.

    Args:
        models: before and after training.
        kept: answers of theirs from before.
    """
    from afina.evaluate.loss import compare_losses, row_losses
    from afina.evaluate.tasks import PREDICTIONS_FILE, measure_tasks

    rows, losses = [row for row in held_out if row.example.kind not in JUDGED], []
    for opened in models:
        with opened() as model:
            device, tokens = next(model.parameters()).device, walk.recipe.train.batch_tokens
            losses.append(row_losses(model, rows, pad_id=walk._pad_id, device=device, batch_tokens=tokens))
    more: dict[str, Any] = {"intrinsic": compare_losses(rows, losses[0], losses[1]) if rows else None, "tasks": []}
    (walk.folder / PREDICTIONS_FILE).unlink(missing_ok=True)
    if tasks:
        with walk.stage_progress("tasks") as progress:
            asking = {"kept": kept[0], "say": walk.tell}, {"kept": kept[1], "say": walk.tell}
            more["tasks"] = measure_tasks(
                tasks, *models, walk.renderer, walk.recipe, walk.folder, progress, asking=asking
            )
    if tasks and walk.recipe.evaluate.judge:
        more["judge"] = _judge(walk, walk.recipe.evaluate.judge)
    return more


def _judge(walk: Walk, judge: Judge) -> dict[str, Any]:
    """What the judge says of the answers to the tasks."""
    from afina.evaluate.judge import JUDGE_FOLDER, judge_answers
    from afina.evaluate.tasks import PREDICTIONS_FILE

    with (walk.folder / PREDICTIONS_FILE).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    with walk.stage_progress("judge") as progress:
        return judge_answers(
            rows,
            judge,
            walk.folder.parent / JUDGE_FOLDER,
            currency=walk.recipe.budget.currency,
            say=walk.run.say,
            progress=progress,
        )


def measure_benchmarks(walk: Walk, tasks: Sequence[str], limit: int | None) -> list[dict[str, Any]]:
    """The rows of ``benchmarks.json``; those of tasks that are not asked now are kept."""
    from afina.errors import RecipeError
    from afina.evaluate.benchmarks import run_benchmarks
    from afina.run import read_json, write_json

    if not (walk.folder / walk.outcome).is_dir():
        raise RecipeError(f"nothing is trained in {walk.folder} yet", "train it first: `afina run` its recipe")
    model, before = walk.open_trained()
    with walk.stage_progress("lm-eval"):
        rows = run_benchmarks(
            tasks, before, lambda: contextlib.nullcontext(model), walk.renderer.tokenizer, limit=limit
        )
    rows = [row | {"limit": limit} for row in rows]
    file = walk.folder / "benchmarks.json"
    known = read_json(file)["benchmarks"] if file.exists() else []
    asked = {row["task"] for row in rows}
    write_json(file, {"benchmarks": [row for row in known if row["task"] not in asked] + rows})
    return rows
