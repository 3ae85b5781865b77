"""The stage ``tokenizer``, for a model from scratch: trained on the training examples, as they were cleaned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afina.errors import DataError
from afina.recipe.methods import in_words
from afina.text.example import read_examples
from afina.tokenizer.letters import LACKED, LACKED_AT_MOST, LackedLetters
from afina.units import show_share
from afina.walk.context import Context
from afina.whole import whole_folder


def tokenizer_inputs(context: Context) -> dict[str, Any]:
    """What the tokenizer depends on."""
    scratch = context.recipe.scratch
    accepts = LACKED in context.recipe.dataset.accept
    made = {"vocab": scratch.vocab, "kind": scratch.tokenizer, **scratch.folding}
    return {"dataset": context.dataset_hash, **made, "accepts": accepts}


def train_tokenizer(context: Context) -> dict[str, Any]:
    """Write ``tokenizer/``.

    Raises:
        DataError: there is no room for the characters of the text, or the letters of some rows are not among them.
    """
    from afina.tokenizer.train import train_for

    recipe, dataset = context.recipe, context.folder / "dataset"
    with context.open_progress("tokenizer"), whole_folder(context.folder / "tokenizer") as beside:
        texts = dataset_texts(dataset, "train")
        vocab = train_for(recipe, texts, beside, context.tell)
        lacked = _lacked_letters(dataset, beside)
        if lacked.share > LACKED_AT_MOST and LACKED not in recipe.dataset.accept:
            raise DataError(
                f"{LACKED}: {lacked.describe()}",
                "raise `scratch.vocab`, set `scratch.tokenizer: byte-bpe`, or learn from texts like those held out "
                f"(or accept it: dataset.accept: [{LACKED}])",
                "scratch.tokenizer",
            )
    made = {"vocab": vocab, "kind": recipe.scratch.tokenizer, "lacked_letters": lacked.share}
    return made | ({"folded_characters": _folded_share(context)} if recipe.scratch.folding else {})


def _folded_share(context: Context) -> float:
    """Of the characters of all rows, those that are others behind the tokenizer; said."""
    from afina.tokenizer.folding import folds_by, lost_characters, normalizer_of

    normalizer = normalizer_of(context.recipe.scratch)
    assert normalizer is not None
    characters = lost = 0
    for split in ("train", "validation"):
        for text in dataset_texts(context.folder / "dataset", split):
            characters += len(text)
            lost += lost_characters(text, normalizer.normalize_str(text))
    share, what = lost / max(1, characters), in_words(folds_by(normalizer.normalize_str), "and")
    of = f"{lost} of {characters} characters ({show_share(share)})"
    context.tell(f"the tokenizer folds {what}: {of} are others behind it; the model neither reads nor writes them")
    return share


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
