"""Tasks and losses of ``scores.json`` as text, findings above the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afina.evaluate.scores import Scores
from afina.record import Record
from afina.score.metrics import CORPUS
from afina.score.paired import known_ends, show_ends
from afina.units import show_number

LOSS_OF = {"learned": "answers (and texts)", "all": "all tokens"}


def describe_tasks(scores: Scores) -> list[str]:
    """Lines for a terminal; none for a run that was measured without tasks and losses."""
    lines = []
    for name, found in scores.intrinsic.items():
        before, after, gain = found["before"], found["after"], found["difference"]
        lines.append(
            f"{LOSS_OF[name]}: loss {before['loss']:.3f} -> {after['loss']:.3f} nats per token "
            f"({gain['value']:+.3f} {_over_rows(gain)}), "
            f"perplexity {before['perplexity']:.4g} -> {after['perplexity']:.4g}, "
            f"{before['bits_per_byte'] or 0:.3f} -> {after['bits_per_byte'] or 0:.3f} bits per byte"
        )
    for task in scores.tasks:
        lines += _task_lines(task)
    if scores.judge:
        lines += describe_judge(scores.judge)
    return lines


def _over_rows(gain: Mapping[str, Any] | Record) -> str:
    """The interval of a difference and what it is over.

    >>> _over_rows({"low": -0.5, "high": 0.25, "n": 40}), _over_rows({"low": None, "high": None, "n": 1})
    ('[-0.500, +0.250] over 40 rows', 'over one row: no interval')
    """
    ends = known_ends(gain["low"], gain["high"], gain["n"])
    return "over one row: no interval" if ends is None else f"{show_ends(ends, '+.3f')} over {gain['n']} rows"


def describe_judge(found: Mapping[str, Any] | Record) -> list[str]:
    """What the judge said of the answers to the tasks."""
    pairs = show_number(found["n"], "pair")
    lines = [
        f"judge {found['model']}: of {pairs} {found['better']} better, {found['worse']} worse, "
        f"{found['ties']} ties ({found['order']} by the order alone, {found['same']} of the same words)"
    ]
    if found["failed"]:
        lines.append(f"  {show_number(found['failed'], 'pair')} not judged: no usable answer in both orders")
    if gain := found["preference"]:
        ends = known_ends(gain["low"], gain["high"], found["n"])
        shown = "(one pair: no interval)" if ends is None else show_ends(ends, "+.3f")
        lines.append(f"  preference {gain['value']:+.3f} {shown}")
    return lines


def _task_lines(task: Record) -> list[str]:
    seeds, items = ", ".join(map(str, task["seeds"])), show_number(task["items"], "row")
    lines = [f"task {task['name']}: n = {task['n']}, seeds {seeds} ({items})"]
    lines += [f"  note: {note}" for note in task["notes"]]
    lines += [f"  {line}" for line in finding_lines(task["findings"], task["items"])]
    lines += _code_lines(code) if (code := task.record("code")) else []
    lines.append(f"  {'':12}{'before':>17}{'after':>17}   difference, 95 % interval")
    for metric in task["metrics"]:
        digits = 1 if metric["name"] in CORPUS else 3
        gain = metric["difference"]
        before, after = (show_mean(metric[side], digits) for side in ("before", "after"))
        form = f"+.{digits}f"
        ends = show_ends(known_ends(gain["low"], gain["high"], task["items"]), form)
        lines.append(f"  {metric['name']:12}{before:>17}{after:>17}   {gain['mean']:{form}} {ends}")
    return lines


def finding_lines(findings: Sequence[Mapping[str, Any] | Record], items: int) -> list[str]:
    """What is wrong with the outputs, both models' on one line; what is wrong with the rows themselves.

    >>> cut = {"name": "cut", "what": "outputs are cut", "count": 3}
    >>> finding_lines([{**cut, "prediction": "base"}, {**cut, "prediction": "adapter", "count": 1}], 9)
    ['3 -> 1 of 9 outputs are cut']
    >>> finding_lines([{**cut, "prediction": "adapter"}, {**cut, "prediction": None, "what": "rows"}], 9)
    ['0 -> 3 of 9 outputs are cut', '3 of 9 rows']
    """
    counts: dict[str, dict[str | None, int]] = {}
    for finding in findings:
        counts.setdefault(finding["what"], {})[finding["prediction"]] = finding["count"]
    lines = []
    for what, sides in counts.items():
        count = str(sides[None]) if None in sides else f"{sides.get('base', 0)} -> {sides.get('adapter', 0)}"
        lines.append(f"{count} of {items} {what}")
    return lines


def _code_lines(code: Record) -> list[str]:
    """What became of the code in the answers, and the first complaints."""
    how = "run isolated" if code["ran"] else "compiled, not run"
    lines = [f"  {code['language']}, {code['compiler']}, {how}"]
    for side, counts in code["results"].items():
        lines.append(f"  {side}: " + ", ".join(f"{count} {result}" for result, count in counts.items() if count))
    for example in code["examples"]:
        lines.append(f"  line {example['line']} {example['result']}: {example['lines'].splitlines()[0]}")
    if code["samples"]:
        lines.append(
            f"  {code['samples']} samples a prompt at temperature {code['temperature']:g}, besides the greedy answer"
        )
    return lines


def show_mean(found: Mapping[str, Any] | Record, digits: int) -> str:
    """Mean and standard deviation over the seeds.

    >>> show_mean({"mean": 0.5, "sd": 0.01}, 3), show_mean({"mean": 41.23, "sd": None}, 1)
    ('0.500 ± 0.010', '41.2')
    """
    return f"{found['mean']:.{digits}f}" + (f" ± {found['sd']:.{digits}f}" if found["sd"] is not None else "")
