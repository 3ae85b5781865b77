"""The tokenizers that `method: scratch` trains, as facts, without their libraries.

Everything outside of the room ``tokenizer`` asks this table, and no other place compares a tokenizer's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TokenizerKind = Literal["byte-bpe", "bpe", "unigram", "character"]


@dataclass(frozen=True)
class TokenizerFacts:
    """What the walk has to know of a kind of tokenizer."""

    what: str
    chars: Mapping[int, float]
    """Size of the vocabulary -> characters of a token, on held-out Portuguese prose."""

    def chars_per_token(self, vocab: int) -> float:
        """What a token is taken to hold: between two sizes measured, by the logarithm of the size.

        >>> TOKENIZERS["character"].chars_per_token(5000)
        1.0
        """
        sizes = sorted(self.chars)
        if not sizes[0] < vocab < sizes[-1]:
            return self.chars[sizes[0] if vocab <= sizes[0] else sizes[-1]]
        above = next(number for number, size in enumerate(sizes) if size >= vocab)
        low, high = sizes[above - 1], sizes[above]
        share = math.log(vocab / low) / math.log(high / low)
        return self.chars[low] + share * (self.chars[high] - self.chars[low])


_SUBWORDS = {500: 1.8, 1000: 2.4, 2000: 2.8, 4000: 3.1, 8000: 3.4, 16000: 3.7, 32000: 3.9}
"""The three differ by less than 0.1 (LOG.md has the figures)."""

TOKENIZERS: Mapping[TokenizerKind, TokenizerFacts] = {
    "byte-bpe": TokenizerFacts("byte-level BPE", _SUBWORDS),
    "bpe": TokenizerFacts("SentencePiece's BPE, other characters as bytes", _SUBWORDS),
    "unigram": TokenizerFacts("SentencePiece's Unigram, other characters as bytes", _SUBWORDS),
    "character": TokenizerFacts("single characters, others as bytes", {300: 1.0}),
}
