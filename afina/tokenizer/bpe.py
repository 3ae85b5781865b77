"""A byte-level BPE trained on the user's own text: bytes are its alphabet, so that nothing is ever unknown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from afina.tokenizer.folding import folded
from afina.tokenizer.saving import SPECIAL, Say, save_tokenizer, silent


def train_bpe(
    texts: Iterable[str],
    vocab: int,
    folder: Path,
    max_length: int,
    say: Say = silent,
    normalizer: Any | None = None,
) -> int:
    """Train a tokenizer of at most `vocab` entries and save it in `folder`.

    Args:
        normalizer: what stands before it (:func:`~afina.tokenizer.folding.normalizer_of`).

    Returns:
        The size reached; with little text that is less than `vocab`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(folded(texts, normalizer), trainer)
    return save_tokenizer(tokenizer, vocab, folder, max_length, say, normalizer)
