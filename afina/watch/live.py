"""The way to the live monitor: what it needs is looked at before anything is drawn."""

from __future__ import annotations

import sys

from afina.errors import RecipeError
from afina.watch.reader import RunReader


def watch_live(reader: RunReader, every_seconds: float = 1.0) -> None:
    """Show the monitor until the person leaves.

    Raises:
        RecipeError: Textual is not installed, or this is no terminal.
        AfinaError: the run cannot be read any more.
    """
    try:
        import textual  # noqa: F401
    except ImportError:
        what = "the live monitor needs Textual, which is not installed"
        raise RecipeError(what, "pip install 'afina[watch]', or print one picture with --once") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RecipeError("the live monitor needs a terminal, and this is none", "print one picture with --once")
    from afina.watch.monitor_textual import Monitor

    monitor = Monitor(reader, every_seconds)
    monitor.run(mouse=False)
    if monitor.ended_by is not None:
        raise monitor.ended_by
