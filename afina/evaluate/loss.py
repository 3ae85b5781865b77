"""Held-out loss: nats per target token, and bits per byte, which compares across tokenizers; and held-out pairs."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any

from afina.model.reader import Reader
from afina.score.paired import ratio_difference
from afina.tokenizer.encode import Row, with_examples


@dataclass(frozen=True)
class LossScore:
    """Mean loss in nats per target token, over `tokens` targets that stand for `utf8_bytes` bytes."""

    loss: float
    tokens: int
    utf8_bytes: int = 0

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float | None:
        """loss x tokens / (bytes x ln 2); None where the bytes are not known.

        >>> LossScore(loss=math.log(2), tokens=8, utf8_bytes=4).bits_per_byte
        2.0
        """
        return self.loss * self.tokens / (self.utf8_bytes * math.log(2)) if self.utf8_bytes else None

    @property
    def figures(self) -> dict[str, Any]:
        """What ``metrics.jsonl`` notes of it while training."""
        return {"loss": self.loss, "bits_per_byte": self.bits_per_byte}

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


def by_length(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of rows of like length, as many at a time as `batch_tokens` padded tokens hold, one at least."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= batch_tokens:
            end += 1
        yield order[start:end]
        start = end


def held_out_loss(reader: Reader, rows: Sequence[Row], *, pad_id: int, batch_tokens: int) -> LossScore:
    """Mean loss over the targets of `rows`, whatever the batches."""
    total, targets = 0.0, 0
    for numbers in by_length(rows, batch_tokens):
        batch = [rows[number] for number in numbers]
        total += reader.summed_loss(batch, pad_id)
        targets += sum(row.targets for row in batch)
    return LossScore(
        loss=total / max(1, targets), tokens=targets, utf8_bytes=round(sum(row.learned_bytes for row in rows))
    )


@dataclass(frozen=True)
class PairScore:
    """How a model tells better from worse answers. Each answer's log-probability is a mean over its tokens, so that
    its length alone does not decide."""

    pairs: int
    accuracy: float
    """Share of the pairs whose better answer is the likelier one."""
    margin: float
    """Mean log-probability of the better answers less that of the worse ones, in nats per token."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def held_out_pairs(reader: Reader, rows: Sequence[Row], *, pad_id: int, batch_tokens: int) -> PairScore:
    """Which of better and worse answers are likelier.

    Rows are all preferences, or all rated. Of rated ones every good answer makes a pair with every bad one, and the
    margin is the difference of the means of both sides; a side without rows counts as 0.
    """
    return judged_means(reader, rows, pad_id=pad_id, batch_tokens=batch_tokens).score()


@dataclass(frozen=True)
class JudgedMeans:
    """Mean log-probability of judged answers over their tokens, in nats."""

    gains: list[float]
    """Of preferences, each better answer's less the worse one's."""
    good: list[float]
    """Of rated answers, the good ones'."""
    bad: list[float]

    def score(self) -> PairScore:
        """See :func:`held_out_pairs`."""
        if not self.good and not self.bad:
            pairs = len(self.gains)
            right = sum(gain > 0 for gain in self.gains)
            return PairScore(pairs, right / max(1, pairs), math.fsum(self.gains) / max(1, pairs))
        ordered, pairs = sorted(self.bad), len(self.good) * len(self.bad)
        right = sum(bisect_left(ordered, mean) for mean in self.good)
        return PairScore(pairs, right / max(1, pairs), _mean(self.good) - _mean(self.bad))

    def near(self, limit: float) -> int:
        """Pairs whose answers are nearer to each other than so many nats a token.

        >>> JudgedMeans([], [-1.0, -3.0], [-1.1, -2.0]).near(0.2), JudgedMeans([0.05, -2.0], [], []).near(0.2)
        (1, 1)
        """
        ordered = sorted(self.bad)
        return sum(abs(gain) <= limit for gain in self.gains) + sum(
            bisect_right(ordered, mean + limit) - bisect_left(ordered, mean - limit) for mean in self.good
        )


def judged_means(reader: Reader, rows: Sequence[Row], *, pad_id: int, batch_tokens: int) -> JudgedMeans:
    """Of rows that are all preferences, or all rated."""
    found = JudgedMeans([], [], [])
    for numbers in by_length(rows, batch_tokens):
        batch = [rows[number] for number in numbers]
        means = [nats / targets for nats, targets in reader.log_probs(batch, pad_id)]
        if batch[0].rejected:
            found.gains.extend(a - b for a, b in zip(means[: len(batch)], means[len(batch) :], strict=True))
        else:
            for row, mean in zip(batch, means, strict=True):
                (found.good if row.example.label else found.bad).append(mean)
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / max(1, len(values))


@dataclass(frozen=True, slots=True)
class RowLoss:
    """Summed nats of one row: over its answer's tokens (or what else is learned), and over all but the first."""

    learned: float
    learned_tokens: int
    all: float
    all_tokens: int


def row_losses(reader: Reader, rows: Sequence[Row], *, pad_id: int, batch_tokens: int) -> list[RowLoss]:
    """The losses of each row, in the order of the rows."""
    found: list[RowLoss | None] = [None] * len(rows)
    for numbers in by_length(rows, batch_tokens):
        whole = [replace(rows[number], mask=[False, *[True] * (len(rows[number]) - 1)]) for number in numbers]
        for number, (nats, _) in zip(numbers, reader.target_scores(whole, pad_id), strict=True):
            learned = list(compress(nats, rows[number].mask[1:]))
            found[number] = RowLoss(math.fsum(learned), len(learned), math.fsum(nats), len(nats))
    return [each for each in found if each is not None]


def mean_loss(rows: Sequence[Row], losses: Sequence[RowLoss]) -> LossScore | None:
    """What :func:`held_out_loss` gives of rows whose losses are there; None of no rows."""
    if not rows:
        return None
    tokens = sum(each.learned_tokens for each in losses)
    nats = math.fsum(each.learned for each in losses)
    return LossScore(nats / max(1, tokens), tokens, round(sum(row.learned_bytes for row in rows)))


def compare_losses(rows: Sequence[Row], before: Sequence[RowLoss], after: Sequence[RowLoss]) -> dict[str, Any]:
    """Two models' losses on the same rows as plain values: on what is learned (answers) and on all tokens.

    The interval of the difference, in nats per token, is a paired bootstrap over the rows.
    """
    learned_bytes = sum(row.learned_bytes for row in rows)
    all_bytes = sum(
        sum(len(turn["content"].encode()) for turn in example.messages) if example.messages else row.learned_bytes
        for row, example in with_examples(rows)
    )
    out = {}
    for name, utf8_bytes in (("learned", learned_bytes), ("all", all_bytes)):
        sums = [[getattr(each, name) for each in side] for side in (before, after)]
        tokens = [getattr(each, f"{name}_tokens") for each in after]
        scores = [LossScore(sum(nats) / max(1, sum(tokens)), sum(tokens), round(utf8_bytes)) for nats in sums]
        out[name] = {
            "before": scores[0].as_json(),
            "after": scores[1].as_json(),
            "difference": ratio_difference(sums[0], sums[1], tokens).as_json(),
        }
    return out
