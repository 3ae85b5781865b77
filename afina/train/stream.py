"""How a recurrent model reads: one stream of all documents, in which every token is predicted once per epoch.

    documents, shuffled ── one ring of N tokens ── B lanes of N / B, read side by side ── windows of T tokens

A lane is a stretch of the ring, read from its beginning to its end: each micro-batch is the next T tokens of every
lane, and what the model kept of those before is carried on (truncated back-propagation through time, T =
`train.max_length`, B = `train.batch_tokens // train.max_length`). The gradient of a window does not reach into the one
before. A lane begins with an empty state, which is so B times per epoch.

Nothing is dropped: lanes differ by one token at most, and the last window of an epoch is as long as what is left. The
token before the first one of a lane stands in the lane before; before the first lane that is the last token of the
ring, the end token of a document.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from afina.recipe import Train
from afina.text.example import ExamplePlace
from afina.tokenizer.encode import Row
from afina.tokenizer.tokens import TokenRows

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class Window(Row):
    """The next tokens of a lane as a row: one token before them as context, and all of them targets. `origin` is the
    document that the first of them stands in."""

    lane: int = 0
    begins: bool = False
    """Whether nothing of the lane was read before."""

    @property
    def tokens(self) -> int:
        """Those that are read: the last one only as a target, the one before the window instead."""
        return len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class _Ring:
    """The rows of an epoch in their order, and how many tokens of the ring stand before each."""

    epoch: int
    rows_R: NDArray[Any]
    before_R: NDArray[Any]


class Stream(Sequence[Window]):
    """The windows of every epoch, one after the other; each is made when it is asked for.

    Args:
        rows: of a tokens folder; consecutive blocks of a text are one document again.
    """

    def __init__(self, rows: TokenRows, settings: Train, seed: int) -> None:
        import numpy as np

        self.rows, self.seed, self.epochs, self.steps = rows, seed, math.ceil(settings.epochs), settings.max_length
        start, length, example = (rows.rows[name].astype(np.int64) for name in ("start", "length", "example"))
        follows: NDArray[Any] = np.zeros(len(start), bool)
        follows[1:] = (example[1:] == example[:-1]) & (start[1:] == start[:-1] + length[:-1])
        follows[1:] &= rows.ids[start[1:]] == rows.ids[start[1:] - 1]
        # A block opens with the last token of the one before it.
        self._starts, self._lengths = start + follows, length - follows
        self._documents = np.split(np.arange(len(start)), np.flatnonzero(~follows)[1:])
        self.tokens = int(self._lengths.sum())
        self.lanes = max(1, min(settings.lanes, self.tokens))
        self._each, self._longer = divmod(self.tokens, self.lanes)
        self.windows = -(-self.tokens // (self.lanes * self.steps))
        self._ring: _Ring | None = None

    def __len__(self) -> int:
        """The numbers of the windows are below it; of the last window of an epoch some lanes may have none."""
        return self.epochs * self.windows * self.lanes

    @overload
    def __getitem__(self, number: int) -> Window: ...
    @overload
    def __getitem__(self, number: slice) -> list[Window]: ...
    def __getitem__(self, number: int | slice) -> Window | list[Window]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        (epoch, window), lane = divmod(number // self.lanes, self.windows), number % self.lanes
        first = lane * self._each + min(lane, self._longer)
        end = first + self._each + (lane < self._longer)
        start = first + window * self.steps
        if start >= end:
            raise IndexError(number)
        ring = self._ring_of(epoch)
        context = self._read(ring, start - 1, start) if start else self._read(ring, self.tokens - 1, self.tokens)
        ids = context + self._read(ring, start, min(start + self.steps, end))
        place = ExamplePlace(self.rows.examples, int(self.rows.rows["example"][ring.rows_R[self._at(ring, start)]]))
        return Window(ids, [False, *[True] * (len(ids) - 1)], place, lane=lane, begins=not window)

    def epoch(self, epoch: int) -> list[range]:
        """The windows of an epoch as micro-batches, each the next one of every lane that has one left."""
        micro_batches = []
        for window in range(self.windows):
            first = (epoch * self.windows + window) * self.lanes
            lanes = self.lanes if window * self.steps < self._each else self._longer
            micro_batches.append(range(first, first + lanes))
        return micro_batches

    def _read(self, ring: _Ring, start: int, end: int) -> list[int]:
        """Token ids at these places of the ring."""
        ids: list[int] = []
        while start < end:
            at = self._at(ring, start)
            row, inside = ring.rows_R[at], start - int(ring.before_R[at])
            first = int(self._starts[row]) + inside
            found = self.rows.ids[first : first + min(end - start, int(self._lengths[row]) - inside)].tolist()
            ids += found
            start += len(found)
        return ids

    def _at(self, ring: _Ring, place: int) -> int:
        """Which row of the ring holds a place of it."""
        return int(ring.before_R.searchsorted(place, "right")) - 1

    def _ring_of(self, epoch: int) -> _Ring:
        """The documents in the order of an epoch, which follows from the seed alone; the last one asked for is kept."""
        import numpy as np

        if self._ring is None or self._ring.epoch != epoch:
            order = list(range(len(self._documents)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            rows_R = np.concatenate([self._documents[number] for number in order])
            lengths_R = self._lengths[rows_R]
            self._ring = _Ring(epoch, rows_R, np.cumsum(lengths_R) - lengths_R)
        return self._ring
