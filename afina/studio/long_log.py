"""A run's log, however long: what is short is read whole, of what is long a sample.

Up to :data:`WHOLE` bytes are read whole. Of more the beginning, the end and stretches at even distances between them
are read, and every measurement of the held-out rows, which a search finds. What is logged later is read as it comes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from afina.watch.follow import MetricsFollower, events_in

WHOLE = 2**23
"""Bytes that are read whole at once."""
ENDS, STRETCH, STRETCHES = 2**18, 2**13, 1000
"""Of more: bytes of the beginning and of the end, bytes of each stretch between them, and how many there are."""
SEARCHED = 2**18
"""Bytes that are searched at a time: what fits the processor's cache."""
MEASURED = b'"event": "validation"'


class LongLog(MetricsFollower):
    """Follows a log; of what is new and long a sample."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.lines = 0
        """That were read."""
        self.sampled = False
        """Whether there are lines between those that were read."""

    def replaced(self) -> bool:
        """As of every log; then nothing was read."""
        another = super().replaced()
        if another:
            self.lines, self.sampled = 0, False
        return another

    def new_events(self) -> Iterator[list[dict[str, Any]]]:
        """What was logged since the last call, or a sample of it, in its order."""
        try:
            opened = self.file.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with opened:
            end = _end_of_lines(opened, self.offset, os.fstat(opened.fileno()).st_size)
            if end - self.offset > WHOLE:
                for lines in _sample(opened, self.offset, end):
                    events, unreadable = events_in(lines.removesuffix(b"\n"))
                    self.unreadable += unreadable
                    self.lines += len(events)
                    yield events
                self.offset, self.sampled = end, True
        for events in super().new_events():
            self.lines += len(events)
            yield events


def _end_of_lines(opened: FileIO, start: int, end: int) -> int:
    """Where the last whole line of an open file ends: what is behind it is being written. `start` where there is
    none."""
    while end > start:
        before = max(start, end - STRETCH)
        found = _read(opened, before, end - before).rfind(b"\n")
        if found >= 0:
            return before + found + 1
        end = before
    return start


def _read(opened: FileIO, at: int, length: int) -> bytes:
    opened.seek(at)
    return opened.read(length)


def _sample(opened: FileIO, start: int, end: int) -> Iterator[bytes]:
    """Beginning, stretches and end of a part of a file in their order, and the measurements between them: whole
    lines, none of them twice.

    Args:
        start, end: of the part; both lie between two lines.
    """
    measured = _lines_with(opened, MEASURED, start, end)
    held = next(measured, None)
    apart = max(STRETCH, (end - start - 2 * ENDS) // STRETCHES)
    between = ((at, STRETCH) for at in range(start + ENDS, end - ENDS - STRETCH, apart))
    reached = start
    for at, length in ((start, ENDS), *between, (max(start, end - ENDS), ENDS)):
        begin = max(at, reached)
        line, lines = _whole_lines(opened, begin, min(at + length, end) - begin, first=start)
        while held is not None and held[0] < line:
            if held[0] >= reached:
                yield held[1]
            held = next(measured, None)
        if lines:
            yield lines
            reached = line + len(lines)


def _whole_lines(opened: FileIO, at: int, length: int, first: int) -> tuple[int, bytes]:
    """Where the first line begins that begins at `at` or behind it, and the whole lines from there.

    Args:
        first: where a line is known to begin, and nothing before is looked at.
    """
    before = 1 if at > first else 0  # with the byte before, a line that begins at `at` is seen to
    found = _read(opened, at - before, max(0, length) + before)
    skipped = found.find(b"\n") + 1 if before else 0
    return at - before + skipped, found[skipped : found.rfind(b"\n") + 1]


def _lines_with(opened: FileIO, sought: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Every line of a part of a file that holds some bytes, with where it begins. All of the part goes through one
    buffer: to make a new one for each block takes longer than to search it."""
    block, kept = bytearray(SEARCHED), 0
    while start + kept < end:
        if kept == len(block):  # a longer line than a block
            block += bytes(len(block))
        opened.seek(start + kept)
        with memoryview(block) as whole, whole[kept : kept + end - start - kept] as free:
            filled = kept + (opened.readinto(free) or 0)
        last = block.rfind(b"\n", 0, filled) + 1
        at = block.find(sought, 0, last)
        while at >= 0:
            line = block.rfind(b"\n", 0, at) + 1
            stop = block.find(b"\n", at) + 1
            yield start + line, bytes(block[line:stop])
            at = block.find(sought, stop, last)
        if filled == kept:  # it has become shorter meanwhile
            return
        start, kept = start + last, filled - last
        block[:kept] = block[last:filled]
