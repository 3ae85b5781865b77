"""What each training cost and what it reached: of our own runs, and as others published theirs.

The two roads, from nothing or over a base, meet here: bits per byte and the scores of tasks beside hours and money.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from afina.recipe.methods import in_words
from afina.report.labels import fixed, number, show_count, show_money, show_seconds, words
from afina.report.language import figure, label, mark, tr
from afina.report.read import RunFiles
from afina.report.same_items import training_flops
from afina.units import show_number

Road = Literal["from nothing", "adapter", "every weight"]
ROADS: dict[Road, str] = {
    "from nothing": mark("from nothing"),
    "adapter": mark("adapter"),
    "every weight": mark("every weight"),
}
UNKNOWN_TEXT = mark("an unknown text")
"""What bits per byte were measured on, where nothing tells."""


@dataclass(frozen=True)
class TaskScore:
    """A score between 0 and 1 of one task; `before` is the base's."""

    task: str
    metric: str
    after: float
    before: float | None = None
    interval: tuple[float, float] | None = None
    """Of `after`."""
    label: str = ""
    """Which of several scores of the same outputs it is."""

    @property
    def title(self) -> str:
        return f"{self.task}, {self.metric}"


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """One training. None is what is not known."""

    name: str
    road: Road
    published: bool = False
    """Somebody else's figures, not measured here."""
    device: str | None = None
    parameters: float | None = None
    """Of the whole model."""
    trained_parameters: float | None = None
    tokens: float | None = None
    """Trained on, every epoch counted."""
    flops: float | None = None
    hours: float | None = None
    money: float | None = None
    currency: str = "US$"
    base: str | None = None
    """The other run of the comparison whose model it stands on."""
    hours_with_base: float | None = None
    money_with_base: float | None = None
    bits_per_byte: float | None = None
    interval: tuple[float, float] | None = None
    text: str = UNKNOWN_TEXT
    """What the bits per byte were measured on; figures over different texts do not compare."""
    derived: str = ""
    """How the bits per byte were computed, where they were not measured."""
    scores: tuple[TaskScore, ...] = ()
    found: tuple[str, ...] = ()
    """What is known to be wrong with the figures."""

    @property
    def all_hours(self) -> float | None:
        """Hours, with those of its base where that is in the comparison."""
        return self.hours if self.hours_with_base is None else self.hours_with_base

    @property
    def all_money(self) -> float | None:
        """The same of money."""
        return self.money if self.money_with_base is None else self.money_with_base

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def costs_of(runs: Sequence[RunFiles], labels: Sequence[str]) -> list[TrainingCost]:
    """What each run cost and reached; an adapter over another of the runs has that one's cost beside its own."""
    costs = [_cost(run, label) for run, label in zip(runs, labels, strict=True)]
    made = {
        run.manifest.trained.weights_sha256: cost
        for run, cost in zip(runs, costs, strict=True)
        if run.manifest and run.manifest.trained and run.manifest.trained.kind == "model"
    }
    out = []
    for run, cost in zip(runs, costs, strict=True):
        base = made.get(run.manifest.base.text("weights_sha256")) if run.manifest else None
        if base is not None:
            cost = replace(
                cost,
                base=base.name,
                hours_with_base=_sum(cost.hours, base.hours),
                money_with_base=_sum(cost.money, base.money),
            )
        out.append(cost)
    return out


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _cost(run: RunFiles, label: str) -> TrainingCost:
    if run.manifest is None:
        return TrainingCost(name=label, road="adapter")
    manifest, spent = run.manifest, run.manifest.cost
    trained, frozen = manifest.trained, manifest.frozen_parameters
    bits, interval, text = _bits_per_byte(run)
    return TrainingCost(
        name=label,
        road=_road(run),
        device=manifest.device.text("name"),
        parameters=frozen + trained.parameters if trained and trained.parameters else None,
        trained_parameters=trained.parameters if trained else None,
        tokens=manifest.measured.number("tokens"),
        flops=training_flops(run),
        hours=spent.number("hours"),
        money=spent.number("money") if spent.number("price_per_hour") else None,
        currency=spent.text("currency") or "US$",
        bits_per_byte=bits,
        interval=interval,
        text=text,
        scores=tuple(_task_scores(run)),
    )


def _road(run: RunFiles) -> Road:
    trained = run.manifest.trained if run.manifest else None
    if trained is None or trained.kind == "adapter":
        return "adapter"
    return "every weight" if run.manifest and run.manifest.base else "from nothing"


def _bits_per_byte(run: RunFiles) -> tuple[float | None, tuple[float, float] | None, str]:
    """After training, with its interval and the text that it was measured on: windows, or else the held-out rows."""
    if run.scores and (windows := run.scores.windows):
        read = show_number(windows.windows, "window")
        text = f"{read}, {windows.bytes:,} bytes of held-out text ({windows.sha256[:8]})"
        text += f", less {windows.lost:,} characters that no token holds" if windows.lost else ""
        return windows.after.bits_per_byte, windows.after.interval, text
    if run.scores is None or run.scores.loss is None:
        return None, None, UNKNOWN_TEXT
    rows = run.manifest.dataset.text("validation_sha256") if run.manifest else None
    text = f"held-out rows {rows[:8]}" if rows else UNKNOWN_TEXT
    text += f", {in_words(folds, 'and')} folded" if rows and (folds := run.scores.folds) else ""
    return run.scores.loss.after.number("bits_per_byte"), None, text


def _task_scores(run: RunFiles) -> Iterator[TaskScore]:
    for task in run.scores.tasks if run.scores else ():
        for metric in task.records("metrics"):
            before, after = metric.record("before"), metric.record("after")
            mean, low, high = (after.number(key) for key in ("mean", "low", "high"))
            if mean is None:
                continue
            yield TaskScore(
                task.required_text("name"),
                words(metric.text("name") or ""),
                mean,
                before.number("mean"),
                None if low is None or high is None else (low, high),
            )


HEAD = ("", "road", "device", "parameters", "trained", "tokens", "FLOP", "time", "cost", "bits per byte")


def cost_cells(cost: TrainingCost, tasks: Sequence[str], text: str) -> list[str]:
    """The cells of a table under :data:`HEAD` and the titles of `tasks`, as text; "-" for what is not known.

    Args:
        text: what the bits per byte of the table are measured on (:func:`common_text`).
    """
    spent, paid = show_hours(cost.hours), show_cost(cost.money, cost)
    if cost.hours_with_base is not None:
        spent += " " + tr("(with {base}: {time})", base=cost.base, time=show_hours(cost.hours_with_base))
    if cost.money_with_base is not None:
        paid += f" ({show_cost(cost.money_with_base, cost)})"
    return [
        cost.name,
        label(ROADS[cost.road]),
        cost.device or "-",
        *("-" if each is None else show_count(each) for each in (cost.parameters, cost.trained_parameters)),
        "-" if cost.tokens is None else show_count(cost.tokens),
        "-" if cost.flops is None else figure(f"{cost.flops:.2g}"),
        spent,
        paid,
        show_bits(cost, text),
        *("; ".join(map(show_score, scores)) or "-" for scores in by_title(cost, tasks)),
    ]


def task_titles(costs: Sequence[TrainingCost]) -> list[str]:
    """Every task and metric that one of them has, in their order."""
    return list(dict.fromkeys(score.title for cost in costs for score in cost.scores))


def by_title(cost: TrainingCost, titles: Sequence[str]) -> Iterator[list[TaskScore]]:
    """The scores under each title: none, one, or several of the same outputs."""
    for title in titles:
        yield [score for score in cost.scores if score.title == title]


def show_hours(hours: float | None) -> str:
    """A duration; "-" where it is not known."""
    return "-" if hours is None else show_seconds(3600 * hours)


def show_cost(money: float | None, cost: TrainingCost) -> str:
    """An amount in the currency of a training; "-" where it is not known."""
    return "-" if money is None else show_money(money, cost.currency)


def show_bits(cost: TrainingCost, text: str) -> str:
    """Bits per byte with their interval, and a word where they are not of this text.

    >>> show_bits(TrainingCost(name="a", road="adapter", bits_per_byte=1.25, interval=(1.2, 1.3), text="w"), "w")
    '1.250 [1.200, 1.300]'
    >>> show_bits(TrainingCost(name="a", road="adapter", bits_per_byte=1.4, derived="from its loss", text="v"), "w")
    'about 1.400 (another text)'
    """
    if cost.bits_per_byte is None:
        return "-"
    bits = fixed(cost.bits_per_byte, 3)
    if cost.interval:
        low, high = (fixed(end, 3) for end in cost.interval)
        bits = tr("{value} [{low}, {high}]", value=bits, low=low, high=high)
    bits = tr("about {value}", value=bits) if cost.derived else bits
    other = tr("(another text)")
    return bits if cost.text == text else f"{bits} {other}"


def show_score(score: TaskScore) -> str:
    """Before and after.

    >>> show_score(TaskScore("qa", "f1", 0.103, 0.06, label="as published"))
    '0.06 → 0.103 (as published)'
    """
    before = "" if score.before is None else f"{number(score.before)} → "
    return f"{before}{number(score.after)}" + (f" ({score.label})" if score.label else "")


def common_text(costs: Sequence[TrainingCost]) -> str:
    """The text that most of our own runs were measured on."""
    texts = [cost.text for cost in costs if cost.bits_per_byte is not None and not cost.published]
    return max(texts, key=texts.count, default=UNKNOWN_TEXT)
