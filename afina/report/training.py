"""How the training went: curves from ``metrics.jsonl``, and the plan beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from afina.manifest import Manifest
from afina.record import Record
from afina.report.charts import Line, Point, line_chart, range_bar, smooth, stacked, thin
from afina.report.labels import number, words
from afina.report.read import RunFiles, is_finite
from afina.report.render import NOT_MEASURED, Cell, Marked, Quiet, render
from afina.report.results import planned_steps
from afina.units import show_bytes, show_count, show_money, show_seconds, show_share

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


HOW_SURE = (("peak", "memory"), ("time of training", "time"))
"""What is predicted with an interval that is calibrated, and where it stands in plan.json."""


def curve_section(run: RunFiles) -> Markup:
    """Loss of each step, smoothed and raw, the held-out loss, and the loop's own gauges; of both stages."""
    if not run.events("step", "first"):
        return render("training.html", stages=[_stage(run, "")])
    return render("training.html", stages=[_stage(run, "First stage", "first"), _stage(run, "Second stage")])


def _stage(run: RunFiles, title: str, stage: str | None = None) -> _Stage:
    steps = run.events("step", stage)
    if not steps:
        return _Stage(title)
    resumed = [step for event in run.events("resumed", stage) if (step := event.number("step")) is not None]
    marks = [(step, f"resumed after {step:,.0f}") for step in resumed]
    losses, lost = _series(steps, "loss")
    held_out, lost_held_out = _series(run.events("validation", stage), "loss")
    accuracy, _ = _series(steps, "preference_accuracy")
    lines = []
    half = min(10, len(losses) // 10)
    if losses:
        averaged = list(zip([x for x, _ in losses], smooth([y for _, y in losses], half), strict=True))
        lines = [Line("each step", "raw", thin(losses)), Line("smoothed", "after", thin(averaged))]
    if held_out:
        lines.append(Line("held out", "held", held_out, dots=True))
    curve = Markup()
    if lines:
        curve = line_chart(
            lines,
            label="Loss over the steps of training",
            x_name="optimizer step",
            y_name="loss of a pair" if accuracy else "loss, nats per target token",
            marks=marks,
            tips=_tips(steps),
            height=300,
        )
    remarks = [f"Smoothed: mean of {2 * half + 1} steps, {half} on either side."]
    if lost or lost_held_out:
        remarks.append(f"Values that are no finite numbers and could not be drawn: {lost + lost_held_out}.")
    if run.unreadable_metrics:
        remarks.append(f"Lines of metrics.jsonl cut by a kill and left out: {run.unreadable_metrics}.")
    if len(losses) > 1200:
        remarks.append(f"Of {len(losses):,} steps the lowest and highest of each stretch are drawn.")
    return _Stage(title, _summary(run, steps, stage), curve, remarks, _gauges(run, steps, stage))


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
                [Line("learning rate", "after", thin(rates))],
                label="Learning rate over the steps",
                x_name="optimizer step",
                y_name="learning rate",
                height=130,
                from_zero=True,
            )
        )
    if norms:
        ceiling = (clip, f"clipped above {number(clip)}") if clip is not None else None
        small.append(
            line_chart(
                [Line("gradient norm", "after", thin(norms))],
                label="Norm of the gradient before clipping",
                x_name="optimizer step",
                y_name="gradient norm before clipping",
                height=130,
                from_zero=True,
                ceiling=ceiling,
            )
        )
    if accuracy:
        held, _ = _series(run.events("validation", stage), "preference_accuracy")
        both = [Line("each step", "after", thin(accuracy)), Line("held out", "held", held, dots=True)]
        small.append(
            line_chart(
                both if held else both[:1],
                label="Share of the pairs whose better answer has the higher reward",
                x_name="optimizer step",
                y_name="better answer preferred",
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
        parts = [f"step {step:,.0f}"]
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
    items: list[tuple[str, Cell]] = [("Steps", f"{last:,.0f}" + (f" of {of:,.0f}" if of else ""))]
    resumed = len(run.events("resumed", stage))
    items.append(("Resumed", "never" if not resumed else "once" if resumed == 1 else f"{resumed} times"))
    tokens = sum(event.number("tokens") or 0 for event in steps)
    targets = sum(event.number("target_tokens") or 0 for event in steps)
    if tokens:
        items.append(("Tokens", f"{tokens:,.0f}"))
        items.append(("Learned from", f"{targets:,.0f} ({show_share(targets / tokens)})"))
    # Places of a micro-batch = tokens / (1 - share that is padding); seconds = tokens / speed.
    logged = [
        (event.number("tokens"), event.number("padded_share"), event.number("tokens_per_second")) for event in steps
    ]
    padded = [(count, share) for count, share, _ in logged if count and share is not None and share < 1]
    if padded:
        places = sum(count / (1 - share) for count, share in padded)
        items.append(("Padding", show_share(1 - sum(count for count, _ in padded) / places)))
    timed = [(count, speed) for count, _, speed in logged if count and speed]
    if timed:
        seconds = sum(count / speed for count, speed in timed)
        items.append(("Speed", f"{sum(count for count, _ in timed) / seconds:,.0f} tokens/s"))
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
    manifest = run.manifest or Manifest()
    measured, cost = manifest.measured, manifest.cost
    memory, time, money = plan.record("memory"), plan.record("time"), plan.record("money")
    currency = money.text("currency") or cost.text("currency") or "US$"
    usable = memory.number("usable")
    rows = [_beside("Memory, peak", memory, measured.number("peak_bytes"), show_bytes, usable)]
    rows.append(_beside("Time, all stages", time, _whole_time(run), show_seconds))
    training = time.record("parts").record("training")
    if training:
        rows.append(_beside("Time of training", training, measured.number("train_seconds"), show_seconds))
    if money:
        rows.append(_beside("Money", money, cost.number("money"), lambda amount: show_money(amount, currency)))
    fits, notes = plan.values.get("fits"), plan.values.get("notes")
    said = {True: "fits", False: "does not fit", "yes": "fits", "no": "does not fit", "maybe": "may not fit"}
    predicted = (("memory", _parts(memory), show_bytes), ("time", _parts(time), show_seconds))
    return render(
        "plan.html",
        plan=plan,
        rows=rows,
        usable=usable,
        sure=_how_sure(plan),
        money=money,
        fits=None if fits is None else said.get(fits, str(fits)),
        by_part=[_by_part(title, sizes, show) for title, sizes, show in predicted if sizes],
        notes=[str(each) for each in (notes if isinstance(notes, list) else [notes])] if notes else [],
    )


def _how_sure(plan: Record) -> list[str]:
    """What measured cases say about the intervals; nothing in plans of older versions, which did not say it."""
    if plan.values.get("corrected_by"):
        return ["The intervals are narrowed by what was measured on this device before."]
    said = [(name, plan.record(key).record("sure").text("in_words")) for name, key in HOW_SURE]
    return [f"How sure the {name} is: {words}." for name, words in said if words]


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


def _beside(
    name: str, predicted: Record, measured: float | None, show: Callable[[float], str], limit: float | None = None
) -> list[Cell]:
    point, low, high = predicted.number("point"), predicted.number("low"), predicted.number("high")
    interval = f"{show(low)} to {show(high)}" if low is not None and high is not None else Quiet("not predicted")
    inside: Cell = NOT_MEASURED
    if measured is not None and low is not None and high is not None:
        good = low <= measured <= high
        word = "inside" if good else "below" if measured < low else "above"
        inside = Marked(word, "good" if good else "warn")
    return [
        name,
        show(point) if point is not None else Quiet("not predicted"),
        interval,
        show(measured) if measured is not None else NOT_MEASURED,
        f"{measured / point:.2f}" if measured is not None and point else "",
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
        out.append(("Tokens", show_count(tokens)))
    if (seconds := measured.number("train_seconds")) is not None:
        out.append(("Training", show_seconds(seconds)))
    if (peak := measured.number("peak_bytes")) is not None:
        out.append(("Peak memory", show_bytes(peak)))
    if name := device.text("name") or device.text("device"):
        out.append(("Device", name))
    if money := cost.number("money"):
        out.append(("Cost", show_money(money, cost.text("currency") or "US$")))
    return out
