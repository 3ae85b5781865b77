"""A vocabulary of single characters: those of the user's own text, the frequent ones first; all others are bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from afina.tokenizer.fallback import FIRST, UNKNOWN, with_fallback
from afina.tokenizer.saving import Say
from afina.units import show_share


def train_characters(texts: Iterable[str], vocab: int, say: Say) -> Any:
    """A tokenizer of the characters that the text has most of, at most `vocab` entries
    (:data:`~afina.tokenizer.train.TrainOn`)."""
    from tokenizers import models

    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    ranked = sorted(counts, key=lambda each: (-counts[each], each))
    kept, rest = ranked[: vocab - len(FIRST)], ranked[vocab - len(FIRST) :]
    if rest:
        share = sum(counts[each] for each in rest) / counts.total()
        say(f"{len(rest)} different characters, {show_share(share)} of the text, have no room and are bytes")
    vocabulary = {piece: number for number, piece in enumerate((*FIRST, *kept))}
    model = models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    return with_fallback(model)
