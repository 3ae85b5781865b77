"""The stage ``tokenizer``, for a model from scratch: trained on the training examples, as they were cleaned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afina.errors import DataError
from afina.run import whole_folder
from afina.text.example import read_examples
from afina.tokenizer.letters import LACKED, LACKED_AT_MOST, LackedLetters
from afina.walk.context import Context


def tokenizer_inputs(context: Context) -> dict[str, Any]:
    """What the tokenizer depends on."""
    scratch = context.recipe.scratch
    accepts = LACKED in context.recipe.dataset.accept
    return {"dataset": context.dataset_hash, "vocab": scratch.vocab, "kind": scratch.tokenizer, "accepts": accepts}


def train_tokenizer(context: Context) -> dict[str, Any]:
    """Write ``tokenizer/``.

    Raises:
        DataError: there is no room for the characters of the text, or the letters of some rows are not among them.
    """
    from afina.tokenizer.train import TRAINED_BY

    recipe, dataset = context.recipe, context.folder / "dataset"
    scratch = recipe.scratch
    with context.open_progress("tokenizer"), whole_folder(context.folder / "tokenizer") as beside:
        texts = dataset_texts(dataset, "train")
        vocab = TRAINED_BY[scratch.tokenizer](texts, scratch.vocab, beside, recipe.train.max_length, context.tell)
        lacked = _lacked_letters(dataset, beside)
        if lacked.share > LACKED_AT_MOST and LACKED not in recipe.dataset.accept:
            raise DataError(
                f"{LACKED}: {lacked.describe()}",
                "raise `scratch.vocab`, set `scratch.tokenizer: byte-bpe`, or learn from texts like those held out "
                f"(or accept it: dataset.accept: [{LACKED}])",
                "scratch.tokenizer",
            )
    return {"vocab": vocab, "kind": scratch.tokenizer, "lacked_letters": lacked.share}


def dataset_texts(dataset: Path, split: str) -> Iterator[str]:
    """The texts of a split's examples, and what is said in its conversations."""
    for example in read_examples(dataset / f"{split}.jsonl"):
        yield from [example.text] if example.text else [turn["content"] for turn in example.messages]


def _lacked_letters(dataset: Path, folder: Path) -> LackedLetters:
    """Of all rows, the held-out ones among them, what the tokenizer in a folder has no piece for."""
    from afina.tokenizer.load import open_tokenizer
    from afina.tokenizer.pieces import read_tokenizer

    lacked = LackedLetters(read_tokenizer(open_tokenizer(folder), str(folder)))
    for split in ("train", "validation") if lacked.table.has_fallback else ():
        for text in dataset_texts(dataset, split):
            lacked.add(text)
    return lacked
