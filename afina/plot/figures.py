"""What every picture has: its colours, its letters, a line about each run, and how it becomes a file."""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from afina.errors import RecipeError
from afina.plot.plotted import PlottedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's: told apart by everyone, and in grey by their lightness."""
DASHES: tuple[Any, ...] = ("-", (0, (7, 2)), (0, (4, 1, 1, 1)), (0, (1, 1)))
"""Of the second seven runs, the third ..."""
QUIET = "#595959"
DOTS_PER_INCH = 150
_SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "text.parse_math": False,  # a run may be called "$1"
    "svg.hashsalt": "afina",
    "figure.facecolor": "white",
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Our settings of matplotlib, and nobody else's, inside the block.

    Raises:
        RecipeError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise RecipeError("pictures need matplotlib, which is not installed", "pip install 'afina[plot]'") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float, title: str, runs: Sequence[PlottedRun]) -> Figure:
    """An empty figure of so many inches, with its title, and about each run a line below."""
    from matplotlib.figure import Figure

    lines = [line for run in runs for line in textwrap.wrap(run.about, int(width * 13), subsequent_indent="   ")]
    figure = Figure(figsize=(width, height + 0.17 * len(lines)), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, int(width * 7))), x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color=QUIET)
    return figure


def look_of(number: int) -> dict[str, Any]:
    """Colour and dashes of the run with this number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
    }


def picture_files(figure: Figure, forms: Sequence[str]) -> dict[str, bytes]:
    """The figure in each form, as bytes of a file; the same figure gives the same bytes."""
    files = {}
    with drawing():
        for form in forms:
            out = io.BytesIO()
            unstamped = {"Date": None} if form == "svg" else {"Software": "afina plot"}
            figure.savefig(out, format=form, dpi=DOTS_PER_INCH, metadata=unstamped)
            files[form] = out.getvalue()
    return files
