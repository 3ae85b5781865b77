"""The probes of the verdict before and after training, as bars with their 95 % intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from afina.evaluate.scores import SIDES, ProbeResult
from afina.plot.figures import COLOURS, drawing, look_of, new_figure
from afina.plot.plotted import PlottedRun
from afina.report.labels import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, BAR = 11.0, 0.24
"""Inches: of the picture, and of a bar."""
_BETWEEN = 1.2
"""Bars' widths between two probes."""


def draw_probes(runs: Sequence[PlottedRun]) -> Figure:
    """Each probe of any of the runs, below each other; each run's bars in its colour, before training pale.

    Args:
        runs: one with probes at least.

    Raises:
        RecipeError: matplotlib is not installed.
    """
    with drawing():
        from matplotlib.ticker import PercentFormatter

        shown = [run for run in runs if run.probes]
        keys = list(dict.fromkeys((probe.name, probe.role) for run in shown for probe in run.probes))
        height = BAR * (2 * len(shown) + _BETWEEN) * len(keys) + 1.6
        title = f"Before and after: {shown[0].label}" if len(shown) == 1 else "Before and after training"
        figure = new_figure(WIDTH, height, title, shown)
        axes = figure.add_subplot()
        ticks, labels, top = [], [], 0.0
        for key in keys:
            found = [
                (n, probe) for n, run in enumerate(shown) for probe in run.probes if (probe.name, probe.role) == key
            ]
            bars = [(number, probe, side) for number, probe in found for side in (0, 1)]
            for place, (number, probe, side) in enumerate(bars):
                _bar(axes, top + place, number, probe, side)
            ticks.append(top + (len(bars) - 1) / 2)
            labels.append(_label(found[0][1]))
            top += len(bars) + _BETWEEN
        axes.set_yticks(ticks, labels)
        axes.set_ylim(top - _BETWEEN + 0.5, -1.2)
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share of the questions, with its 95 % interval")
        _legend(axes, shown)
        return figure


def _bar(axes: Axes, y: float, number: int, probe: ProbeResult, side: int) -> None:
    """One bar with its interval and its value; nothing where it was not measured."""
    figure = probe.figures()[0]
    share, ends = (figure.before, figure.after)[side], figure.intervals[side]
    if share is None:
        return
    colour = look_of(number)["color"]
    filled = {"facecolor": colour} if side else {"facecolor": "white", "hatch": "////"}
    axes.barh(y, share, 0.86, edgecolor=colour, linewidth=1.0, **filled)
    end = share
    if ends:
        low, high = ends
        past = [[max(0.0, share - low)], [max(0.0, high - share)]]
        axes.errorbar(share, y, xerr=past, color="black", linewidth=1.1, capsize=2.5, capthick=1.1)
        end = max(share, high)
    axes.text(end + 0.012, y, percent(share), va="center", fontsize=8)


def _label(probe: ProbeResult) -> str:
    """A probe's name, what is counted, and of how many."""
    better = " (lower is better)" if probe.about.counted[0].better == "lower" else ""
    lines = textwrap.wrap(probe.title + better, 34, max_lines=3, placeholder=" …")
    return "\n".join([*lines, f"n = {probe.counted_over}"])


def _legend(axes: Axes, shown: Sequence[PlottedRun]) -> None:
    """Above the bars: which colour is which run, and which bars are before and after."""
    from matplotlib.patches import Patch

    alone = len(shown) == 1
    colours = [COLOURS[0]] if alone else ["#444444"]
    handles = [Patch(facecolor="white", edgecolor=colours[0], hatch="////", label=SIDES[0])]
    handles.append(Patch(facecolor=colours[0], edgecolor=colours[0], label=SIDES[1]))
    if not alone:
        handles += [Patch(facecolor=look_of(n)["color"], label=run.short) for n, run in enumerate(shown)]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, borderaxespad=0.2)
