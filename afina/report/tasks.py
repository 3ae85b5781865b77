"""Tasks of the recipe and losses of the held-out rows, base and result side by side: findings, then figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from afina.record import Record
from afina.report.labels import number, words
from afina.report.read import RunFiles
from afina.report.render import NOT_MEASURED, Cell, Strong, render, table

HUNDREDS = ("chrf", "bleu")
"""Metrics from 0 to 100; the others go from 0 to 1."""
LOSS_OF = {"learned": "What is learned: answers, and whole texts", "all": "Every token but the first of a row"}


def task_section(run: RunFiles) -> Markup:
    """Each task: what is wrong with its answers, then its metrics before and after."""
    tasks = run.scores.tasks if run.scores else None
    texts = [task for task in tasks or () if not task.record("code")]
    return render(
        "tasks.html",
        tasks=None if tasks is None else [_task(task) for task in tasks],
        texts=texts,
        # How scores are made, once for all tasks: they are all of one language, or of code.
        rules=[f"{what}: {how}." for task in texts[:1] for what, how in task.record("normalization").values.items()],
        judged=_judged(run.scores.judge) if run.scores else None,
        benchmarks=_benchmarks(run),
    )


def _judged(found: Record) -> dict[str, Any] | None:
    """What the judge said of the answers; None where there was none."""
    if not found:
        return None
    rows: list[list[Cell]] = [
        [words(key), number(count)]
        for key in ("better", "worse", "ties", "order", "same", "failed", "requests", "tokens")
        if (count := found.number(key)) is not None
    ]
    gain = dict(found.record("preference").values)
    rows.append(["preference, -1 to +1", _gain(Record(gain | {"mean": gain.get("value")}, found.where), "")])
    about = f"{found.text('model')}, seed {number(found.number('seed') or 0)}: {found.text('criteria')}"
    return {"rows": rows, "about": about}


def _benchmarks(run: RunFiles) -> list[list[Cell]]:
    """What lm-eval measured, a row each."""
    rows: list[list[Cell]] = []
    for row in run.benchmarks.records("benchmarks") if run.benchmarks else []:
        gain = dict(row.record("difference").values)
        difference = Record(gain | {"mean": gain.get("value")}, row.where)
        sides = [row.number("before"), row.number("after")]
        shown = [number(value) if value is not None else NOT_MEASURED for value in sides]
        name = f"{row.text('task')} {words(row.text('metric') or '')}"
        first = f"the first {number(limit)}" if (limit := row.number("limit")) else ""
        rows.append([name, number(row.number("n") or 0), first, *shown, _gain(difference, "")])
    return rows


@dataclass(frozen=True)
class _Task:
    name: str | None
    size: str
    remarks: list[str]
    metrics: list[list[Cell]]
    code: Mapping[str, Any] | None
    """``results``, ``examples`` and ``how`` of a task of code."""


def _task(task: Record) -> _Task:
    seeds = task.values.get("seeds")
    drawn = f", seeds {', '.join(map(str, seeds))}" if isinstance(seeds, list) else ""
    size = f"n = {number(task.number('n') or 0)}{drawn}; {number(task.number('items') or 0)} different rows"
    rows: list[list[Cell]] = []
    for metric in task.records("metrics"):
        name = metric.text("name") or ""
        sides = [_mean(metric.record(side), name) for side in ("before", "after")]
        rows.append([words(name), *sides, _gain(metric.record("difference"), name)])
    remarks = [*task.texts("notes"), *_findings(task)]
    return _Task(task.text("name"), size, remarks, rows, _code(task.record("code")))


def _code(code: Record) -> dict[str, Any] | None:
    """What became of the code in the answers; nothing for a task that is none of code."""
    if not code:
        return None
    sides = [code.record("results").record(side) for side in ("before", "after")]
    results = [
        [result, *(number(side.number(result) or 0) for side in sides)]
        for result in dict.fromkeys(name for side in sides for name in side.values)
    ]
    ran = "run isolated with the rows' checks" if code.flag("ran") else "compiled and not run"
    samples = code.number("samples")
    drawn = (
        f" {number(samples)} samples a prompt at temperature {number(code.number('temperature') or 0)}"
        if samples
        else ""
    )
    unbiased = "; pass@k is the unbiased estimate (Chen et al. 2021)." if samples else ""
    return {
        "results": results,
        "examples": [
            (f"Line {number(each.number('line') or 0)}, {each.text('result')}:", each.text("lines"))
            for each in code.records("examples")
        ],
        "how": f"{code.text('language')} by {code.text('compiler')}, {ran}.{drawn}{unbiased}",
    }


def _findings(task: Record) -> list[str]:
    """What is wrong with the outputs, both models' in one line; what is wrong with the rows themselves."""
    of = number(task.number("items") or 0)
    counts: dict[str, dict[str | None, str]] = {}
    for finding in task.records("findings"):
        what = finding.text("what") or finding.text("name") or ""
        counts.setdefault(what, {})[finding.text("prediction")] = number(finding.number("count") or 0)
    lines = []
    for what, sides in counts.items():
        both = f"before {sides.get('base', '0')}, after {sides.get('adapter', '0')} of {of} {what}"
        lines.append(f"{sides[None]} of {of} {what}" if None in sides else both)
    return lines


def _mean(side: Record, metric: str) -> Cell:
    mean = side.number("mean")
    if mean is None:
        return NOT_MEASURED
    sd, low, high = side.number("sd"), side.number("low"), side.number("high")
    shown = _figure(mean, metric) + (f" ± {_figure(sd, metric)}" if sd is not None else "")
    ends = [f"{_figure(low, metric)} to {_figure(high, metric)}"] if low is not None and high is not None else []
    return Strong(shown, ends)


def _gain(gain: Record, metric: str) -> Cell:
    mean, low, high = gain.number("mean"), gain.number("low"), gain.number("high")
    if mean is None or low is None or high is None:
        return NOT_MEASURED
    shown, *ends = (_figure(value, metric, signed=True).replace("-", "\u2212") for value in (mean, low, high))
    return Strong(shown, [" to ".join(ends)])


def _figure(value: float, metric: str, *, signed: bool = False) -> str:
    """A score with as many digits as its scale bears.

    >>> _figure(0.33512, "f1"), _figure(41.26, "chrf", signed=True)
    ('0.335', '+41.3')
    """
    return f"{value:{'+' if signed else ''}.{1 if metric in HUNDREDS else 3}f}"


def intrinsic_table(run: RunFiles) -> Markup:
    """Losses of the same rows before and after, with the interval of the difference; empty where there are none."""
    found = run.scores.intrinsic if run.scores else None
    if not found:
        return Markup()
    rows: list[list[Cell]] = []
    for key, title in LOSS_OF.items():
        losses = found.record(key)
        before, after, gain = (losses.record(side) for side in ("before", "after", "difference"))
        for name, label in (
            ("loss", "nats per token"),
            ("perplexity", "perplexity"),
            ("bits_per_byte", "bits per byte"),
        ):
            first, last = before.number(name), after.number(name)
            if first is None or last is None:
                continue
            ends = [gain.number(end) for end in ("value", "low", "high")]
            shown: Cell = ""
            if name == "loss" and all(end is not None for end in ends):
                value, low, high = (f"{end:+.3f}".replace("-", "\u2212") for end in ends)
                shown = Strong(value, [f"{low} to {high}, {number(gain.number('n') or 0)} rows"])
            rows.append([title if name == "loss" else "", label, number(first), number(last), shown])
    if not rows:
        return Markup()
    return table(["Held-out rows", "", "Before", "After", "Difference, 95 % interval"], rows, numbers=(2, 3, 4))
