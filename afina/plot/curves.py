"""The curves of trainings: loss and held-out loss in one panel, each gauge in one of its own, runs in their colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from afina.plot.figures import QUIET, drawing, look_of, new_figure
from afina.plot.plotted import PlottedRun
from afina.report.charts import Point, smooth, thin
from afina.watch.view import TrainingView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, LOSS_HEIGHT, GAUGE_HEIGHT = 11.0, 4.2, 2.5
POINTS = 3000
"""Of a line: of each stretch its lowest and highest are drawn."""


@dataclass(frozen=True)
class Gauge:
    """A panel below the loss: a column of the steps, or a figure of the held-out rows."""

    title: str
    key: str
    held_out: bool = False
    scale: float = 1.0
    from_zero: bool = True


GAUGES = (
    Gauge("Held-out bits per byte", "bits_per_byte", held_out=True, from_zero=False),
    Gauge("Held-out pairs whose better answer is preferred, share", "preference_accuracy", held_out=True),
    Gauge("Learning rate", "learning_rate"),
    Gauge("Tokens per second", "tokens_per_second"),
    Gauge("Memory, GiB", "memory_bytes", scale=2.0**30),
    Gauge("Norm of the gradient before clipping", "grad_norm"),
)


def draw_curves(runs: Sequence[PlottedRun]) -> Figure:
    """The picture of the runs' curves.

    Args:
        runs: each with a step at least.

    Raises:
        RecipeError: matplotlib is not installed.
    """
    with drawing():
        gauges = [gauge for gauge in GAUGES if any(_gauge_points(gauge, run) for run in runs)]
        rows = math.ceil(len(gauges) / 2)
        title = f"Training of {runs[0].label}" if len(runs) == 1 else f"Training of {len(runs)} runs"
        figure = new_figure(WIDTH, LOSS_HEIGHT + GAUGE_HEIGHT * rows, title, runs)
        grid = figure.add_gridspec(1 + rows, 2, height_ratios=[LOSS_HEIGHT, *[GAUGE_HEIGHT] * rows])
        loss = figure.add_subplot(grid[0, :])
        _loss_panel(loss, runs)
        for number, gauge in enumerate(gauges):
            alone = number == len(gauges) - 1 and number % 2 == 0
            place = grid[1 + number // 2, :] if alone else grid[1 + number // 2, number % 2]
            _gauge_panel(figure.add_subplot(place, sharex=loss), gauge, runs)
        return figure


def _stretches(run: PlottedRun) -> list[tuple[TrainingView, int]]:
    """A run's trainings that made a step, each with the steps that were made before it: they stand side by side."""
    before, found = 0, []
    for training in run.view.trainings:
        if len(training.steps):
            found.append((training, before))
            before += training.step
    return found


def _loss_panel(axes: Axes, runs: Sequence[PlottedRun]) -> None:
    """Loss of the steps, smoothed, each step behind it where there are few runs, and the held-out loss."""
    named: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for number, run in enumerate(runs):
        look = look_of(number)
        for training, before in _stretches(run):
            losses = training.steps["loss"]
            at = [before + step for step in training.steps["step"]]
            half = min(10, len(losses) // 20)
            if half and len(runs) <= 3:
                line = _line(axes, list(zip(at, losses, strict=True)), color=look["color"], alpha=0.28, linewidth=0.8)
                others.setdefault("each step", line)
            mean = _line(axes, list(zip(at, smooth(losses, half), strict=True)), linewidth=1.9, **look)
            named.setdefault(run.short if len(runs) > 1 else "smoothed" if half else "training loss", mean)
            if held := [(before + each.step, each.loss) for each in training.held_out]:
                dots = {"marker": "o", "markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 1.4}
                others.setdefault("held out", _line(axes, held, color=look["color"], linestyle=":", **dots))
        _marks(axes, run, others)
    pairs = any(
        "preference_accuracy" in each.figures for run in runs for t in run.view.trainings for each in t.held_out
    )
    axes.set_title("Loss, nats per target token" + (" (of preferences: per pair)" if pairs else ""))
    axes.set_xlabel("optimizer step")
    _whole_steps(axes)
    handles = named | others
    axes.legend(handles.values(), handles.keys(), loc="best", ncols=1 if len(handles) <= 7 else 2)


def _marks(axes: Axes, run: PlottedRun, handles: dict[str, Any]) -> None:
    """Where a training went on, went back, and where the second of two begins."""
    for training, before in _stretches(run):
        for step in training.resumed:
            line = axes.axvline(before + step, color=QUIET, linewidth=0.9, linestyle=(0, (1, 2)))
            handles.setdefault("went on after a stop", line)
        for event in training.went_back:
            if isinstance(to := event.get("to"), int | float):
                line = axes.axvline(before + to, color="#B00000", linewidth=1.1, linestyle=(0, (5, 2)))
                handles.setdefault("went back (loss was NaN or infinite)", line)
        if before:
            line = axes.axvline(before + 0.5, color="black", linewidth=1.0)
            handles.setdefault("second training begins", line)


def _gauge_points(gauge: Gauge, run: PlottedRun) -> list[list[Point]]:
    """What a panel draws of a run: the points of each of its trainings that has some."""
    found = []
    for training, before in _stretches(run):
        if gauge.held_out:
            points = [
                (float(before + each.step), each.figures[gauge.key])
                for each in training.held_out
                if gauge.key in each.figures
            ]
        else:
            steps = training.steps
            points = [(before + x, y / gauge.scale) for x, y in zip(steps["step"], steps[gauge.key], strict=True)]
        points = [point for point in points if math.isfinite(point[1])]
        found += [points] if points else []
    return found


def _gauge_panel(axes: Axes, gauge: Gauge, runs: Sequence[PlottedRun]) -> None:
    for number, run in enumerate(runs):
        for points in _gauge_points(gauge, run):
            marker = {"marker": "o", "markersize": 4.0} if gauge.held_out else {}
            _line(axes, points, linewidth=1.4, **look_of(number), **marker)
    axes.set_title(gauge.title)
    if gauge.from_zero:
        top = max(y for run in runs for points in _gauge_points(gauge, run) for _, y in points)
        axes.set_ylim(0, 1.08 * top if top > 0 else 1.0)


def _line(axes: Axes, points: Sequence[Point], **look: Any) -> Any:
    """A line through the points that are finite; a single one is a dot."""
    finite = thin([point for point in points if math.isfinite(point[1])], POINTS)
    if len(finite) == 1:
        look = {**look, "marker": "o", "alpha": 1.0}
    (line,) = axes.plot([x for x, _ in finite], [y for _, y in finite], **look)
    return line


def _whole_steps(axes: Axes) -> None:
    """Ticks at whole steps, in groups of three digits, and some room on both sides."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    show: Callable[[float, int], str] = lambda value, _: f"{value:,.0f}"  # noqa: E731
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(show))
    low, high = axes.dataLim.intervalx
    room = max(0.5, 0.01 * (high - low))
    axes.set_xlim(low - room, high + room)
