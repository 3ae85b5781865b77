"""The stored rows of a task (``task_predictions.jsonl``): what they ask, and what its figures are by them.

What is asked stands in a row as it was put to the models, with all that its marks need. So whoever has the rows can
hold them against what was committed to, ask them again and count them again, without the task's file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from afina.evaluate.code_answers import RESULTS, Judged
from afina.evaluate.code_task import code_values
from afina.evaluate.task_metrics import MODELS, choices_of, references_of
from afina.evaluate.task_set import TaskSet
from afina.record import Record
from afina.run import hash_value
from afina.score.columns import ScoredItem
from afina.score.leaks import find_leak
from afina.score.normalize import published
from afina.score.output_checks import OutputChecks
from afina.score.score import Tally

QUESTION = ("task", "prompt", "asked", "messages", "reference", "among", "checks", "drawn_by")
"""Keys of a row that say what is asked; the others say what was answered."""


def question_rows(task: TaskSet) -> list[dict[str, Any]]:
    """What a task asks, a row each, as plain values, less where it stands: :data:`QUESTION`.

    ``asked``: the texts of the prompt where there are several; ``messages``: the turns where they are more than one of
    the user's; ``among``: label and text of each choice; ``drawn_by``: the seeds that draw the row, where not all do.
    """
    drawn = {seed: frozenset(places) for seed, places in task.drawn.items()}
    return [
        _question_row(task, place, [seed for seed, places in drawn.items() if place in places])
        for place in range(len(task.items))
    ]


def _question_row(task: TaskSet, place: int, seeds: list[int]) -> dict[str, Any]:
    item = task.items[place]
    prompt, turns = "\n\n".join(item.prompt), [dict(turn) for turn in item.messages]
    row: dict[str, Any] = {"task": task.task.name, "prompt": prompt}
    row |= {"asked": list(item.prompt)} if len(item.prompt) > 1 else {}
    row |= {"messages": turns} if turns != [{"role": "user", "content": prompt}] else {}
    row["reference"] = list(item.references) if len(item.references) > 1 else item.references[0]
    if task.task.code:
        row |= {"reference": "", "checks": [each.model_dump(exclude_defaults=True) for each in task.checks[place]]}
    row |= {"among": [list(pair) for pair in item.choices]} if item.choices else {}
    return row | ({"drawn_by": seeds} if len(seeds) < len(task.drawn) else {})


def questions_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of what rows ask, whatever was answered."""
    return hash_value([{key: row[key] for key in QUESTION if key in row} for row in rows])


def task_promise(task: TaskSet, max_new_tokens: int) -> dict[str, Any]:
    """What can be committed to of a task before anything is answered: its questions, and how they are counted.

    Args:
        max_new_tokens: of an answer.
    """
    code = task.task.code
    return {
        "name": task.task.name,
        "rows": task.rows,
        "trained_on": task.trained_on,
        "notes": task.notes,
        "items": len(task.items),
        "n": len(next(iter(task.drawn.values()))),
        "seeds": list(task.drawn),
        "metrics": list(task.metrics),
        "max_new_tokens": max_new_tokens,
        "code": {"language": code.language, "ran": code.run, "samples": code.samples} if code else None,
        "questions_sha256": questions_hash(question_rows(task)),
    }


def drawn_of(task: Record, rows: Sequence[Record]) -> dict[int, list[int]] | None:
    """Which of a task's stored rows each seed draws, in the order of its seeds; None where the rows do not tell, as
    those of an earlier afina.

    Args:
        task: its part of ``scores.json``.
    """
    drawn = {
        number: [place for place, row in enumerate(rows) if "drawn_by" not in row or seed in row.figures("drawn_by")]
        for number, seed in enumerate(task.figures("seeds") or [0])
    }
    n = task.required_whole("n")
    return drawn if n > 0 and all(len(places) == n for places in drawn.values()) else None


def code_tally_of(rows: Sequence[Record], metrics: Sequence[str], *, ran: bool) -> Tally:
    """The numbers of a code task's stored rows, by what its programs did as these say.

    Args:
        metrics: some of those that :func:`told_of_code` gives.
        ran: whether they were run, or only compiled.

    Raises:
        AfinaError: a row holds no results.
    """
    tally = Tally(MODELS, tuple(metrics))
    for row in rows:
        found = (code_values([_judged(each) for each in _results(row, name)], metrics, ran=ran) for name in MODELS)
        tally.put([{name: [value] for name, value in values.items()} for values in found])
    return tally


def told_of_code(task: Record, rows: Sequence[Record]) -> tuple[str, ...]:
    """The metrics of a code task that its rows can tell: ``pass@k`` only of as many samples as every row holds."""
    samples = min((len(row.records(f"{name}_samples")) for row in rows for name in MODELS), default=0)
    of = "pass" if task.record("code").flag("ran") else "compiles"
    at = {f"{of}@{k}" for k in range(1, samples + 1)}
    known = {"compiles", "right", *at}
    return tuple(name for each in task.records("metrics") if (name := each.required_text("name")) in known)


def results_of(rows: Sequence[Record]) -> list[dict[str, int]]:
    """How many greedy answers of each model came to which result."""
    counts = [Counter(row.required_text(f"{name}_result") for row in rows) for name in MODELS]
    return [{result: count[result] for result in RESULTS} for count in counts]


def _results(row: Record, name: str) -> list[Record]:
    """Of the greedy answer, and of the samples."""
    greedy = Record({"result": row.required_text(f"{name}_result")}, row.where, row.key, row.fix)
    return [greedy, *row.records(f"{name}_samples")]


def _judged(answer: Record) -> Judged:
    for result in RESULTS:
        if answer.required_text("result") == result:
            return Judged(result)
    raise answer.wrong("result", f"one of {', '.join(RESULTS)}", answer["result"])


def findings_of(rows: Sequence[Record], language: str) -> list[tuple[str, str | None, int]]:
    """Name, model (None: of the rows themselves) and count of what is wrong with the stored answers, as
    :class:`~afina.score.output_checks.OutputChecks` finds it."""
    checks = OutputChecks(MODELS, language)
    for number, row in enumerate(rows):
        texts = tuple(row.required_text(name) for name in MODELS)
        prompt = tuple(row.texts("asked")) or (row.required_text("prompt"),)
        leaks = [find_leak(text, prompt) for text in texts]
        references = ("code",) if "checks" in row else references_of(row)
        ended = tuple(row.required_flag(f"{name}_stopped") for name in MODELS)
        item = ScoredItem(number, prompt, references, texts, ended=ended)
        checks.add(item, [leak.answer if leak else text for leak, text in zip(leaks, texts, strict=True)], leaks)
    found = (finding.as_json() for finding in checks.findings())
    return [(each["name"], each["prediction"], each["count"]) for each in found]


def normalization(language: str) -> Any:
    """What is normalized before texts of a language are compared, as a task's figures say it."""
    return published(language)


def worth_of(row: Record, answer: str, metrics: Sequence[str], language: str) -> float:
    """What an answer to a row is worth by the first of its metrics that one answer has.

    Args:
        metrics: some of :func:`~afina.evaluate.task_metrics.told_by_rows`.
    """
    tally = Tally(("answer",), tuple(metrics))
    tally.add([answer], ScoredItem(0, (), references_of(row), (answer,), choices=choices_of(row)), language)
    return next(iter(tally.last("answer").values()), 0.0)
