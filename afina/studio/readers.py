"""The runs that somebody looks at, each followed once however many pages show it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from afina.studio.facts import checked_run
from afina.studio.long_log import LongLog
from afina.studio.settings import StudioSettings
from afina.watch.reader import RunReader, is_run
from afina.watch.view import RunView

MOST = 16
"""Runs that are followed at a time; the one that nobody asked for longest is forgotten."""


@dataclass
class _Followed:
    reader: RunReader
    log: LongLog
    turn: threading.Lock = field(default_factory=threading.Lock)


class Readers:
    """Readers of runs, kept from one question to the next, so that each byte of a log is read once."""

    def __init__(self, settings: StudioSettings) -> None:
        self.settings = settings
        self._kept: OrderedDict[str, _Followed] = OrderedDict()
        self._turn = threading.Lock()

    @contextmanager
    def looking(self, name: str) -> Iterator[tuple[RunView, LongLog]]:
        """How a run stands now, and its log; nobody else reads on until the block ends.

        Raises:
            AfinaError: there is no such run, or it holds a link that leads out of what the studio may read.
        """
        folder = checked_run(self.settings, name)
        log = LongLog(folder / "metrics.jsonl")
        if not is_run(folder):  # a process was started that has not opened the run yet, or never will
            yield RunView(folder, name, "not trained", "no training has begun"), log
            return
        with self._turn:
            if name not in self._kept:
                self._kept[name] = _Followed(RunReader(folder, metrics=log), log)
            self._kept.move_to_end(name)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
            followed = self._kept[name]
        with followed.turn:
            view = followed.reader.look()
            yield (_of_sample(view) if followed.log.sampled else view), followed.log


def _of_sample(view: RunView) -> RunView:
    """A view of a sampled log tells nothing that would be a sum of all its steps."""
    return replace(view, trainings=tuple(replace(each, tokens=0.0) for each in view.trainings))
