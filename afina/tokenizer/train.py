"""Tokenizers of the user's own text, one module a family; each is saved as transformers saves one, and its way back
gives every text, less what the recipe folds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from afina.recipe import Recipe, TokenizerKind
from afina.tokenizer.bpe import train_bpe
from afina.tokenizer.characters import train_characters
from afina.tokenizer.folding import folded, normalizer_of
from afina.tokenizer.saving import Say, save_tokenizer, silent
from afina.tokenizer.sentencepiece_model import train_merges, train_unigram

TrainOn = Callable[[Iterable[str], int, Say], Any]
"""What is a kind's own: given texts as they are to be read, how many entries at most, and whom to tell what it leaves
out, it makes a tokenizer of the library ``tokenizers`` whose first entries are :data:`~afina.tokenizer.saving.SPECIAL`.
"""

TRAINED_BY: Mapping[TokenizerKind, TrainOn] = {
    "byte-bpe": train_bpe,
    "bpe": train_merges,
    "unigram": train_unigram,
    "character": train_characters,
}


def train_for(recipe: Recipe, texts: Iterable[str], folder: Path, say: Say) -> int:
    """Train the tokenizer of a recipe's `scratch`, and save it in a folder.

    Returns:
        The entries reached.

    Raises:
        DataError: the text gives no tokenizer.
    """
    scratch = recipe.scratch
    return train_tokenizer(
        scratch.tokenizer, texts, scratch.vocab, folder, recipe.train.max_length, say, normalizer_of(scratch)
    )


def train_tokenizer(
    kind: TokenizerKind,
    texts: Iterable[str],
    vocab: int,
    folder: Path,
    max_length: int,
    say: Say = silent,
    normalizer: Any | None = None,
) -> int:
    """Train a tokenizer of a kind on texts, folded as it will fold them, and save it in a folder.

    Args:
        vocab: entries at most.
        max_length: tokens, noted as the longest that a model of it takes.
        normalizer: what folds (:func:`~afina.tokenizer.folding.normalizer_of`); it goes along.

    Returns:
        The entries reached; with little text fewer than `vocab`.

    Raises:
        DataError: the text gives no tokenizer.
    """
    made = TRAINED_BY[kind](folded(texts, normalizer), vocab, say)
    return save_tokenizer(made, vocab, folder, max_length, say, normalizer)
