"""Tasks of a recipe: rows with references, answered by the base and by what was trained, scored side by side.

Each seed draws its own sample of a task's rows; a row that several seeds draw is answered once. Rows whose prompt
stands in the training data are left out before anything is drawn, and counted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from afina.errors import DataError, Problem, RecipeError
from afina.evaluate.code_answers import where_of
from afina.evaluate.code_task import (
    CHECKS,
    CodeAnswers,
    ask_code,
    checks_as_text,
    checks_of,
    code_metrics,
    score_code,
)
from afina.evaluate.probes import Question, ask
from afina.evaluate.task_metrics import MODELS, metric_values
from afina.evaluate.task_rows import normalization, question_rows
from afina.evaluate.task_set import TaskSet
from afina.model.generate.generate_torch import Answer
from afina.model.open_model import OpenModel
from afina.recipe import Recipe, Task
from afina.record import read_rows
from afina.run import Progress, no_progress
from afina.score.columns import NamedColumns, choose_columns, first_row, items_of, read_table
from afina.score.leaks import find_leak
from afina.score.output_checks import OutputChecks, prompt_key, training_keys
from afina.score.score import Tally, choose_metrics
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.whole import write_whole

PREDICTIONS_FILE = "task_predictions.jsonl"
"""Every answer with its scores, in the run's folder; `afina score` reads it too."""


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
    names = list(first_row(file))
    if task.code and CHECKS not in names:
        raise RecipeError(
            f"no column `{CHECKS}`", "a task of code needs it: a list, empty where none is run", str(file)
        )
    named = NamedColumns(reference=CHECKS if task.code else task.reference, prompt=task.prompt)
    columns = choose_columns(names, named, str(file), written=False)
    if not columns.prompt:
        raise RecipeError("no column holds what is asked", "name it in the task's `prompt`", str(file))
    rows = checks_as_text(read_table(file)) if task.code else read_table(file)
    every = list(items_of(rows, columns, str(file), task.choices))
    if task.code:
        checks_of(every, str(file))  # all that is wrong with them, whatever is drawn
    metrics = (
        code_metrics(task.code)
        if task.code
        else choose_metrics(task.metrics, has_choices=bool(task.choices or columns.choices))
    )
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
    items = tuple(asked[position] for position in used)
    return TaskSet(
        task,
        items,
        {seed: tuple(place[position] for position in positions) for seed, positions in drawn.items()},
        metrics,
        len(every),
        len(every) - len(asked),
        tuple(checks_of(items, str(file))) if task.code else (),
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
    answers: list[list[list[Answer] | CodeAnswers]] = []
    asked, every = 0, len(MODELS) * sum(map(_questions, tasks))
    for name, open_model, more in zip(MODELS, (before, after), asking, strict=True):
        answers.append([])
        with open_model() as model:
            for task in tasks:

                def counted(done: int, _: int | None, what: str, name: str = name, asked: int = asked) -> None:
                    progress(asked + done, every, f"{what} of the {name}")

                answers[-1].append(_ask_task(model, renderer, task, recipe, counted, more))
                asked += _questions(task)
    results, lines = [], []
    for number, (task, *given) in enumerate(zip(tasks, *answers, strict=True)):
        result, rows = _score_task(task, given, recipe.dataset.language, where_of(number), progress)
        results.append(result)
        lines += [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_whole(folder / PREDICTIONS_FILE, "".join(lines))
    return results


def _questions(task: TaskSet) -> int:
    """How many answers a model gives."""
    return len(task.items) * (1 + (task.task.code.samples if task.task.code else 0))


def longest_answer(task: TaskSet, recipe: Recipe) -> int:
    """New tokens that an answer to a task has at most."""
    return task.task.max_new_tokens or recipe.evaluate.max_new_tokens


def _ask_task(
    model: Any, renderer: Renderer, task: TaskSet, recipe: Recipe, progress: Progress, more: Mapping[str, Any]
) -> list[Answer] | CodeAnswers:
    limit = longest_answer(task, recipe)
    if task.task.code:
        return ask_code(model, renderer, task, limit, progress, **more)
    questions = [Question(item.messages, item.references[0], f"{task.task.path}:{item.line}") for item in task.items]
    return ask(model, renderer, questions, max_new_tokens=limit, progress=progress, **more)


def _score_task(
    task: TaskSet, given: Sequence[list[Answer] | CodeAnswers], language: str, where: str, progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A task's values for ``scores.json``, and its rows for the file of predictions."""
    code = [each for each in given if isinstance(each, CodeAnswers)]
    answers = [each.greedy if isinstance(each, CodeAnswers) else each for each in given]
    checks = OutputChecks(MODELS, language)
    tally = Tally(MODELS, task.metrics)
    rows: list[dict[str, Any]] = []
    for item, question, *both in zip(task.items, question_rows(task), *answers, strict=True):
        texts = [answer.text for answer in both]
        leaks = [find_leak(text, item.prompt) for text in texts]
        seen = replace(item, outputs=tuple(texts), ended=tuple(answer.stopped for answer in both))
        if code:
            seen = replace(seen, references=("code",))  # its checks are no text to be looked at
        checks.add(seen, [leak.answer if leak else text for leak, text in zip(leaks, texts, strict=True)], leaks)
        row: dict[str, Any] = {
            **question,
            **{name: answer.text for name, answer in zip(MODELS, both, strict=True)},
            **{f"{name}_stopped": answer.stopped for name, answer in zip(MODELS, both, strict=True)},
        }
        if not code:
            tally.add(texts, item, language)
            row |= {f"{name}_scores": tally.last(name) for name in MODELS}
        rows.append(row | {"from": {"path": task.task.path, "line": item.line}})
    if code:
        measured, judged = score_code(task, code, where, progress)
        rows = [row | more for row, more in zip(rows, judged, strict=True)]
    else:
        measured = {"normalization": normalization(language), "metrics": metric_values(tally, task.drawn)}
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
        **measured,
    }, rows


def task_answers(file: Path) -> Iterator[tuple[str, str, str, str]]:
    """Question, reference and both answers of each row of :data:`PREDICTIONS_FILE`; none where there is no file.

    Raises:
        AfinaError: a row is damaged.
    """
    for row in read_rows(file) or []:
        references = row.texts("reference") if isinstance(row["reference"], list) else [row.required_text("reference")]
        asked, before, after = (row.required_text(key) for key in ("prompt", *MODELS))
        yield asked, "\n".join(references), before, after
