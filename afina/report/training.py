"""How the training went: curves from ``metrics.jsonl``, and the plan beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from afina.manifest import Manifest
from afina.record import Record
from afina.report.charts import Line, Point, line_chart, range_bar, smooth, stacked, thin
from afina.report.labels import (
    fixed,
    number,
    show_bytes,
    show_count,
    show_money,
    show_seconds,
    show_share,
    words,
)
from afina.report.language import label, mark, tr, trn
from afina.report.read import RunFiles, is_finite
from afina.report.render import Cell, Marked, Quiet, not_measured, render
from afina.report.results import between, planned_steps
from afina.report.sentences import StoredSentence

_TIPS = 150


@dataclass(frozen=True)
class _Stage:
    title: str
    summary: list[tuple[str, Cell]] = field(default_factory=list)
    """Empty where no step was made."""
    curve: Markup = field(default_factory=Markup)
    remarks: list[str] = field(default_factory=list)
    small: list[Markup] = field(default_factory=list)
    """Charts that stand side by side."""


def curve_section(run: RunFiles) -> Markup:
    """Loss of each step, smoothed and raw, the held-out loss, and the loop's own gauges; of both stages."""
    if not run.events("step", "first"):
        return render("training.html", stages=[_stage(run, "")])
    return render("training.html", stages=[_stage(run, tr("First stage"), "first"), _stage(run, tr("Second stage"))])


def _stage(run: RunFiles, title: str, stage: str | None = None) -> _Stage:
    steps = run.events("step", stage)
    if not steps:
        return _Stage(title)
    resumed = [step for event in run.events("resumed", stage) if (step := event.number("step")) is not None]
    marks = [(step, tr("resumed after {step}", step=fixed(step))) for step in resumed]
    losses, lost = _series(steps, "loss")
    held_out, lost_held_out = _series(run.events("validation", stage), "loss")
    accuracy, _ = _series(steps, "preference_accuracy")
    lines = []
    half = min(10, len(losses) // 10)
    if losses:
        averaged = list(zip([x for x, _ in losses], smooth([y for _, y in losses], half), strict=True))
        lines = [Line(tr("each step"), "raw", thin(losses)), Line(tr("smoothed"), "after", thin(averaged))]
    if held_out:
        lines.append(Line(tr("held out"), "held", held_out, dots=True))
    curve = Markup()
    if lines:
        curve = line_chart(
            lines,
            label=tr("Loss over the steps of training"),
            x_name=tr("optimizer step"),
            y_name=tr("loss of a pair") if accuracy else tr("loss, nats per target token"),
            marks=marks,
            tips=_tips(steps),
            height=300,
        )
    remarks = [tr("Smoothed: mean of {n} steps, {half} on either side.", n=2 * half + 1, half=half)]
    if lost or lost_held_out:
        remarks.append(not_drawn(lost + lost_held_out))
    if run.unreadable_metrics:
        remarks.append(cut_lines(run.unreadable_metrics))
    if len(losses) > 1200:
        remarks.append(tr("Of {n} steps the lowest and highest of each stretch are drawn.", n=number(len(losses))))
    return _Stage(title, _summary(run, steps, stage), curve, remarks, _gauges(run, steps, stage))


def not_drawn(count: int) -> str:
    """That some losses are no finite numbers."""
    return tr("Values that are not finite numbers and could not be drawn: {n}.", n=number(count))


def cut_lines(count: int) -> str:
    """That a kill cut lines of the log."""
    return tr("Lines of metrics.jsonl cut by a kill and left out: {n}.", n=number(count))


def not_finite(run: RunFiles) -> int:
    """How many losses of both stages are no finite numbers."""
    events = [run.events(kind, stage) for kind in ("step", "validation") for stage in ("first", None)]
    return sum(_series(each, "loss")[1] for each in events)


def _gauges(run: RunFiles, steps: Sequence[Record], stage: str | None) -> list[Markup]:
    """Learning rate, gradient norm and, of preferences, how often the better answer is preferred."""
    accuracy, _ = _series(steps, "preference_accuracy")
    rates, _ = _series(steps, "learning_rate")
    norms, _ = _series(steps, "grad_norm")
    clip = _recipe_number(run, "train", "clip")
    small = []
    if rates:
        small.append(
            line_chart(
                [Line(tr("learning rate"), "after", thin(rates))],
                label=tr("Learning rate over the steps"),
                x_name=tr("optimizer step"),
                y_name=tr("learning rate"),
                height=130,
                from_zero=True,
            )
        )
    if norms:
        ceiling = (clip, tr("clipped above {limit}", limit=number(clip))) if clip is not None else None
        small.append(
            line_chart(
                [Line(tr("gradient norm"), "after", thin(norms))],
                label=tr("Norm of the gradient before clipping"),
                x_name=tr("optimizer step"),
                y_name=tr("gradient norm before clipping"),
                height=130,
                from_zero=True,
                ceiling=ceiling,
            )
        )
    if accuracy:
        held, _ = _series(run.events("validation", stage), "preference_accuracy")
        both = [Line(tr("each step"), "after", thin(accuracy)), Line(tr("held out"), "held", held, dots=True)]
        small.append(
            line_chart(
                both if held else both[:1],
                label=tr("Share of the pairs whose better answer has the higher reward"),
                x_name=tr("optimizer step"),
                y_name=tr("better answer preferred"),
                height=130,
                from_zero=True,
            )
        )
    return small


def _series(events: Sequence[Record], key: str) -> tuple[list[Point], int]:
    """Points (step, value) by step, and how many values were not finite."""
    points, lost = [], 0
    for event in events:
        step, value = event.number("step"), event.number(key)
        if step is None or value is None:
            continue
        if is_finite(value):
            points.append((float(step), float(value)))
        else:
            lost += 1
    return sorted(points), lost


def _tips(steps: Sequence[Record]) -> list[tuple[float, str]]:
    """A tooltip for evenly spaced steps."""
    every = max(1, -(-len(steps) // _TIPS))
    out = []
    for event in steps[every // 2 :: every]:
        step = event.number("step")
        if step is None:
            continue
        parts = [tr("step {n}", n=fixed(step))]
        for key in ("epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second"):
            value = event.number(key)
            if value is not None:
                parts.append(f"{words(key)} {number(value)}")
        out.append((float(step), "\n".join(parts)))
    return sorted(out)


def _summary(run: RunFiles, steps: Sequence[Record], stage: str | None = None) -> list[tuple[str, Cell]]:
    """One line of totals, added up from the steps."""
    last = max((step for event in steps if (step := event.number("step")) is not None), default=0)
    of = planned_steps(run, stage)
    steps_made = tr("{count} of {n}", count=fixed(last), n=fixed(of)) if of else fixed(last)
    items: list[tuple[str, Cell]] = [(tr("Steps"), steps_made)]
    resumed = len(run.events("resumed", stage))
    items.append((tr("Resumed"), trn("once", "{n} times", resumed) if resumed else tr("never")))
    tokens = sum(event.number("tokens") or 0 for event in steps)
    targets = sum(event.number("target_tokens") or 0 for event in steps)
    if tokens:
        items.append((tr("Tokens"), fixed(tokens)))
        items.append((tr("Learned from"), f"{fixed(targets)} ({show_share(targets / tokens)})"))
    # Places of a micro-batch = tokens / (1 - share that is padding); seconds = tokens / speed.
    logged = [
        (event.number("tokens"), event.number("padded_share"), event.number("tokens_per_second")) for event in steps
    ]
    padded = [(count, share) for count, share, _ in logged if count and share is not None and share < 1]
    if padded:
        places = sum(count / (1 - share) for count, share in padded)
        items.append((tr("Padding"), show_share(1 - sum(count for count, _ in padded) / places)))
    timed = [(count, speed) for count, _, speed in logged if count and speed]
    if timed:
        seconds = sum(count / speed for count, speed in timed)
        items.append((tr("Speed"), tr("{n} tokens/s", n=fixed(sum(count for count, _ in timed) / seconds))))
    return items


def _recipe_number(run: RunFiles, part: str, key: str) -> float | None:
    values = run.recipe.get(part) if run.recipe else None
    value = values.get(key) if isinstance(values, dict) else None
    return float(value) if isinstance(value, int | float) else None


def plan_section(run: RunFiles) -> Markup:
    """Predicted beside measured: memory, time, money."""
    if run.plan is None:
        return render("plan.html", plan=None)
    plan = run.plan
    memory, time, money = plan.record("memory"), plan.record("time"), plan.record("money")
    usable = memory.number("usable")
    rows = [_beside(each, usable if each.unit == "bytes" else None) for each in predictions(run)]
    notes = plan.values.get("notes")
    predicted = (
        (tr("Predicted memory by part"), _parts(memory), show_bytes),
        (tr("Predicted time by part"), _parts(time), show_seconds),
    )
    return render(
        "plan.html",
        plan=plan,
        rows=rows,
        usable=usable,
        sure=how_sure(plan),
        money=money,
        fits=said_to_fit(plan),
        by_part=[_by_part(title, sizes, show) for title, sizes, show in predicted if sizes],
        notes=[StoredSentence(each) for each in (notes if isinstance(notes, list) else [notes])] if notes else [],
    )


@dataclass(frozen=True)
class Prediction:
    """Something that the plan predicted as `point`, `low` and `high`, and what it turned out to be."""

    what: str
    unit: str
    """bytes, seconds, or a currency."""
    predicted: Record
    measured: float | None

    def show(self, value: float) -> str:
        """A value with its unit."""
        shown = {"bytes": show_bytes, "seconds": show_seconds}.get(self.unit)
        return shown(value) if shown else show_money(value, self.unit)


_PREDICTED = {
    "memory": mark("Memory, peak"),
    "time": mark("Time, all stages"),
    "training": mark("Time of training"),
    "money": mark("Money"),
}


def predictions(run: RunFiles) -> list[Prediction]:
    """What was predicted beside what was measured."""
    if run.plan is None:
        return []
    manifest = run.manifest or Manifest()
    measured, cost = manifest.measured, manifest.cost
    memory, time, money = (run.plan.record(key) for key in ("memory", "time", "money"))
    training = time.record("parts").record("training")
    found = [
        Prediction("memory", "bytes", memory, measured.number("peak_bytes")),
        Prediction("time", "seconds", time, _whole_time(run)),
    ]
    if training:
        found.append(Prediction("training", "seconds", training, measured.number("train_seconds")))
    if money:
        currency = money.text("currency") or cost.text("currency") or "US$"
        found.append(Prediction("money", currency, money, cost.number("money")))
    return found


def said_to_fit(plan: Record) -> str:
    """What the plan said of the job's memory; empty where it said nothing."""
    fits = plan.values.get("fits")
    if fits is None:
        return ""
    if fits in (True, "yes"):
        return tr("The plan said that the job fits.")
    if fits in (False, "no"):
        return tr("The plan said that the job does not fit.")
    return tr("The plan said that the job may not fit.")


def how_sure(plan: Record) -> list[str]:
    """What measured cases say about the intervals; nothing in plans of older versions, which did not say it."""
    if plan.values.get("corrected_by"):
        return [tr("The intervals are narrowed by what was measured on this device before.")]
    sure = [plan.record(key).record("sure") for key in ("memory", "time")]
    known = zip((tr("How sure the peak is"), tr("How sure the time of training is")), sure, strict=True)
    return [f"{what}: {_sureness(each)}." for what, each in known if each.text("in_words")]


def _sureness(sure: Record) -> str:
    """How measured cases fared against such intervals; the plan's own words where it kept no counts."""
    inside, cases, sources = (sure.whole(key) for key in ("inside", "cases", "sources"))
    if inside is None or cases is None or sources is None:
        return sure.text("in_words") or ""
    if sure.flag("own_tests"):
        return tr(
            "{inside} of {cases} trainings fell inside such an interval, in afina's own tests on one machine",
            inside=inside,
            cases=cases,
        )
    counts = trn(
        "{inside} of {cases} measured cases fell inside such an interval, from one source",
        "{inside} of {cases} measured cases fell inside such an interval, from {n} sources, each left out in turn",
        sources,
        inside=inside,
        cases=cases,
    )
    if sure.text("program"):
        return tr("{counts}: {program} on this kind of device", counts=counts, program=sure.text("program"))
    if sure.text("device"):
        return tr("never measured, a guess from other programs on this kind of device: {counts}", counts=counts)
    return tr("never measured, a guess from other kinds of device, and wider for it: {counts}", counts=counts)


def _whole_time(run: RunFiles) -> float | None:
    """Seconds of all stages; pauses between two starts do not count."""
    if run.manifest is None:
        return None
    stages = list(run.manifest.seconds_by_stage.numbers())
    return sum(seconds for _, seconds in stages) if stages else None


def _parts(predicted: Record) -> list[tuple[str, float]]:
    """The points of a prediction's parts, each a number or an interval; empty ones left out."""
    parts = predicted.record("parts")
    sizes = [
        (key, parts.record(key).number("point") if isinstance(value, Mapping) else parts.number(key))
        for key, value in parts.values.items()
    ]
    return [(name, size) for name, size in sizes if size]


def _by_part(title: str, sizes: Sequence[tuple[str, float]], show: Callable[[float], str]) -> dict[str, Any]:
    total = sum(size for _, size in sizes)
    rows = [(words(name), show(size), show_share(size / total)) for name, size in sizes]
    return {
        "title": title,
        "bar": stacked([(words(name), size) for name, size in sizes]),
        "rows": rows,
        "total": show(total),
    }


def _beside(prediction: Prediction, limit: float | None) -> list[Cell]:
    predicted, measured, show = prediction.predicted, prediction.measured, prediction.show
    point, low, high = predicted.number("point"), predicted.number("low"), predicted.number("high")
    unknown = Quiet(tr("not predicted"))
    interval = between(show(low), show(high)) if low is not None and high is not None else unknown
    inside: Cell = not_measured()
    if measured is not None and low is not None and high is not None:
        good = low <= measured <= high
        word = tr("inside") if good else tr("below") if measured < low else tr("above")
        inside = Marked(word, "good" if good else "warn")
    return [
        label(_PREDICTED[prediction.what]),
        show(point) if point is not None else unknown,
        interval,
        show(measured) if measured is not None else not_measured(),
        fixed(measured / point, 2) if measured is not None and point else "",
        inside,
        range_bar(point, low, high, measured, limit),
    ]


def measured_facts(run: RunFiles) -> list[tuple[str, str]]:
    """Time, speed and cost for the top of the page."""
    if run.manifest is None:
        return []
    measured, device, cost = run.manifest.measured, run.manifest.device, run.manifest.cost
    out = []
    if (tokens := measured.number("tokens")) is not None:
        out.append((tr("Tokens"), show_count(tokens)))
    if (seconds := measured.number("train_seconds")) is not None:
        out.append((tr("Training"), show_seconds(seconds)))
    if (peak := measured.number("peak_bytes")) is not None:
        out.append((tr("Peak memory"), show_bytes(peak)))
    if name := device.text("name") or device.text("device"):
        out.append((tr("Device"), name))
    if money := cost.number("money"):
        out.append((tr("Cost"), show_money(money, cost.text("currency") or "US$")))
    return out
