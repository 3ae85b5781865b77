"""How a vocabulary cuts texts: tokens per character and per word, what falls to bytes, what is used, which words are
shredded; all together and by language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from afina.text.language import language_of_text
from afina.tokenizer.folding import lost_characters
from afina.tokenizer.pieces import PieceTable, TokenPiece
from afina.tokenizer.ratios import PieceCounts, count_pieces

OTHER = "other"
"""Texts whose language is not told."""
SHOWN = 8
FREQUENT = 1000
"""Shredded words are looked for among so many, the most frequent."""
FEWEST_LETTERS = 4

_WORD = re.compile(r"[^\W\d_]+")


@dataclass
class Cut:
    """Texts as a vocabulary cuts them."""

    characters: int = 0
    words: int = 0
    """Between white space."""
    counts: PieceCounts = field(default_factory=PieceCounts)
    lost: int = 0
    """Characters that no piece holds: folded to others, or unknown."""

    def add(self, text: str, counts: PieceCounts, lost: int) -> None:
        """Count a text."""
        self.characters += len(text)
        self.words += len(text.split())
        self.counts += counts
        self.lost += lost

    def as_json(self) -> dict[str, Any]:
        """The figures of a table's row; null where there is no text."""
        tokens = self.counts.pieces
        return {
            "characters": self.characters,
            "lost_characters": self.lost,
            "words": self.words,
            "tokens": tokens,
            "characters_per_token": self.characters / tokens if tokens else None,
            "tokens_per_word": tokens / self.words if self.words else None,
            "fallback_ratio": self.counts.fallback_ratio,
            "short_ratio": self.counts.short_ratio,
            "parts_ratio": self.counts.parts / tokens if tokens else 0.0,
        }


@dataclass(frozen=True)
class ShreddedWord:
    """A frequent word, and the pieces that it falls into."""

    word: str
    count: int
    pieces: list[str]


@dataclass
class VocabularyMeasure:
    """One vocabulary over texts; feed it with :meth:`add`."""

    table: PieceTable
    whole: Cut = field(default_factory=Cut)
    by_language: dict[str, Cut] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    words: Counter[str] = field(default_factory=Counter)

    def add(self, texts: Iterable[str]) -> None:
        """Cut texts and count."""
        for text in texts:
            ids = self.table.encode(text)
            pieces = list(self.table.of(ids))
            back = b"".join(piece.data for piece in pieces).decode(errors="replace")
            counts, lost = count_pieces(pieces), lost_characters(text, back)
            self.whole.add(text, counts, lost)
            self.by_language.setdefault(language_of_text(text) or OTHER, Cut()).add(text, counts, lost)
            self.used.update(ids)
            self.words.update(word for word in _WORD.findall(text) if len(word) >= FEWEST_LETTERS)

    @property
    def entries(self) -> int:
        """Of the vocabulary, without special tokens."""
        return sum(piece.kind != "special" for piece in self.table.pieces)

    def shredded(self) -> list[ShreddedWord]:
        """Of the frequent words those with the most tokens for their letters, the worst first."""
        found = []
        for word, count in self.words.most_common(FREQUENT):
            pieces = [shown(piece) for piece in self.table.cut(f" {word}")]
            found.append(ShreddedWord(word, count, [each for each in pieces if each]))
        found.sort(key=lambda each: (-len(each.pieces) / len(each.word), -each.count))
        return [each for each in found[:SHOWN] if len(each.pieces) > 1]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "tokenizer": self.table.name,
            "kind": self.table.kind,
            "sha256": self.table.sha256,
            "folds": list(self.table.folds),
            "vocabulary": len(self.table),
            "used": len(self.used),
            "used_share": len(self.used) / max(1, self.entries),
            **self.whole.as_json(),
            "languages": {name: cut.as_json() for name, cut in sorted(self.by_language.items())},
            "shredded": [asdict(each) for each in self.shredded()],
        }


def shown(piece: TokenPiece) -> str:
    """A piece for people: without its space, half a character in hexadecimal.

    >>> shown(TokenPiece(b" n")), shown(TokenPiece(b"\\xc3", "byte")), shown(TokenPiece(b"", "unknown"))
    ('n', '<C3>', '?')
    """
    if piece.kind == "unknown":
        return "?"
    try:
        return piece.data.decode().strip()
    except UnicodeDecodeError:
        return f"<{piece.data.strip().hex().upper()}>"
