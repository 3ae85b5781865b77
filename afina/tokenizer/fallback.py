"""Vocabularies with byte fallback, as the library ``tokenizers`` has them: the way back gives every text.

A character that is not in the vocabulary becomes its UTF-8 bytes, a token each (``<0xC3>``). Pieces hold real spaces
and no ``▁``, so that a ``▁`` of the text is told apart from a space: it is bytes.
"""

from __future__ import annotations

from typing import Any

from afina.tokenizer.saving import SPECIAL

UNKNOWN = "<|unknown|>"
"""The libraries want an unknown token; with all 256 bytes in the vocabulary it is never written."""
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
FIRST = (*SPECIAL, UNKNOWN, *BYTES)
"""They have the first ids."""

SPACE_BEGINS = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False}
"""The step that cuts a text before each space, as ``tokenizer.json`` writes it. It changes no piece, since none holds a
space but at its beginning; it keeps what is looked up at once short."""


def with_fallback(model: Any) -> Any:
    """A tokenizer of a model of the library ``tokenizers``, whose pieces hold no space but at their beginning."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in SPECIAL])
    return tokenizer
