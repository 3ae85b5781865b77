"""Windows of held-out text: the same bytes for every model, so that figures compare across tokenizers.

The held-out texts stand one behind the other, and windows are cut out of them by bytes. Each is read behind the begin
token (the end token where a tokenizer has none), so that every byte of it is predicted. Where a window does not fit
into the model it is read in several contexts, each behind the last token of the one before; that many are told. So are
characters that a tokenizer drops or folds (unknown, in lower case, NFKC): nobody predicts them, the bits are too few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.evaluate.intervals import ratio_interval
from afina.evaluate.loss import by_length
from afina.evaluate.text_scores import WindowFigures, WindowScores
from afina.model.reader import Reader
from afina.run import hash_value
from afina.text.example import Example, read_examples
from afina.tokenizer.chat import Encoded, Renderer
from afina.tokenizer.encode import Row, cut_blocks
from afina.tokenizer.folding import lost_characters

BETWEEN = "\n\n"
"""Stands between two texts."""
_NONE = Example()


def cut_windows(file: Path, size: int, count: int) -> list[str]:
    """At most `count` windows of the plain texts in a file of a dataset folder, spread evenly; in bounded memory.

    A window has `size` bytes, less those of a character that stands on its edge. Texts that are shorter than one window
    altogether are one.
    """
    total = sum(len(each) for each in _texts(file))
    whole = total // size
    if whole <= 1:
        return [b"".join(_texts(file))[:size].decode(errors="ignore")] if total and count else []
    taken = min(count, whole)
    starts = [number * whole // taken * size for number in range(taken)]
    return [_at_characters(window) for window in _slices(_texts(file), starts, size)]


def _texts(file: Path) -> Iterator[bytes]:
    for example in read_examples(file):
        if not example.messages:
            yield (example.text + BETWEEN).encode()


def _slices(parts: Iterator[bytes], starts: Sequence[int], size: int) -> Iterator[bytes]:
    """``whole[start : start + size]`` for each of `starts`, which ascend, of all parts put together."""
    held, at = b"", 0  # what is held begins at this byte of the whole
    for start in starts:
        while at + len(held) < start + size:
            at, held = (at, held) if at + len(held) > start else (at + len(held), b"")
            held += next(parts)
        held, at = held[max(0, start - at) :], max(at, start)
        yield held[:size]


def _at_characters(window: bytes) -> str:
    """Without the part of a character at either end.

    >>> _at_characters("não é".encode()[2:-1])
    'o '
    """
    return window.decode(errors="ignore")


@dataclass(frozen=True)
class ReadWindows:
    """Windows as one tokenizer cuts them, in contexts that fit into the model."""

    texts: Sequence[str]
    rows: Sequence[Row]
    window_of: Sequence[int]
    """Of each row, which window it belongs to."""
    context: int | None
    lost: int = 0
    """Characters that their tokens do not hold."""

    @classmethod
    def of(cls, texts: Sequence[str], renderer: Renderer, context: int | None) -> ReadWindows:
        """Encode windows.

        Args:
            context: longest row in tokens; None: whatever a window has.
        """
        rows, window_of, lost = [], [], 0
        for number, text in enumerate(texts):
            ids = renderer.completion_prompt(text)
            lost += lost_characters(text, renderer.tokenizer.decode(ids, skip_special_tokens=True))
            ids = ids if renderer.begins_with_bos else [renderer.end_id, *ids]
            whole = Encoded(ids, [False, *[True] * (len(ids) - 1)])
            for block in cut_blocks(whole, context or len(ids)):
                rows.append(Row(block.ids, block.mask, _NONE))
                window_of.append(number)
        return cls(texts, rows, window_of, context, lost)

    @property
    def bytes(self) -> list[int]:
        """Of each window."""
        return [len(text.encode()) for text in self.texts]


def context_of(reader: Reader, trained_at: int | None) -> int | None:
    """The longest context that a model reads, in tokens; None where it sets no limit.

    Args:
        trained_at: longest row that random weights were trained on: positions behind it mean nothing to them.
    """
    limit = reader.context
    return limit if limit is None or trained_at is None else min(limit, trained_at)


def window_bits(reader: Reader, read: ReadWindows, *, pad_id: int, batch_tokens: int) -> tuple[list[float], int]:
    """Bits of each window, and how many tokens are the likeliest at their place."""
    nats, hits = [0.0] * len(read.texts), 0
    for numbers in by_length(read.rows, batch_tokens):
        scores = reader.target_scores([read.rows[number] for number in numbers], pad_id)
        for number, score in zip(numbers, scores, strict=True):
            nats[read.window_of[number]] += math.fsum(score.nats)
            hits += sum(score.hits)
    return [each / math.log(2) for each in nats], hits


def compare_windows(
    read: ReadWindows, before: tuple[Sequence[float], int], after: tuple[Sequence[float], int]
) -> WindowScores:
    """What :func:`window_bits` gave of two models, as figures with their intervals over the windows."""
    sizes, tokens = read.bytes, sum(row.targets for row in read.rows)

    def figures(bits: Sequence[float], hits: int) -> WindowFigures:
        total = math.fsum(bits)
        loss = total * math.log(2) / tokens
        return WindowFigures(total / sum(sizes), loss, hits / tokens, tokens, ratio_interval(bits, sizes))

    one, two = figures(*before), figures(*after)
    gains = [new - old for old, new in zip(before[0], after[0], strict=True)]
    ends = ratio_interval(gains, sizes)
    return WindowScores(
        len(read.texts),
        sum(sizes),
        hash_value(list(read.texts)),
        len(read.rows),
        read.context,
        one,
        two,
        (two.bits_per_byte - one.bits_per_byte, *ends) if ends else None,
        read.lost,
    )
