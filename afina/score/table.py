"""A :class:`~afina.score.score.ScoreReport` as text: first what is wrong, then the scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afina.score.metrics import CORPUS
from afina.score.normalize import published
from afina.score.output_checks import OF_REFERENCES, RULES, STRIPPED, OutputFinding
from afina.score.paired import RESAMPLES, ScoreEstimate, show_ends
from afina.score.score import MetricScore, ScoreReport
from afina.units import show_number


def describe_score(report: ScoreReport) -> str:
    """The whole report for a terminal."""
    columns = report.columns
    total = sum(report.rows.values())
    lines = [
        f"{report.file}: {show_number(total, 'row')}; reference `{columns.reference}`, "
        + (f"prompt {' + '.join(f'`{name}`' for name in columns.prompt)}" if columns.prompt else "no prompt")
    ]
    lines += [f"note: {note}" for note in report.notes]
    lines += ["", "findings", *_findings(report)] if report.findings else ["", "findings: none"]
    lines += ["", "scores" + (", prompt text and chat markers removed" if report.stripped else "")]
    for name, scores in report.groups.items():
        lines += ["", f"{name}, n = {report.rows[name]}" if name else f"n = {report.rows[name]}"]
        lines += score_lines(scores, columns.predictions)
    recognised = " (recognised)" if report.recognised else ""
    lines += [
        "",
        f"language {report.language}{recognised}; 95 % intervals of {RESAMPLES} bootstrap samples of the rows",
    ]
    lines += [f"{what}: {rule}" for what, rule in published(report.language).items()]
    if any(score.name in CORPUS for scores in report.groups.values() for score in scores):
        lines.append("chrF, BLEU: sacrebleu's corpus scores, 0 to 100")
    return "\n".join(lines)


def _findings(report: ScoreReport) -> Iterator[str]:
    """Each finding with a column per model and a line per group."""
    for name, (what, fix) in RULES.items():
        found = {each.prediction: each for each in report.findings if each.name == name}
        if not found:
            continue
        removed = ", removed" if report.stripped and name in STRIPPED else ""
        yield f"  {what}{removed}"
        models = [""] if name in OF_REFERENCES else list(report.columns.predictions)
        rows = [["", *models]] if models != [""] else []
        for group, of in report.rows.items():
            counts = [found[model].counts[group] if model in found else 0 for model in models]
            if any(counts) or name in STRIPPED:
                rows.append([group, *(f"{count} of {of}" for count in counts)])
        yield from (f"    {line}" for line in _aligned(rows))
        yield from (f"    line {line}: {text}" for line, text in _first_examples(list(found.values())))
        if not removed:
            yield f"    -> {fix}"


def _first_examples(findings: Sequence[OutputFinding]) -> list[tuple[int, str]]:
    return [(line, text if len(text) <= 90 else text[:89] + "…") for line, text in findings[0].examples[:2]]


def score_lines(scores: Sequence[MetricScore], predictions: Sequence[str]) -> list[str]:
    """A group's table: a line per metric, a column per model, and what each gains over the first."""
    head = ["", *predictions, *(f"{name} - {predictions[0]}" for name in predictions[1:])]
    rows = [
        [
            score.name,
            *(show_estimate(score.values[name], score.name) for name in predictions),
            *(show_estimate(score.differences[name], score.name, signed=True) for name in predictions[1:]),
        ]
        for score in scores
    ]
    return [f"  {line}" for line in _aligned([head, *rows])]


def show_estimate(found: ScoreEstimate, metric: str, *, signed: bool = False) -> str:
    """A score with its interval.

    >>> show_estimate(ScoreEstimate(0.335, 0.276, 0.4012, 200), "f1")
    '0.335 [0.276, 0.401]'
    >>> show_estimate(ScoreEstimate(4, -1, 9, 9), "chrf", signed=True)
    '+4.0 [-1.0, +9.0]'
    >>> show_estimate(ScoreEstimate(1.0, None, None, 1), "f1")
    '1.000 (one row: no interval)'
    """
    form = ("+" if signed else "") + (".1f" if metric in CORPUS else ".3f")
    return f"{found.value:{form}} {show_ends(found.ends, form)}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
