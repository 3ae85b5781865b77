"""How the training went: curves from ``metrics.jsonl``, and the plan beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from afina.report.charts import Line, Point, line_chart, range_bar, smooth, stacked, thin
from afina.report.markup import Child, Html, h, join, missing, muted, note, number, pairs, prose, table, words
from afina.report.read import Record, RunFiles, is_finite
from afina.report.results import planned_steps
from afina.units import show_bytes, show_count, show_money, show_seconds, show_share

_TIPS = 150


def curve_section(run: RunFiles) -> Html:
    """Loss of each step, smoothed and raw, the held-out loss, and the loop's own gauges; of both stages."""
    if not run.events("step", "first"):
        return _curves(run)
    return join([h("h3", "First stage"), _curves(run, "first"), h("h3", "Second stage"), _curves(run)])


def _curves(run: RunFiles, stage: str | None = None) -> Html:
    steps = run.events("step", stage)
    if not steps:
        return missing("No training step was logged", "metrics.jsonl")
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
    parts: list[Child] = [_summary(run, steps, stage)]
    if lines:
        parts.append(
            line_chart(
                lines,
                label="Loss over the steps of training",
                x_name="optimizer step",
                y_name="loss of a pair" if accuracy else "loss, nats per target token",
                marks=marks,
                tips=_tips(steps),
                height=300,
            )
        )
    remarks = [f"Smoothed: mean of {2 * half + 1} steps, {half} on either side."]
    if lost or lost_held_out:
        remarks.append(f"Values that are no finite numbers and could not be drawn: {lost + lost_held_out}.")
    if run.unreadable_metrics:
        remarks.append(f"Lines of metrics.jsonl cut by a kill and left out: {run.unreadable_metrics}.")
    if len(losses) > 1200:
        remarks.append(f"Of {len(losses):,} steps the lowest and highest of each stretch are drawn.")
    parts.append(note(" ".join(remarks)))
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
    if small:
        parts.append(h("div", *small, class_="two"))
    return join(parts)


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


def _summary(run: RunFiles, steps: Sequence[Record], stage: str | None = None) -> Html:
    """One line of totals, added up from the steps."""
    last = max((step for event in steps if (step := event.number("step")) is not None), default=0)
    of = planned_steps(run, stage)
    items: list[tuple[str, Child]] = [("Steps", f"{last:,.0f}" + (f" of {of:,.0f}" if of else ""))]
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
    return h("div", pairs(items), class_="facts")


def _recipe_number(run: RunFiles, part: str, key: str) -> float | None:
    values = run.recipe.get(part) if run.recipe else None
    value = values.get(key) if isinstance(values, dict) else None
    return float(value) if isinstance(value, int | float) else None


def plan_section(run: RunFiles) -> Html:
    """Predicted beside measured: memory, time, money."""
    if run.plan is None:
        return missing("No plan was made before the run", "plan.json", word="Missing.")
    plan = run.plan
    measured = run.manifest.record("measured") if run.manifest else Record({}, "manifest.json")
    cost = run.manifest.record("cost") if run.manifest else measured
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
    head = ["", "Predicted", "Interval", "Measured", "Ratio", "Inside?", ""]
    parts: list[Child] = [table(head, rows, numbers=(1, 2, 3, 4), class_="plan")]
    legend = "Band: predicted interval; upright line: predicted point; dot: measured; ratio: measured over predicted."
    parts.append(note(legend))
    if usable is not None:
        parts.append(note(f"Usable on the device: {show_bytes(usable)}; a dashed line where the band comes near it."))
    if not money:
        parts.append(note("Money was not predicted: the recipe gives no price per hour."))
    fits = plan.values.get("fits")
    if fits is not None:
        said = {True: "fits", False: "does not fit", "yes": "fits", "no": "does not fit", "maybe": "may not fit"}
        parts.append(h("p", "The plan said that the job ", h("strong", said.get(fits, str(fits))), "."))
    for title, part, show in (("memory", memory, show_bytes), ("time", time, show_seconds)):
        sizes = _parts(part)
        if sizes:
            parts += _by_part(f"Predicted {title} by part", sizes, show)
    notes = plan.values.get("notes")
    if notes:
        parts += [
            h("h3", "Notes of the plan"),
            h("ul", *(h("li", prose(str(item))) for item in (notes if isinstance(notes, list) else [notes]))),
        ]
    return join(parts)


def _whole_time(run: RunFiles) -> float | None:
    """Seconds of all stages; pauses between two starts do not count."""
    if run.manifest is None:
        return None
    stages = list(run.manifest.record("seconds_by_stage").numbers())
    return sum(seconds for _, seconds in stages) if stages else None


def _parts(predicted: Record) -> list[tuple[str, float]]:
    """The points of a prediction's parts, each a number or an interval; empty ones left out."""
    parts = predicted.record("parts")
    sizes = [
        (key, parts.record(key).number("point") if isinstance(value, Mapping) else parts.number(key))
        for key, value in parts.values.items()
    ]
    return [(name, size) for name, size in sizes if size]


def _by_part(title: str, sizes: Sequence[tuple[str, float]], show: Callable[[float], str]) -> list[Html]:
    total = sum(size for _, size in sizes)
    body: list[list[Child]] = [
        [join([h("i", class_=f"swatch p{n % 6}"), words(name)]), show(size), show_share(size / total)]
        for n, (name, size) in enumerate(sizes)
    ]
    body.append([h("strong", "together"), show(total), ""])
    bar = stacked([(words(name), size) for name, size in sizes])
    return [h("h3", title), bar, table(["Part", "Predicted", "Share"], body, numbers=(1, 2))]


def _beside(
    name: str, predicted: Record, measured: float | None, show: Callable[[float], str], limit: float | None = None
) -> list[Child]:
    point, low, high = predicted.number("point"), predicted.number("low"), predicted.number("high")
    interval = f"{show(low)} to {show(high)}" if low is not None and high is not None else muted("not predicted")
    inside: Child = muted("not measured")
    if measured is not None and low is not None and high is not None:
        good = low <= measured <= high
        word = "inside" if good else "below" if measured < low else "above"
        inside = h("span", word, class_="good" if good else "warn")
    return [
        name,
        show(point) if point is not None else muted("not predicted"),
        interval,
        show(measured) if measured is not None else muted("not measured"),
        f"{measured / point:.2f}" if measured is not None and point else "",
        inside,
        range_bar(point, low, high, measured, limit),
    ]


def measured_facts(run: RunFiles) -> list[tuple[str, str]]:
    """Time, speed and cost for the top of the page."""
    if run.manifest is None:
        return []
    measured, device, cost = (run.manifest.record(key) for key in ("measured", "device", "cost"))
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
