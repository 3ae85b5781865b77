"""What is measured beside the probes: the losses of the held-out rows, and the recipe's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from afina.model.open_model import OpenModel
from afina.recipe.methods import JUDGED
from afina.record import read_rows
from afina.walk.base import pad_id, renderer
from afina.walk.context import Context
from afina.walk.stored_answers import Kept

if TYPE_CHECKING:
    from afina.evaluate.task_set import TaskSet
    from afina.recipe import Judge
    from afina.tokenizer.encode import Row


def losses_and_tasks(
    context: Context,
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
    from afina.model.readers import reader_of

    rows, losses = [row for row in held_out if row.example.kind not in JUDGED], []
    for opened in models:
        with opened() as model:
            tokens = context.recipe.train.batch_tokens
            losses.append(row_losses(reader_of(model), rows, pad_id=pad_id(context), batch_tokens=tokens))
    more: dict[str, Any] = {"intrinsic": compare_losses(rows, losses[0], losses[1]) if rows else None, "tasks": []}
    (context.folder / PREDICTIONS_FILE).unlink(missing_ok=True)
    if tasks:
        with context.open_progress("tasks") as progress:
            asking = {"kept": kept[0], "say": context.tell}, {"kept": kept[1], "say": context.tell}
            more["tasks"] = measure_tasks(
                tasks, *models, renderer(context), context.recipe, context.folder, progress, asking=asking
            )
    if tasks and context.recipe.evaluate.judge:
        more["judge"] = _judge(context, context.recipe.evaluate.judge)
    return more


def _judge(context: Context, judge: Judge) -> dict[str, Any]:
    """What the judge says of the answers to the tasks."""
    from afina.evaluate.judge import JUDGE_FOLDER, judge_answers
    from afina.evaluate.tasks import PREDICTIONS_FILE

    rows = [dict(row.values) for row in read_rows(context.folder / PREDICTIONS_FILE) or []]
    with context.open_progress("judge") as progress:
        return judge_answers(
            rows,
            judge,
            context.folder.parent / JUDGE_FOLDER,
            currency=context.recipe.budget.currency,
            say=context.run.say,
            progress=progress,
        )
