"""A vocabulary of single characters: those of the user's own text, the frequent ones first; all others are bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from afina.tokenizer.fallback import FIRST, UNKNOWN, with_fallback
from afina.tokenizer.folding import folded
from afina.tokenizer.saving import Say, save_tokenizer, silent
from afina.units import show_share


def train_characters(
    texts: Iterable[str],
    vocab: int,
    folder: Path,
    max_length: int,
    say: Say = silent,
    normalizer: Any | None = None,
) -> int:
    """Count the characters of the text and save a tokenizer of at most `vocab` entries in `folder`.

    Args:
        normalizer: what stands before it (:func:`~afina.tokenizer.folding.normalizer_of`).

    Returns:
        The size reached: with fewer different characters that is less than `vocab`.
    """
    from tokenizers import models

    counts = Counter[str]()
    for text in folded(texts, normalizer):
        counts.update(text)
    ranked = sorted(counts, key=lambda each: (-counts[each], each))
    kept, rest = ranked[: vocab - len(FIRST)], ranked[vocab - len(FIRST) :]
    if rest:
        share = sum(counts[each] for each in rest) / counts.total()
        say(f"{len(rest)} different characters, {show_share(share)} of the text, have no room and are bytes")
    vocabulary = {piece: number for number, piece in enumerate((*FIRST, *kept))}
    model = models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    return save_tokenizer(with_fallback(model), vocab, folder, max_length, say, normalizer)
