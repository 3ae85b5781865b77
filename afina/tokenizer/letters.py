"""Letters of a text that a vocabulary has no piece for: to the model they are bytes that it hardly learned, or lost.

Letters alone count: emoji, signs and control characters are rare everywhere. A byte-level vocabulary has a piece for
every byte and learns them all, so that it lacks none.
"""

from __future__ import annotations

from collections import Counter

from afina.tokenizer.pieces import PieceTable
from afina.units import show_share

LACKED = "letters_not_in_vocabulary"
"""The audit's name of it."""
LACKED_AT_MOST = 0.01
"""Of a text's letters. Of Portuguese prose 3.5 % have an accent; what a vocabulary trained on its own text leaves to
bytes is below 0.05 %."""
TOLD_ABOVE = 0.001


class LackedLetters:
    """Feed it texts with :meth:`add`.

    Args:
        table: the vocabulary, which is asked about each different letter once.
    """

    def __init__(self, table: PieceTable) -> None:
        self.table = table
        self.letters = 0
        self.lacked = Counter[str]()
        self._known: dict[str, bool] = {}

    def add(self, text: str) -> list[str]:
        """Count a text; the letters that it lacks, each once, the frequent ones first."""
        if not self.table.has_fallback:
            return []
        counts = Counter(text)
        letters = {each: count for each, count in counts.items() if each.isalpha()}
        self.letters += sum(letters.values())
        found = Counter({each: count for each, count in letters.items() if self._lacks(each)})
        self.lacked.update(found)
        return [each for each, _ in found.most_common()]

    @property
    def share(self) -> float:
        """Of all letters, those that it lacks."""
        return self.lacked.total() / self.letters if self.letters else 0.0

    def describe(self) -> str:
        """In words: how many, and which."""
        shown = " ".join(each for each, _ in self.lacked.most_common(10))
        return f"{self.lacked.total()} of {self.letters} letters ({show_share(self.share)}) have no piece: {shown}"

    def _lacks(self, letter: str) -> bool:
        if letter not in self._known:
            self._known[letter] = any(piece.kind in ("byte", "unknown") for piece in self.table.cut(letter))
        return self._known[letter]
