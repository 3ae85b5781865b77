"""A dataset's examples to rows of token ids, with a count of every token.

Long plain texts become consecutive full blocks; a conversation is never cut. The sum holds:
tokens of the examples = tokens in the rows + tokens of what is left out (conversations that the recipe lets drop, texts
of one token without an end).

A training's rows are written to a folder of the run, see :mod:`afina.tokenizer.tokens`; :func:`encode_examples` holds a
few in memory.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from afina.errors import DataError, Problem
from afina.recipe import METHODS, Recipe
from afina.recipe.methods import JUDGED
from afina.run import Progress, no_progress
from afina.text.document import Message, message_texts
from afina.text.example import Example, ExamplePlace
from afina.tokenizer.chat import Encoded, Renderer
from afina.tokenizer.template import NotRendered

BATCH_CHARS = 1 << 17
"""Characters of the examples that are encoded at a time: enough for several cores where texts are sections. A tokenizer
takes hundreds of bytes for each while it works."""


@dataclass(slots=True)
class Row:
    """One row of a batch: ids, the targets among them, and the example that it comes from. Of a preference, that with
    the better answer."""

    ids: list[int]
    mask: list[bool]
    origin: Example | ExamplePlace
    """The example, or where it can be read."""
    learned_bytes: float = 0.0
    """UTF-8 bytes that its targets stand for; a text in several blocks is shared out by targets."""
    rejected: Row | None = None
    """For a preference: the same prompt with the worse answer. Both stand in the same batch."""
    mismatched: Row | None = None
    """For KTO: the same question with another row's answer. It is computed in a batch of its own."""
    reference: tuple[float, ...] | None = None
    """Log-probabilities in nats before training, for a method that needs them: of the better and the worse answer."""

    def __len__(self) -> int:
        """Places that it takes in a batch: its tokens; of a preference twice those of its longer half."""
        if self.mismatched is not None:
            return max(len(self.ids), len(self.mismatched.ids))
        return len(self.ids) if self.rejected is None else 2 * max(len(self.ids), len(self.rejected.ids))

    @property
    def example(self) -> Example:
        """What it was made from."""
        return self.origin if isinstance(self.origin, Example) else self.origin.read()

    @property
    def tokens(self) -> int:
        """Real tokens, of both halves of a preference."""
        return len(self.ids) + (self.rejected.tokens if self.rejected else 0)

    @property
    def targets(self) -> int:
        """Tokens that the loss is taken on."""
        return sum(self.mask) + (self.rejected.targets if self.rejected else 0)


def with_examples(rows: Iterable[Row]) -> Iterator[tuple[Row, Example]]:
    """Rows with the examples that they come from; of neighbours that come from one it is read once. A book is a line of
    the dataset and thousands of rows."""
    place, example = None, Example()
    for row in rows:
        if row.origin != place:
            place, example = row.origin, row.example
        yield row, example


@dataclass(slots=True)
class EncodedCounts:
    """What became of the tokens of a split."""

    tokens: int = 0
    """Tokens of all examples, once each."""
    targets: int = 0
    """Tokens that the loss is taken on, over all rows."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> tokens left out."""
    dropped_examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> places of the examples left out."""
    split: dict[str, list[int]] = field(default_factory=dict)
    """Why conversations became a row for each answer -> how many conversations, and how many rows."""
    thoughts: int = 0
    """Answers learned that have a thought."""
    lost_thoughts: int = 0
    """Of these, the thoughts that the template leaves out."""
    repeated: int = 0
    """Tokens that stand in a row again: the last token of a block opens the next one, as context only."""
    boundary_merges: int = 0
    """Conversations in which prompt and answer would have merged into one token."""

    def leave_out(self, reason: str, where: str, tokens: int) -> None:
        """Count an example without rows."""
        self.dropped[reason] = self.dropped.get(reason, 0) + tokens
        self.dropped_examples.setdefault(reason, []).append(where)


@dataclass(slots=True)
class EncodedSet(EncodedCounts):
    """The same with the rows, in memory or in a tokens folder."""

    rows: Sequence[Row] = ()


class EncodedExample(NamedTuple):
    """A conversation as its stage of training learns it."""

    rows: list[Encoded]
    worse: Encoded | None = None
    """Of a preference: the row of the worse answer, beside the one of the better answer."""
    why: str = ""
    """Why each answer has a row of its own, where the template decided so."""

    @property
    def tokens(self) -> int:
        """Tokens of its rows."""
        return sum(len(row.ids) for row in self.rows) + (len(self.worse.ids) if self.worse else 0)

    @property
    def longest(self) -> int:
        """Tokens of its longest row."""
        return max(len(row.ids) for row in (*self.rows, *([self.worse] if self.worse else [])))


@dataclass(slots=True)
class NotEncoded:
    """Conversations that have no rows, and why."""

    too_long: list[tuple[str, int]] = field(default_factory=list)
    """Place, and tokens of the longest row."""
    refused: dict[str, list[Problem]] = field(default_factory=dict)
    """What the template cannot render -> the problem at each place."""

    def check(self, recipe: Recipe) -> None:
        """
        Raises:
            DataError: some are left out, and the recipe does not let them be dropped; all of them in one error.
        """
        problems: list[Problem] = []
        if self.refused and recipe.dataset.on_not_rendered == "error":
            problems += [_not_rendered(what, found) for what, found in self.refused.items()]
        if self.too_long and recipe.dataset.on_too_long == "error":
            problems.append(_too_long(self.too_long, recipe.train.max_length))
        if problems:
            raise DataError(problems=problems)


class ExampleRows(NamedTuple):
    """The rows of one example, once; training sees them `repeat` times."""

    rows: list[Row]
    repeat: int


def cut_blocks(encoded: Encoded, max_length: int) -> Iterator[Encoded]:
    """Consecutive blocks of at most `max_length` ids; every target of the whole is a target once.

    A block after the first opens with the last id of the one before, as context.

    >>> [block.ids for block in cut_blocks(Encoded([1, 2, 3, 4, 5], [False, True, True, True, True]), 3)]
    [[1, 2, 3], [3, 4, 5]]
    """
    if len(encoded.ids) <= max_length:
        yield encoded
        return
    for start in range(0, len(encoded.ids) - 1, max_length - 1):
        ids, mask = encoded.ids[start : start + max_length], encoded.mask[start : start + max_length]
        yield Encoded(ids, [False, *mask[1:]])


def encode_examples(
    examples: Iterable[Example], renderer: Renderer, recipe: Recipe, progress: Progress = no_progress
) -> EncodedSet:
    """Encode the examples of a split into memory; an example that is seen `repeat` times gives as many rows.

    Raises:
        DataError: as :func:`encode_each`.
    """
    result, found = EncodedSet(), list[Row]()
    for rows, repeat in encode_each(((each, each) for each in examples), renderer, recipe, result, progress):
        found += rows * repeat
    if recipe.train.facts.mismatched:
        mismatch(found, recipe.train.max_length)
    result.rows = found
    return result


def encode_each(
    examples: Iterable[tuple[Example | ExamplePlace, Example]],
    renderer: Renderer,
    recipe: Recipe,
    counts: EncodedCounts,
    progress: Progress = no_progress,
) -> Iterator[ExampleRows]:
    """Encode the examples of a split one after the other, each with what its rows are to refer to.

    Args:
        counts: what is added to.

    Raises:
        DataError: conversations longer than ``train.max_length`` under ``on_too_long: error``, or that the chat
            template cannot render under ``on_not_rendered: error``, all of them in one error, after the last example;
            nothing is ever cut out of a conversation.
    """
    merges_before, left_out, seen = renderer.boundary_merges, NotEncoded(), 0
    for batch in _batches(examples):
        yield from _encode_batch(batch, renderer, recipe, counts, left_out)
        _return_memory()
        seen += len(batch)
        progress(seen, None, "examples encoded")
    left_out.check(recipe)
    counts.boundary_merges = renderer.boundary_merges - merges_before


def _encode_batch(
    batch: Sequence[tuple[Example | ExamplePlace, Example]],
    renderer: Renderer,
    recipe: Recipe,
    counts: EncodedCounts,
    left_out: NotEncoded,
) -> Iterator[ExampleRows]:
    """The rows of a batch's examples; a function of its own, so that nothing of it is kept while the next is encoded.

    Args:
        left_out: takes each conversation that is left out.
    """
    limit = recipe.train.max_length
    plain = [example for _, example in batch if not example.messages]
    places = [f"{example.path}:{example.line}" for example in plain]
    texts = iter(renderer.texts([example.text for example in plain], places))
    _return_memory()
    for origin, example in batch:
        if example.messages:
            made = _encode_or_leave_out(example, renderer, recipe, counts, left_out)
            if made is None:
                continue
        else:
            encoded = next(texts)
            counts.tokens += len(encoded.ids)
            if not encoded.targets:  # nothing follows its one token, where texts have no end
                counts.leave_out("nothing_to_learn", f"{example.path}:{example.line}", len(encoded.ids))
                continue
            made = EncodedExample(list(cut_blocks(encoded, limit)))
            counts.repeated += len(made.rows) - 1
        targets = sum(row.targets for row in made.rows)
        per_target = sum(len(part.encode()) for part in _learned_text(example)) / max(1, targets)
        worse = Row(made.worse.ids, made.worse.mask, origin) if made.worse else None
        rows = [Row(row.ids, row.mask, origin, per_target * row.targets, worse) for row in made.rows]
        counts.targets += example.repeat * sum(row.targets for row in rows)
        yield ExampleRows(rows, example.repeat)


def _encode_or_leave_out(
    example: Example, renderer: Renderer, recipe: Recipe, counts: EncodedCounts, left_out: NotEncoded
) -> EncodedExample | None:
    """A conversation's rows, counted; None where it has none."""
    where = f"{example.path}:{example.line}"
    try:
        made = encode_conversation(example, renderer, recipe)
    except NotRendered as error:
        left_out.refused.setdefault(error.problems[0].what, []).append(error.problems[0])
        counts.leave_out("not_rendered", where, 0)
        return None
    counts.tokens += made.tokens
    if made.longest > recipe.train.max_length:
        left_out.too_long.append((where, made.longest))
        counts.leave_out("too_long", where, made.tokens)
        return None
    if made.why:
        split = counts.split.setdefault(made.why, [0, 0])
        split[0] += 1
        split[1] += len(made.rows)
    counts.thoughts += sum(row.thoughts for row in made.rows)
    counts.lost_thoughts += sum(len(row.lost) for row in made.rows)
    return made


def mismatch(rows: Sequence[Row], limit: int) -> None:
    """Give every rated row the answer of the one before it (the first, that of the last) as well, or of the nearest
    before that answers another question and fits into `limit` tokens. All rows of an example have the same.

    Raises:
        DataError: a row has none.
    """
    rated: list[tuple[str, Row]] = []
    for row in rows:
        if (example := row.example).kind == "rated":
            row.origin = example  # a step asks for its label
            rated.append((example.id, row))
    by_id = dict(rated)
    each = list(by_id.values())
    found: dict[str, Row] = {}
    for number, (name, row) in enumerate(by_id.items()):
        question = row.ids[: row.mask.index(True)]
        for step in range(1, len(each)):
            other = each[number - step]
            start = other.mask.index(True)
            answer, mask = other.ids[start:], other.mask[start:]
            if other.ids[:start] != question and len(question) + len(answer) <= limit:
                ids = question + answer
                found[name] = Row(ids, [False] * len(question) + mask, row.origin)
                break
        else:
            raise DataError(
                "kto compares a question with the answer to another one, and there is none (that would fit into "
                "train.max_length)",
                "give rows of two questions at least, among the held-out ones too (dataset.validation), or raise "
                "train.max_length",
                f"{row.example.path}:{row.example.line}",
            )
    for name, row in rated:
        row.mismatched = found[name]


def encode_conversation(example: Example, renderer: Renderer, recipe: Recipe) -> EncodedExample:
    """A conversation as its stage of training learns it. Of preferences and of rated ones the last answers alone are
    learned.

    Raises:
        NotRendered: the chat template cannot render it.
        DataError: there is no chat template, or a mark is refused.
    """
    where, tools = f"{example.path}:{example.line}", example.tools
    last_only = example.kind in JUDGED
    every_token = not last_only and METHODS[recipe.method_of(example.source, "messages")].every_token
    made = renderer.rows(example.messages, where, tools=tools, last_only=last_only or every_token)
    if example.rejected is not None:
        turns = (*example.messages[:-1], Message(role="assistant", content=example.rejected))
        return EncodedExample(made.rows, renderer.rows(turns, where, tools=tools, last_only=True).rows[0])
    if every_token:
        return EncodedExample([Encoded(row.ids, [False, *[True] * (len(row.ids) - 1)]) for row in made.rows])
    return EncodedExample(made.rows, why=made.why)


def _batches(
    examples: Iterable[tuple[Example | ExamplePlace, Example]],
) -> Iterator[list[tuple[Example | ExamplePlace, Example]]]:
    """So many examples at a time that their texts have :data:`BATCH_CHARS`; conversations are encoded one by one."""
    batch: list[tuple[Example | ExamplePlace, Example]] = []
    chars = 0
    for each in examples:
        batch.append(each)
        chars += len(each[1].text) + sum(len(text) for turn in each[1].messages for text in message_texts(turn))
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _return_memory() -> None:
    """Give what the tokenizer's threads freed back to the system: glibc keeps it for each thread apart, and long texts
    in one thread after another add up (588 MiB after the works of Machado de Assis, 347 MiB with this)."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # musl has none
        trim(0)


def _too_long(places: list[tuple[str, int]], limit: int) -> Problem:
    longest = max(length for _, length in places)
    return Problem(
        f"{len(places)} conversations are longer than train.max_length ({limit} tokens; the longest "
        f"has {longest}), for example " + ", ".join(f"{where} ({n})" for where, n in places[:10]),
        f"set `train.max_length: {longest}`, or `dataset.on_too_long: drop` (they are counted, never cut)",
    )


def _not_rendered(what: str, found: Sequence[Problem]) -> Problem:
    """The same problem of several conversations as one."""
    first, more = found[0], "" if len(found) == 1 else f"{len(found)} conversations: "
    places = [problem.where for problem in found[:10] if problem.where]
    also = f" (at {', '.join(places)}{', ...' if len(found) > 10 else ''})" if more else ""
    return Problem(f"{more}{what}{also}", f"{first.fix}; or `dataset.on_not_rendered: drop` (counted)", first.where)


def _learned_text(example: Example) -> Iterator[str]:
    if example.kind in JUDGED:
        yield example.answer
    elif example.messages:
        answers = [turn for turn in example.messages if turn["role"] == "assistant" and turn.get("learned", True)]
        yield from (text for turn in answers for text in message_texts(turn))
    else:
        yield example.text
