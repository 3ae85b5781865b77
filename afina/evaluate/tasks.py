"""Tasks of a recipe: rows with references, answered by the base and by what was trained, scored side by side.

Each seed draws its own sample of a task's rows; a row that several seeds draw is answered once. Rows whose prompt
stands in the training data are left out before anything is drawn, and counted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.dataset.example import Example
from afina.errors import DataError, Problem, RecipeError
from afina.evaluate.columns import Item, choose_columns, first_row, items_of, read_table
from afina.evaluate.leaks import find_leak
from afina.evaluate.normalize import published
from afina.evaluate.output_checks import OutputChecks, prompt_key, training_keys
from afina.evaluate.paired import mean_and_sd
from afina.evaluate.probes import Question, ask
from afina.evaluate.score import Tally, choose_metrics
from afina.model.generate import Answer
from afina.recipe import Recipe, Task
from afina.run import Progress, no_progress, write_whole
from afina.tokenizer.chat import Renderer

MODELS = ("base", "adapter")
PREDICTIONS_FILE = "task_predictions.jsonl"
"""Every answer with its scores, in the run's folder; `afina score` reads it too."""

OpenModel = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class TaskSet:
    """The rows of one task that can be drawn, and which each seed draws."""

    task: Task
    items: tuple[Item, ...]
    """Every row that some seed draws."""
    drawn: dict[int, tuple[int, ...]]
    """Seed -> positions in `items`."""
    metrics: tuple[str, ...]
    rows: int
    """Rows of the file."""
    trained_on: int
    """Rows left out because their prompt stands in the training data."""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know about the sample."""
        notes = []
        if self.trained_on:
            notes.append(f"{self.trained_on} of {self.rows} rows stand in the training data and are left out")
        sizes = {len(drawn) for drawn in self.drawn.values()}
        asked, left = self.task.sample, self.rows - self.trained_on
        if asked and sizes != {asked}:
            notes.append(f"a sample of {asked} was asked for, and there are {left} rows")
        if len(self.drawn) > 1 and sizes == {left}:
            notes.append("every seed draws all rows: there is no standard deviation over seeds")
        return notes


def task_files(recipe: Recipe) -> list[Path]:
    """Every file that the recipe's tasks read."""
    return [Path(recipe.root) / task.path for task in recipe.evaluate.tasks]


def read_tasks(recipe: Recipe, trained: Iterator[Example] | Sequence[Example]) -> list[TaskSet]:
    """The recipe's tasks, without the rows that stand in the training examples.

    Raises:
        RecipeError: columns that are not there, of all tasks at once.
        DataError: broken rows, of all tasks at once; a task of which nothing is left.
    """
    if not recipe.evaluate.tasks:
        return []
    known = training_keys(
        [turn["content"] for turn in example.messages[:-1] if turn["role"] != "system"] for example in trained
    )
    found: list[TaskSet] = []
    problems: list[Problem] = []
    wrong: type[RecipeError | DataError] = RecipeError
    for task, file in zip(recipe.evaluate.tasks, task_files(recipe), strict=True):
        try:
            found.append(_read_task(task, file, known))
        except (RecipeError, DataError) as error:
            problems += [replace(each, where=each.where or f"evaluate.tasks: {task.name}") for each in error.problems]
            wrong = type(error)
    if problems:
        raise wrong(problems=problems)
    return found


def _read_task(task: Task, file: Path, known: frozenset[str]) -> TaskSet:
    columns = choose_columns(
        list(first_row(file)), reference=task.reference, prompt=task.prompt, where=str(file), written=False
    )
    if not columns.prompt:
        raise RecipeError("no column holds what is asked", "name it in the task's `prompt`", str(file))
    metrics = choose_metrics(task.metrics, has_choices=bool(task.choices or columns.choices))
    every = list(items_of(read_table(file), columns, str(file), task.choices))
    asked = [item for item in every if item.prompt and prompt_key(item.prompt) not in known]
    empty = [item.line for item in every if not item.prompt]
    if empty:
        raise DataError(
            f"{len(empty)} rows ask nothing (the first: line {empty[0]})",
            "remove them, or name the columns of the prompt",
            f"{file}:{empty[0]}",
        )
    if not asked:
        raise DataError("every row stands in the training data", "give the task rows of its own", str(file))
    size = min(task.sample or len(asked), len(asked))
    drawn = {seed: sorted(random.Random(seed).sample(range(len(asked)), size)) for seed in task.seeds}
    used = sorted({position for positions in drawn.values() for position in positions})
    place = {position: number for number, position in enumerate(used)}
    return TaskSet(
        task,
        tuple(asked[position] for position in used),
        {seed: tuple(place[position] for position in positions) for seed, positions in drawn.items()},
        metrics,
        len(every),
        len(every) - len(asked),
    )


def measure_tasks(
    tasks: Sequence[TaskSet],
    before: OpenModel,
    after: OpenModel,
    renderer: Renderer,
    recipe: Recipe,
    folder: Path,
    progress: Progress = no_progress,
    *,
    asking: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> list[dict[str, Any]]:
    """Ask both models all tasks and score their answers; writes :data:`PREDICTIONS_FILE`.

    Args:
        asking: further settings of :func:`~afina.evaluate.probes.ask` for the model before and after training.

    Returns:
        For each task plain values as they stand in ``scores.json``: findings first, then metrics.
    """
    answers: list[list[list[Answer]]] = []
    asked, every = 0, 2 * sum(len(task.items) for task in tasks)
    for name, open_model, more in zip(MODELS, (before, after), asking, strict=True):
        answers.append([])
        with open_model() as model:
            for task in tasks:

                def counted(done: int, _: int | None, what: str, name: str = name, asked: int = asked) -> None:
                    progress(asked + done, every, f"{what} of the {name}")

                where = task.task.path
                questions = [Question(item.messages, item.references[0], f"{where}:{item.line}") for item in task.items]
                longest = task.task.max_new_tokens or recipe.evaluate.max_new_tokens
                answers[-1].append(ask(model, renderer, questions, max_new_tokens=longest, progress=counted, **more))
                asked += len(task.items)
    results, lines = [], []
    for task, *given in zip(tasks, *answers, strict=True):
        result, rows = _score_task(task, given, recipe.dataset.language)
        results.append(result)
        lines += [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_whole(folder / PREDICTIONS_FILE, "".join(lines))
    return results


def _score_task(
    task: TaskSet, answers: Sequence[Sequence[Answer]], language: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A task's values for ``scores.json``, and its rows for the file of predictions."""
    checks = OutputChecks(MODELS, language)
    tally = Tally(MODELS, task.metrics)
    rows = []
    for item, *both in zip(task.items, *answers, strict=True):
        texts = [answer.text for answer in both]
        leaks = [find_leak(text, item.prompt) for text in texts]
        seen = replace(item, outputs=tuple(texts), ended=tuple(answer.stopped for answer in both))
        checks.see(seen, [leak.answer if leak else text for leak, text in zip(leaks, texts, strict=True)], leaks)
        tally.add(texts, item, language)
        rows.append(
            {
                "task": task.task.name,
                "prompt": "\n\n".join(item.prompt),
                "reference": list(item.references) if len(item.references) > 1 else item.references[0],
                **{name: answer.text for name, answer in zip(MODELS, both, strict=True)},
                **{f"{name}_stopped": answer.stopped for name, answer in zip(MODELS, both, strict=True)},
                **{f"{name}_scores": tally.last(name) for name in MODELS},
                "from": {"path": task.task.path, "line": item.line},
            }
        )
    by_seed = {seed: tally.values(positions) for seed, positions in task.drawn.items()}
    metrics, differ = [], len(set(task.drawn.values())) > 1
    for score in tally.scores():
        values = {name: [found[name][score.name] for found in by_seed.values()] for name in MODELS}
        gains = [after - before for before, after in zip(*values.values(), strict=True)]
        metrics.append(
            {
                "name": score.name,
                **{
                    side: _over_seeds(values[name], differ=differ)
                    | {"low": score.values[name].low, "high": score.values[name].high}
                    for side, name in zip(("before", "after"), MODELS, strict=True)
                },
                "difference": _over_seeds(gains, differ=differ)
                | {"low": score.differences["adapter"].low, "high": score.differences["adapter"].high},
            }
        )
    return {
        "name": task.task.name,
        "n": len(next(iter(task.drawn.values()))),
        "items": len(task.items),
        "rows": task.rows,
        "seeds": list(task.drawn),
        "trained_on": task.trained_on,
        "notes": task.notes,
        "findings": [finding.as_json() for finding in checks.findings()],
        "language": language,
        "normalization": published(language),
        "metrics": metrics,
    }, rows


def _over_seeds(values: Sequence[float], *, differ: bool) -> dict[str, Any]:
    """Mean and standard deviation; none of the latter where every seed draws the same rows, and it would be 0."""
    mean, sd = mean_and_sd(values)
    return {"mean": mean, "sd": sd if differ else None, "by_seed": list(values)}
