"""Are a task's figures those of its answers, and its answers those of the models? Held against what was committed to of
it, counted again by the code that evaluation uses, and asked again.

Programs are not run again: what they did stands as it is, and is counted. Of a commitment from before tasks were
committed to question by question the answers are counted as far as their rows tell, and not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from afina.evaluate.probes import Question, stored_turns
from afina.evaluate.scores import SIDES, Scores
from afina.evaluate.task_metrics import MODELS, metric_values, references_of, tally_of, told_by_rows
from afina.evaluate.task_rows import (
    code_tally_of,
    drawn_of,
    findings_of,
    normalization,
    questions_hash,
    results_of,
    told_of_code,
    worth_of,
)
from afina.model.generate.generate_torch import Answer
from afina.record import Record
from afina.score.paired import with_stored_ends
from afina.verify.asked_again import AskedRow
from afina.verify.held_against import HeldAgainst, same
from afina.verify.proof import TASKS, Proof

EARLIER = "whether the models answer as stored: the afina that committed did not promise each question of a task"
PROMISED = ("name", "rows", "trained_on", "notes", "items", "n", "seeds")
"""Keys of a task's part of ``scores.json`` that were known before the training."""
CODE = ("language", "ran", "samples")
"""The same of a task of code."""


def tasks_again(
    proof: Proof, stored: Scores, promised: Sequence[Record] | None, language: str, found: HeldAgainst
) -> list[AskedRow]:
    """Hold the tasks' figures against their stored answers, and these against the questions committed to.

    Args:
        promised: what was committed to of each task; None by an afina that did not.
        language: whose words are compared, as committed to.

    Returns:
        The answers to be asked again: those to questions committed to.

    Raises:
        AfinaError: a file is damaged.
    """
    rows = proof.rows(TASKS)
    known = {task.required_text("name") for task in stored.tasks}
    found.wrong += [f"{TASKS}: scores.json has no task {name!r:.60}" for name in _names(rows) if name not in known]
    if promised is None and stored.tasks:
        found.left.append(EARLIER)
    promise_of = {each.required_text("name"): each for each in promised or ()}
    missing = [name for name in promise_of if name not in known]
    found.left += [f"the task {name}: it is not in scores.json, and no answer tells why" for name in missing]
    ask: list[AskedRow] = []
    for task in stored.tasks:
        name, mine = task["name"], [row for row in rows if row.text("task") == task["name"]]
        promise = promise_of.get(name)
        if promised is not None and promise is None:
            found.wrong.append(f"scores.json: the task {name!r:.60} was not committed to")
            continue
        if not mine:
            said = f"the task {name}: its answers are not here"
            (found.left if promise is None else found.wrong).append(said)
            continue
        other = list(_committed_otherwise(task, mine, promise)) if promise else []
        found.wrong += other or _counted_otherwise(task, mine, language, with_findings=promise is not None)
        found.left += [f"the task {name}: {each}" for each in _untold(task, mine)]
        if promise and not other:
            room = promise.required_whole("max_new_tokens")
            ask += [_asked(row, task, mine, room, language) for row in mine]
    return ask


def _names(rows: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(row.required_text("task") for row in rows))


def _metrics(task: Record) -> list[str]:
    return [each.required_text("name") for each in task.records("metrics")]


def _told(task: Record, rows: Sequence[Record]) -> tuple[str, ...]:
    """The metrics that the stored rows tell."""
    return told_of_code(task, rows) if task.record("code") else told_by_rows(_metrics(task), rows)


def _untold(task: Record, rows: Sequence[Record]) -> Iterator[str]:
    if untold := [name for name in _metrics(task) if name not in _told(task, rows)]:
        yield f"{', '.join(untold)} (no row tells them)"
    if drawn_of(task, rows) is None:
        yield "its sums (which rows each seed drew is noted nowhere)"
    if task.record("code"):
        yield "what its programs did, and its samples: programs are not run again, nor drawn again"


def _committed_otherwise(task: Record, rows: Sequence[Record], promise: Record) -> Iterator[str]:
    """What of a task is not what was committed to."""
    name = task["name"]
    for key in PROMISED:
        if task.values.get(key) != promise.values.get(key):
            said = f"{task.values.get(key)!r:.80}, and {promise.values.get(key)!r:.80} was committed to"
            yield f"scores.json: the task {name}: `{key}` is {said}"
    if (metrics := _metrics(task)) != promise.texts("metrics"):
        said = f"{', '.join(metrics) or 'none'}, and {', '.join(promise.texts('metrics'))} were committed to"
        yield f"scores.json: the task {name}: its metrics are {said}"
    mine, theirs = task.record("code"), promise.record("code")
    if bool(mine) != bool(theirs) or any(mine.values.get(key) != theirs.values.get(key) for key in CODE):
        yield f"scores.json: the task {name}: its `code` is not what was committed to"
    if questions_hash([row.values for row in rows]) != promise.required_text("questions_sha256"):
        yield f"{TASKS}: the questions of the task {name} are not those committed to"


def _counted_otherwise(task: Record, rows: Sequence[Record], language: str, *, with_findings: bool) -> Iterator[str]:
    """Marks of rows, and sums over them, that are others than the answers give."""
    name, code = task["name"], task.record("code")
    if len(rows) != task.required_whole("items"):
        yield f"{TASKS}: {len(rows)} answers to the task {name}, of which scores.json counts {task['items']}"
        return
    if task.required_text("language") != language:
        yield f"scores.json: the task {name}: `language` is {task['language']!r:.40}, and {language} was committed to"
    if not code and "normalization" in task and not same(normalization(language), task.values["normalization"]):
        yield f"scores.json: the task {name}: `normalization` is not that of {language}"
    if with_findings:
        told = [(each.text("name"), each.text("prediction"), each.whole("count")) for each in task.records("findings")]
        if told != (mine := findings_of(rows, language)):
            yield f"scores.json: the task {name}: its findings are {told!r:.160}, the stored answers give {mine!r:.160}"
    if code:
        for side, results in zip(SIDES, results_of(rows), strict=True):
            if not same(results, theirs := code.record("results").record(side).values):
                yield f"scores.json: the task {name}: `code.results.{side}` is {dict(theirs)}, its rows give {results}"
    if metrics := _told(task, rows):
        yield from _metrics_otherwise(task, rows, metrics, language)


def _metrics_otherwise(task: Record, rows: Sequence[Record], metrics: Sequence[str], language: str) -> Iterator[str]:
    code = task.record("code")

    def tally(some: Sequence[Record]) -> Any:
        if code:
            return code_tally_of(some, metrics, ran=bool(code.flag("ran")))
        return tally_of(some, metrics, language)

    for row in rows:
        one = tally([row])
        for model in MODELS:
            stored = row.record(f"{model}_scores")
            if other := [each for each, value in one.last(model).items() if not same(value, stored.number(each))]:
                value = one.last(model)[other[0]]
                yield f"{row.where}: `{model}_scores.{other[0]}` is {stored.number(other[0])}, the answer gets {value}"
    if (drawn := drawn_of(task, rows)) is None:
        return
    told = {each["name"]: each for each in task.records("metrics")}
    for counted in metric_values(tally(rows), drawn):
        stored = told[counted["name"]]
        for side in counted.keys() - {"name"}:
            counted[side] = with_stored_ends(counted[side], stored.record(side).values, "mean")
        if other := [side for side in counted if not same(counted[side], stored.values.get(side))]:
            said = f"{stored.values.get(other[0])!r:.80}, the stored answers give {counted[other[0]]!r:.80}"
            yield f"scores.json: the task {task['name']}: `{counted['name']}.{other[0]}` is {said}"


def _asked(row: Record, task: Record, rows: Sequence[Record], room: int, language: str) -> AskedRow:
    """A stored answer to a task as it is asked again."""
    question = Question(stored_turns(row), references_of(row)[0], row.where)
    metrics = () if task.record("code") else told_by_rows(_metrics(task), rows)
    return AskedRow(question, row, room, f"the task {task['name']}", partial(_worth, row, metrics, language))


def _worth(row: Record, metrics: Sequence[str], language: str, answer: Answer) -> float:
    return worth_of(row, answer.text, metrics, language)
