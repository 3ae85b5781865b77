"""The stage ``tokenizer``, for a model from scratch: byte-pair merges of the training examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from afina.run import whole_folder
from afina.text.example import read_examples
from afina.walk.context import Context


def tokenizer_inputs(context: Context) -> dict[str, Any]:
    """What the tokenizer depends on."""
    return {"dataset": context.dataset_hash, "vocab": context.recipe.scratch.vocab}


def train_tokenizer(context: Context) -> dict[str, Any]:
    """Write ``tokenizer/``."""
    from afina.tokenizer.bpe import train_bpe

    recipe = context.recipe

    def texts() -> Iterator[str]:
        for example in read_examples(context.folder / "dataset/train.jsonl"):
            yield from [example.text] if example.text else [turn["content"] for turn in example.messages]

    with context.open_progress("tokenizer"), whole_folder(context.folder / "tokenizer") as beside:
        return {"vocab": train_bpe(texts(), recipe.scratch.vocab, beside, recipe.train.max_length)}
