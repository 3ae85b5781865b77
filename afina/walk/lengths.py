"""How long the examples are and into which micro-batches they fall: what a plan of time and memory needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from afina.plan.tokens import ESTIMATE_SPREAD, ProseCount, TokenCount, chars_per_token, stream_count
from afina.recipe import Recipe
from afina.text.document import message_texts
from afina.text.example import read_examples
from afina.text.prose_question import CHOICES, ProseQuestion
from afina.train.batches import plan_epoch


def count_micro_batches(
    lengths: Sequence[int],
    targets: Sequence[int],
    held_out: int,
    recipe: Recipe,
    *,
    spread: float = 1.0,
    batch_tokens: int | None = None,
) -> TokenCount:
    """A :class:`TokenCount` from the tokens and the learned tokens of every row, grouped as training groups them.

    >>> from afina.recipe import Recipe, Source
    >>> recipe = Recipe(name="x", sources=[Source(path="a")], base="b", train={"batch_tokens": 16})
    >>> found = count_micro_batches([8, 6, 4], [4, 3, 2], 0, recipe)
    >>> found.tokens, found.padded, found.micro_batches, found.largest_batch
    (18, 20, 2, 12)
    """
    size = batch_tokens or recipe.train.batch_tokens
    batches = plan_epoch(lengths, batch_tokens=size, seed=recipe.seed, epoch=0) if lengths else []
    padded = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
    learned = [sum(targets[row] for row in batch) for batch in batches]
    return TokenCount(
        tokens=sum(lengths),
        targets=sum(targets),
        rows=len(lengths),
        longest=max(lengths, default=0),
        held_out=held_out,
        spread=spread,
        padded=sum(padded),
        micro_batches=len(batches),
        largest_batch=max(padded, default=None),
        largest_targets=max(learned, default=None),
    )


def estimate_lengths(folder: Path, recipe: Recipe) -> TokenCount | None:
    """The same from the characters of a dataset that is already built; none where there is none.

    A conversation's turns of the assistant are what is learned of it, a text whole; texts longer than
    `train.max_length` become blocks, as in training.
    """
    if recipe.train.first or recipe.train.facts.judged or not (folder / "train.jsonl").is_file():
        return None  # judged answers and two stages are counted when the rows are encoded
    each = chars_per_token(recipe)
    lengths: list[int] = []
    targets: list[int] = []
    whole = recipe.train.facts.every_token
    for text, answers in _characters(folder / "train.jsonl"):
        tokens, learned = max(2, round(text / each)), round((text if whole or not answers else answers) / each)
        while tokens > recipe.train.max_length:
            lengths.append(recipe.train.max_length)
            targets.append(min(learned, recipe.train.max_length))
            tokens, learned = tokens - recipe.train.max_length, max(0, learned - recipe.train.max_length)
        lengths.append(max(2, tokens))
        targets.append(learned)
    held_out = sum(round(text / each) for text, _ in _characters(folder / "validation.jsonl"))
    spread = 1 + (ESTIMATE_SPREAD - 1) / 2
    if recipe.reads_stream:
        return stream_count(sum(lengths), held_out, recipe.train, spread=spread)
    counted = count_micro_batches(lengths, targets, held_out, recipe, spread=spread)
    return replace(counted, prose=count_prose(folder, recipe))


def count_prose(folder: Path, recipe: Recipe) -> ProseCount:
    """The questions about prose that will be asked of a dataset that is built, with the lengths of their sentences."""
    if not recipe.asks_prose:
        return ProseCount()
    from afina.evaluate.prose import choose_prose

    asked = choose_prose(folder, recipe.evaluate.questions)
    choices = [*asked.choice, *asked.control]
    free = len(asked.free) + len(asked.changes)
    read = sum(map(_characters_of_choice, choices)) / chars_per_token(recipe)
    return ProseCount(len(choices), free, read / len(choices)) if choices else ProseCount(free=free)


def _characters_of_choice(question: ProseQuestion) -> int:
    """What the sentences share is read once: the question, and what stands before the gap. Each term is read once more,
    as the answer to a request of some 40 characters."""
    before = max(0, question.right.find(question.gap))
    apart = len(question.right) - before + len(question.gap) + 40
    return len(question.prompt) + before + CHOICES * apart


def _characters(file: Path) -> list[tuple[int, int]]:
    """(all characters, the assistant's) of each example."""
    found: list[tuple[int, int]] = []
    if not file.is_file():
        return found
    for example in read_examples(file):
        if example.messages:
            turns = [(turn, sum(map(len, message_texts(turn))) + 12) for turn in example.messages]
            answers = sum(n for turn, n in turns if turn["role"] == "assistant" and turn.get("learned", True))
            offered = len(json.dumps(example.tools, ensure_ascii=False)) if example.tools else 0
            found.append((offered + sum(n for _, n in turns), answers))
        else:
            found.append((len(example.text), 0))
    return found
