"""What is shown of a run that goes on elsewhere: its copy here, as ``afina watch --once`` prints it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from afina.errors import AfinaError
from afina.watch.frame import frame, paper
from afina.watch.reader import RunReader, is_run


class Look:
    """Prints a run's picture where it is another than the last one.

    Args:
        say: to whom.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self._before = say, ""
        self._reader: RunReader | None = None

    def __call__(self, run: Path) -> None:
        """One look; nothing where there is no run yet."""
        if self._reader is None:
            if not is_run(run):
                return
            self._reader = RunReader(run)
        try:
            text = frame(self._reader.look(), *paper(), ascii_only=True)
        except AfinaError as error:  # half a copy; the next look has more
            text = str(error)
        if text != self._before:
            self.say(text)
        self._before = text
