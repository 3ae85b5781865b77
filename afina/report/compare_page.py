"""Runs side by side as one HTML page: what each cost and what it reached, drawn; then every figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from afina import __version__
from afina.report.charts import NamedPoint, point_chart
from afina.report.compare import RunComparison, metric_rows, recipe_rows
from afina.report.costs import (
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
from afina.report.published import PublishedFigures
from afina.report.render import Cell, Stacked, Strong, macro, render, table
from afina.run import write_whole

_KINDS = {"from nothing": "after", "adapter": "other", "every weight": "before"}
"""CSS classes of the roads."""
_PUBLISHED = "held"
Amount = Callable[[TrainingCost], float | None]


def write_comparison(comparison: RunComparison, file: Path) -> Path:
    """Write the page, and return its path. It is a function of the comparison alone."""
    write_whole(file, comparison_html(comparison))
    return file


def comparison_html(comparison: RunComparison) -> str:
    """The page of a comparison."""
    costs, published = comparison.all_costs, comparison.published
    titles = task_titles(costs)
    sections: list[tuple[str, str, Markup]] = [
        ("reached", "Cost and result", macro("costs.html", "charts", _charts(costs, titles))),
        ("table", "In figures", _cost_table(costs, titles)),
    ]
    if published:
        sections.append(("published", "The published figures", _published(published)))
    sections += [
        ("figures", "Every figure", _folded_table(comparison, "measured of these runs", metric_rows(comparison))),
        ("recipes", "Recipe keys that differ", _folded_table(comparison, "keys", recipe_rows(comparison))),
    ]
    return render(
        "compare.html",
        heading=f"{len(comparison.runs)} runs, what they cost and what they reached",
        runs=comparison.runs,
        notes=comparison.notes,
        sections=sections,
        style=Markup(files("afina.report").joinpath("style.css").read_text(encoding="utf-8")),
        version=__version__,
        published=published is not None,
    )


def _cost_table(costs: Sequence[TrainingCost], titles: Sequence[str]) -> Markup:
    """The table of :func:`afina.report.costs.cost_cells`, fewer and fuller columns; the tasks in one of their own."""
    head = ["", "parameters", "tokens", "FLOP", "time", "cost", "bits per byte"]
    rows: list[list[Cell]] = []
    for cost in costs:
        name, road, device, whole, trained, tokens, flops, *_, bits = cost_cells(cost, ())
        rows.append(
            [
                Stacked(name, road if device == "-" else f"{road}, {device}"),
                whole if trained in ("-", whole) else Stacked(whole, f"{trained} trained"),
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
    return shown + table(["task scores", *titles], scores, numbers=range(1, 1 + len(titles)))


def _with_base(own: str, cost: TrainingCost, both: str) -> Cell:
    return Stacked(own, f"with {cost.base} {both}") if cost.base and both != "-" else own


def _score_cell(scores: Sequence[TaskScore]) -> Cell:
    shown = [show_score(score) for score in scores]
    return Strong(shown[0], shown[1:]) if len(shown) > 1 else "".join(shown) or "-"


def _published(published: PublishedFigures) -> Markup:
    told = [each for each in published.results if each.found or each.derived]
    return macro("costs.html", "published", published.title, published.source, published.found, told)


def _folded_table(comparison: RunComparison, what: str, rows: Sequence[Sequence[str]]) -> Markup:
    return macro("costs.html", "folded", f"{len(rows)} {what}", table(["", *comparison.runs], rows))


# ---- charts


def _charts(costs: Sequence[TrainingCost], titles: Sequence[str]) -> list[tuple[str, list[Markup], list[str]]]:
    """Bits per byte, then each task's score, against hours and against money."""
    groups = []
    text = common_text(costs)
    drawn = [cost for cost in costs if cost.bits_per_byte is not None and (cost.text == text or cost.published)]
    left_out = [cost for cost in costs if cost.bits_per_byte is not None and cost not in drawn]
    pictures = _against(
        "bits per byte (lower is better)",
        [(cost, NamedPoint(cost.name, _kind(cost), 0.0, bits_of(cost), interval=cost.interval)) for cost in drawn],
    )
    remarks = [f"Measured on {text}." if any(not cost.published for cost in drawn) else "Of our runs none is drawn."]
    if any(cost.published for cost in drawn):
        remarks.append("The published ones are of other texts and mostly computed from a loss: see below.")
    if left_out:
        names = ", ".join(f"{cost.name} ({cost.text})" for cost in left_out)
        remarks.append(f"Not drawn, since measured on another text: {names}.")
    groups.append(("Bits per byte", pictures, remarks))
    for title in titles:
        scored = [
            (cost, NamedPoint(_named(cost, score.label), _kind(cost), 0.0, score.after, score.before, score.interval))
            for cost in costs
            for score in cost.scores
            if score.title == title
        ]
        remark = (
            "The hollow dot is the base, before training. Time and cost of an adapter hold those of its base, where "
            "that is among these runs."
        )
        groups.append((title, _against(f"{title} (higher is better)", scored), [remark]))
    return [group for group in groups if group[1]]


def bits_of(cost: TrainingCost) -> float:
    """The bits per byte of a training that has them."""
    assert cost.bits_per_byte is not None
    return cost.bits_per_byte


def _named(cost: TrainingCost, label: str) -> str:
    return f"{cost.name}, {label}" if label else cost.name


def _kind(cost: TrainingCost) -> str:
    return _PUBLISHED if cost.published else _KINDS[cost.road]


def _against(y_name: str, points: Sequence[tuple[TrainingCost, NamedPoint]]) -> list[Markup]:
    """One chart over hours, and one over money in each currency, of those that have them."""
    currencies = dict.fromkeys(cost.currency for cost, _ in points if cost.all_money)
    over: list[tuple[str, Amount]] = [("hours", lambda cost: cost.all_hours)]
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
        ("published", _PUBLISHED) if cost.published else (cost.road, _KINDS[cost.road]) for cost, _ in placed
    )
    return point_chart(
        [point for _, point in placed],
        label=f"{y_name} against {x_name}",
        x_name=f"{x_name}, logarithmic",
        y_name=y_name,
        key=list(key),
    )
