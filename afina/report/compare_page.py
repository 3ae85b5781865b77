"""Runs side by side as one HTML page: their verdicts, what each cost and reached, drawn; then every figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from afina import __version__
from afina.evaluate.scores import ProbeResult
from afina.report.charts import Line, NamedPoint, line_chart, point_chart, thin
from afina.report.compare import RunComparison, metric_rows, recipe_rows, show_gain
from afina.report.costs import (
    ROADS,
    TaskScore,
    TrainingCost,
    by_title,
    common_text,
    cost_cells,
    show_cost,
    show_hours,
    show_score,
    task_titles,
)
from afina.report.labels import percent
from afina.report.language import ENGLISH, in_language, label, tr, trn
from afina.report.page import style_sheet
from afina.report.published import PublishedFigures
from afina.report.read import RunFiles, is_finite, language_of
from afina.report.render import Cell, Stacked, Strong, macro, not_measured, render, table
from afina.report.results import judge, probe_name
from afina.report.sentences import StoredSentence, retold
from afina.whole import write_whole

_KINDS = {"from nothing": "after", "adapter": "other", "every weight": "before"}
"""CSS classes of the roads."""
_PUBLISHED = "held"
_COLOURS, _DASHES = 6, 3
LEARNED = ("generalization", "versions", "recall", "choice", "coverage")
"""Roles whose probes show what was learned, and of which more is better."""
KEPT = ("retention", "skills")
"""Roles whose probes show what was kept."""
Amount = Callable[[TrainingCost], float | None]


def write_comparison(comparison: RunComparison, file: Path) -> Path:
    """Write the page, and return its path. It is a function of the comparison alone."""
    write_whole(file, comparison_html(comparison))
    return file


def comparison_html(comparison: RunComparison) -> str:
    """The page of a comparison, in the language of its runs where they agree, else in English."""
    languages = {language_of(run) for run in comparison.files}
    with in_language(languages.pop() if len(languages) == 1 else ENGLISH):
        return _page(comparison)


def _page(comparison: RunComparison) -> str:
    costs, published = comparison.all_costs, comparison.published
    titles = task_titles(costs)
    curves = _curves(comparison)
    sections: list[tuple[str, str, Markup]] = [
        ("verdicts", tr("Verdicts"), _verdicts(comparison)),
        ("reached", tr("Cost and result"), macro("costs.html", "charts", _charts(comparison, titles))),
        ("table", tr("In figures"), _cost_table(costs, titles)),
        *([("curves", tr("Held-out loss over the training"), curves)] if curves else []),
    ]
    if published:
        sections.append(("published", tr("The published figures"), _published(published)))
    if comparison.same_items:
        sections.append(("same", tr("The same questions, one by one"), _same_items(comparison)))
    measured, differing = metric_rows(comparison), recipe_rows(comparison)
    figures = trn("{n} figure measured of these runs", "{n} figures measured of these runs", len(measured))
    sections += [
        ("figures", tr("Every figure"), _folded_table(comparison, figures, measured)),
        ("recipes", tr("Recipe keys that differ"), _folded_table(comparison, _differing(comparison), differing)),
    ]
    return render(
        "compare.html",
        heading=trn("{n} run: cost and result", "{n} runs: what they cost and what they reached", len(comparison.runs)),
        runs=comparison.runs,
        notes=list(map(StoredSentence, comparison.notes)),
        sections=sections,
        style=style_sheet(),
        version=__version__,
        published=published is not None,
    )


# ---- verdicts


def _verdicts(comparison: RunComparison) -> Markup:
    """What is said of each run, with the shares behind it."""
    rows: list[list[Cell]] = []
    for name, run, cost in zip(comparison.runs, comparison.files, comparison.costs, strict=True):
        rows.append(
            [
                name,
                judge(run),
                _shares(run, LEARNED),
                _shares(run, KEPT),
                show_hours(cost.hours),
                show_cost(cost.money, cost),
            ]
        )
    head = [tr("Run"), tr("Verdict"), tr("Learned"), tr("Kept"), tr("Time"), tr("Cost")]
    return table(head, rows, numbers=(4, 5), kind="verdicts")


def _shares(run: RunFiles, roles: Sequence[str]) -> Cell:
    """The first figure of each probe of some roles, before and after."""
    lines = [
        f"{probe_name(probe)}: {percent(before)} → {percent(after)}".replace(" → ", "\xa0→ ")
        for probe, before, after in _figures(run, roles)
        if before is not None
    ]
    return Strong("", lines) if lines else not_measured()


def _figures(run: RunFiles, roles: Sequence[str]) -> Iterator[tuple[ProbeResult, float | None, float]]:
    for probe in run.scores.probes if run.scores else ():
        shown = probe.figures()[0]
        if probe.role in roles and shown.after is not None:
            yield probe, shown.before, shown.after


# ---- tables


def _cost_table(costs: Sequence[TrainingCost], titles: Sequence[str]) -> Markup:
    """The table of :func:`afina.report.costs.cost_cells`, fewer and fuller columns; the tasks in one of their own."""
    head = ["", tr("parameters"), tr("tokens"), "FLOP", tr("time"), tr("cost"), tr("bits per byte")]
    rows: list[list[Cell]] = []
    common = common_text(costs)
    for cost in costs:
        name, road, device, whole, trained, tokens, flops, *_, bits = cost_cells(cost, (), common)
        rows.append(
            [
                Stacked(name, road if device == "-" else f"{road}, {device}"),
                whole if trained in ("-", whole) else Stacked(whole, tr("{n} trained", n=trained)),
                tokens,
                flops,
                _with_base(show_hours(cost.hours), cost, show_hours(cost.hours_with_base)),
                _with_base(show_cost(cost.money, cost), cost, show_cost(cost.money_with_base, cost)),
                bits,
            ]
        )
    shown = table(head, rows, numbers=range(1, len(head)))
    scored = [cost for cost in costs if cost.scores]
    if not scored:
        return shown
    scores: list[list[Cell]] = [[cost.name, *map(_score_cell, by_title(cost, titles))] for cost in scored]
    return shown + table([tr("task scores"), *titles], scores, numbers=range(1, 1 + len(titles)))


def _with_base(own: str, cost: TrainingCost, both: str) -> Cell:
    return Stacked(own, tr("with {base} {amount}", base=cost.base, amount=both)) if cost.base and both != "-" else own


def _score_cell(scores: Sequence[TaskScore]) -> Cell:
    shown = [show_score(score) for score in scores]
    return Strong(shown[0], shown[1:]) if len(shown) > 1 else "".join(shown) or "-"


def _published(published: PublishedFigures) -> Markup:
    told = [each for each in published.results if each.found or each.derived]
    return macro("costs.html", "published", published.title, published.source, published.found, told)


def _same_items(comparison: RunComparison) -> Markup:
    """What each other run has more of right than the first, on the items that both answered."""
    first, *others = comparison.runs
    rows = [[each.name, *map(show_gain, each.differences[1:])] for each in comparison.same_items]
    said = tr(
        "How much better than {run}, paired item by item, with the 95 % interval; a star where it is beyond chance.",
        run=first,
    )
    return table(["", *others], rows) + macro("parts.html", "note", said)


def _differing(comparison: RunComparison) -> str:
    if comparison.recipe is None:
        return tr("The recipes cannot be compared.")
    return trn("{n} key", "{n} keys", len(comparison.recipe))


def _folded_table(comparison: RunComparison, summary: str, rows: Sequence[Sequence[str]]) -> Markup:
    return macro("costs.html", "folded", summary, table(["", *comparison.runs], rows))


# ---- charts


def _curves(comparison: RunComparison) -> Markup | None:
    """The held-out rows while the runs trained: bits per byte, or the loss where a log lacks them."""
    logged = [run.events("validation") for run in comparison.files]
    bits = all(event.number("bits_per_byte") is not None for events in logged for event in events)
    key = "bits_per_byte" if bits else "loss"
    lines, without = [], []
    for position, (name, events) in enumerate(zip(comparison.runs, logged, strict=True)):
        found = [(event.number("step"), event.number(key)) for event in events]
        points = sorted(
            (step, value) for step, value in found if step is not None and value is not None and is_finite(value)
        )
        if points:
            kind = f"c{position % _COLOURS} d{position // _COLOURS % _DASHES}"
            lines.append(Line(name, kind, thin(points), dots=len(points) == 1))
        else:
            without.append(name)
    if not lines:
        return None
    drawn = line_chart(
        lines,
        label=tr("Held-out rows while the runs trained"),
        x_name=tr("optimizer step"),
        y_name=tr("bits per byte") if bits else tr("loss, nats per target token"),
        height=300,
        always_key=True,
    )
    if not without:
        return drawn
    return drawn + macro("parts.html", "note", tr("Without held-out rows in its log: {runs}.", runs=", ".join(without)))


def _charts(comparison: RunComparison, titles: Sequence[str]) -> list[tuple[str, list[Markup], list[str]]]:
    """Bits per byte, then the shares of the probes, then each task's score, against hours and against money."""
    costs = comparison.all_costs
    groups = [_bits_chart(costs)]
    told = tr(
        "The hollow dot is the base, before training. Time and cost of an adapter include those of its base, "
        "where the base is among these runs."
    )
    for name, points in _probe_points(comparison).items():
        groups.append((name, _against(tr("{what} (higher is better)", what=name), points), [told]))
    for title in titles:
        scored = [
            (cost, NamedPoint(_named(cost, score.label), _kind(cost), 0.0, score.after, score.before, score.interval))
            for cost in costs
            for score in cost.scores
            if score.title == title
        ]
        groups.append((title, _against(tr("{what} (higher is better)", what=title), scored), [told]))
    return [group for group in groups if group[1]]


def _bits_chart(costs: Sequence[TrainingCost]) -> tuple[str, list[Markup], list[str]]:
    text = common_text(costs)
    drawn = [cost for cost in costs if cost.bits_per_byte is not None and (cost.text == text or cost.published)]
    left_out = [cost for cost in costs if cost.bits_per_byte is not None and cost not in drawn]
    pictures = _against(
        tr("bits per byte (lower is better)"),
        [(cost, NamedPoint(cost.name, _kind(cost), 0.0, bits_of(cost), interval=cost.interval)) for cost in drawn],
    )
    ours = any(not cost.published for cost in drawn)
    remarks = [tr("Measured on {text}.", text=retold(text) or text) if ours else tr("None of our runs is drawn.")]
    if any(cost.published for cost in drawn):
        remarks.append(tr("The published figures are of other texts, and most are computed from a loss: see below."))
    if left_out:
        names = ", ".join(f"{cost.name} ({retold(cost.text) or cost.text})" for cost in left_out)
        remarks.append(tr("Not drawn, since measured on another text: {names}.", names=names))
    return tr("Bits per byte"), pictures, remarks


def _probe_points(comparison: RunComparison) -> dict[str, list[tuple[TrainingCost, NamedPoint]]]:
    """Of each probe that several runs were asked: its share in each of them, in hundredths."""
    found: dict[str, list[tuple[TrainingCost, NamedPoint]]] = {}
    for run, cost in zip(comparison.files, comparison.costs, strict=True):
        for probe, before, after in _figures(run, (*LEARNED, *KEPT)):
            shown = probe.figures()[0]
            ends = shown.intervals[1]
            point = NamedPoint(
                cost.name,
                _kind(cost),
                0.0,
                100 * after,
                None if before is None else 100 * before,
                None if ends is None else (100 * ends[0], 100 * ends[1]),
            )
            name = f"{probe_name(probe)}, {label(shown.counted.word)}, %"
            found.setdefault(name, []).append((cost, point))
    return {name: points for name, points in found.items() if len(points) > 1}


def bits_of(cost: TrainingCost) -> float:
    """The bits per byte of a training that has them."""
    assert cost.bits_per_byte is not None
    return cost.bits_per_byte


def _named(cost: TrainingCost, which: str) -> str:
    return f"{cost.name}, {which}" if which else cost.name


def _kind(cost: TrainingCost) -> str:
    return _PUBLISHED if cost.published else _KINDS[cost.road]


def _against(y_name: str, points: Sequence[tuple[TrainingCost, NamedPoint]]) -> list[Markup]:
    """One chart over hours, and one over money in each currency, of those that have them."""
    currencies = dict.fromkeys(cost.currency for cost, _ in points if cost.all_money)
    over: list[tuple[str, Amount]] = [(tr("hours"), lambda cost: cost.all_hours)]
    over += [(currency, _money_in(currency)) for currency in currencies]
    return [picture for x_name, amount in over if (picture := _chart(y_name, x_name, points, amount)) is not None]


def _money_in(currency: str) -> Amount:
    return lambda cost: cost.all_money if cost.currency == currency else None


def _chart(
    y_name: str, x_name: str, points: Sequence[tuple[TrainingCost, NamedPoint]], amount: Amount
) -> Markup | None:
    placed = [(cost, point._replace(x=spent)) for cost, point in points if (spent := amount(cost))]
    if not placed:
        return None
    key = dict.fromkeys(
        (tr("published"), _PUBLISHED) if cost.published else (label(ROADS[cost.road]), _KINDS[cost.road])
        for cost, _ in placed
    )
    return point_chart(
        [point for _, point in placed],
        label=tr("{what} against {amount}", what=y_name, amount=x_name),
        x_name=tr("{amount}, logarithmic", amount=x_name),
        y_name=y_name,
        key=list(key),
    )
