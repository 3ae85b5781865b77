"""Tasks of the recipe and losses of the held-out rows, base and result side by side: findings, then figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from afina.record import Record
from afina.report.labels import fixed, number, signed, words
from afina.report.language import label, mark, tr, trn
from afina.report.read import RunFiles
from afina.report.render import Cell, Strong, not_measured, render, table
from afina.report.results import between
from afina.report.sentences import StoredSentence
from afina.score.paired import known_ends

HUNDREDS = ("chrf", "bleu")
"""Metrics from 0 to 100; the others go from 0 to 1."""
LOSS_OF = {
    "learned": mark("What is learned: answers, and whole texts"),
    "all": mark("Every token but the first of a row"),
}


def task_section(run: RunFiles) -> Markup:
    """Each task: what is wrong with its answers, then its metrics before and after."""
    tasks = run.scores.tasks if run.scores else None
    texts = [task for task in tasks or () if not task.record("code")]
    return render(
        "tasks.html",
        tasks=None if tasks is None else [_task(task) for task in tasks],
        texts=texts,
        # How scores are made, once for all tasks: they are all of one language, or of code.
        rules=[_rule(*each) for task in texts[:1] for each in task.record("normalization").values.items()],
        judged=_judged(run.scores.judge) if run.scores else None,
        benchmarks=_benchmarks(run),
    )


def _rule(what: str, how: object) -> tuple[str, StoredSentence]:
    """Names of metrics, and how texts are compared for them."""
    return what, StoredSentence(how)


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
    preferred = Record(gain | {"mean": gain.get("value")}, found.where)
    rows.append([tr("preference, −1 to +1"), _gain(preferred, "", found.number("n"))])
    seed = number(found.number("seed") or 0)
    about = tr("{model}, seed {n}: {criteria}", model=found.text("model"), n=seed, criteria=found.text("criteria"))
    return {"rows": rows, "about": about}


def _benchmarks(run: RunFiles) -> list[list[Cell]]:
    """What lm-eval measured, a row each."""
    rows: list[list[Cell]] = []
    for row in run.benchmarks.records("benchmarks") if run.benchmarks else []:
        gain = dict(row.record("difference").values)
        difference = Record(gain | {"mean": gain.get("value")}, row.where)
        sides = [row.number("before"), row.number("after")]
        shown = [number(value) if value is not None else not_measured() for value in sides]
        name = f"{row.text('task')} {words(row.text('metric') or '')}"
        first = tr("the first {n}", n=number(limit)) if (limit := row.number("limit")) else ""
        rows.append([name, number(row.number("n") or 0), first, *shown, _gain(difference, "", difference.number("n"))])
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
    drawn = tr(", seeds {seeds}", seeds=", ".join(map(str, seeds))) if isinstance(seeds, list) else ""
    items = task.whole("items")
    different = trn("{n} row", "{n} different rows", items or 0)
    size = f"n = {number(task.number('n') or 0)}{drawn}; {different}"
    rows: list[list[Cell]] = []
    for metric in task.records("metrics"):
        name = metric.text("name") or ""
        sides = [_mean(metric.record(side), name, items) for side in ("before", "after")]
        rows.append([words(name), *sides, _gain(metric.record("difference"), name, items)])
    remarks = [*map(StoredSentence, task.texts("notes")), *_findings(task)]
    return _Task(task.text("name"), size, remarks, rows, _code(task.record("code")))


def _code(code: Record) -> dict[str, Any] | None:
    """What became of the code in the answers; nothing for a task that is none of code."""
    if not code:
        return None
    sides = [code.record("results").record(side) for side in ("before", "after")]
    results = [
        [words(result), *(number(side.number(result) or 0) for side in sides)]
        for result in dict.fromkeys(name for side in sides for name in side.values)
    ]
    about = {"language": code.text("language"), "compiler": code.text("compiler")}
    if code.flag("ran"):
        how = tr("{language} by {compiler}, run isolated with the rows' checks.", **about)
    else:
        how = tr("{language} by {compiler}, compiled and not run.", **about)
    if samples := code.number("samples"):
        drawn = {"n": number(samples), "temperature": number(code.number("temperature") or 0)}
        how += " " + tr(
            "{n} samples a prompt at temperature {temperature}; pass@k is the unbiased estimate (Chen et al. 2021).",
            **drawn,
        )
    return {
        "results": results,
        "examples": [
            (
                tr("Line {n}, {result}:", n=number(each.number("line") or 0), result=words(each.text("result") or "")),
                each.text("lines"),
            )
            for each in code.records("examples")
        ],
        "how": how,
    }


def _findings(task: Record) -> list[str]:
    """What is wrong with the outputs, both models' in one line; what is wrong with the rows themselves."""
    of = number(task.number("items") or 0)
    counts: dict[str, dict[str | None, str]] = {}
    for finding in task.records("findings"):
        what = label(finding.text("what") or finding.text("name") or "")
        counts.setdefault(what, {})[finding.text("prediction")] = number(finding.number("count") or 0)
    lines = []
    for what, sides in counts.items():
        counts_of = {"before": sides.get("base", "0"), "after": sides.get("adapter", "0"), "of": of}
        both = tr("before {before}, after {after} of {of}: {what}", **counts_of, what=what)
        lines.append(tr("{n} of {of}: {what}", n=sides[None], of=of, what=what) if None in sides else both)
    return lines


def _mean(side: Record, metric: str, n: float | None) -> Cell:
    """A mean with its interval over `n` rows."""
    mean, sd = side.number("mean"), side.number("sd")
    if mean is None:
        return not_measured()
    shown = _figure(mean, metric) + (f" ± {_figure(sd, metric)}" if sd is not None else "")
    if ends := known_ends(side.number("low"), side.number("high"), n):
        return Strong(shown, [between(*(_figure(end, metric) for end in ends))])
    return Strong(shown, [_one_row()] if n == 1 else [])


def _gain(gain: Record, metric: str, n: float | None) -> Cell:
    """The same of a difference."""
    mean = gain.number("mean")
    ends = known_ends(gain.number("low"), gain.number("high"), n)
    if mean is None or (ends is None and n != 1):
        return not_measured()
    digits = _digits(metric)
    return Strong(signed(mean, digits), [between(*(signed(end, digits) for end in ends)) if ends else _one_row()])


def _one_row() -> str:
    return tr("one row: no interval")


def _figure(value: float, metric: str) -> str:
    """A score with as many digits as its scale bears.

    >>> _figure(0.33512, "f1"), _figure(41.26, "chrf")
    ('0.335', '41.3')
    """
    return fixed(value, _digits(metric))


def _digits(metric: str) -> int:
    return 1 if metric in HUNDREDS else 3


def intrinsic_table(run: RunFiles) -> Markup:
    """Losses of the same rows before and after, with the interval of the difference; empty where there are none."""
    found = run.scores.intrinsic if run.scores else None
    if not found:
        return Markup()
    rows: list[list[Cell]] = []
    for key, title in LOSS_OF.items():
        losses = found.record(key)
        before, after, gain = (losses.record(side) for side in ("before", "after", "difference"))
        for name, what in (
            ("loss", tr("nats per token")),
            ("perplexity", tr("perplexity")),
            ("bits_per_byte", tr("bits per byte")),
        ):
            first, last = before.number(name), after.number(name)
            if first is None or last is None:
                continue
            shown: Cell = ""
            value, n = gain.number("value"), gain.number("n")
            if name == "loss" and value is not None:
                ends = known_ends(gain.number("low"), gain.number("high"), n)
                of_rows = tr("{n} rows", n=number(n or 0))
                over = f"{between(*(signed(end, 3) for end in ends))}, {of_rows}" if ends else _one_row()
                shown = Strong(signed(value, 3), [over])
            rows.append([label(title) if name == "loss" else "", what, number(first), number(last), shown])
    if not rows:
        return Markup()
    return table(
        [tr("Held-out rows"), "", tr("Before"), tr("After"), tr("Difference, 95 % interval")], rows, numbers=(2, 3, 4)
    )
