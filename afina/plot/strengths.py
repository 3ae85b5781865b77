"""What an adapter knows and what it broke, by its strength: a line a probe, with its 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afina.plot.figures import DASHES, QUIET, drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEARNED, BROKEN = "#0072B2", "#D55E00"
WIDTH, HEIGHT = 9.0, 4.6


@dataclass(frozen=True)
class Curve:
    """One probe over the settings."""

    name: str
    learned: bool
    """Whether it says what was learned; else what is lost."""
    points: tuple[tuple[float, float, float, float], ...]
    """Setting, share, and the ends of its interval."""


def draw_strengths(
    title: str,
    curves: Sequence[Curve],
    *,
    axis: str,
    chosen: float | None,
    limits: tuple[float | None, float | None],
) -> Figure:
    """The curves of one sweep.

    Args:
        axis: what is turned.
        chosen: the setting that was taken, where it stands on the axis.
        limits: the least that has to be learned, and the most that may be lost.

    Raises:
        RecipeError: matplotlib is not installed.
    """
    with drawing():
        from matplotlib.ticker import PercentFormatter

        figure = new_figure(WIDTH, HEIGHT, title, ())
        axes = figure.add_subplot()
        for colour, learned, limit in ((LEARNED, True, limits[0]), (BROKEN, False, limits[1])):
            for number, curve in enumerate(each for each in curves if each.learned is learned and each.points):
                at, shares, low, high = zip(*sorted(curve.points), strict=True)
                axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
                name = f"{curve.name}: {'right' if learned else 'lost'}"
                dashes = DASHES[number % len(DASHES)]
                axes.plot(at, shares, color=colour, linestyle=dashes, marker="o", markersize=4, label=name)
            if limit is not None:
                label = f"asked for: {100 * limit:g} %" if learned else f"allowed: {100 * limit:g} %"
                axes.axhline(limit, color=colour, linewidth=0.9, linestyle=(0, (1, 2)), label=label)
        if chosen is not None:
            axes.axvline(chosen, color=QUIET, linewidth=1.2, label=f"taken: {chosen:g}")
        axes.set_xlabel(axis)
        axes.set_ylabel("share of the questions, with its 95 % interval")
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure
