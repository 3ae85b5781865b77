"""The curves of a run, in under a second however long its log is.

A log of up to :data:`WHOLE` bytes is read whole. Of a longer one its beginning, its end and stretches at even
distances between them are read, and every measurement of the held-out rows; the answer then says that it is
``sampled``, and how many lines it stands on. What is logged later is followed from where the reading ended.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.record import is_number
from afina.report.charts import thin
from afina.watch.follow import events_in
from afina.watch.training_log import RunLog, TrainingLog

WHOLE = 2**23
"""Bytes of a log that is read whole."""
ENDS, STRETCH = 2**18, 2**13
"""Bytes of the beginning and the end of a longer one, and of each stretch between them."""
SEARCHED = 2**22
"""Bytes that are searched at a time."""
MEASURED = b'"event": "validation"'
SERIES = {
    "loss": "loss",
    "rate": "learning_rate",
    "gradient": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    "memory": "memory_bytes",
}
"""Names of the curves, and of what is logged of each step."""


@dataclass
class ReadLog:
    """What was read of a log."""

    log: RunLog = field(default_factory=RunLog)
    offset: int = 0
    """Bytes from its beginning to the end of its last whole line: what comes after is new."""
    bytes_read: int = 0
    lines: int = 0
    unreadable: int = 0

    @property
    def sampled(self) -> bool:
        """Whether there are lines between those that were read."""
        return self.bytes_read < self.offset

    def take(self, lines: bytes) -> None:
        """Whole lines that follow on those that were taken."""
        events, unreadable = events_in(lines)
        self.log.take(events)
        self.bytes_read += len(lines)
        self.lines += len(events)
        self.unreadable += unreadable


def read_log(file: Path, stretches: int = 1000) -> ReadLog:
    """Read a log, or a sample of it; one that is not there is empty.

    Args:
        stretches: between its beginning and its end.
    """
    read = ReadLog()
    try:
        opened = file.open("rb", buffering=0)
    except FileNotFoundError:
        return read
    with opened:
        number = opened.fileno()
        read.offset = _end_of_lines(number, os.fstat(number).st_size)
        if read.offset <= WHOLE:
            read.take(os.pread(number, read.offset, 0))
        else:
            _read_sample(number, read, stretches)
    return read


def _end_of_lines(number: int, size: int) -> int:
    """Where the last whole line of an open file ends: what is behind it is being written."""
    end = size
    while end:
        start = max(0, end - STRETCH)
        found = os.pread(number, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _read_sample(number: int, read: ReadLog, stretches: int) -> None:
    """Beginning, stretches and end in their order, and the measurements that lie between them."""
    measured = _lines_with(number, MEASURED, read.offset)
    held = next(measured, None)
    step = max(STRETCH, (read.offset - 2 * ENDS) // max(1, stretches))
    places = [(0, ENDS), *((at, STRETCH) for at in range(ENDS, read.offset - ENDS - STRETCH, step))]
    reached = 0
    for at, length in (*places, (read.offset - ENDS, ENDS)):
        begin = max(at, reached)
        start, lines = _whole_lines(number, begin, min(at + length, read.offset) - begin)
        while held is not None and held[0] < start:
            if held[0] >= reached:
                read.take(held[1])
            held = next(measured, None)
        if lines:
            read.take(lines)
            reached = start + len(lines)


def _whole_lines(number: int, at: int, length: int) -> tuple[int, bytes]:
    """Where the first line begins that begins behind `at`, and the whole lines from there."""
    before = 1 if at else 0  # with the byte before, a line that begins at `at` is whole
    found = os.pread(number, length + before, at - before)
    skipped = found.find(b"\n") + 1 if at else 0
    return at - before + skipped, found[skipped : found.rfind(b"\n") + 1]


def _lines_with(number: int, sought: bytes, end: int) -> Iterator[tuple[int, bytes]]:
    """Every line that holds some bytes, with where it begins."""
    start, rest = 0, b""
    while start + len(rest) < end:
        block = rest + os.pread(number, min(SEARCHED, end - start - len(rest)), start + len(rest))
        last = block.rfind(b"\n") + 1
        at = block.find(sought, 0, last)
        while at >= 0:
            line = block.rfind(b"\n", 0, at) + 1
            stop = block.find(b"\n", at) + 1
            yield start + line, block[line:stop]
            at = block.find(sought, stop, last)
        if not last and len(block) > SEARCHED:  # a line longer than any of ours: it is none
            last = len(block)
        start, rest = start + last, block[last:]


def curve_values(read: ReadLog, points: int, training: str | None = None) -> dict[str, Any]:
    """What a page draws.

    Args:
        points: of each curve, at most about so many; of each stretch its lowest and its highest stay.
        training: ``first`` or ``train``; the last one that has begun where it is not given.
    """
    names = [name for name in ("first", "train") if name in read.log.trainings]
    name = training if training in names else (names[-1] if names else None)
    log = read.log.trainings[name] if name else TrainingLog("train")
    held = [(each.step, each.loss) for each in log.held_out if math.isfinite(each.loss)]
    series = {key: _columns(_points(log, column), points) for key, column in SERIES.items()}
    return {
        "trainings": names,
        "training": name,
        "series": series | {"heldout": _columns(held, points)},
        "planned": log.planned,
        "not_finite": sum(not math.isfinite(loss) for loss in log.steps["loss"]),
        "resumed": log.resumed,
        "went_back": [_marked(event, "step", "to", "rate_factor") for event in log.went_back],
        "offset": read.offset,
        "sampled": read.sampled,
        "lines": read.lines,
        "bytes_read": read.bytes_read,
        "unreadable": read.unreadable,
    }


def _points(log: TrainingLog, column: str) -> list[tuple[float, float]]:
    pairs = zip(log.steps["step"], log.steps[column], strict=True)
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def _columns(points: list[tuple[float, float]], limit: int) -> list[list[float]]:
    """Steps and values, each a list, as charts take them."""
    kept = thin(points, limit)
    return [[step for step, _ in kept], [value for _, value in kept]]


def _marked(event: Any, *keys: str) -> dict[str, Any]:
    finite = {key: event[key] for key in keys if is_number(event.get(key)) and math.isfinite(event[key])}
    return finite | {"reason": str(event.get("reason", ""))}
