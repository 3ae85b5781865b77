"""What a person sees while a stage works: a bar in a terminal, plain lines elsewhere. To stderr.

The only file besides `cli` that prints. Plain lines come at the start, at most one every five
seconds in between, and at the end. Answers in a chat go to stdout.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType

from afina.units import show_seconds


def say(text: str) -> None:
    """One line for the person, to stderr. Where whoever read it has left (``2>&1 | head``), the work goes on: it may
    be hours of a training."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


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


CONTROL = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})
"""Control characters, which a model may write and a terminal would obey."""


def read_line() -> str | None:
    """What the person types, or the next line of a file; None at the end."""
    if not sys.stdin.isatty():
        return sys.stdin.readline() or None
    with contextlib.suppress(ImportError):  # arrow keys and a history; not on every system
        import readline  # noqa: F401
    try:
        return input("> ")
    except EOFError:
        return None


def show_answers(answers: Iterator[Mapping[str, str]]) -> None:
    """Answers by name as they are written, to stdout: side by side in a terminal, whole at the end elsewhere.

    >>> show_answers(iter([{"trained": "Fa"}, {"trained": "Faro"}]))
    Faro
    >>> show_answers(iter([{"base": "Lagos", "trained": "Faro"}]))
    base: Lagos
    trained: Faro
    """
    if not sys.stdout.isatty():
        last = list(answers)[-1]
        for name, text in last.items():
            print(f"{name}: {text.strip()}" if len(last) > 1 else text.strip(), flush=True)
        return
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        for texts in answers:
            table = Table.grid(padding=(0, 2), expand=True)
            for _ in texts:
                table.add_column(ratio=1)
            if len(texts) > 1:
                table.add_row(*(Text(name, style="bold") for name in texts))
            table.add_row(*(Text(text.strip().translate(CONTROL)) for text in texts.values()))
            live.update(table, refresh=True)
