"""What a person sees while a stage works: a bar in a terminal, plain lines elsewhere. To stderr.

The only file besides `cli` that prints. Plain lines come at the start, at most one every five
seconds in between, and at the end.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from afina.units import show_seconds


def say(text: str) -> None:
    """One line for the person, to stderr."""
    print(text, file=sys.stderr, flush=True)


class StageProgress:
    """A :data:`~afina.run.Progress` for one stage, to be used with ``with``.

    >>> with StageProgress("dataset", quiet=True) as progress:
    ...     progress(1, 2, "reading")
    """

    def __init__(self, stage: str, *, quiet: bool = False, every_seconds: float = 5.0) -> None:
        self.stage, self.quiet, self.every_seconds = stage, quiet, every_seconds
        self.started = self.counted_from = self.printed = time.monotonic()
        self.done = 0
        self.bar: object | None = None
        self._rich = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._rich = Progress(
                TextColumn("{task.fields[stage]:>9}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._rich.add_task("", total=None, stage=stage)

    def __enter__(self) -> StageProgress:
        if self._rich:
            self._rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._rich:
            self._rich.stop()
        if not self.quiet and kind is None:
            say(f"{self.stage}: {show_seconds(time.monotonic() - self.started)}")

    def __call__(self, done: int, total: int | None, what: str) -> None:
        if self.quiet:
            return
        if self._rich:
            self._rich.update(self._task, completed=done, total=total, description=what)
            return
        now = time.monotonic()
        if done < self.done:  # something else is counted now
            self.counted_from = now
        self.done = done
        if now - self.printed >= self.every_seconds:
            self.printed = now
            of = f" of {total}" if total is not None else ""
            left = ""
            if total and done:
                left = f", about {show_seconds((now - self.counted_from) / done * (total - done))} left"
            say(f"{self.stage}: {done}{of} {what}{left}")
