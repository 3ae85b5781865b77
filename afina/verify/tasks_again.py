"""Are a task's figures those of its stored answers? Counted again, by the code that evaluation uses.

The questions of tasks are not committed to one by one, and neither model is asked them again. Programs are not run
again, an accuracy over choices is not told by a row, and which rows a seed drew is noted nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afina.evaluate.scores import read_scores
from afina.evaluate.task_metrics import MODELS, metric_values, tally_of, told_by_rows
from afina.record import Record
from afina.score.paired import with_stored_ends
from afina.verify.proof import TASKS, Proof


def tasks_again(proof: Proof) -> tuple[list[str], list[str]]:
    """What of the tasks' figures is not what the stored answers give, and what these do not tell; in words.

    Raises:
        AfinaError: a file is damaged.
    """
    stored, rows = read_scores(proof.folder), proof.rows(TASKS)
    tasks = stored.tasks if stored else []
    known = {task.required_text("name") for task in tasks}
    wrong = [f"{TASKS}: scores.json has no task {name!r:.60}" for name in _names(rows) if name not in known]
    left = ["whether the models answer the tasks as stored: these are not asked again"] if tasks else []
    for task in tasks:
        mine = [row for row in rows if row.text("task") == task["name"]]
        if not mine:
            left.append(f"whether the figures of the task {task['name']} are right: its answers are not here")
            continue
        wrong += _counted_otherwise(task, mine)
        if untold := list(_untold(task)):
            left.append(f"whether the figures of the task {task['name']} are right: {', '.join(untold)}")
    return wrong, left


def _names(rows: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(row.required_text("task") for row in rows))


def _metrics(task: Record) -> list[str]:
    return [each.required_text("name") for each in task.records("metrics")]


def _every_seed_draws_all(task: Record) -> bool:
    return task.required_whole("n") == task.required_whole("items")


def _untold(task: Record) -> Iterator[str]:
    if untold := [name for name in _metrics(task) if name not in told_by_rows(_metrics(task))]:
        yield f"{', '.join(untold)} (no row tells them)"
    if not _every_seed_draws_all(task):
        yield "its sums (which rows each seed drew is noted nowhere)"


def _counted_otherwise(task: Record, rows: Sequence[Record]) -> Iterator[str]:
    """Marks of rows, and sums over them, that are others than the answers give."""
    name, metrics = task["name"], told_by_rows(_metrics(task))
    if len(rows) != task.required_whole("items"):
        yield f"{TASKS}: {len(rows)} answers to the task {name}, of which scores.json counts {task['items']}"
        return
    if not metrics:
        return
    language = task.required_text("language")
    for row in rows:
        one = tally_of([row], metrics, language)
        for model in MODELS:
            stored = row.record(f"{model}_scores")
            if other := [each for each, value in one.last(model).items() if not same(value, stored.number(each))]:
                value = one.last(model)[other[0]]
                yield f"{row.where}: `{model}_scores.{other[0]}` is {stored.number(other[0])}, the answer gets {value}"
    if not _every_seed_draws_all(task):
        return
    every = {number: range(len(rows)) for number, _ in enumerate(task.values.get("seeds") or [0])}
    told = {each["name"]: each for each in task.records("metrics")}
    for counted in metric_values(tally_of(rows, metrics, language), every):
        stored = told[counted["name"]]
        for side in counted.keys() - {"name"}:
            counted[side] = with_stored_ends(counted[side], stored.record(side).values, "mean")
        if other := [side for side in counted if not same(counted[side], stored.values.get(side))]:
            said = f"{stored.values.get(other[0])!r:.80}, the stored answers give {counted[other[0]]!r:.80}"
            yield f"scores.json: the task {name}: `{counted['name']}.{other[0]}` is {said}"


def same(mine: Any, theirs: Any, but: frozenset[str] = frozenset()) -> bool:
    """Whether figures are the same, up to how a machine rounds them.

    Args:
        but: keys of mappings that are not looked at.

    >>> same({"a": [0.1 + 0.2]}, {"a": [0.3]}), same(0.5, float("nan")), same(None, 0.0)
    (True, False, False)
    """
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        keys = {*mine, *theirs} - but
        return all(same(mine.get(key), theirs.get(key), but) for key in keys)
    if isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        return len(mine) == len(theirs) and all(same(one, two, but) for one, two in zip(mine, theirs, strict=True))
    numbers = isinstance(mine, int | float) and isinstance(theirs, int | float)
    return math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-12) if numbers else bool(mine == theirs)
