"""A dataset's examples to rows of token ids, with a count of every token.

Long plain texts become consecutive full blocks; a conversation is never cut. The sum holds:
tokens of the examples = tokens in the rows + tokens of conversations that the recipe lets drop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from afina.dataset.example import Example
from afina.errors import DataError, Problem
from afina.recipe import Recipe
from afina.run import Progress, no_progress
from afina.tokenizer.chat import Encoded, Renderer


@dataclass(slots=True)
class Row:
    """One row of a batch: ids, the targets among them, and the example that it comes from."""

    ids: list[int]
    mask: list[bool]
    example: Example
    learned_bytes: float = 0.0
    """UTF-8 bytes that its targets stand for; a text in several blocks is shared out by targets."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(slots=True)
class EncodedSet:
    """All rows of a split, and what became of its tokens."""

    rows: list[Row] = field(default_factory=list)
    tokens: int = 0
    """Tokens of all examples, once each."""
    targets: int = 0
    """Tokens that the loss is taken on, over all rows."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> tokens left out."""
    dropped_examples: list[str] = field(default_factory=list)
    repeated: int = 0
    """Tokens that stand in a row again: the last token of a block opens the next one, as context only."""
    boundary_merges: int = 0


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
    """Encode the examples of a split; an example that is seen `repeat` times gives as many rows.

    Raises:
        DataError: conversations longer than ``train.max_length`` under ``on_too_long: error``, all of
            them in one error; nothing is ever cut out of a conversation.
    """
    result, too_long, limit = EncodedSet(), [], recipe.train.max_length
    for number, example in enumerate(examples, start=1):
        where = f"{example.path}:{example.line}"
        if example.messages:
            encoded = _conversation(example, renderer, recipe, where)
            result.tokens += len(encoded.ids)
            if len(encoded.ids) > limit:
                too_long.append((where, len(encoded.ids)))
                result.dropped["too_long"] = result.dropped.get("too_long", 0) + len(encoded.ids)
                result.dropped_examples.append(where)
                continue
            blocks = [encoded]
        else:
            encoded = renderer.text(example.text)
            result.tokens += len(encoded.ids)
            blocks = list(cut_blocks(encoded, limit))
            result.repeated += len(blocks) - 1
        per_target = sum(len(part.encode()) for part in _learned_text(example)) / max(1, encoded.targets)
        for _ in range(example.repeat):
            for block in blocks:
                result.rows.append(Row(block.ids, block.mask, example, per_target * block.targets))
                result.targets += block.targets
        if number % 500 == 0:
            progress(number, None, "examples encoded")
    if too_long and recipe.dataset.on_too_long == "error":
        longest = max(length for _, length in too_long)
        raise DataError(
            problems=[
                Problem(
                    f"{len(too_long)} conversations are longer than train.max_length ({limit} tokens; the longest "
                    f"has {longest}), for example " + ", ".join(f"{where} ({n})" for where, n in too_long[:10]),
                    f"set train.max_length to {longest}, or dataset.on_too_long: drop (they are counted, never cut)",
                )
            ]
        )
    result.boundary_merges = renderer.boundary_merges
    return result


def _conversation(example: Example, renderer: Renderer, recipe: Recipe, where: str) -> Encoded:
    encoded = renderer.conversation(example.messages, where)
    if recipe.train.method == "sft":
        return encoded
    return Encoded(encoded.ids, [False, *[True] * (len(encoded.ids) - 1)])


def _learned_text(example: Example) -> Iterator[str]:
    if example.messages:
        yield from (message["content"] for message in example.messages if message["role"] == "assistant")
    else:
        yield example.text
