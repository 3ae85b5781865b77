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
    from afina.evaluate.loss import RowLoss
    from afina.evaluate.task_set import TaskSet
    from afina.recipe import Judge
    from afina.tokenizer.encode import Row


def losses_and_tasks(
    context: Context,
    held_out: Sequence[Row],
    tasks: Sequence[TaskSet],
    models: tuple[OpenModel, OpenModel],
    kept: Kept,
) -> tuple[dict[str, Any], tuple[list[RowLoss], list[RowLoss]]]:
    """The keys ``intrinsic``, ``tasks`` and ``judge`` of ``scores.json``, and the losses of each held-out row that they
    come from, of both models; writes the answers to the tasks.

    Args:
        models: before and after training.
        kept: answers of theirs from before.
    """
    from afina.evaluate.loss import compare_losses, row_losses
    from afina.evaluate.tasks import PREDICTIONS_FILE, measure_tasks
    from afina.model.readers import reader_of
    from afina.tokenizer.encode import with_examples

    rows = [row for row, example in with_examples(held_out) if example.kind not in JUDGED]

    def measured(opened: OpenModel) -> list[RowLoss]:
        with opened() as model:
            tokens = context.recipe.reading_tokens
            return row_losses(reader_of(model), rows, pad_id=pad_id(context), batch_tokens=tokens)

    losses = measured(models[0]), measured(models[1])
    more: dict[str, Any] = {"intrinsic": compare_losses(rows, *losses) if rows else None, "tasks": []}
    (context.folder / PREDICTIONS_FILE).unlink(missing_ok=True)
    if tasks:
        with context.open_progress("tasks") as progress:
            asking = {"kept": kept[0], "say": context.tell}, {"kept": kept[1], "say": context.tell}
            more["tasks"] = measure_tasks(
                tasks, *models, renderer(context), context.recipe, context.folder, progress, asking=asking
            )
    if tasks and context.recipe.evaluate.judge:
        more["judge"] = _judge(context, context.recipe.evaluate.judge)
    return more, losses


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
