"""What of a text a vocabulary cuts badly: the byte-fallback ratio and the short-piece ratio, over its pieces.

Both follow the vocabulary as much as the text: figures of two tokenizers cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from afina.tokenizer.pieces import TokenPiece

SHORT = 2
"""A piece of so many letters at most, inside a word, is short."""


@dataclass(frozen=True, slots=True)
class PieceCounts:
    """Pieces of a text; those of several texts add up.

    >>> PieceCounts(8, short=2) + PieceCounts(2, fallback=1)
    PieceCounts(pieces=10, fallback=1, short=2, parts=0)
    """

    pieces: int = 0
    """All of them, but special tokens."""
    fallback: int = 0
    """Bytes of characters that the vocabulary lacks, and unknown tokens."""
    short: int = 0
    """One or two letters that begin no word."""
    parts: int = 0
    """Tokens of a byte-level vocabulary that are not whole characters."""

    def __add__(self, other: PieceCounts) -> PieceCounts:
        return PieceCounts(
            self.pieces + other.pieces,
            self.fallback + other.fallback,
            self.short + other.short,
            self.parts + other.parts,
        )

    @property
    def fallback_ratio(self) -> float:
        """Of all pieces, those that spell out what the vocabulary lacks."""
        return self.fallback / self.pieces if self.pieces else 0.0

    @property
    def short_ratio(self) -> float:
        """Of all pieces, those of one or two letters inside a word."""
        return self.short / self.pieces if self.pieces else 0.0


def count_pieces(pieces: Iterable[TokenPiece]) -> PieceCounts:
    """Count the pieces of a text, or those that a model produced.

    >>> cut = [TokenPiece(b" casa"), TokenPiece(b"s"), TokenPiece(b" a"), TokenPiece(b"\\xc3", "byte")]
    >>> count_pieces(cut)
    PieceCounts(pieces=4, fallback=1, short=1, parts=0)
    """
    counted = fallback = short = parts = 0
    for piece in pieces:
        if piece.kind == "special":
            continue
        counted += 1
        if piece.kind == "text":
            short += is_short(piece)
        elif piece.kind == "part":
            parts += 1
        else:
            fallback += 1
    return PieceCounts(counted, fallback, short, parts)


def is_short(piece: TokenPiece) -> bool:
    """Whether it is one or two letters that begin no word: what begins one holds its space.

    >>> [is_short(TokenPiece(each.encode())) for each in ("ão", " a", "ção", "2ª", "")]
    [True, False, False, False, False]
    """
    text = piece.text
    return piece.kind == "text" and len(text) <= SHORT and text.isalpha()
