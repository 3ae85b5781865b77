"""An audit's look at its rows, a chunk at a time: in this process, or in others beside it.

    examples ──> chunks ──> SplitAudit and RowBlock of each ──> put together in the order of the rows

What is seen of a chunk follows from its rows alone, and what only neighbours show is joined where chunks meet. So the
findings are the same, however many processes looked.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from afina.dataset.audit.row_table import RowBlock
from afina.dataset.audit.split_audit import LearnedOrHeldOut, SplitAudit
from afina.dataset.processes import in_processes
from afina.machine import usable_processors
from afina.text.example import Example

CHUNK_ROWS, CHUNK_CHARS = 500, 1 << 20
"""Rows of a chunk; fewer where they are long."""
FEWEST_ROWS = 10_000
"""So many rows are looked at before other processes start: for fewer they would take more time than they save."""

Seen = tuple[SplitAudit, RowBlock]
Chunk = tuple[LearnedOrHeldOut, list[Example]]
"""Rows of one split."""


def look_at(split: LearnedOrHeldOut, expected: str, examples: Sequence[Example]) -> Seen:
    """What one chunk of a split shows."""
    seen = SplitAudit(split, expected)
    for example in examples:
        seen.add(example)
    return seen, RowBlock(examples)


def look_along(
    splits: Iterable[tuple[LearnedOrHeldOut, Iterable[Example]]],
    expected: str = "",
    workers: int | None = None,
) -> Iterator[Seen]:
    """What each chunk shows, in order; memory holds a few chunks, however many there are.

    Args:
        splits: each with its rows.
        expected: the recipe's language.
        workers: processes; None takes one per processor, and no more than a container grants. Each is started anew
            (spawned), so a script that audits more than 10,000 rows needs ``if __name__ == "__main__":``.

    Raises:
        AfinaError: the process that looks at one chunk was killed each time it was begun.
    """
    if workers is None:
        workers = usable_processors()
    chunks = ((split, chunk) for split, examples in splits for chunk in _chunks(examples))
    rows = 0
    for split, chunk in chunks:
        rows += len(chunk)
        if workers == 1 or rows <= FEWEST_ROWS:
            yield look_at(split, expected, chunk)
            continue
        rest = chain([(split, chunk)], chunks)
        yield from in_processes(
            partial(_look_elsewhere, expected), rest, workers, where=_place, initializer=_leave_interrupts
        )


def _look_elsewhere(expected: str, chunk: Chunk) -> Seen:
    split, examples = chunk
    return look_at(split, expected, examples)


def _place(chunk: Chunk) -> str:
    first = chunk[1][0]
    return f"{first.path}:{first.line}"


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    chars = 0
    for example in examples:
        chunk.append(example)
        chars += len(example.text) + sum(len(message["content"]) for message in example.messages)
        if len(chunk) == CHUNK_ROWS or chars >= CHUNK_CHARS:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


def _leave_interrupts() -> None:
    """Ctrl-C is for the process that reads; it ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
