"""A dataset's examples to rows of token ids, with a count of every token.

Long plain texts become consecutive full blocks; a conversation is never cut. The sum holds:
tokens of the examples = tokens in the rows + tokens of conversations that the recipe lets drop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from afina.errors import DataError, Problem
from afina.recipe import Recipe
from afina.run import Progress, no_progress
from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Encoded, Renderer


@dataclass(slots=True)
class Row:
    """One row of a batch: ids, the targets among them, and the example that it comes from. Of a preference, that with
    the better answer."""

    ids: list[int]
    mask: list[bool]
    example: Example
    learned_bytes: float = 0.0
    """UTF-8 bytes that its targets stand for; a text in several blocks is shared out by targets."""
    rejected: Row | None = None
    """For a preference: the same prompt with the worse answer. Both stand in the same batch."""
    reference: tuple[float, float] | None = None
    """Log-probabilities in nats of the better and the worse answer before training (for DPO)."""

    def __len__(self) -> int:
        """Places that it takes in a batch: its tokens; of a preference twice those of its longer half."""
        return len(self.ids) if self.rejected is None else 2 * max(len(self.ids), len(self.rejected.ids))

    @property
    def tokens(self) -> int:
        """Real tokens, of both halves of a preference."""
        return len(self.ids) + (self.rejected.tokens if self.rejected else 0)

    @property
    def targets(self) -> int:
        """Tokens that the loss is taken on."""
        return sum(self.mask) + (self.rejected.targets if self.rejected else 0)


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
        worse: Encoded | None = None
        if example.messages:
            encoded, *others = encode_conversation(example, renderer, recipe)
            worse = others[0] if others else None
            tokens = len(encoded.ids) + (len(worse.ids) if worse else 0)
            longest = max(len(encoded.ids), len(worse.ids) if worse else 0)
            result.tokens += tokens
            if longest > limit:
                too_long.append((where, longest))
                result.dropped["too_long"] = result.dropped.get("too_long", 0) + tokens
                result.dropped_examples.append(where)
                continue
            blocks = [encoded]
        else:
            encoded = renderer.text(example.text, where)
            result.tokens += len(encoded.ids)
            blocks = list(cut_blocks(encoded, limit))
            result.repeated += len(blocks) - 1
        per_target = sum(len(part.encode()) for part in _learned_text(example)) / max(1, encoded.targets)
        for _ in range(example.repeat):
            for block in blocks:
                rejected = Row(worse.ids, worse.mask, example) if worse else None
                row = Row(block.ids, block.mask, example, per_target * block.targets, rejected)
                result.rows.append(row)
                result.targets += row.targets
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


def encode_conversation(example: Example, renderer: Renderer, recipe: Recipe) -> list[Encoded]:
    """A conversation as its stage of training learns it; a preference as two, the better one first, of which the last
    answers alone are learned."""
    where = f"{example.path}:{example.line}"
    if example.rejected is not None:
        worse = (*example.messages[:-1], Message(role="assistant", content=example.rejected))
        return [renderer.conversation(turns, where, last_only=True) for turns in (example.messages, worse)]
    encoded = renderer.conversation(example.messages, where)
    if recipe.method_of(example.source, "messages") == "sft":
        return [encoded]
    return [Encoded(encoded.ids, [False, *[True] * (len(encoded.ids) - 1)])]


def _learned_text(example: Example) -> Iterator[str]:
    if example.rejected is not None:
        yield example.answer
    elif example.messages:
        yield from (message["content"] for message in example.messages if message["role"] == "assistant")
    else:
        yield example.text
