"""Tasks of code: rows of a prompt and checks, answered once greedily and, for pass@k, by samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.evaluate.code_answers import RESULTS, Judged, judge_answers
from afina.evaluate.probes import Question, ask
from afina.evaluate.task_metrics import MODELS, metric_values
from afina.evaluate.task_set import TaskSet
from afina.model.generate.generate_torch import Answer, Sampling, generate
from afina.recipe import Check, Code, read_checks
from afina.run import Progress, no_progress, parse_json
from afina.score.columns import ScoredItem
from afina.score.score import Tally
from afina.sources.tables import RowProblems
from afina.tokenizer.chat import Renderer

CHECKS = "checks"
"""The column that says what a row's code must do."""
_SHOWN = 3


@dataclass(frozen=True)
class CodeAnswers:
    """What one model wrote for each item of a task: the greedy answer, and samples."""

    greedy: Sequence[Answer]
    samples: Sequence[Sequence[Answer]]


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that of k samples drawn from n, of which some are right, at least one is.

    Unbiased: 1 - C(n - right, k) / C(n, k), as a product (Chen et al. 2021, "Evaluating Large Language Models Trained
    on Code", equation 1).

    >>> pass_at_k(2, 1, 1), pass_at_k(4, 2, 2), pass_at_k(5, 0, 5), pass_at_k(5, 3, 3)
    (0.5, 0.8333333333333334, 0.0, 1.0)
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples, {right} of them right")
    missed = 1.0
    for left in range(k):
        missed *= max(0, n - right - left) / (n - left)
    return 1.0 - missed


def code_metrics(code: Code) -> tuple[str, ...]:
    """What is measured of a task of code: of the greedy answers, then of the samples."""
    of = "pass" if code.run else "compiles"
    at = [f"{of}@{k}" for k in sorted(set(code.pass_at))] if code.samples else []
    return ("compiles", *(["right"] if code.run else []), *at)


# ---- rows


def checks_as_text(rows: Iterator[tuple[int, Mapping[str, Any]]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows whose checks are one text, so that they stand where other tasks' references do."""
    for line, row in rows:
        if CHECKS in row and not isinstance(row[CHECKS], str | None):
            row = {**row, CHECKS: json.dumps(row[CHECKS], ensure_ascii=False)}
        yield line, row


def checks_of(items: Sequence[ScoredItem], path: str) -> list[Sequence[Check]]:
    """The checks of each item.

    Raises:
        DataError: every row whose checks are none.
    """
    problems, found = RowProblems(path), []
    for item in items:
        try:
            text = item.references[0]
            found.append(read_checks(parse_json(text) if text.strip() else []))
        except ValueError as error:
            problems.add(
                str(error), 'a row is {"prompt": "...", "checks": [{"stdin": "...", "stdout": "..."}]}', item.line
            )
    problems.check()
    return found


# ---- answers


def ask_code(
    model: Any,
    renderer: Renderer,
    task: TaskSet,
    max_new_tokens: int,
    progress: Progress = no_progress,
    **more: Any,
) -> CodeAnswers:
    """The model's greedy answers and its samples; a prompt's samples follow from the seed."""
    code = task.task.code
    assert code is not None
    questions = [Question(item.messages, "", f"{task.task.path}:{item.line}") for item in task.items]
    greedy = ask(model, renderer, questions, max_new_tokens=max_new_tokens, progress=progress, **more)
    prompts = [renderer.prompt(question.messages) for question in questions for _ in range(code.samples)]
    drawn = generate(
        model,
        renderer,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=code.temperature, top_p=code.top_p, seed=code.seed),
        progress=lambda done, total, what: progress(len(questions) + done, total, what),
        **more,
    ) if prompts else []  # fmt: skip
    n = code.samples
    return CodeAnswers(greedy, [drawn[place * n : (place + 1) * n] for place in range(len(questions))])


def score_code(
    task: TaskSet, given: Sequence[CodeAnswers], where: str, progress: Progress = no_progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Judge both models' answers: what a task of code adds to its values in ``scores.json``, and to its rows."""
    code = task.task.code
    assert code is not None
    answers = [
        (answer.text, checks)
        for each in given
        for first, samples, checks in zip(each.greedy, each.samples, task.checks, strict=True)
        for answer in (first, *samples)
    ]
    judged = iter(judge_answers(answers, code, where, progress))
    found = [[[next(judged) for _ in range(1 + code.samples)] for _ in task.items] for _ in given]
    tally = Tally(MODELS, task.metrics)
    rows: list[dict[str, Any]] = []
    for place in range(len(task.items)):
        values = (code_values(each[place], task.metrics, ran=code.run) for each in found)
        tally.put([{name: [value] for name, value in each.items()} for each in values])
        row: dict[str, Any] = {}
        for name, each, written in zip(MODELS, found, given, strict=True):
            first, *others = each[place]
            row |= {f"{name}_result": first.result, f"{name}_lines": first.lines, f"{name}_scores": tally.last(name)}
            if code.samples:
                pairs = zip(written.samples[place], others, strict=True)
                row[f"{name}_samples"] = [
                    {"text": answer.text, "result": judged.result, "lines": judged.lines} for answer, judged in pairs
                ]
        rows.append(row)
    counts = [Counter(each[0].result for each in model) for model in found]
    about = {
        "language": code.language,
        "compiler": code.compiler,
        "ran": code.run,
        "results": {
            side: {result: count[result] for result in RESULTS}
            for side, count in zip(("before", "after"), counts, strict=True)
        },
        "samples": code.samples,
        "temperature": code.temperature if code.samples else None,
        "examples": _examples(task, found[1]),
    }
    return {"code": about, "metrics": metric_values(tally, task.drawn)}, rows


def code_values(judged: Sequence[Judged], metrics: Sequence[str], *, ran: bool) -> dict[str, float]:
    """The metrics of one item: of its greedy answer, which comes first, and of its samples.

    Args:
        metrics: some of those that :func:`code_metrics` gives.
        ran: whether the programs were run, or only compiled.

    >>> code_values([Judged("compiles"), Judged("right"), Judged("no code")], ["compiles", "pass@1"], ran=True)
    {'compiles': 1.0, 'pass@1': 0.5}
    """
    first, *samples = judged
    values = {"compiles": float(first.compiles), "right": float(first.result == "right")}
    passed = sum(each.result == "right" if ran else each.compiles for each in samples)
    for name in metrics:
        _, at, k = name.partition("@")
        if at:
            values[name] = pass_at_k(len(samples), passed, int(k))
    return {name: values[name] for name in metrics}


def _examples(task: TaskSet, found: Sequence[Sequence[Judged]]) -> list[dict[str, Any]]:
    """The first answers after training that are not as they should be, and why."""
    wrong = [(item, each[0]) for item, each in zip(task.items, found, strict=True) if each[0].lines]
    return [{"line": item.line, "result": each.result, "lines": each.lines} for item, each in wrong[:_SHOWN]]
