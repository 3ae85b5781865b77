"""What shows only along many rows, and needs no more than a few numbers of them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, filterfalse

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

    def merge(self, later: CutAnswers) -> None:
        """Add those of the rows that follow."""
        self.answers += later.answers
        self.chars.update(later.chars)
        self.words.update(later.words)
        for length, places in later.places.items():
            self.places[length] = [*self.places.get(length, ()), *places][:PLACES]

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


@dataclass(frozen=True, slots=True)
class _RowWords:
    """The longer words of a row's question and of its answer."""

    asked: frozenset[str]
    answered: frozenset[str]
    path: str

    def fits(self, before: _RowWords | None) -> tuple[bool, bool, bool]:
        """Whether its answer fits its own question best, or that of the row before; whether the answer of the row
        before fits its question best."""
        if before is None or before.path != self.path:
            return False, False, False
        own = len(self.asked & self.answered)
        down, up = len(before.asked & self.answered), len(self.asked & before.answered)
        return own > max(up, down), down > own, up > own


def _long_words(text: str) -> frozenset[str]:
    """Words of five letters or more and numbers of two digits or more.

    >>> sorted(_long_words("O Farense (1910) joga, desde-1936, em Faro"))
    ['1910', '1936', 'desde', 'farense']
    """
    parts = text[:2000].lower().split()
    words = _LONG_WORD.findall(" ".join(filterfalse(str.isalpha, parts)))
    return frozenset(chain(words, (part for part in filter(str.isalpha, parts) if len(part) >= 5)))


@dataclass
class ShiftedAnswers:
    """Runs of rows whose answers fit the question before or after theirs: a column that slipped by one row."""

    count: int = 0
    places: list[str] = field(default_factory=list)
    _first: _RowWords | None = None
    """Of the first row, which may follow those of another chunk."""
    _last: _RowWords | None = None
    _rows: list[tuple[tuple[bool, bool, bool], str, int]] = field(default_factory=list)
    """Rows that are not judged yet: what each answer fits, with its place."""

    def see(self, said: Exchange, path: str, line: int) -> None:
        """Note an answer of a row of one exchange."""
        words = _RowWords(_long_words(said.prompt), _long_words(said.answer), path)
        self._rows.append((words.fits(self._last), path, line))
        self._first = self._first or words
        self._last = words

    def merge(self, later: ShiftedAnswers) -> None:
        """Add the rows that follow, and judge every window that is full."""
        if later._first:
            (_, path, line), *rest = later._rows
            self._rows += [(later._first.fits(self._last), path, line), *rest]
            self._first, self._last = self._first or later._first, later._last
        while len(self._rows) >= WINDOW:
            self._judge()

    def found(self) -> tuple[int, list[str]]:
        """How many answers, and where the first runs begin."""
        while self._rows:
            self._judge()
        return self.count, self.places

    def _judge(self) -> None:
        """Judge the first run of rows."""
        run, self._rows = self._rows[:WINDOW], self._rows[WINDOW:]
        own, down, up = (sum(fits) for fits in zip(*(fits for fits, _, _ in run), strict=True))
        for shifted in (down, up):
            if shifted >= FEWEST_SHIFTED and shifted > AHEAD * own:
                self.count += shifted
                if len(self.places) < PLACES:
                    self.places.append("{1}:{2}".format(*run[0]))
                break


@dataclass
class UnicodeForms:
    """In which form letters with accents are stored: as one character (NFC), or the letter and its accent (NFD)."""

    composed: int = 0
    decomposed: int = 0
    places: list[str] = field(default_factory=list)

    def merge(self, later: UnicodeForms) -> None:
        """Add those of the rows that follow."""
        self.composed += later.composed
        self.decomposed += later.decomposed
        self.places = [*self.places, *later.places][:PLACES]

    def see(self, text: str, where: str) -> None:
        """Note what a row says."""
        if text.isascii():
            return
        if not unicodedata.is_normalized("NFC", text) and len(unicodedata.normalize("NFC", text)) < len(text):
            self.decomposed += 1
            if len(self.places) < PLACES:
                self.places.append(where)
        self.composed += not unicodedata.is_normalized("NFD", text)
