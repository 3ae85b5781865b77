"""Published benchmarks through lm-eval (extra ``lm-eval``): the base against what was trained, on the same items.

lm-eval asks and scores; the models are the ones that a run opens, so that adapters, 4-bit bases and their settings are
those of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.errors import Problem, RecipeError
from afina.model.open_model import OpenModel
from afina.recipe import nearest
from afina.score.paired import known_ends, paired_difference, show_ends


def run_benchmarks(
    tasks: Sequence[str],
    before: OpenModel,
    after: OpenModel,
    tokenizer: Any,
    *,
    batch_size: int = 8,
    limit: int | None = None,
    shots: int | None = None,
) -> list[dict[str, Any]]:
    """Every metric of each task, before and after.

    Args:
        tasks: names of lm-eval's tasks, or YAML files of tasks.
        limit: only the first N items of each task.
        shots: examples in the prompt, where not the task's own number.

    Returns:
        Plain values by task and metric: ``before``, ``after``, and the paired difference with its 95 % interval
        over the items (None where a metric has no value for a single item).

    Raises:
        RecipeError: lm-eval is missing, or tasks are unknown, all in one error.
    """
    names, manager = _tasks(tasks)
    results = [_evaluate(opened, names, manager, tokenizer, batch_size, limit, shots) for opened in (before, after)]
    return [row for task in results[0]["results"] for row in _compare(task, results)]


def _tasks(tasks: Sequence[str]) -> tuple[list[str], Any]:
    """The names that lm-eval knows the tasks by, and its index of them."""
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError:
        raise RecipeError("--lm-eval needs lm-eval", "pip install 'afina[lm-eval]'") from None
    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    problems = [Problem(f"there is no file {file}", "check --lm-eval") for file in files if not file.is_file()]
    folders = [str(folder) for folder in dict.fromkeys(file.resolve().parent for file in files)]
    manager = TaskManager(include_path=folders or None, include_defaults=len(files) < len(tasks))
    names = []
    for task in tasks:
        file = Path(task)
        name = _named(file, problems) if file in files and file.is_file() else task
        names.append(name)
        if file not in files and name not in manager.all_tasks:
            guess = nearest(name, list(manager.all_tasks))
            fix = f"did you mean {guess}?" if guess else "`lm-eval ls tasks` lists them; or name a YAML file"
            problems.append(Problem(f"lm-eval has no task {name!r}", fix, "--lm-eval"))
    if problems:
        raise RecipeError(problems=problems)
    return names, manager


def _named(file: Path, problems: list[Problem]) -> str:
    """The name that a task's file gives itself."""
    found = [
        line.partition(":")[2].strip() for line in file.read_text("utf-8").splitlines() if line.startswith("task:")
    ]
    if not found:
        problems.append(Problem("the file names no `task`", "give it a line `task: NAME`", str(file)))
    return found[0].strip("'\"") if found else ""


def _evaluate(
    opened: OpenModel,
    names: Sequence[str],
    manager: Any,
    tokenizer: Any,
    batch_size: int,
    limit: int | None,
    shots: int | None,
) -> dict[str, Any]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with opened() as model:
        language_model = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        try:
            found = lm_eval.simple_evaluate(
                language_model,
                tasks=list(names),
                task_manager=manager,
                limit=limit,
                num_fewshot=shots,
                bootstrap_iters=0,
                log_samples=True,
            )
        except (ConnectionError, FileNotFoundError) as error:
            fix = "benchmarks load their data from the hub at their first use: connect, or name a task of local files"
            raise RecipeError(f"the data of a task cannot be loaded: {error}", fix, ", ".join(names)) from error
    assert found is not None
    return dict(found)


def _compare(task: str, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each metric of a task."""
    rows = []
    samples = [{sample["doc_id"]: sample for sample in result["samples"].get(task, [])} for result in results]
    for key, value in results[0]["results"][task].items():
        metric, _, filtered = key.partition(",")
        if not filtered or not isinstance(value, int | float) or metric.endswith("_stderr"):
            continue
        other = results[1]["results"][task][key]
        pairs = [
            (first[metric], samples[1][number][metric])
            for number, first in samples[0].items()
            if _is_number(first.get(metric)) and _is_number(samples[1].get(number, {}).get(metric))
        ]
        gain = paired_difference([a for a, _ in pairs], [b for _, b in pairs]).as_json() if pairs else None
        better = results[0].get("higher_is_better", {}).get(task, {}).get(metric)
        rows.append(
            {
                "task": task,
                "metric": metric,
                "filter": filtered,
                "higher_is_better": better,
                "n": len(samples[0]) or None,
                "shots": results[0].get("n-shot", {}).get(task),
                "version": results[0].get("versions", {}).get(task),
                "before": float(value),
                "after": float(other),
                "difference": gain,
            }
        )
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def describe_benchmarks(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table."""
    lines = [f"{'':32}{'n':>7}{'before':>10}{'after':>10}   difference, 95 % interval"]
    for row in rows:
        shown = "no values of single items"
        if gain := row["difference"]:
            shown = f"{gain['value']:+.3f} {show_ends(known_ends(gain['low'], gain['high'], gain['n']), '+.3f')}"
        name = f"{row['task']} {row['metric']}"
        lines.append(f"{name:32}{row['n'] or '':>7}{row['before']:>10.4g}{row['after']:>10.4g}   {shown}")
    return "\n".join(lines)
