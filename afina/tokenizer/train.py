"""Tokenizers of the user's own text, one module a family; each is saved as transformers saves one, and its way back
gives every text, less what the recipe folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from afina.recipe import Recipe, TokenizerKind
from afina.tokenizer.bpe import train_bpe
from afina.tokenizer.characters import train_characters
from afina.tokenizer.folding import normalizer_of
from afina.tokenizer.saving import Say
from afina.tokenizer.sentencepiece_model import train_merges, train_unigram


class TrainOn(Protocol):
    """How a kind is trained."""

    def __call__(
        self,
        texts: Iterable[str],
        vocab: int,
        folder: Path,
        max_length: int,
        say: Say = ...,
        normalizer: Any | None = ...,
    ) -> int:
        """Train on texts and save in a folder; the entries reached, `vocab` at most."""


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
    train = TRAINED_BY[scratch.tokenizer]
    return train(texts, scratch.vocab, folder, recipe.train.max_length, say, normalizer_of(scratch))
