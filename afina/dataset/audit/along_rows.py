"""What shows only along many rows, and needs no more than a few numbers of them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from afina.dataset.audit.exchange import Exchange

PLACES = 5
FEWEST_CUT, CUT_SHARE, CUT_CHARS = 8, 0.005, 80
"""Unfinished answers of one length: so many at least, this share of all answers, none shorter."""
AROUND, STANDS_OUT = 0.2, 0.5
"""Of all unfinished answers of a like length (a fifth more or less) so many end at that one."""
WINDOW, FEWEST_SHIFTED, AHEAD = 64, 10, 3
"""Of so many rows in a row so many answers fit their neighbour's question, and so many times fewer their own."""

_ENDS = re.compile(r"[.!?…:;)\]}\"'”’»*_`>|%]\Z|^\s*(?:[-*+•#|]|\d+[.)]).*\Z", re.MULTILINE)
_LONG_WORD = re.compile(r"[^\W\d_]{5,}|\d{2,}")


@dataclass
class CutAnswers:
    """Answers without an end whose length is one and the same: they were cut at a limit."""

    answers: int = 0
    chars: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    places: dict[tuple[str, int], list[str]] = field(default_factory=dict)

    def see(self, said: Exchange, where: str) -> None:
        """Note an answer."""
        self.answers += 1
        text = said.answer
        if len(text) < CUT_CHARS or text[-1] in ".!?" or _ENDS.search(text[-200:]):
            return
        for unit, counts, length in (("characters", self.chars, len(text)), ("words", self.words, len(text.split()))):
            counts[length] += 1
            places = self.places.setdefault((unit, length), [])
            if len(places) < PLACES:
                places.append(where)

    def found(self) -> tuple[int, str, int, list[str]] | None:
        """How many, the unit of the limit, the limit, and the first places; None where no length stands out."""
        best: tuple[int, str, int, list[str]] | None = None
        for unit, counts, slack in (("characters", self.chars, 2), ("words", self.words, 0)):
            for limit in counts:
                lengths = range(limit - slack, limit + 1)
                own = sum(counts[length] for length in lengths)
                if own < max(FEWEST_CUT, CUT_SHARE * self.answers) or (best and own <= best[0]):
                    continue
                near = sum(n for length, n in counts.items() if abs(length - limit) <= AROUND * limit)
                if own >= STANDS_OUT * near:
                    places = [place for length in lengths for place in self.places.get((unit, length), ())]
                    best = own, unit, limit, places[:PLACES]
        return best


@dataclass
class ShiftedAnswers:
    """Runs of rows whose answers fit the question before or after theirs: a column that slipped by one row."""

    count: int = 0
    places: list[str] = field(default_factory=list)
    _before: tuple[frozenset[str], frozenset[str], str] | None = None
    _own: int = 0
    _up: int = 0
    _down: int = 0
    _rows: int = 0
    _first: str = ""

    def see(self, said: Exchange, path: str, line: int) -> None:
        """Note an answer of a row of one exchange."""
        asked, answered = (frozenset(_LONG_WORD.findall(text[:2000].lower())) for text in (said.prompt, said.answer))
        if self._before and self._before[2] == path:
            asked_before, answered_before, _ = self._before
            own = len(asked & answered)
            down, up = len(asked_before & answered), len(asked & answered_before)
            self._own += own > max(up, down)
            self._down += down > own
            self._up += up > own
        if not self._rows:
            self._first = f"{path}:{line}"
        self._before = asked, answered, path
        self._rows += 1
        if self._rows == WINDOW:
            self.close()

    def close(self) -> None:
        """End a run of rows, and judge it."""
        for fits in (self._down, self._up):
            if fits >= FEWEST_SHIFTED and fits > AHEAD * self._own:
                self.count += fits
                if len(self.places) < PLACES:
                    self.places.append(self._first)
                break
        self._own = self._up = self._down = self._rows = 0


@dataclass
class UnicodeForms:
    """In which form letters with accents are stored: as one character (NFC), or the letter and its accent (NFD)."""

    composed: int = 0
    decomposed: int = 0
    places: list[str] = field(default_factory=list)

    def see(self, text: str, where: str) -> None:
        """Note what a row says."""
        if text.isascii():
            return
        if not unicodedata.is_normalized("NFC", text) and len(unicodedata.normalize("NFC", text)) < len(text):
            self.decomposed += 1
            if len(self.places) < PLACES:
                self.places.append(where)
        self.composed += not unicodedata.is_normalized("NFD", text)
