"""What is measured beside the probes: the recipe's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from afina.model.open_model import OpenModel
from afina.record import read_rows
from afina.walk.base import renderer
from afina.walk.context import Context
from afina.walk.stored_answers import Kept

if TYPE_CHECKING:
    from afina.evaluate.task_set import TaskSet
    from afina.recipe import Judge


def tasks_and_judge(
    context: Context, tasks: Sequence[TaskSet], models: tuple[OpenModel, OpenModel], kept: Kept
) -> dict[str, Any]:
    """The keys ``tasks`` and ``judge`` of ``scores.json``; writes the answers to the tasks.

    Args:
        models: before and after training.
        kept: answers of theirs from before.
    """
    from afina.evaluate.tasks import PREDICTIONS_FILE, measure_tasks

    more: dict[str, Any] = {"tasks": []}
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
