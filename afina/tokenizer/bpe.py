"""A byte-level BPE trained on the user's own text: bytes are its alphabet, so that nothing is ever unknown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from afina.tokenizer.saving import SPECIAL, Say


def train_bpe(texts: Iterable[str], vocab: int, _: Say) -> Any:
    """A tokenizer of at most `vocab` entries (:data:`~afina.tokenizer.train.TrainOn`); nothing is left out."""
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
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
